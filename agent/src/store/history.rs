//! The revisions of one target, as plain values: what became current when, what a rollback goes to, what is
//! let go. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sternway_proto::{
    lineage::{self, Standing},
    name::{RevisionId, TargetName},
    v1,
};

use crate::targets::Observed;

/// How a revision came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Some tool, or a person, deployed it.
    Deployment,
    /// An order of ours made it out of two others: the image of one, the configuration of the other.
    Restore,
}

/// A revision in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: RevisionId,
    /// From 1, never given twice.
    pub number: u32,
    pub first_seen_ms: i64,
    pub last_active_ms: i64,
    pub known_good: bool,
    pub origin: Origin,
    /// For a restore of image or configuration only: the revision it takes the place of.
    pub instead_of: Option<RevisionId>,
    pub image: String,
    pub image_id: String,
    pub image_digest: String,
    /// As they may leave the host: private values are hashed.
    pub fields: Vec<v1::Field>,
    /// Artifacts kept beside the record, by name. The record itself is the artifact with the revision's id.
    pub attachments: BTreeMap<String, RevisionId>,
    /// Further artifacts that a restore of it needs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub artifacts: BTreeSet<RevisionId>,
    pub hints: serde_json::Value,
}

/// A revision that is about to enter the history.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEntry {
    pub id: RevisionId,
    pub origin: Origin,
    pub instead_of: Option<RevisionId>,
    pub image: String,
    pub image_id: String,
    pub image_digest: String,
    pub fields: Vec<v1::Field>,
    pub attachments: BTreeMap<String, RevisionId>,
    pub artifacts: BTreeSet<RevisionId>,
    pub hints: serde_json::Value,
}

/// Everything known of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub schema: u32,
    pub target: TargetName,
    next_number: u32,
    /// Rising in number; the last is current.
    lineage: Vec<RevisionId>,
    /// The instance that was seen last: tells a deployment from a restart.
    pub instance: String,
    entries: Vec<Entry>,
}

/// The layout of the file.
pub const SCHEMA: u32 = 1;

impl History {
    /// Nothing known yet.
    #[must_use]
    pub fn new(target: TargetName) -> Self {
        Self {
            schema: SCHEMA,
            target,
            next_number: 1,
            lineage: Vec::new(),
            instance: String::new(),
            entries: Vec::new(),
        }
    }

    /// The revisions in the store, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What `previous` walks back; the last is current.
    #[must_use]
    pub fn lineage(&self) -> &[RevisionId] {
        &self.lineage
    }

    /// The revision that became current last.
    #[must_use]
    pub fn current(&self) -> Option<&Entry> {
        self.lineage.last().and_then(|id| self.entry(id))
    }

    /// The revision of an instance that is known, where that says what runs ([`Observed::settled`]).
    #[must_use]
    pub fn settled(&self, observed: &Observed) -> Option<&Entry> {
        let begun = |instance: &str| instance.split('@').next().map(str::to_owned);
        let same = self.instance == observed.instance;
        // What only stopped has begun nothing.
        let stopped = observed.state == v1::TargetState::Stopped
            && (observed.instance.is_empty() || begun(&observed.instance) == begun(&self.instance));
        self.current()
            .filter(|_| observed.settled && (same || stopped))
    }

    /// A revision in the store.
    #[must_use]
    pub fn entry(&self, id: &RevisionId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }

    /// Takes a revision up, or refreshes what is known beside its identity. Answers with its number.
    pub fn record(&mut self, new: NewEntry, now_ms: i64) -> u32 {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == new.id) {
            entry.hints = new.hints;
            if entry.image_digest.is_empty() {
                entry.image_digest = new.image_digest;
            }
            return entry.number;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.entries.push(Entry {
            id: new.id,
            number,
            first_seen_ms: now_ms,
            last_active_ms: 0,
            known_good: false,
            origin: new.origin,
            instead_of: new.instead_of,
            image: new.image,
            image_id: new.image_id,
            image_digest: new.image_digest,
            fields: new.fields,
            attachments: new.attachments,
            artifacts: new.artifacts,
            hints: new.hints,
        });
        number
    }

    /// A recorded revision runs now. Whether a restore, a hand or a tool brought it back: the lineage rises in
    /// number, so that what was deployed after a revision is never what `previous` means of it.
    /// Answers whether another revision was current.
    pub fn activate(&mut self, id: &RevisionId, now_ms: i64) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == *id) else {
            return false;
        };
        entry.last_active_ms = now_ms;
        let (number, instead_of) = (entry.number, entry.instead_of.clone());
        if self.lineage.last() == Some(id) {
            return false;
        }
        let entries = &self.entries;
        self.lineage.retain(|earlier| {
            let before = entries
                .iter()
                .any(|entry| entry.id == *earlier && entry.number < number);
            before && Some(earlier) != instead_of.as_ref()
        });
        self.lineage.push(id.clone());
        true
    }

    /// The current revision passed its checks through its soak.
    pub fn set_known_good(&mut self, id: &RevisionId) -> bool {
        self.entries
            .iter_mut()
            .find(|entry| entry.id == *id && !entry.known_good)
            .map(|entry| entry.known_good = true)
            .is_some()
    }

    /// Where a rollback goes that names nothing: the newest known-good revision before the current one, or
    /// the one before it where none is known to be good; never one that is marked bad. `runs` is what runs now;
    /// where nothing does, the newest one is among those that a rollback goes back to.
    #[must_use]
    pub fn default_goal(
        &self,
        runs: Option<&RevisionId>,
        mark: impl Fn(&RevisionId) -> v1::Mark,
    ) -> Option<&Entry> {
        let before = lineage::before(&self.lineage, runs).filter_map(|id| self.entry(id));
        lineage::goal(before.map(|entry| {
            let standing = Standing {
                known_good: entry.known_good,
                mark: mark(&entry.id),
            };
            (entry, standing)
        }))
    }

    /// Lets go of what is beyond `keep` revisions: never the current one, never what a rollback would go
    /// to, never what is named. Answers with what went.
    pub fn prune(
        &mut self,
        keep: usize,
        named: &BTreeSet<RevisionId>,
        mark: impl Fn(&RevisionId) -> v1::Mark,
    ) -> Vec<Entry> {
        let mut needed = named.clone();
        needed.extend(self.lineage.last().cloned());
        let goal = self.default_goal(self.lineage.last(), mark);
        needed.extend(goal.map(|entry| entry.id.clone()));
        let mut gone = Vec::new();
        while self.entries.len() > keep {
            let oldest = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| !needed.contains(&entry.id))
                .min_by_key(|(_, entry)| (entry.last_active_ms, entry.number))
                .map(|(at, _)| at);
            let Some(at) = oldest else {
                break;
            };
            let entry = self.entries.remove(at);
            self.lineage.retain(|id| *id != entry.id);
            gone.push(entry);
        }
        gone
    }

    /// Every artifact that the revisions need.
    pub fn artifacts(&self) -> impl Iterator<Item = &RevisionId> {
        self.entries.iter().flat_map(|entry| {
            let beside = entry.attachments.values().chain(&entry.artifacts);
            beside.chain([&entry.id])
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> RevisionId {
        RevisionId::of(name.as_bytes())
    }

    fn new(name: &str) -> NewEntry {
        NewEntry {
            id: id(name),
            origin: Origin::Deployment,
            instead_of: None,
            image: name.to_owned(),
            image_id: String::new(),
            image_digest: String::new(),
            fields: Vec::new(),
            attachments: BTreeMap::new(),
            artifacts: BTreeSet::new(),
            hints: serde_json::Value::Null,
        }
    }

    fn deployed(names: &[&str]) -> History {
        let mut history = History::new("docker/shop".parse().expect("valid"));
        for (at, name) in names.iter().enumerate() {
            let now = i64::try_from(at).expect("few") + 1;
            history.record(new(name), now);
            history.activate(&id(name), now);
        }
        history
    }

    fn unmarked(_: &RevisionId) -> v1::Mark {
        v1::Mark::Unspecified
    }

    fn goal(history: &History) -> Option<&str> {
        history
            .default_goal(history.lineage().last(), unmarked)
            .map(|entry| entry.image.as_str())
    }

    #[test]
    fn a_second_rollback_goes_further_back_and_never_forward_again() {
        let mut history = deployed(&["v1", "v2", "v3"]);
        assert_eq!(goal(&history), Some("v2"));
        assert!(history.activate(&id("v2"), 10));
        assert_eq!(goal(&history), Some("v1"));
        assert!(history.activate(&id("v1"), 11));
        assert_eq!(goal(&history), None, "there is nothing before the first");
        assert!(
            !history.activate(&id("v1"), 12),
            "a restart changes nothing"
        );
    }

    #[test]
    fn known_good_is_preferred_and_bad_is_never_chosen() {
        let mut history = deployed(&["v1", "v2", "v3"]);
        history.set_known_good(&id("v1"));
        assert_eq!(goal(&history), Some("v1"));
        let only = |marked: &'static str, mark| {
            move |one: &RevisionId| {
                if *one == id(marked) {
                    mark
                } else {
                    unmarked(one)
                }
            }
        };
        let goal = |runs: &str, marked, mark| {
            let goal = history.default_goal(Some(&id(runs)), only(marked, mark));
            goal.map(|entry| entry.image.clone())
        };
        assert_eq!(goal("v3", "v1", v1::Mark::Bad).as_deref(), Some("v2"));
        assert_eq!(goal("v3", "v2", v1::Mark::Good).as_deref(), Some("v2"));
        let gone = history.default_goal(None, only("v3", v1::Mark::Good));
        assert_eq!(gone.map(|entry| entry.image.as_str()), Some("v3"));
    }

    #[test]
    fn what_a_person_called_good_is_what_a_rollback_goes_to_and_is_not_let_go() {
        let mut history = deployed(&["v1", "v2", "v3"]);
        let mark = |one: &RevisionId| {
            if *one == id("v1") {
                v1::Mark::Good
            } else {
                v1::Mark::Unspecified
            }
        };
        let goal = history.default_goal(Some(&id("v3")), mark);
        assert_eq!(goal.map(|entry| entry.image.as_str()), Some("v1"));
        let gone = history.prune(2, &BTreeSet::new(), mark);
        let names: Vec<&str> = gone.iter().map(|entry| entry.image.as_str()).collect();
        assert_eq!(names, ["v2"]);
    }

    #[test]
    fn half_a_restore_takes_the_place_of_what_it_was_made_from() {
        let mut history = deployed(&["v1", "v2"]);
        let half = NewEntry {
            origin: Origin::Restore,
            instead_of: Some(id("v2")),
            ..new("v2 with v1's image")
        };
        assert_eq!(history.record(half, 5), 3);
        history.activate(&id("v2 with v1's image"), 6);
        assert_eq!(history.lineage(), [id("v1"), id("v2 with v1's image")]);
        assert_eq!(goal(&history), Some("v1"));
    }

    #[test]
    fn pruning_keeps_what_runs_what_a_rollback_needs_and_what_is_named() {
        let mut history = deployed(&["v1", "v2", "v3", "v4", "v5"]);
        history.set_known_good(&id("v1"));
        let gone = history.prune(2, &[id("v3")].into(), unmarked);
        let names: Vec<&str> = gone.iter().map(|entry| entry.image.as_str()).collect();
        assert_eq!(names, ["v2", "v4"]);
        assert_eq!(goal(&history), Some("v1"));
        assert_eq!(
            history.record(new("v6"), 9),
            6,
            "numbers are never given twice"
        );
    }

    #[test]
    fn a_restore_by_name_never_makes_previous_newer() {
        let mut history = deployed(&["v1", "v2", "v3"]);
        for (at, name) in [(4, "v1"), (5, "v3"), (6, "v2")] {
            history.activate(&id(name), at);
        }
        assert_eq!(goal(&history), Some("v1"));
    }

    proptest! {
        /// Whatever is deployed, restored and pruned: the current revision is the one that was activated
        /// last and is in the store, the goal of a rollback was active before and is not what a rollback
        /// just left, numbers are unique and rise.
        #[test]
        fn lineage_and_numbers_hold(acts in prop::collection::vec((0u8..12, 0u8..3), 1..60)) {
            let mut history = History::new("docker/shop".parse().expect("valid"));
            let mut left: Option<RevisionId> = None;
            for (at, (which, act)) in acts.into_iter().enumerate() {
                let now = i64::try_from(at).expect("few") + 1;
                let before = history.current().map(|entry| entry.id.clone());
                let active = match act {
                    0 | 1 => {
                        let name = format!("v{which}");
                        history.record(new(&name), now);
                        left = None;
                        Some(id(&name))
                    }
                    _ => {
                        let goal = history.default_goal(history.lineage().last(), unmarked);
                        let goal = goal.map(|entry| entry.id.clone());
                        if let Some(goal) = &goal {
                            prop_assert_ne!(Some(goal), left.as_ref(), "a rollback went forward again");
                            left = before;
                        }
                        goal
                    }
                };
                if let Some(active) = active {
                    history.activate(&active, now);
                    history.prune(4, &BTreeSet::new(), unmarked);
                    prop_assert_eq!(&history.current().expect("kept").id, &active);
                }
                let mut numbers: Vec<u32> =
                    history.entries().iter().map(|entry| entry.number).collect();
                let sorted = numbers.is_sorted();
                numbers.dedup();
                prop_assert!(sorted && numbers.len() == history.entries().len());
                prop_assert!(history.entries().len() <= 5);
            }
        }
    }
}
