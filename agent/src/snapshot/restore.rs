//! Puts back what stood at a path.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, mkdirat, openat,
        readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{Change, Meta, SnapshotError, Standing, checked};
use crate::store::artifacts::Artifacts;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It stood there already.
    Already,
    Changed,
}

/// The longest name of a file, bytes.
const NAME_MAX: usize = 255;

/// Puts that at its path. `tag` is part of the name of what is written beside it, and the same each time that the same
/// is tried: what an attempt that was cut off has left is taken away by the next one. When this returns it is on disk.
///
/// Blocking: it writes every byte.
///
/// # Errors
/// It cannot be put there: then what stood there stands there still.
pub fn restore(change: &Change, tag: &str, store: &Artifacts) -> Result<Restored, SnapshotError> {
    let (parent, name) = checked(&change.path)?;
    let folder = match open_folder(parent) {
        Ok(folder) => folder,
        // What is to be away is, with its folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound && change.to == Standing::Nothing => {
            return Ok(Restored::Already);
        }
        Err(error) => return Err(SnapshotError::io("open folder", parent)(error)),
    };
    let place = Place {
        path: &change.path,
        folder,
        name,
        beside: beside(name, tag),
    };
    place.clear()?;
    let restored = match &change.to {
        Standing::Nothing => place.remove(),
        Standing::Link { to } => place.link(to),
        Standing::Folder { meta } => place.make_folder(meta),
        Standing::File { content, meta } => {
            if place.holds(content, meta)? {
                Ok(Restored::Already)
            } else {
                place.file(meta, |file| {
                    let copied = store.copy_to(content, file, &change.path);
                    copied.map_err(SnapshotError::artifact(&change.path))
                })
            }
        }
    };
    if restored.is_err() {
        // What failed says why; what it left says nothing more.
        let _ = place.clear();
    }
    restored
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
    let cut = (0..=room.min(name.len()))
        .rev()
        .find(|&at| name.is_char_boundary(at));
    format!(".{}{end}", name.get(..cut.unwrap_or(0)).unwrap_or_default())
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
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
                error => SnapshotError::Io {
                    action,
                    path,
                    source: error.into(),
                },
            }
        }
    }

    /// It, or the folder that it is in.
    fn is_immutable(&self) -> bool {
        let immutable = |file: &File| {
            ioctl_getflags(file)
                .is_ok_and(|flags| flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND))
        };
        immutable(&self.folder) || self.open(OFlags::RDONLY).is_ok_and(|file| immutable(&file))
    }

    fn open(&self, how: OFlags) -> rustix::io::Result<File> {
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: OwnedFd = openat(&self.folder, self.name, flags, Mode::empty())?;
        Ok(file.into())
    }

    /// What stands there; none: nothing.
    fn sort(&self, name: &str) -> Result<Option<FileType>, SnapshotError> {
        match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at")(error)),
        }
    }

    /// Whether a file with that content and meta stands there.
    fn holds(
        &self,
        content: &sternway_proto::name::RevisionId,
        meta: &Meta,
    ) -> Result<bool, SnapshotError> {
        if self.sort(self.name)? != Some(FileType::RegularFile) {
            return Ok(false);
        }
        let mut file = self.open(OFlags::RDONLY).map_err(self.failed("open"))?;
        let read = |error| SnapshotError::io("read", self.path)(error);
        if Meta::of(&file).map_err(read)? != *meta {
            return Ok(false);
        }
        let found = crate::store::artifacts::hash_of(&mut file);
        Ok(found.map_err(|error| SnapshotError::io("read", self.path)(error))? == *content)
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

    fn remove(&self) -> Result<Restored, SnapshotError> {
        let flags = match self.sort(self.name)? {
            None => return Ok(Restored::Already),
            Some(FileType::Directory) => AtFlags::REMOVEDIR,
            Some(_) => AtFlags::empty(),
        };
        match unlinkat(&self.folder, self.name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.failed("remove")(error)),
        }
        self.sync()?;
        Ok(Restored::Changed)
    }

    fn make_folder(&self, meta: &Meta) -> Result<Restored, SnapshotError> {
        let made = match self.sort(self.name)? {
            Some(FileType::Directory) => false,
            Some(_) => {
                return Err(SnapshotError::InTheWay {
                    path: self.path.to_owned(),
                });
            }
            None => {
                // For its owner alone until it has its own mode.
                let made = mkdirat(&self.folder, self.name, Mode::RWXU);
                made.map_err(self.failed("make folder"))?;
                true
            }
        };
        let folder = self.open(OFlags::RDONLY | OFlags::DIRECTORY);
        let folder = folder.map_err(self.failed("open folder"))?;
        let io = |error| SnapshotError::io("set owner and mode of", self.path)(error);
        if !made && Meta::of(&folder).map_err(io)? == *meta {
            return Ok(Restored::Already);
        }
        let io = |error| SnapshotError::io("set owner and mode of", self.path)(error);
        meta.give(&folder)
            .and_then(|()| folder.sync_all())
            .map_err(io)?;
        self.sync()?;
        Ok(Restored::Changed)
    }

    fn link(&self, to: &str) -> Result<Restored, SnapshotError> {
        let now = readlinkat(&self.folder, self.name, Vec::new());
        if now.is_ok_and(|now| now.to_bytes() == to.as_bytes()) {
            return Ok(Restored::Already);
        }
        let made = symlinkat(to, &self.folder, self.beside.as_str());
        made.map_err(self.failed("make link beside"))?;
        self.exchange()
    }

    fn file(
        &self,
        meta: &Meta,
        write: impl FnOnce(&mut File) -> Result<(), SnapshotError>,
    ) -> Result<Restored, SnapshotError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody reads it before it has its own mode.
        let made = openat(
            &self.folder,
            self.beside.as_str(),
            flags,
            Mode::RUSR | Mode::WUSR,
        );
        let mut file: File = made.map_err(self.failed("make a file beside"))?.into();
        write(&mut file)?;
        meta.give(&file)
            .and_then(|()| file.sync_all())
            .map_err(SnapshotError::io("write beside", self.path))?;
        self.exchange()
    }

    /// What was written beside it takes its place, in one step.
    fn exchange(&self) -> Result<Restored, SnapshotError> {
        if self.sort(self.name)? == Some(FileType::Directory) {
            return Err(SnapshotError::InTheWay {
                path: self.path.to_owned(),
            });
        }
        let (folder, beside) = (&self.folder, self.beside.as_str());
        let exchanged = renameat_with(folder, beside, folder, self.name, RenameFlags::EXCHANGE);
        match exchanged {
            Ok(()) => {}
            // Nothing stands there, or the file system cannot exchange; it can replace in one step.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                let replaced = renameat(folder, beside, folder, self.name);
                replaced.map_err(self.failed("put in its place"))?;
            }
            Err(error) => return Err(self.failed("exchange")(error)),
        }
        self.sync()?;
        self.clear()?;
        Ok(Restored::Changed)
    }
}
