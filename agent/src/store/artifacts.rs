//! The artifact store: bytes by their SHA-256. What is read back is what was put in, or an error.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sternway_proto::name::RevisionId;
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

/// The store, in a folder of its own.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
    budget: u64,
}

impl Artifacts {
    /// The store in that folder, which may hold `budget` bytes.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path, budget: u64) -> Result<Self, ArtifactError> {
        files::make_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            budget,
        })
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
        let total = self.size()? + bytes.len() as u64;
        if total > self.budget {
            return Err(ArtifactError::Budget {
                bytes: total,
                budget: self.budget,
            });
        }
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

    /// Removes everything that is not named. Answers with how many were removed.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn retain(&self, named: &BTreeSet<RevisionId>) -> Result<usize, ArtifactError> {
        let mut removed = 0;
        for (path, _) in self.entries()? {
            let id = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse::<RevisionId>().ok());
            // A file that bears no hash is what a write left that was interrupted.
            if id.is_none_or(|id| !named.contains(&id)) {
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
            if !shelf.path().is_dir() {
                continue;
            }
            for entry in list(&shelf.path())? {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                entries.push((entry.path(), size));
            }
        }
        Ok(entries)
    }

    fn path(&self, id: &RevisionId) -> PathBuf {
        let first_two: String = id.as_str().chars().take(2).collect();
        self.dir.join(first_two).join(id.as_str())
    }
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
