//! Which file is kept of which package: one small file, written anew in one piece.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::RevisionId;

use super::{Kept, PackageId};
use crate::store::files::{self, FileError};

/// A package that is kept, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    package: PackageId,
    #[serde(flatten)]
    kept: Kept,
}

/// What is kept, also on disk.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    kept: BTreeMap<PackageId, Kept>,
}

impl Index {
    /// That of this file. One that cannot be understood is told, and begun anew from nothing.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let kept = match files::read(path)? {
            None => BTreeMap::new(),
            Some(bytes) => read(&bytes).unwrap_or_else(|error| {
                tracing::warn!(
                    path = %path.display(),
                    "the index of kept packages is damaged and is begun anew: {error}"
                );
                BTreeMap::new()
            }),
        };
        Ok(Self {
            path: path.to_owned(),
            kept,
        })
    }

    pub(super) fn find(&self, package: &PackageId) -> Option<&Kept> {
        self.kept.get(package)
    }

    /// Writes down that it is kept. Where that fails, what was kept of it before counts.
    pub(super) fn insert(&mut self, package: &PackageId, kept: Kept) -> Result<(), FileError> {
        if self.kept.get(package) == Some(&kept) {
            return Ok(());
        }
        let mut all = self.kept.clone();
        all.insert(package.clone(), kept);
        self.replace(all)
    }

    /// Forgets every package that is not named.
    pub(super) fn retain(&mut self, named: &BTreeSet<PackageId>) -> Result<(), FileError> {
        let mut all = self.kept.clone();
        all.retain(|package, _| named.contains(package));
        if all.len() == self.kept.len() {
            return Ok(());
        }
        self.replace(all)
    }

    pub(super) fn packages(&self) -> BTreeSet<PackageId> {
        self.kept.keys().cloned().collect()
    }

    pub(super) fn artifacts(&self) -> BTreeSet<RevisionId> {
        let all = self.kept.values();
        all.map(|kept| kept.artifact.clone()).collect()
    }

    fn replace(&mut self, kept: BTreeMap<PackageId, Kept>) -> Result<(), FileError> {
        files::replace(&self.path, &written(&kept))?;
        self.kept = kept;
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<BTreeMap<PackageId, Kept>, serde_json::Error> {
    let lines: Vec<Line> = serde_json::from_slice(bytes)?;
    Ok(lines
        .into_iter()
        .map(|line| (line.package, line.kept))
        .collect())
}

fn written(kept: &BTreeMap<PackageId, Kept>) -> Vec<u8> {
    let lines: Vec<Line> = kept
        .iter()
        .map(|(package, kept)| Line {
            package: package.clone(),
            kept: kept.clone(),
        })
        .collect();
    // Texts alone: it cannot fail.
    serde_json::to_vec(&lines).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{super::Source, *};

    fn id(version: &str) -> PackageId {
        let name = "billing".parse().expect("a name");
        PackageId::new(name, version.parse().expect("a version"), "all").expect("valid")
    }

    fn kept(content: &str) -> Kept {
        Kept {
            artifact: RevisionId::of(content.as_bytes()),
            source: Source::Rebuilt,
        }
    }

    #[test]
    fn what_was_written_down_is_there_after_a_restart_until_it_is_let_go_of() {
        let dir = TempDir::new().expect("folder");
        let path = dir.path().join("index.json");
        let mut index = Index::open(&path).expect("opened");
        index.insert(&id("1"), kept("one")).expect("written");
        index.insert(&id("2"), kept("two")).expect("written");
        let mut index = Index::open(&path).expect("opened");
        assert_eq!(index.find(&id("1")), Some(&kept("one")));
        index.retain(&[id("2")].into()).expect("written");
        let index = Index::open(&path).expect("opened");
        assert_eq!(index.find(&id("1")), None);
        assert_eq!(index.artifacts(), [kept("two").artifact].into());
    }

    #[test]
    fn a_damaged_index_is_begun_anew() {
        let dir = TempDir::new().expect("folder");
        let path = dir.path().join("index.json");
        for damaged in ["", "[{}]", "\0\0\0", "[{\"package\":"] {
            fs::write(&path, damaged).expect("written");
            let mut index = Index::open(&path).expect("opened");
            assert_eq!(index.find(&id("1")), None);
            index.insert(&id("1"), kept("one")).expect("written");
            assert!(Index::open(&path).expect("opened").find(&id("1")).is_some());
        }
    }
}
