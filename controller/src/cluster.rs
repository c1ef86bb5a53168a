//! Whether there is a cluster in a data folder, and whose its files are.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, chownat, fchown, fstat, openat},
    io::Errno,
    process::{Gid, Uid, geteuid},
};
use thiserror::Error;

/// The folder of the authority, within the data folder.
pub(crate) const PKI: &str = "pki";

/// What stands beside it.
const FILES: [&CStr; 4] = [
    c"controller.db",
    c"controller.db-wal",
    c"controller.db-shm",
    c"lock",
];

/// It cannot be said what is there.
#[derive(Debug, Error)]
#[error("cannot look at {}{}", path.display(), next_step(source))]
pub struct Unreadable {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn next_step(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run this as root, or as the controller's user)",
        _ => "",
    }
}

/// Whether something is there. That nobody may look is no answer.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn there(path: &Path) -> Result<bool, Unreadable> {
    path.try_exists().map_err(|source| Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Whether a data folder has the authority of a cluster.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn is_in(data_dir: &Path) -> Result<bool, Unreadable> {
    there(&data_dir.join(PKI))
}

/// Gives the files of a new cluster to whom the data folder belongs: root makes clusters in the folders of services
/// that have users of their own, and a service manager looks at the owner of the folder alone. No link is followed.
///
/// # Errors
/// Something cannot be read or given away.
pub(crate) fn hand_over(data_dir: &Path) -> io::Result<()> {
    // Whoever else makes files here can give none of them away.
    if !geteuid().is_root() {
        return Ok(());
    }
    let folder = std::fs::File::open(data_dir)?;
    let stat = fstat(&folder)?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let give = |folder: BorrowedFd<'_>, name: &CStr| {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match chownat(folder, name, Some(owner.0), Some(owner.1), flags) {
            Err(Errno::NOENT) => Ok(()),
            given => given,
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The folder within last: until then only root reaches what is in it.
    let pki = openat(&folder, PKI, flags, Mode::empty())?;
    for entry in Dir::read_from(&pki)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            give(pki.as_fd(), entry.file_name())?;
        }
    }
    fchown(&pki, Some(owner.0), Some(owner.1))?;
    for name in FILES {
        give(folder.as_fd(), name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_called_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!is_in(folder.path()).expect("looked at"));
        std::fs::create_dir(folder.path().join(PKI)).expect("made");
        assert!(is_in(folder.path()).expect("looked at"));
        let around = folder.path().join("around");
        std::os::unix::fs::symlink(&around, &around).expect("linked");
        let error = is_in(&around).expect_err("it leads nowhere");
        assert!(error.to_string().contains("around/pki"), "{error}");
    }

    #[test]
    fn who_may_not_look_is_told_who_may() {
        let error = Unreadable {
            path: "/var/lib/sternway-controller/pki".into(),
            source: io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            error.to_string(),
            "cannot look at /var/lib/sternway-controller/pki (run this as root, or as the controller's user)"
        );
    }
}
