//! Files as they stand, and their way back: content by hash in the artifact store, and owner, mode, links and extended
//! attributes beside it. Any kind of target may use it.
//!
//! A path is put back in one piece: the new content is written beside it, synced, and exchanged with what stands there, so
//! that whoever looks, at whatever instant, also after a power cut, finds the one or the other. Putting back what stands
//! there already changes nothing, so both directions of a restore may be begun again after a death.
//!
//! Paths lead through folders that may belong to others. A link among them is followed only where nobody but root (or who
//! runs this) can have put it there.
//!
//! Not put back: labels of the machine's policy (SELinux, IMA), the owner of a link, and that two names were one file.

mod capture;
mod error;
mod folder;
mod meta;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::RevisionId;

pub use self::{
    capture::{Captured, Limits, Seen, capture, look},
    error::SnapshotError,
    meta::Meta,
    restore::{Restored, restore},
};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Thing {
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
    Link { to: String },
}

impl Thing {
    fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }
}

/// Paths and what stands there; none: nothing. Of a folder that was captured everything in it is there, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot(pub BTreeMap<PathBuf, Option<Thing>>);

/// What is done at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: PathBuf,
    /// The folder that was captured, of which this is a part, or the path itself: from there on no link is followed.
    pub root: PathBuf,
    pub action: Action,
}

/// How a path is changed. Each may be done again, also when what follows it was done already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Put(Thing),
    /// What stands there, unless it is a folder.
    RemoveFile,
    /// The folder that stands there, which is empty by then.
    RemoveFolder,
}

/// What a snapshot says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says<'a> {
    /// It did not look there.
    NotSeen,
    Nothing,
    Stands(&'a Thing),
}

impl Snapshot {
    /// The artifacts that it needs.
    pub fn artifacts(&self) -> impl Iterator<Item = &RevisionId> {
        self.0.values().filter_map(|thing| match thing {
            Some(Thing::File { content, .. }) => Some(content),
            _ => None,
        })
    }

    fn says(&self, path: &Path) -> Says<'_> {
        if let Some(thing) = self.0.get(path) {
            return thing.as_ref().map_or(Says::Nothing, Says::Stands);
        }
        // Below what was captured it would have been seen.
        let mut above = path.ancestors().skip(1);
        if above.any(|folder| self.0.contains_key(folder)) {
            Says::Nothing
        } else {
            Says::NotSeen
        }
    }

    fn is_folder(&self, path: &Path) -> bool {
        matches!(self.0.get(path), Some(Some(thing)) if thing.is_folder())
    }

    /// What leads from this snapshot to another one, in an order that can be carried out: what is in a folder goes before
    /// the folder, and a folder comes before what is in it. A path that one of them did not look at is left as it is,
    /// unless the other knows what to put there.
    #[must_use]
    pub fn changes_to(&self, then: &Self) -> Vec<Change> {
        let paths: BTreeSet<&PathBuf> = self.0.keys().chain(then.0.keys()).collect();
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for path in paths {
            let (from, to) = (self.says(path), then.says(path));
            if from == to || to == Says::NotSeen {
                continue;
            }
            // As far up as one of them has folders: a path that was captured by way of a link below another one is put back
            // by that way.
            let folder = |above: &&Path| self.is_folder(above) || then.is_folder(above);
            let above = path.ancestors().skip(1).take_while(folder);
            let root = above.last().unwrap_or(path);
            let change = |action| Change {
                path: path.clone(),
                root: root.to_owned(),
                action,
            };
            let to = match to {
                Says::Stands(to) => Some(to),
                Says::Nothing | Says::NotSeen => None,
            };
            if let Says::Stands(from) = from
                && to.is_none_or(|to| to.is_folder() != from.is_folder())
            {
                gone.push(change(if from.is_folder() {
                    Action::RemoveFolder
                } else {
                    Action::RemoveFile
                }));
            }
            if let Some(to) = to {
                put.push(change(Action::Put(to.clone())));
            }
        }
        // Paths are sorted: a folder stands before what is in it.
        gone.reverse();
        gone.into_iter().chain(put).collect()
    }
}

/// The name at the end of an absolute path of plain names: nothing that leads elsewhere than it says, that is written in
/// another way than it is read, or that a record cannot hold.
fn checked(path: &Path) -> Result<&str, SnapshotError> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let as_read: PathBuf = path.components().collect();
    let text = path.to_str().filter(|text| !text.contains(['\0', '\n']));
    let name = path.file_name().and_then(|name| name.to_str());
    match (name, text) {
        (Some(name), Some(text))
            if path.is_absolute()
                && path.components().all(plain)
                && as_read.to_str() == Some(text) =>
        {
            Ok(name)
        }
        _ => Err(SnapshotError::Path {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
