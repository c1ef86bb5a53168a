//! Files as they stand, and their way back: content by hash in the artifact store, and owner, mode, links and extended
//! attributes beside it. Any kind of target may use it.
//!
//! A path is put back in one piece: the new content is written beside it, synced, and exchanged with what stands there, so
//! that whoever looks, at whatever instant, also after a power cut, finds the one or the other. Putting back what stands
//! there already changes nothing, so both directions of a restore may be begun again after a death.

mod capture;
mod meta;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::RevisionId;
use thiserror::Error;

pub use self::{
    capture::{Captured, Limits, capture},
    meta::Meta,
    restore::{Restored, restore},
};
use crate::store::artifacts::ArtifactError;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Standing {
    Nothing,
    File {
        /// The artifact that holds its content.
        content: RevisionId,
        #[serde(flatten)]
        meta: Meta,
    },
    Folder {
        #[serde(flatten)]
        meta: Meta,
    },
    /// A symbolic link. Its owner and mode mean nothing.
    Link {
        to: String,
    },
}

/// Paths and what stands there. Of a folder that was captured everything in it is there, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot(pub BTreeMap<PathBuf, Standing>);

/// What is put at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: PathBuf,
    pub to: Standing,
}

impl Snapshot {
    /// The artifacts that it needs.
    pub fn artifacts(&self) -> impl Iterator<Item = &RevisionId> {
        self.0.values().filter_map(|standing| match standing {
            Standing::File { content, .. } => Some(content),
            _ => None,
        })
    }

    /// What leads from this snapshot to another one, in an order that can be carried out: what is in a folder goes before
    /// the folder, and a folder comes before what is in it. A path that only one of them knows holds nothing in the other.
    #[must_use]
    pub fn changes_to(&self, then: &Self) -> Vec<Change> {
        let paths: BTreeSet<&PathBuf> = self.0.keys().chain(then.0.keys()).collect();
        let at = |snapshot: &Self, path: &PathBuf| {
            snapshot.0.get(path).cloned().unwrap_or(Standing::Nothing)
        };
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for path in paths {
            let (from, to) = (at(self, path), at(then, path));
            if from == to {
                continue;
            }
            let change = |to| Change {
                path: path.clone(),
                to,
            };
            // What is of another sort is in the way.
            let folder = |standing: &Standing| matches!(standing, Standing::Folder { .. });
            if to == Standing::Nothing || folder(&from) != folder(&to) && from != Standing::Nothing
            {
                gone.push(change(Standing::Nothing));
            }
            if to != Standing::Nothing {
                put.push(change(to));
            }
        }
        // Paths are sorted: a folder stands before what is in it.
        gone.reverse();
        gone.into_iter().chain(put).collect()
    }
}

/// Why files could not be read or put back.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is neither a file nor a folder nor a link", path.display())]
    Unsupported { path: PathBuf },
    #[error("{} is not an absolute path of plain names in UTF-8", path.display())]
    Path { path: PathBuf },
    #[error("{}: {bytes} bytes are more than the {limit} that are kept", path.display())]
    TooLarge {
        path: PathBuf,
        bytes: u64,
        limit: u64,
    },
    #[error("below {} there are more than {limit} files", path.display())]
    TooMany { path: PathBuf, limit: usize },
    #[error("a folder that is not empty is in the way at {}", path.display())]
    InTheWay { path: PathBuf },
    /// Root may not change it: `chattr -i` makes that possible.
    #[error("{} is immutable", path.display())]
    Immutable { path: PathBuf },
    #[error("cannot keep or find the content of {}", path.display())]
    Artifact {
        path: PathBuf,
        #[source]
        source: ArtifactError,
    },
}

impl SnapshotError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    fn artifact(path: &Path) -> impl FnOnce(ArtifactError) -> Self {
        let path = path.to_owned();
        move |source| Self::Artifact { path, source }
    }

    /// For programs: stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no-disk-space",
                io::ErrorKind::ReadOnlyFilesystem => "read-only",
                io::ErrorKind::PermissionDenied => "not-permitted",
                _ => "file-failed",
            },
            Self::Unsupported { .. } => "not-a-file",
            Self::Path { .. } => "path-invalid",
            Self::TooLarge { .. } | Self::TooMany { .. } => "too-large",
            Self::InTheWay { .. } => "in-the-way",
            Self::Immutable { .. } => "immutable",
            Self::Artifact { source, .. } => match source {
                ArtifactError::Missing { .. } => "artifact-missing",
                ArtifactError::Damaged { .. } => "artifact-damaged",
                ArtifactError::Budget { .. } => "disk-budget",
                ArtifactError::File(error) if error.is_no_space() => "no-disk-space",
                ArtifactError::File(_) => "artifact-failed",
            },
        }
    }
}

/// An absolute path of plain names: nothing that leads elsewhere than it says, and nothing that a record cannot hold.
fn checked(path: &Path) -> Result<(&Path, &str), SnapshotError> {
    use std::path::Component;
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.to_str().filter(|text| !text.contains(['\0', '\n']));
    match (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
        text,
    ) {
        (Some(parent), Some(name), Some(_)) if plain && path.is_absolute() => Ok((parent, name)),
        _ => Err(SnapshotError::Path {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
