//! The revision store: one file a target with its [`History`], the records in the artifact store, and the
//! host's key for hashes of private values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use thiserror::Error;

use super::{
    artifacts::{ArtifactError, Artifacts},
    files::{self, FileError},
    history::{Entry, History, NewEntry, Origin, SCHEMA},
};
use crate::targets::{Content, FieldValue, Recorded};

/// The longest value of a public field that is reported, characters.
const VALUE_LIMIT: usize = 256;

/// Fields of one revision that are reported. A container with more settings is restored like any other.
const FIELDS_LIMIT: usize = 400;

/// Bytes of them: names and values may be of letters of several bytes each, and a controller takes 256 KiB a revision.
const FIELDS_BYTES: usize = 200 * 1024;

/// Why the store could not be used.
#[derive(Debug, Error)]
pub enum RevisionError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("{} cannot be read: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{target} has no revision {}", id.short())]
    Unknown { target: TargetName, id: RevisionId },
    #[error("the history of {target} is not usable: {reason}")]
    Blocked { target: TargetName, reason: String },
}

impl RevisionError {
    /// There is no room on the disk or in the budget.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File(error) | Self::Artifact(ArtifactError::File(error)) => error.is_no_space(),
            Self::Artifact(ArtifactError::Budget { .. }) => true,
            _ => false,
        }
    }
}

/// The folder of the artifacts in that of the store.
pub const ARTIFACTS: &str = "artifacts";

/// The store.
#[derive(Debug)]
pub struct Revisions {
    dir: PathBuf,
    artifacts: Artifacts,
    key: [u8; 32],
    histories: BTreeMap<TargetName, History>,
    /// Targets whose file is there and cannot be read, with the reason. Never begun anew: that would
    /// forget what a rollback could go to.
    blocked: BTreeMap<PathBuf, String>,
    marks: BTreeMap<(TargetName, RevisionId), v1::RevisionMark>,
}

impl Revisions {
    /// Opens (or begins) the store in a folder; artifacts may take `budget` bytes.
    ///
    /// # Errors
    /// A folder or file that everything depends on cannot be read or made. A single target's damaged
    /// file is no error here: that target alone is blocked.
    pub fn open(dir: &Path, budget: u64) -> Result<Self, RevisionError> {
        Self::with(dir, Artifacts::open(&dir.join(ARTIFACTS), budget)?)
    }

    /// Opens (or begins) the store in a folder, with its artifacts in that store.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with(dir: &Path, artifacts: Artifacts) -> Result<Self, RevisionError> {
        let targets = dir.join("targets");
        files::make_dir(&targets)?;
        let mut store = Self {
            dir: dir.to_owned(),
            artifacts,
            key: host_key(&dir.join("host-key"))?,
            histories: BTreeMap::new(),
            blocked: BTreeMap::new(),
            marks: BTreeMap::new(),
        };
        let entries = fs::read_dir(&targets)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| FileError {
                action: "list folder",
                path: targets.clone(),
                source,
            })?;
        for entry in entries {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                store.load(&path);
            }
        }
        let marks = store.read_marks()?;
        store.set_marks_in_memory(marks);
        Ok(store)
    }

    fn load(&mut self, path: &Path) {
        let bytes = match files::read(path) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                tracing::error!(path = %path.display(), "a target's history cannot be read: {}", error.source);
                self.blocked
                    .insert(path.to_owned(), error.source.to_string());
                return;
            }
        };
        match serde_json::from_slice::<History>(&bytes) {
            Ok(history) if history.schema == SCHEMA && self.file(&history.target) == path => {
                self.histories.insert(history.target.clone(), history);
            }
            other => {
                let reason = match other {
                    Ok(history) if history.schema != SCHEMA => {
                        format!(
                            "its layout is {}, this version reads {SCHEMA}",
                            history.schema
                        )
                    }
                    Ok(_) => "its name and its content are of different targets".to_owned(),
                    Err(error) => error.to_string(),
                };
                tracing::error!(path = %path.display(), "a target's history cannot be read: {reason}");
                self.blocked.insert(path.to_owned(), reason);
            }
        }
    }

    /// The targets with a history.
    pub fn targets(&self) -> impl Iterator<Item = &TargetName> {
        self.histories.keys()
    }

    /// What is known of a target.
    #[must_use]
    pub fn history(&self, target: &TargetName) -> Option<&History> {
        self.histories.get(target)
    }

    /// Why nothing is known of a target although there is a file.
    #[must_use]
    pub fn blocked(&self, target: &TargetName) -> Option<&str> {
        self.blocked.get(&self.file(target)).map(String::as_str)
    }

    /// Takes a content up as a revision of the target (durable when this returns).
    ///
    /// # Errors
    /// It cannot be written, or the target is blocked.
    pub fn record(
        &mut self,
        target: &TargetName,
        content: &Content,
        origin: Origin,
        instead_of: Option<RevisionId>,
        now_ms: i64,
    ) -> Result<u32, RevisionError> {
        let mut history = self.usable(target)?;
        let id = self.artifacts.put(&content.record)?;
        let mut attachments = BTreeMap::new();
        // Of a revision that is known the first ones are kept: new ones with every restart would only grow.
        if history.entry(&id).is_none() {
            for (name, bytes) in &content.attachments {
                attachments.insert(name.clone(), self.artifacts.put(bytes)?);
            }
        }
        let number = history.record(
            NewEntry {
                id,
                origin,
                instead_of,
                image: content.image.clone(),
                image_id: content.image_id.clone(),
                image_digest: content.image_digest.clone(),
                fields: self.public_fields(&content.fields),
                attachments,
                artifacts: content
                    .artifacts
                    .iter()
                    .map(|held| (**held).clone())
                    .collect(),
                hints: content.hints.clone(),
            },
            now_ms,
        );
        self.save(history)?;
        Ok(number)
    }

    /// A recorded revision of the target runs now, in that instance. Answers whether another was current.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn activate(
        &mut self,
        target: &TargetName,
        id: &RevisionId,
        instance: &str,
        now_ms: i64,
    ) -> Result<bool, RevisionError> {
        let mut history = self.usable(target)?;
        let changed = history.activate(id, now_ms);
        instance.clone_into(&mut history.instance);
        self.save(history)?;
        Ok(changed)
    }

    /// A revision passed its checks through its soak. Answers whether that is news.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn known_good(
        &mut self,
        target: &TargetName,
        id: &RevisionId,
    ) -> Result<bool, RevisionError> {
        let mut history = self.usable(target)?;
        if !history.set_known_good(id) {
            return Ok(false);
        }
        self.save(history)?;
        Ok(true)
    }

    /// Lets go of old revisions, and of artifacts that none needs any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn prune(
        &mut self,
        target: &TargetName,
        keep: usize,
        named: &BTreeSet<RevisionId>,
    ) -> Result<(), RevisionError> {
        let mut history = self.usable(target)?;
        let gone = history.prune(keep, named, |id| self.said(target, id));
        if gone.is_empty() {
            return Ok(());
        }
        self.save(history)?;
        self.sweep()
    }

    /// Removes artifacts that no revision needs, such as what was looked at and never became one.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn sweep(&self) -> Result<(), RevisionError> {
        if !self.blocked.is_empty() {
            // What a damaged history needs is not known: keep everything.
            return Ok(());
        }
        let needed: BTreeSet<RevisionId> = self
            .histories
            .values()
            .flat_map(History::artifacts)
            .cloned()
            .collect();
        self.artifacts.retain(&needed)?;
        Ok(())
    }

    /// A revision with its record, read back and checked against its hash.
    ///
    /// # Errors
    /// It is unknown, missing or damaged.
    pub fn recorded(
        &self,
        target: &TargetName,
        id: &RevisionId,
    ) -> Result<Recorded, RevisionError> {
        let entry = self.entry(target, id)?;
        Ok(Recorded {
            id: entry.id.clone(),
            number: entry.number,
            record: self.artifacts.get(&entry.id)?,
            hints: entry.hints.clone(),
        })
    }

    /// What is known of a revision.
    ///
    /// # Errors
    /// It is unknown.
    pub fn entry(&self, target: &TargetName, id: &RevisionId) -> Result<&Entry, RevisionError> {
        self.check_usable(target)?;
        self.histories
            .get(target)
            .and_then(|history| history.entry(id))
            .ok_or_else(|| RevisionError::Unknown {
                target: target.clone(),
                id: id.clone(),
            })
    }

    /// Forgets a target with its revisions and what only they need: its container is gone for good, and so is the
    /// wish to restore it.
    ///
    /// # Errors
    /// Its files cannot be removed.
    pub fn forget(&mut self, target: &TargetName) -> Result<(), RevisionError> {
        let path = self.file(target);
        files::remove(&path)?;
        self.histories.remove(target);
        self.sweep()
    }

    /// What people said about revisions; replaces what they said before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_marks(&mut self, marks: Vec<v1::RevisionMark>) -> Result<(), RevisionError> {
        let path = self.dir.join("marks.json");
        let bytes = serde_json::to_vec(&marks).map_err(|error| RevisionError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        // First in memory: a disk that is full must not make a bad revision a good one.
        self.set_marks_in_memory(marks);
        files::replace(&path, &bytes)?;
        Ok(())
    }

    fn read_marks(&self) -> Result<Vec<v1::RevisionMark>, RevisionError> {
        let path = self.dir.join("marks.json");
        match files::read(&path)? {
            None => Ok(Vec::new()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| RevisionError::Damaged {
                path,
                reason: error.to_string(),
            }),
        }
    }

    fn set_marks_in_memory(&mut self, marks: Vec<v1::RevisionMark>) {
        self.marks = marks
            .into_iter()
            .filter_map(|mark| {
                let key = (mark.target.parse().ok()?, mark.revision.parse().ok()?);
                Some((key, mark))
            })
            .collect();
    }

    /// What people said about a revision.
    #[must_use]
    pub fn mark(&self, target: &TargetName, id: &RevisionId) -> Option<&v1::RevisionMark> {
        self.marks.get(&(target.clone(), id.clone()))
    }

    /// The mark of a revision; unspecified where nobody said anything.
    #[must_use]
    pub fn said(&self, target: &TargetName, id: &RevisionId) -> v1::Mark {
        self.mark(target, id)
            .map_or(v1::Mark::Unspecified, v1::RevisionMark::mark)
    }

    /// Whether a revision is marked DO_NOT_DEPLOY.
    #[must_use]
    pub fn is_bad(&self, target: &TargetName, id: &RevisionId) -> bool {
        self.said(target, id) == v1::Mark::Bad
    }

    /// Fields as they may leave the host.
    #[must_use]
    pub fn public_fields(&self, fields: &[FieldValue]) -> Vec<v1::Field> {
        use v1::field::Content as Side;
        let mut bytes = 0usize;
        let mut out: Vec<v1::Field> = fields
            .iter()
            .take(FIELDS_LIMIT)
            .map(|field| v1::Field {
                path: field.path.clone(),
                content: Some(if field.private {
                    Side::PrivateHash(self.keyed_hash(&field.path, &field.value))
                } else {
                    Side::Value(field.value.chars().take(VALUE_LIMIT).collect())
                }),
            })
            .take_while(|field| {
                bytes = bytes.saturating_add(field.encoded_len());
                bytes <= FIELDS_BYTES
            })
            .collect();
        out.sort_by(|a, b| a.path.cmp(&b.path));
        out
    }

    /// Equal for equal values of one field on this host, and tells nothing else: the key never leaves.
    fn keyed_hash(&self, path: &str, value: &str) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return String::new();
        };
        mac.update(path.as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        let mut text = hex::encode(mac.finalize().into_bytes());
        text.truncate(32);
        text
    }

    fn check_usable(&self, target: &TargetName) -> Result<(), RevisionError> {
        match self.blocked(target) {
            None => Ok(()),
            Some(reason) => Err(RevisionError::Blocked {
                target: target.clone(),
                reason: reason.to_owned(),
            }),
        }
    }

    fn usable(&self, target: &TargetName) -> Result<History, RevisionError> {
        self.check_usable(target)?;
        Ok(self
            .histories
            .get(target)
            .cloned()
            .unwrap_or_else(|| History::new(target.clone())))
    }

    fn save(&mut self, history: History) -> Result<(), RevisionError> {
        let path = self.file(&history.target);
        let bytes = serde_json::to_vec(&history).map_err(|error| RevisionError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        files::replace(&path, &bytes)?;
        self.histories.insert(history.target.clone(), history);
        Ok(())
    }

    /// Named by a hash, so that no name of a container ever is a path.
    fn file(&self, target: &TargetName) -> PathBuf {
        let name = hex::encode(Sha256::digest(target.as_str()));
        self.dir.join("targets").join(format!("{name}.json"))
    }
}

fn host_key(path: &Path) -> Result<[u8; 32], RevisionError> {
    if let Some(bytes) = files::read(path)? {
        return bytes.try_into().map_err(|_| RevisionError::Damaged {
            path: path.to_owned(),
            reason: "it does not hold 32 bytes".to_owned(),
        });
    }
    let key: [u8; 32] = rand::random();
    files::replace(path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn fields_of_many_long_letters_stay_below_what_a_controller_takes() {
        let folder = TempDir::new().expect("a folder");
        let revisions = Revisions::open(folder.path(), 1_000_000).expect("opened");
        let field = |number: usize| FieldValue {
            path: format!("config.Labels.{number}{}", "語".repeat(190)),
            value: "語".repeat(170),
            private: false,
        };
        let all: Vec<FieldValue> = (0..1_000).map(field).collect();
        let told = revisions.public_fields(&all);
        let revision = v1::Revision {
            fields: told.clone(),
            ..v1::Revision::default()
        };
        assert!(told.len() > 100, "{}", told.len());
        assert!(
            revision.encoded_len() < 256 * 1024,
            "{}",
            revision.encoded_len()
        );
    }

    fn content(name: &str) -> Content {
        Content {
            record: name.as_bytes().to_vec(),
            attachments: [("inspect".to_owned(), b"{}".to_vec())].into(),
            fields: vec![
                FieldValue {
                    path: "env.PASSWORD".into(),
                    value: "hunter2".into(),
                    private: true,
                },
                FieldValue {
                    path: "image".into(),
                    value: name.into(),
                    private: false,
                },
            ],
            artifacts: Vec::new(),
            hints: serde_json::Value::Null,
            image: name.into(),
            image_id: String::new(),
            image_digest: String::new(),
        }
    }

    fn shop() -> TargetName {
        "docker/shop".parse().expect("valid")
    }

    fn deploy(store: &mut Revisions, name: &str, now_ms: i64) -> RevisionId {
        let content = content(name);
        store
            .record(&shop(), &content, Origin::Deployment, None, now_ms)
            .expect("recorded");
        store
            .activate(&shop(), &content.id(), name, now_ms)
            .expect("activated");
        content.id()
    }

    #[test]
    fn everything_is_there_again_after_a_restart() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        let v1 = deploy(&mut store, "v1", 1);
        let v2 = deploy(&mut store, "v2", 2);
        store.known_good(&shop(), &v1).expect("written");
        let mark = v1::RevisionMark {
            target: shop().to_string(),
            revision: v2.to_string(),
            mark: v1::Mark::Bad.into(),
            reason: "500s".into(),
        };
        store.set_marks(vec![mark]).expect("written");

        let again = Revisions::open(dir.path(), 10_000).expect("opened again");
        assert_eq!(again.history(&shop()), store.history(&shop()));
        assert!(again.is_bad(&shop(), &v2) && !again.is_bad(&shop(), &v1));
        assert_eq!(again.recorded(&shop(), &v1).expect("there").record, b"v1");
        let same = |store: &Revisions| store.keyed_hash("env.A", "x");
        assert_eq!(same(&again), same(&store), "the host's key is kept");
    }

    #[test]
    fn never_leaked_private_values_leave_as_keyed_hashes_only() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        deploy(&mut store, "v1", 1);
        let said = format!("{:?}", store.history(&shop()));
        assert!(!said.contains("hunter2"), "{said}");
        let other = Revisions::open(&dir.path().join("other"), 10_000).expect("opened");
        assert_ne!(store.keyed_hash("a", "x"), other.keyed_hash("a", "x"));
        assert_ne!(store.keyed_hash("a", "x"), store.keyed_hash("b", "x"));
    }

    #[test]
    fn a_damaged_history_blocks_its_target_and_is_never_begun_anew() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        let v1 = deploy(&mut store, "v1", 1);
        let path = store.file(&shop());
        fs::write(&path, b"{\"schema\":1,").expect("damaged");
        let mut again = Revisions::open(dir.path(), 10_000).expect("opened again");
        assert!(again.blocked(&shop()).is_some());
        assert!(matches!(
            again.recorded(&shop(), &v1),
            Err(RevisionError::Blocked { .. })
        ));
        let recorded = again.record(&shop(), &content("v2"), Origin::Deployment, None, 2);
        assert!(matches!(recorded, Err(RevisionError::Blocked { .. })));
        assert_eq!(fs::read(&path).expect("there"), b"{\"schema\":1,");
    }

    #[test]
    fn what_is_let_go_takes_its_artifacts_along() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        let v1 = deploy(&mut store, "v1", 1);
        let v2 = deploy(&mut store, "v2", 2);
        let v3 = deploy(&mut store, "v3", 3);
        store.prune(&shop(), 2, &BTreeSet::new()).expect("pruned");
        assert!(store.recorded(&shop(), &v1).is_err());
        assert!(store.artifacts.get(&v1).is_err());
        for kept in [v2, v3] {
            assert!(store.recorded(&shop(), &kept).is_ok());
        }
    }

    #[test]
    fn a_forgotten_target_leaves_nothing_and_takes_nothing_of_others_along() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        let v1 = deploy(&mut store, "v1", 1);
        let shared = content("shared");
        let job: TargetName = "docker/job".parse().expect("valid");
        for target in [&shop(), &job] {
            store
                .record(target, &shared, Origin::Deployment, None, 2)
                .expect("recorded");
        }
        let own = content("own");
        store
            .record(&job, &own, Origin::Deployment, None, 3)
            .expect("recorded");
        store.forget(&job).expect("forgotten");
        assert!(store.artifacts.get(&own.id()).is_err());
        for kept in [v1, shared.id()] {
            assert!(store.recorded(&shop(), &kept).is_ok());
        }
        let again = Revisions::open(dir.path(), 10_000).expect("opened");
        assert_eq!(again.targets().collect::<Vec<_>>(), [&shop()]);
    }

    #[test]
    fn redeploying_the_same_revision_leaves_no_artifacts_behind() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 1_000_000).expect("opened");
        for turn in 0..50 {
            let mut again = content("v1");
            again.attachments =
                [("inspect".to_owned(), format!("{turn:0>100}").into_bytes())].into();
            store
                .record(&shop(), &again, Origin::Deployment, None, turn)
                .expect("recorded");
            store
                .activate(&shop(), &again.id(), &turn.to_string(), turn)
                .expect("activated");
            store.prune(&shop(), 10, &BTreeSet::new()).expect("pruned");
        }
        let size = store.artifacts.size().expect("listed");
        assert!(size < 500, "{size} bytes for one revision");
    }

    #[test]
    fn a_history_that_cannot_be_read_stops_its_target_only() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        deploy(&mut store, "v1", 1);
        let path = store.file(&shop());
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a read error that root gets too");
        let again = Revisions::open(dir.path(), 10_000);
        assert!(again.is_ok(), "{:?}", again.err());
    }

    #[test]
    fn a_bad_mark_holds_even_when_it_cannot_be_written() {
        let dir = TempDir::new().expect("folder");
        let mut store = Revisions::open(dir.path(), 10_000).expect("opened");
        let v1 = deploy(&mut store, "v1", 1);
        fs::create_dir(dir.path().join("marks.json.new")).expect("in the way of the write");
        let _ = store.set_marks(vec![v1::RevisionMark {
            target: shop().to_string(),
            revision: v1.to_string(),
            mark: v1::Mark::Bad.into(),
            reason: String::new(),
        }]);
        assert!(store.is_bad(&shop(), &v1));
    }
}
