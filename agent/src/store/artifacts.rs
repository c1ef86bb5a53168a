//! The artifact store: bytes by their SHA-256. What is read back is what was put in, or an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    ops::Deref,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};
use sternway_proto::name::RevisionId;
use tempfile::NamedTempFile;
use thiserror::Error;

use super::files::{self, FileError};

/// Why an artifact could not be kept or read.
#[derive(Debug, Error)]
pub enum ArtifactError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("artifact {} is missing", id.short())]
    Missing { id: RevisionId },
    #[error("artifact {} is damaged: its content has another hash", id.short())]
    Damaged { id: RevisionId },
    #[error("the artifacts would take {bytes} bytes, more than the budget of {budget}")]
    Budget { bytes: u64, budget: u64 },
}

/// Where files are copied to before their hash is known.
const INCOMING: &str = "incoming";

/// How much of a file is read at once.
const BLOCK: usize = 256 * 1024;

/// The store, in a folder of its own. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
    budget: u64,
    /// What was kept and is named by nothing yet, and how often.
    held: Holds,
    /// What was read and found whole, and how its file stood then.
    whole: Arc<Mutex<BTreeMap<RevisionId, Stamp>>>,
}

/// What tells that somebody touched an artifact: size, inode, and the time of its change.
type Stamp = (u64, u64, i64, i64);

/// An artifact that is kept while this lives, although nothing names it yet.
#[derive(Debug)]
pub struct Held {
    id: RevisionId,
    held: Holds,
}

impl Clone for Held {
    fn clone(&self) -> Self {
        hold(&self.held, self.id.clone())
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Held {}

impl Deref for Held {
    type Target = RevisionId;

    fn deref(&self) -> &RevisionId {
        &self.id
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}

type Holds = Arc<Mutex<BTreeMap<RevisionId, u32>>>;

fn hold(holds: &Holds, id: RevisionId) -> Held {
    *lock(holds).entry(id.clone()).or_default() += 1;
    Held {
        id,
        held: holds.clone(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Artifacts {
    /// The store in that folder, which may hold `budget` bytes.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path, budget: u64) -> Result<Self, ArtifactError> {
        files::make_dir(dir)?;
        let store = Self {
            dir: dir.to_owned(),
            budget,
            held: Arc::default(),
            whole: Arc::default(),
        };
        // What the last process was copying. One process uses the folder.
        let incoming = store.incoming();
        match fs::remove_dir_all(&incoming) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file("empty folder", &incoming, source));
            }
            _ => files::make_dir(&incoming)?,
        }
        Ok(store)
    }

    /// The store of another process, to read from: nothing in it is touched, and nothing can be put there.
    #[must_use]
    pub fn to_read(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            budget: 0,
            held: Arc::default(),
            whole: Arc::default(),
        }
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    /// Keeps what a file holds, from its beginning; without copying where it is kept already, or where the file system can
    /// share its blocks. The hash is that of the copy: whether the file was written to meanwhile is for the caller to see.
    ///
    /// # Errors
    /// It cannot be read or written, or there is no room in the budget.
    pub fn put_file(&self, from: &mut File, named: &Path) -> Result<Held, ArtifactError> {
        let found = from.metadata();
        // Of one that grows meanwhile, or is made to, no more is read.
        let size = found
            .map_err(|source| file("look at", named, source))?
            .len();
        let seen = hash_of(from, size).map_err(|source| file("read", named, source))?;
        let held = self.hold(seen);
        if self.verify(&held).is_ok() {
            // Whoever put it there may have died before it was on disk.
            self.sync_shelf_of(&held)?;
            return Ok(held);
        }
        self.has_room(size)?;
        let incoming = self.incoming();
        let mut copy = NamedTempFile::new_in(&incoming)
            .map_err(|source| file("make a file in", &incoming, source))?;
        fill(from, size, copy.as_file_mut()).map_err(|source| file("copy", named, source))?;
        let id = hash_of(copy.as_file_mut(), size);
        let id = id.map_err(|source| file("read", copy.path(), source))?;
        let held = self.hold(id);
        let path = self.path(&held);
        files::make_dir(path.parent().unwrap_or(&self.dir))?;
        copy.as_file()
            .sync_all()
            .map_err(|source| file("sync", copy.path(), source))?;
        copy.persist(&path)
            .map_err(|error| file("rename", &path, error.error))?;
        self.sync_shelf_of(&held)?;
        Ok(held)
    }

    fn sync_shelf_of(&self, id: &RevisionId) -> Result<(), ArtifactError> {
        files::sync_dir(self.path(id).parent().unwrap_or(&self.dir))?;
        files::sync_dir(&self.dir)?;
        Ok(())
    }

    /// Writes an artifact into an empty file: it is whole there, or an error says that it is not.
    ///
    /// # Errors
    /// It is missing or damaged, or cannot be written.
    pub fn copy_to(
        &self,
        id: &RevisionId,
        to: &mut File,
        named: &Path,
    ) -> Result<(), ArtifactError> {
        let mut from = self.open_artifact(id)?;
        fill(&mut from, u64::MAX, to).map_err(|source| file("write", named, source))?;
        // What was written, not what was read.
        let written = hash_of(to, u64::MAX).map_err(|source| file("read", named, source))?;
        if written == *id {
            Ok(())
        } else {
            Err(ArtifactError::Damaged { id: id.clone() })
        }
    }

    /// Reads an artifact against its hash.
    ///
    /// # Errors
    /// It is missing or damaged, or cannot be read.
    pub fn verify(&self, id: &RevisionId) -> Result<(), ArtifactError> {
        let mut artifact = self.open_artifact(id)?;
        match hash_of(&mut artifact, u64::MAX) {
            Ok(found) if found == *id => Ok(()),
            Ok(_) => Err(ArtifactError::Damaged { id: id.clone() }),
            Err(source) => Err(file("read", &self.path(id), source)),
        }
    }

    /// Whether an artifact is there and what it was; it is read where its file was touched since the last time. A disk that
    /// forgets by itself is found by [`Self::verify`].
    ///
    /// Blocking.
    #[must_use]
    pub fn is_whole(&self, id: &RevisionId) -> bool {
        let stamp = fs::metadata(self.path(id))
            .map(|found| (found.len(), found.ino(), found.ctime(), found.ctime_nsec()));
        let Ok(stamp) = stamp else {
            return false;
        };
        if lock(&self.whole).get(id) == Some(&stamp) {
            return true;
        }
        let whole = self.verify(id).is_ok();
        if whole {
            lock(&self.whole).insert(id.clone(), stamp);
        }
        whole
    }

    /// How long an artifact is, bytes; none: it is not there.
    #[must_use]
    pub fn length(&self, id: &RevisionId) -> Option<u64> {
        let found = fs::metadata(self.path(id)).ok()?;
        Some(found.len())
    }

    fn open_artifact(&self, id: &RevisionId) -> Result<File, ArtifactError> {
        let path = self.path(id);
        match File::open(&path) {
            Ok(artifact) => Ok(artifact),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ArtifactError::Missing { id: id.clone() })
            }
            Err(source) => Err(file("open", &path, source)),
        }
    }

    /// Holds an artifact that is there, without reading it; none: it is not.
    #[must_use]
    pub fn held(&self, id: &RevisionId) -> Option<Held> {
        let held = self.hold(id.clone());
        self.length(id).map(|_| held)
    }

    fn hold(&self, id: RevisionId) -> Held {
        hold(&self.held, id)
    }

    fn has_room(&self, bytes: u64) -> Result<(), ArtifactError> {
        let total = self.size()?.saturating_add(bytes);
        if total > self.budget {
            return Err(ArtifactError::Budget {
                bytes: total,
                budget: self.budget,
            });
        }
        Ok(())
    }

    /// Keeps bytes; those that are kept already are not written again, damaged ones are.
    ///
    /// # Errors
    /// They cannot be written, or there is no room in the budget.
    pub fn put(&self, bytes: &[u8]) -> Result<RevisionId, ArtifactError> {
        let id = RevisionId::of(bytes);
        if self.get(&id).is_ok() {
            return Ok(id);
        }
        self.has_room(bytes.len() as u64)?;
        let path = self.path(&id);
        files::make_dir(path.parent().unwrap_or(&self.dir))?;
        files::replace(&path, bytes)?;
        files::sync_dir(&self.dir)?;
        Ok(id)
    }

    /// The bytes with that hash.
    ///
    /// # Errors
    /// They are missing, damaged, or cannot be read.
    pub fn get(&self, id: &RevisionId) -> Result<Vec<u8>, ArtifactError> {
        let bytes = files::read(&self.path(id))?
            .ok_or_else(|| ArtifactError::Missing { id: id.clone() })?;
        if RevisionId::of(&bytes) == *id {
            Ok(bytes)
        } else {
            Err(ArtifactError::Damaged { id: id.clone() })
        }
    }

    /// Removes everything that is neither named nor [held](Held). Answers with how many were removed.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn retain(&self, named: &BTreeSet<RevisionId>) -> Result<usize, ArtifactError> {
        let mut removed = 0;
        let held = lock(&self.held);
        for (path, _) in self.entries()? {
            let id = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse::<RevisionId>().ok());
            // A file that bears no hash is what a write left that was interrupted.
            let keeps = |id: &RevisionId| named.contains(id) || held.contains_key(id);
            if !id.as_ref().is_some_and(keeps) {
                if let Some(id) = &id {
                    lock(&self.whole).remove(id);
                }
                files::remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// The bytes in the store.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn size(&self) -> Result<u64, ArtifactError> {
        Ok(self.entries()?.iter().map(|(_, size)| size).sum())
    }

    fn entries(&self) -> Result<Vec<(PathBuf, u64)>, ArtifactError> {
        let list = |dir: &Path| -> Result<Vec<fs::DirEntry>, FileError> {
            fs::read_dir(dir)
                .and_then(Iterator::collect)
                .map_err(|source| FileError {
                    action: "list folder",
                    path: dir.to_owned(),
                    source,
                })
        };
        let mut entries = Vec::new();
        for shelf in list(&self.dir)? {
            if !shelf.path().is_dir() || shelf.file_name() == INCOMING {
                continue;
            }
            for entry in list(&shelf.path())? {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                entries.push((entry.path(), size));
            }
        }
        Ok(entries)
    }

    /// Where it is, for a test that damages it.
    #[cfg(test)]
    pub fn path_of(&self, id: &RevisionId) -> PathBuf {
        self.path(id)
    }

    fn path(&self, id: &RevisionId) -> PathBuf {
        let first_two: String = id.as_str().chars().take(2).collect();
        self.dir.join(first_two).join(id.as_str())
    }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> ArtifactError {
    let path = path.to_owned();
    FileError {
        action,
        path,
        source,
    }
    .into()
}

/// The content of one file in another, which is empty. Of one that grows meanwhile no more than that many bytes are
/// copied.
fn fill(from: &mut File, at_most: u64, to: &mut File) -> io::Result<()> {
    from.rewind()?;
    // Where both are on a file system that can, they share their blocks.
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return match to.metadata()?.len() {
            length if length > at_most => to.set_len(at_most),
            _ => Ok(()),
        };
    }
    io::copy(&mut from.take(at_most), to).map(drop)
}

/// The SHA-256 of what is in a file, of so many bytes at most.
pub(crate) fn hash_of(file: &mut File, at_most: u64) -> io::Result<RevisionId> {
    file.rewind()?;
    let mut file = file.take(at_most);
    let (mut hash, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        let read = file.read(&mut block)?;
        match block.get(..read) {
            Some(bytes) if read > 0 => hash.update(bytes),
            _ => break,
        }
    }
    hex::encode(hash.finalize())
        .parse()
        .map_err(|_| io::Error::other("a SHA-256 is no id"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn store(budget: u64) -> (TempDir, Artifacts) {
        let dir = TempDir::new().expect("folder");
        let store = Artifacts::open(&dir.path().join("artifacts"), budget).expect("opened");
        (dir, store)
    }

    #[test]
    fn what_was_put_in_comes_back_and_only_its_owner_reads_it() {
        let (_dir, store) = store(1000);
        let id = store.put(b"secret").expect("kept");
        assert_eq!(store.put(b"secret").expect("kept"), id);
        assert_eq!(store.get(&id).expect("there"), b"secret");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&store.path(&id)), 0o600);
        assert_eq!(mode(&store.dir), 0o700);
    }

    #[test]
    fn a_damaged_artifact_is_found_by_its_hash_and_mended_by_putting_it_again() {
        let (_dir, store) = store(1000);
        let id = store.put(b"content").expect("kept");
        fs::write(store.path(&id), b"c0ntent").expect("damaged");
        assert!(matches!(store.get(&id), Err(ArtifactError::Damaged { .. })));
        store.put(b"content").expect("mended");
        assert_eq!(store.get(&id).expect("whole"), b"content");
    }

    #[test]
    fn a_file_is_kept_by_its_hash_and_held_until_something_names_it() {
        let (dir, store) = store(1_000_000);
        let path = dir.path().join("program");
        let content = vec![7; BLOCK + 1];
        fs::write(&path, &content).expect("written");
        let mut from = File::open(&path).expect("opened");
        let held = store.put_file(&mut from, &path).expect("kept");
        assert_eq!(*held, RevisionId::of(&content));
        let again = store.put_file(&mut from, &path).expect("kept");
        drop(again);
        assert_eq!(store.retain(&BTreeSet::new()).expect("swept"), 0);
        assert_eq!(store.get(&held).expect("there"), content);
        let id = (*held).clone();
        drop(held);
        assert_eq!(store.retain(&BTreeSet::new()).expect("swept"), 1);
        assert!(matches!(
            store.verify(&id),
            Err(ArtifactError::Missing { .. })
        ));
        assert_eq!(fs::read_dir(store.incoming()).expect("there").count(), 0);
    }

    #[test]
    fn a_damaged_artifact_is_not_written_out_for_a_whole_one() {
        let (dir, store) = store(1000);
        let path = dir.path().join("program");
        fs::write(&path, "content").expect("written");
        let mut from = File::open(&path).expect("opened");
        let held = store.put_file(&mut from, &path).expect("kept");
        let out = |name: &str| {
            let out = dir.path().join(name);
            let options = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&out);
            store
                .copy_to(&held, &mut options.expect("made"), &out)
                .map(|()| fs::read(&out).expect("there"))
        };
        assert_eq!(out("1").expect("written"), b"content");
        fs::write(store.path(&held), "c0ntent").expect("damaged");
        assert!(matches!(out("2"), Err(ArtifactError::Damaged { .. })));
        // Kept once more, it is whole.
        let _again = store.put_file(&mut from, &path).expect("kept");
        assert_eq!(out("3").expect("written"), b"content");
    }

    #[test]
    fn of_a_file_without_end_no_more_is_read_than_it_had() {
        let (dir, _store) = store(1000);
        let path = dir.path().join("grows");
        fs::write(&path, "content").expect("written");
        let options = File::options().read(true).write(true).open(&path);
        let mut grows = options.expect("opened");
        let seen = hash_of(&mut grows, 7).expect("read");
        grows.set_len(1 << 40).expect("grown");
        assert_eq!(hash_of(&mut grows, 7).expect("read"), seen);
    }

    #[test]
    fn what_is_kept_already_needs_no_room() {
        let (dir, store) = store(10);
        let path = dir.path().join("program");
        fs::write(&path, "0123456789").expect("written");
        let mut from = File::open(&path).expect("opened");
        let _held = store.put_file(&mut from, &path).expect("kept");
        let _again = store
            .put_file(&mut from, &path)
            .expect("there is nothing to add");
        fs::write(&path, "another").expect("written");
        let full = store.put_file(&mut from, &path);
        assert!(
            matches!(full, Err(ArtifactError::Budget { .. })),
            "{full:?}"
        );
    }

    #[test]
    fn another_process_reads_and_changes_nothing() {
        let (dir, store) = store(1000);
        let id = store.put(b"content").expect("kept");
        let half = store.incoming().join(".tmpXYZ");
        fs::write(&half, "half").expect("written");
        let reads = Artifacts::to_read(&store.dir);
        assert_eq!(reads.get(&id).expect("there"), b"content");
        assert!(half.exists());
        let path = dir.path().join("program");
        fs::write(&path, "program").expect("written");
        let mut from = File::open(&path).expect("opened");
        assert!(reads.put_file(&mut from, &path).is_err());
    }

    #[test]
    fn what_was_being_copied_is_gone_after_a_restart() {
        let (_dir, store) = store(1000);
        fs::write(store.incoming().join(".tmpXYZ"), "half").expect("written");
        let store = Artifacts::open(&store.dir, 1000).expect("opened");
        assert_eq!(fs::read_dir(store.incoming()).expect("there").count(), 0);
        assert_eq!(store.size().expect("known"), 0);
    }

    #[test]
    fn the_budget_holds_and_what_is_not_named_goes() {
        let (_dir, store) = store(10);
        let first = store.put(b"12345").expect("kept");
        let second = store.put(b"67890").expect("kept");
        assert!(matches!(store.put(b"x"), Err(ArtifactError::Budget { .. })));
        assert_eq!(store.retain(&[second.clone()].into()).expect("swept"), 1);
        assert!(matches!(
            store.get(&first),
            Err(ArtifactError::Missing { .. })
        ));
        assert!(store.get(&second).is_ok());
        store.put(b"x").expect("there is room again");
    }
}
