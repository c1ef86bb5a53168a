//! The way to a folder, link by link.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat, openat,
        readlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::{SnapshotError, checked};

/// Links on one way, as the kernel counts them.
const LINKS: usize = 40;

/// Others than the owner may change what is in it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What of the mode of a folder one gets that is made in it.
const FOR_ALL_TO_READ: u32 = 0o755;

/// Opens the folder of a path that is `root` or below it. The way to `root` may lead over links; from there on a link is
/// none: what a snapshot has below a folder is not what stands behind a link in its place.
///
/// # Errors
/// It is not there, or a link leads to it that others than root may have put there.
pub(super) fn open(path: &Path, root: &Path) -> Result<File, SnapshotError> {
    let path = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: Errno| SnapshotError::io("open folder", path)(error);
    let over_links = root.parent().map_or(0, |above| names(above).count());
    let numbered = names(path).enumerate();
    let mut left: Vec<(OsString, bool)> = numbered
        .map(|(number, name)| (name, number < over_links))
        .collect();
    left.reverse();
    let root = openat(CWD, "/", way(), Mode::empty()).map_err(failed)?;
    let (mut here, mut at): (File, _) = (root.into(), PathBuf::from("/"));
    let mut links = 0;
    while let Some((name, may_be_link)) = left.pop() {
        let step = way() | OFlags::NOFOLLOW;
        // As a folder first: what is mounted when somebody asks for it is mounted by that.
        match openat(
            &here,
            name.as_os_str(),
            step | OFlags::DIRECTORY,
            Mode::empty(),
        ) {
            Ok(folder) => {
                here = folder.into();
                at.push(&name);
                continue;
            }
            Err(Errno::NOTDIR | Errno::LOOP) if may_be_link => {}
            Err(Errno::LOOP) => return Err(failed(Errno::NOTDIR)),
            Err(error) => return Err(failed(error)),
        }
        let link = openat(&here, name.as_os_str(), step, Mode::empty()).map_err(failed)?;
        let found = fstat(&link).map_err(failed)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            return Err(failed(Errno::NOTDIR));
        }
        links += 1;
        if links > LINKS {
            return Err(failed(Errno::LOOP));
        }
        let folder = fstat(&here).map_err(failed)?;
        if !is_ours(&found) || !is_ours(&folder) || folder.st_mode & WRITABLE_BY_OTHERS != 0 {
            return Err(SnapshotError::LinkOfOthers {
                path: at.join(name),
            });
        }
        let to = readlinkat(&link, "", Vec::new()).map_err(failed)?;
        let to = PathBuf::from(OsString::from_vec(to.into_bytes()));
        if to.is_absolute() {
            let root = openat(CWD, "/", way(), Mode::empty()).map_err(failed)?;
            (here, at) = (root.into(), PathBuf::from("/"));
        }
        let mut names: Vec<_> = names(&to).map(|name| (name, true)).collect();
        names.reverse();
        left.extend(names);
    }
    // What was a way so far can be listed and synced now.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&here, ".", flags, Mode::empty())
        .map_err(failed)?
        .into())
}

/// As [`open`], and a folder that is not there is made, owned as the one that it is in: whoever clears old releases away
/// takes their folders, too, of which a snapshot of the files in them says nothing.
///
/// # Errors
/// As [`open`], or it cannot be made.
pub(super) fn open_or_make(path: &Path, root: &Path) -> Result<File, SnapshotError> {
    let Some(folder) = path.parent() else {
        return open(path, root);
    };
    match open(path, root) {
        Err(error) if error.errno() == Some(Errno::NOENT) && folder.file_name().is_some() => {}
        opened => return opened,
    }
    let above = open_or_make(folder, root)?;
    make(&above, checked(folder)?).map_err(SnapshotError::io("make folder", folder))?;
    above
        .sync_all()
        .map_err(SnapshotError::io("sync the folder of", folder))?;
    open(path, root)
}

fn make(above: &File, name: &str) -> Result<(), Errno> {
    match mkdirat(above, name, Mode::RWXU) {
        Ok(()) => {}
        // A link that leads nowhere is told by whoever follows it.
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let like = fstat(above)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(above, name, flags, Mode::empty())?;
    let (owner, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    fchown(&folder, Some(owner), Some(group))?;
    fchmod(
        &folder,
        Mode::from_raw_mode(like.st_mode & FOR_ALL_TO_READ | Mode::RWXU.as_raw_mode()),
    )
}

/// Only to go on from.
fn way() -> OFlags {
    OFlags::PATH | OFlags::CLOEXEC
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    })
}

/// Root's, or of who runs this.
fn is_ours(found: &Stat) -> bool {
    found.st_uid == 0 || found.st_uid == geteuid().as_raw()
}
