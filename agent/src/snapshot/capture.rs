//! Reads what stands at paths.

use std::{
    collections::BTreeMap,
    fs::{self, File, FileType},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{Meta, Snapshot, SnapshotError, Standing, checked, restore::is_beside};
use crate::store::artifacts::{Artifacts, Held};

/// What is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one file, bytes.
    pub file_bytes: u64,
    /// Paths of one snapshot.
    pub paths: usize,
}

/// A snapshot, and its content in the store. Held there until whoever captured it has written down that it is needed.
#[derive(Debug)]
pub struct Captured {
    pub snapshot: Snapshot,
    pub held: Vec<Held>,
}

/// What stands at these paths, and in folders among them; the content of files is in the store then. Links are kept as
/// links. What is no file, folder or link in a folder (sockets, pipes) belongs to what runs and is left out; a path that
/// was asked for and is that is refused.
///
/// Blocking: it reads every byte.
///
/// # Errors
/// A path is no absolute path of plain names, cannot be read, or is beyond the limits; or the store takes no more.
pub fn capture(
    paths: &[PathBuf],
    store: &Artifacts,
    limits: Limits,
) -> Result<Captured, SnapshotError> {
    let mut capture = Capture {
        store,
        limits,
        found: BTreeMap::new(),
        held: Vec::new(),
    };
    for path in paths {
        checked(path)?;
        capture.at(path, true)?;
    }
    Ok(Captured {
        snapshot: Snapshot(capture.found),
        held: capture.held,
    })
}

struct Capture<'a> {
    store: &'a Artifacts,
    limits: Limits,
    found: BTreeMap<PathBuf, Standing>,
    held: Vec<Held>,
}

impl Capture<'_> {
    fn at(&mut self, path: &Path, asked_for: bool) -> Result<(), SnapshotError> {
        let sort = match fs::symlink_metadata(path) {
            Ok(found) => Some(found.file_type()),
            Err(error) if is_nothing(&error) => None,
            Err(error) => return Err(SnapshotError::io("look at", path)(error)),
        };
        let standing = match sort {
            None => Standing::Nothing,
            Some(sort) if sort.is_symlink() => link(path)?,
            Some(sort) if sort.is_dir() => self.folder(path)?,
            Some(sort) if sort.is_file() => self.file(path)?,
            Some(_) if !asked_for => return Ok(()),
            Some(_) => return Err(unsupported(path)),
        };
        // What went meanwhile from a folder is no part of it.
        if standing == Standing::Nothing && !asked_for {
            return Ok(());
        }
        self.found.insert(path.to_owned(), standing);
        if self.found.len() > self.limits.paths {
            return Err(SnapshotError::TooMany {
                path: path.to_owned(),
                limit: self.limits.paths,
            });
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<Standing, SnapshotError> {
        let Some(mut file) = open(path, FileType::is_file)? else {
            return Ok(Standing::Nothing);
        };
        let meta = Meta::of(&file).map_err(SnapshotError::io("look at", path))?;
        let found = file
            .metadata()
            .map_err(SnapshotError::io("look at", path))?;
        let (bytes, limit) = (found.len(), self.limits.file_bytes);
        if bytes > limit {
            return Err(SnapshotError::TooLarge {
                path: path.to_owned(),
                bytes,
                limit,
            });
        }
        let held = self.store.put_file(&mut file, path);
        let held = held.map_err(SnapshotError::artifact(path))?;
        let content = held.clone();
        self.held.push(held);
        Ok(Standing::File { content, meta })
    }

    fn folder(&mut self, path: &Path) -> Result<Standing, SnapshotError> {
        let Some(folder) = open(path, FileType::is_dir)? else {
            return Ok(Standing::Nothing);
        };
        let meta = Meta::of(&folder).map_err(SnapshotError::io("look at", path))?;
        let list = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in list.map_err(SnapshotError::io("list", path))? {
            let path = entry.path();
            let (_, name) = checked(&path)?;
            if !is_beside(name) {
                self.at(&path, false)?;
            }
        }
        Ok(Standing::Folder { meta })
    }
}

/// Opens it if it is still of that sort. It never waits, and never follows a link that was put there meanwhile.
fn open(path: &Path, sort: impl Fn(&FileType) -> bool) -> Result<Option<File>, SnapshotError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_nothing(&error) => return Ok(None),
        Err(error) => return Err(SnapshotError::io("open", path)(error)),
    };
    let found = file
        .metadata()
        .map_err(SnapshotError::io("look at", path))?;
    if sort(&found.file_type()) {
        Ok(Some(file))
    } else {
        Err(unsupported(path))
    }
}

fn link(path: &Path) -> Result<Standing, SnapshotError> {
    match fs::read_link(path) {
        Ok(to) => match to.to_str() {
            Some(to) => Ok(Standing::Link { to: to.to_owned() }),
            None => Err(SnapshotError::Path { path: to }),
        },
        Err(error) if is_nothing(&error) => Ok(Standing::Nothing),
        Err(error) => Err(SnapshotError::io("read link", path)(error)),
    }
}

/// Nothing stands there: not even the folder, or a file stands where that would be.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn unsupported(path: &Path) -> SnapshotError {
    SnapshotError::Unsupported {
        path: path.to_owned(),
    }
}
