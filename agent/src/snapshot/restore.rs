//! Puts back what stood at a path.

use std::{fs::File, path::Path};

use rustix::{
    fs::{
        AtFlags, FileType, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, mkdirat, openat,
        readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use sternway_proto::name::RevisionId;

use super::{Action, Change, Meta, SnapshotError, Thing, checked, folder};
use crate::store::artifacts::{Artifacts, hash_of};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It stood there already.
    Already,
    Changed,
}

/// The longest name of a file, bytes.
const NAME_MAX: usize = 255;

/// Does what is to be done at a path. `tag` is part of the name of what is written beside it, and the same for all of one
/// restore, there and back: what an attempt that was cut off has left is taken away by the next one with that tag, and by
/// no other. When this returns it is on disk, also where it stood there already.
///
/// Blocking: it writes every byte.
///
/// # Errors
/// It could not be done, or it is not known to be on disk. What stands there is what stood there before, or what was to be
/// put there: nothing between.
pub fn restore(change: &Change, tag: &str, store: &Artifacts) -> Result<Restored, SnapshotError> {
    let name = checked(&change.path)?;
    let folder = match &change.action {
        Action::Put(_) => folder::open_or_make(&change.path, &change.root)?,
        Action::RemoveFile | Action::RemoveFolder => {
            match folder::open(&change.path, &change.root) {
                // What is to be away is, with its folder.
                Err(error) if error.is_nothing() => return Ok(Restored::Already),
                opened => opened?,
            }
        }
    };
    let place = Place {
        path: &change.path,
        folder,
        name,
        beside: beside(name, tag),
    };
    if place.is_done(&change.action, store)? {
        place.settle()?;
        return Ok(Restored::Already);
    }
    place.clear()?;
    let done = match &change.action {
        Action::RemoveFile => place.remove(AtFlags::empty()),
        Action::RemoveFolder => place.remove(AtFlags::REMOVEDIR),
        Action::Put(Thing::Folder { meta }) => place.make_folder(meta),
        Action::Put(Thing::Link { to }) => place.link(to),
        Action::Put(Thing::File { content, meta }) => place.file(meta, |file| {
            let copied = store.copy_to(content, file, &change.path);
            copied.map_err(SnapshotError::artifact(&change.path))
        }),
    };
    if done.is_err() {
        // What failed says why; what it left says nothing more.
        let _ = place.clear();
    }
    done.map(|()| Restored::Changed)
}

/// What tells names of files that are written beside others from all others.
const BESIDE: &str = ".sternway-";

/// Whether a file of that name was written beside another one, by an attempt that was cut off.
pub(super) fn is_beside(name: &str) -> bool {
    name.starts_with('.') && name.contains(BESIDE)
}

/// Hidden, told from others by its end, and not longer than a name may be.
fn beside(name: &str, tag: &str) -> String {
    let end = format!("{BESIDE}{tag}");
    let room = NAME_MAX.saturating_sub(end.len() + 1);
    let mut cuts = (0..=room.min(name.len())).rev();
    let cut = cuts.find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    format!(".{}{end}", name.get(..cut).unwrap_or_default())
}

/// A path, by its folder: what it leads to does not change on the way.
struct Place<'a> {
    path: &'a Path,
    folder: File,
    name: &'a str,
    /// The name of what is written before it is exchanged.
    beside: String,
}

impl Place<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> SnapshotError {
        move |error| {
            let path = self.path.to_owned();
            match error {
                // To root nothing else is not permitted.
                Errno::PERM if self.is_immutable() => SnapshotError::Immutable { path },
                Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR => SnapshotError::InTheWay { path },
                Errno::BUSY => SnapshotError::MountPoint { path },
                error => SnapshotError::io(action, self.path)(error),
            }
        }
    }

    /// It, or the folder that it is in.
    fn is_immutable(&self) -> bool {
        let immutable = |file: &File| {
            let flags = ioctl_getflags(file).unwrap_or(IFlags::empty());
            flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
        };
        immutable(&self.folder) || self.open(OFlags::RDONLY).is_ok_and(|file| immutable(&file))
    }

    fn open(&self, how: OFlags) -> rustix::io::Result<File> {
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.folder, self.name, flags, Mode::empty())?.into())
    }

    /// What stands there; none: nothing.
    fn sort(&self) -> Result<Option<FileType>, SnapshotError> {
        match statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at")(error)),
        }
    }

    /// Whether nothing is left to do.
    fn is_done(&self, action: &Action, store: &Artifacts) -> Result<bool, SnapshotError> {
        let sort = self.sort()?;
        match (action, sort) {
            (Action::RemoveFolder, sort) => Ok(sort != Some(FileType::Directory)),
            (Action::RemoveFile, sort) => Ok(sort.is_none_or(|sort| sort == FileType::Directory)),
            (Action::Put(Thing::Link { to }), Some(FileType::Symlink)) => {
                let now = readlinkat(&self.folder, self.name, Vec::new());
                Ok(now.map_err(self.failed("read link"))?.to_bytes() == to.as_bytes())
            }
            (Action::Put(Thing::Folder { meta }), Some(FileType::Directory)) => {
                let folder = self.open(OFlags::RDONLY | OFlags::DIRECTORY);
                self.has(&folder.map_err(self.failed("open"))?, meta)
            }
            (Action::Put(Thing::File { content, meta }), Some(FileType::RegularFile)) => {
                self.holds(content, meta, store)
            }
            (Action::Put(_), _) => Ok(false),
        }
    }

    fn has(&self, file: &File, meta: &Meta) -> Result<bool, SnapshotError> {
        let now = Meta::of(file).map_err(SnapshotError::io("look at", self.path))?;
        Ok(now == *meta)
    }

    fn holds(
        &self,
        content: &RevisionId,
        meta: &Meta,
        store: &Artifacts,
    ) -> Result<bool, SnapshotError> {
        let mut file = self.open(OFlags::RDONLY).map_err(self.failed("open"))?;
        let found = file.metadata();
        let length = found
            .map_err(SnapshotError::io("look at", self.path))?
            .len();
        // Of one that is longer, whatever it holds, nothing is read: it may be made to have no end.
        let wanted = store.length(content).unwrap_or(length);
        if length != wanted || !self.has(&file, meta)? {
            return Ok(false);
        }
        let now = hash_of(&mut file, length).map_err(SnapshotError::io("read", self.path))?;
        Ok(now == *content)
    }

    /// What stands there already may not be on disk yet: who put it there may have died before. On what cannot be written
    /// nothing waits to be.
    fn settle(&self) -> Result<(), SnapshotError> {
        // A file system that cannot be written knows of no sync, either.
        let nothing_waits =
            |error: &SnapshotError| matches!(error.errno(), Some(Errno::ROFS | Errno::INVAL));
        let lax = |done: Result<(), SnapshotError>| match done {
            Err(error) if nothing_waits(&error) => Ok(()),
            done => done,
        };
        if let Some(FileType::RegularFile | FileType::Directory) = self.sort()? {
            let file = self.open(OFlags::RDONLY).map_err(self.failed("open"))?;
            lax(file
                .sync_all()
                .map_err(SnapshotError::io("sync", self.path)))?;
        }
        lax(self.sync())?;
        lax(self.clear())
    }

    /// Takes away what an attempt left that was cut off, or what was exchanged.
    fn clear(&self) -> Result<(), SnapshotError> {
        match unlinkat(&self.folder, self.beside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("clear what was written beside")(error)),
        }
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let synced = self.folder.sync_all();
        synced.map_err(SnapshotError::io("sync the folder of", self.path))
    }

    fn remove(&self, flags: AtFlags) -> Result<(), SnapshotError> {
        match unlinkat(&self.folder, self.name, flags) {
            Ok(()) | Err(Errno::NOENT) => self.sync(),
            Err(error) => Err(self.failed("remove")(error)),
        }
    }

    fn make_folder(&self, meta: &Meta) -> Result<(), SnapshotError> {
        match self.sort()? {
            Some(FileType::Directory) => {}
            Some(_) => {
                return Err(SnapshotError::InTheWay {
                    path: self.path.to_owned(),
                });
            }
            // For its owner alone until it has its own mode.
            None => {
                mkdirat(&self.folder, self.name, Mode::RWXU).map_err(self.failed("make folder"))?;
            }
        }
        let folder = self.open(OFlags::RDONLY | OFlags::DIRECTORY);
        let folder = folder.map_err(self.failed("open"))?;
        meta.give(&folder)
            .and_then(|()| folder.sync_all())
            .map_err(SnapshotError::io("set owner and mode of", self.path))?;
        self.sync()
    }

    fn link(&self, to: &str) -> Result<(), SnapshotError> {
        let made = symlinkat(to, &self.folder, self.beside.as_str());
        made.map_err(self.failed("make link beside"))?;
        self.exchange()
    }

    fn file(
        &self,
        meta: &Meta,
        write: impl FnOnce(&mut File) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody reads it before it has its own mode.
        let owner_only = Mode::RUSR | Mode::WUSR;
        let made = openat(&self.folder, self.beside.as_str(), flags, owner_only);
        let mut file: File = made.map_err(self.failed("make a file beside"))?.into();
        write(&mut file)?;
        meta.give(&file)
            .and_then(|()| file.sync_all())
            .map_err(SnapshotError::io("write beside", self.path))?;
        self.exchange()
    }

    /// What was written beside it takes its place, in one step.
    fn exchange(&self) -> Result<(), SnapshotError> {
        if self.sort()? == Some(FileType::Directory) {
            return Err(SnapshotError::InTheWay {
                path: self.path.to_owned(),
            });
        }
        let (folder, beside) = (&self.folder, self.beside.as_str());
        match renameat_with(folder, beside, folder, self.name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // Nothing stands there, or the file system cannot exchange; it can replace in one step.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                let replaced = renameat(folder, beside, folder, self.name);
                replaced.map_err(self.failed("put in its place"))?;
            }
            Err(error) => return Err(self.failed("exchange")(error)),
        }
        self.sync()?;
        self.clear()
    }
}
