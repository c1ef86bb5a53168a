//! Reads what stands at paths.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat},
    io::Errno,
};

use super::{Meta, Snapshot, SnapshotError, Thing, checked, folder, restore::is_beside};
use crate::store::artifacts::{Artifacts, Held, hash_of};

/// How often a file is read that is changed meanwhile.
const ATTEMPTS: u32 = 3;

/// What was written this short a time ago may be written again without a sign of it: clocks of file systems tick.
const TICK: Duration = Duration::from_secs(2);

/// What was captured before, so that files that nobody touched since are not read again.
#[derive(Debug, Clone, Default)]
pub struct Seen(BTreeMap<PathBuf, (Stamp, Thing)>);

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
/// Blocking: it reads every byte of what `seen` does not know. That is what was seen this time, then.
///
/// # Errors
/// A path is no absolute path of plain names, cannot be read, is changed again and again, or is beyond the limits; or the
/// store takes no more.
pub fn capture(
    paths: &[PathBuf],
    store: &Artifacts,
    limits: Limits,
    seen: &mut Seen,
) -> Result<Captured, SnapshotError> {
    let mut capture = Capture {
        store: Some(store),
        limits,
        before: std::mem::take(seen),
        seen: Seen::default(),
        found: BTreeMap::new(),
        held: Vec::new(),
    };
    capture.all(paths)?;
    *seen = capture.seen;
    Ok(Captured {
        snapshot: Snapshot(capture.found),
        held: capture.held,
    })
}

/// As [`capture`], and nothing is kept: for whoever only compares. It needs no room.
///
/// # Errors
/// As of [`capture`], but for the store.
pub fn look(paths: &[PathBuf], limits: Limits) -> Result<Snapshot, SnapshotError> {
    let mut capture = Capture {
        store: None,
        limits,
        before: Seen::default(),
        seen: Seen::default(),
        found: BTreeMap::new(),
        held: Vec::new(),
    };
    capture.all(paths)?;
    Ok(Snapshot(capture.found))
}

struct Capture<'a> {
    /// Where content is kept; none: it is not.
    store: Option<&'a Artifacts>,
    limits: Limits,
    before: Seen,
    seen: Seen,
    found: BTreeMap<PathBuf, Option<Thing>>,
    held: Vec<Held>,
}

impl Capture<'_> {
    fn all(&mut self, paths: &[PathBuf]) -> Result<(), SnapshotError> {
        for path in paths {
            let name = checked(path)?;
            let thing = match folder::open(path, path) {
                Ok(folder) => self.at(&folder, name, path, true)?,
                Err(error) if error.is_nothing() => None,
                Err(error) => return Err(error),
            };
            self.note(path, thing)?;
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, thing: Option<Thing>) -> Result<(), SnapshotError> {
        self.found.insert(path.to_owned(), thing);
        if self.found.len() > self.limits.paths {
            return Err(SnapshotError::TooMany {
                path: path.to_owned(),
                limit: self.limits.paths,
            });
        }
        Ok(())
    }

    /// What stands there; none: nothing, or what is left out.
    fn at(
        &mut self,
        folder: &File,
        name: &str,
        path: &Path,
        asked_for: bool,
    ) -> Result<Option<Thing>, SnapshotError> {
        let found = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(SnapshotError::io("look at", path)(error)),
        };
        let thing = match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => link(folder, name, path),
            FileType::Directory => self.folder(folder, name, path),
            FileType::RegularFile => self.file(folder, name, path),
            _ if asked_for => Err(unsupported(path)),
            _ => return Ok(None),
        };
        match thing {
            Ok(thing) => Ok(Some(thing)),
            // It went meanwhile.
            Err(error) if error.is_nothing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn file(&mut self, folder: &File, name: &str, path: &Path) -> Result<Thing, SnapshotError> {
        for _ in 0..ATTEMPTS {
            let mut file = open(folder, name, path, OFlags::empty())?;
            let before = stamp(&file, path)?;
            if let Some(thing) = self.unchanged(path, &before) {
                return Ok(thing);
            }
            let meta = Meta::of(&file).map_err(SnapshotError::io("look at", path))?;
            let (bytes, limit) = (before.size, self.limits.file_bytes);
            if bytes > limit {
                return Err(SnapshotError::TooLarge {
                    path: path.to_owned(),
                    bytes,
                    limit,
                });
            }
            let (content, held) = if let Some(store) = self.store {
                let held = store.put_file(&mut file, path);
                let held = held.map_err(SnapshotError::artifact(path))?;
                ((*held).clone(), Some(held))
            } else {
                let hash = hash_of(&mut file, bytes);
                (hash.map_err(SnapshotError::io("read", path))?, None)
            };
            // Half of a file that was written meanwhile would be a whole one to whoever puts it back.
            if stamp(&file, path)? == before {
                self.held.extend(held);
                let thing = Thing::File { content, meta };
                if before.is_older_than(TICK) {
                    let seen = (before, thing.clone());
                    self.seen.0.insert(path.to_owned(), seen);
                }
                return Ok(thing);
            }
        }
        Err(SnapshotError::Changing {
            path: path.to_owned(),
        })
    }

    /// What was captured of that file before, where nobody touched it since and its content is still kept.
    fn unchanged(&mut self, path: &Path, now: &Stamp) -> Option<Thing> {
        let (stamp, thing) = self.before.0.get(path).filter(|(stamp, _)| stamp == now)?;
        let Thing::File { content, .. } = thing else {
            return None;
        };
        self.held.push(self.store?.held(content)?);
        let seen = (stamp.clone(), thing.clone());
        self.seen.0.insert(path.to_owned(), seen);
        Some(thing.clone())
    }

    fn folder(&mut self, above: &File, name: &str, path: &Path) -> Result<Thing, SnapshotError> {
        let folder = open(above, name, path, OFlags::DIRECTORY)?;
        let meta = Meta::of(&folder).map_err(SnapshotError::io("look at", path))?;
        let list = Dir::read_from(&folder).map_err(SnapshotError::io("list", path))?;
        for entry in list {
            let entry = entry.map_err(SnapshotError::io("list", path))?;
            let Ok(name) = entry.file_name().to_str() else {
                return Err(SnapshotError::Path {
                    path: path.to_owned(),
                });
            };
            if name == "." || name == ".." || is_beside(name) {
                continue;
            }
            let path = path.join(name);
            checked(&path)?;
            if let Some(thing) = self.at(&folder, name, &path, false)? {
                self.note(&path, Some(thing))?;
            }
        }
        Ok(Thing::Folder { meta })
    }
}

/// What tells that a file was changed: whatever is done to it, the time of its change is set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn is_older_than(&self, age: Duration) -> bool {
        let changed = u64::try_from(self.changed.0).map(Duration::from_secs);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        match (changed, now) {
            (Ok(changed), Ok(now)) => changed + age < now,
            _ => false,
        }
    }
}

fn stamp(file: &File, path: &Path) -> Result<Stamp, SnapshotError> {
    let found = file
        .metadata()
        .map_err(SnapshotError::io("look at", path))?;
    Ok(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Opens it if it is still a file, or a folder. It never waits, and never follows a link that was put there meanwhile.
fn open(folder: &File, name: &str, path: &Path, how: OFlags) -> Result<File, SnapshotError> {
    let flags = how | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty());
    let file: File = file.map_err(SnapshotError::io("open", path))?.into();
    let found = file
        .metadata()
        .map_err(SnapshotError::io("look at", path))?;
    if found.is_file() || found.is_dir() && how.contains(OFlags::DIRECTORY) {
        Ok(file)
    } else {
        Err(unsupported(path))
    }
}

fn link(folder: &File, name: &str, path: &Path) -> Result<Thing, SnapshotError> {
    let to = readlinkat(folder, name, Vec::new()).map_err(SnapshotError::io("read link", path))?;
    match to.to_str() {
        Ok(to) => Ok(Thing::Link { to: to.to_owned() }),
        Err(_) => Err(SnapshotError::Path {
            path: path.to_owned(),
        }),
    }
}

fn unsupported(path: &Path) -> SnapshotError {
    SnapshotError::Unsupported {
        path: path.to_owned(),
    }
}
