//! Owner, mode and extended attributes of a file or a folder.

use std::{collections::BTreeMap, fmt, fs::File, os::unix::fs::MetadataExt as _};

use rustix::{
    fs::{
        Gid, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// The most that the names of a file's attributes, or one of them, may hold (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of Linux).
const LARGEST: usize = 64 * 1024;

/// Attributes that belong to the machine and not to what was deployed: labels and measurements of its policy, and what its
/// file systems note for themselves.
const NOT_OURS: [&str; 5] = [
    "security.selinux",
    "security.ima",
    "security.evm",
    "trusted.",
    "system.nfs4",
];

/// The permission bits of a mode, set-user-id and the like included.
const PERMISSIONS: u32 = 0o7777;

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The permission bits, 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Extended attributes, in hexadecimal digits: capabilities, access control lists, what users note.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o} {}:{}", self.mode, self.uid, self.gid)?;
        // What they hold may be private.
        let mut names = self.attributes.keys();
        names.try_for_each(|name| write!(f, " {name}"))
    }
}

impl Meta {
    /// That of an open file or folder.
    pub(super) fn of(file: &File) -> std::io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            mode: found.mode() & PERMISSIONS,
            uid: found.uid(),
            gid: found.gid(),
            attributes: attributes_of(file)?,
        })
    }

    /// Gives it to an open file or folder, if it has another.
    pub(super) fn give(&self, file: &File) -> std::io::Result<()> {
        if Self::of(file)? == *self {
            return Ok(());
        }
        // A change of the owner takes capabilities and set-user-id away: it comes first.
        fchown(
            file,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )?;
        for name in attributes_of(file)?.keys() {
            if !self.attributes.contains_key(name) {
                fremovexattr(file, name.as_str())?;
            }
        }
        for (name, value) in &self.attributes {
            let value = hex::decode(value).map_err(std::io::Error::other)?;
            fsetxattr(file, name.as_str(), &value, XattrFlags::empty())?;
        }
        // An access control list changes the mode: it comes last.
        fchmod(file, Mode::from_raw_mode(self.mode & PERMISSIONS))?;
        Ok(())
    }
}

fn attributes_of(file: &File) -> std::io::Result<BTreeMap<String, String>> {
    let mut names = vec![0; LARGEST];
    let length = match flistxattr(file, &mut names) {
        Ok(length) => length,
        // A file system without them.
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    let names = names.get(..length).unwrap_or_default();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = str::from_utf8(name).map_err(std::io::Error::other)?;
        if NOT_OURS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut value = vec![0; LARGEST];
        match fgetxattr(file, name, &mut value) {
            Ok(length) => {
                let value = value.get(..length).unwrap_or_default();
                found.insert(name.to_owned(), hex::encode(value));
            }
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}
