//! The record: an append-only chain of entries, each hashed together with the hash before it. Pure:
//! what an entry is, how it is hashed, and whether a chain holds. The store keeps it.

use std::fmt;

use sha2::{Digest as _, Sha256};
use sternway_proto::v1;

/// The hash of an entry.
pub type Hash = [u8; 32];

/// What stands before the first entry.
pub const GENESIS: Hash = [0; 32];

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The name in the operator's certificate.
    Operator(String),
    /// The name of the agent's host.
    Agent(String),
    /// The controller by itself: a deadline, a start.
    Controller,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator:{name}"),
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Controller => f.write_str("controller"),
        }
    }
}

/// An entry that has no place in the chain yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Unix milliseconds, the controller's clock.
    pub at_ms: i64,
    pub actor: Actor,
    /// Stable, `noun.participle`: `order.created`.
    pub action: &'static str,
    /// What it is about: `host:web-1`, `order:…`.
    pub subject: String,
    /// Never holds a secret or a private value.
    pub body: serde_json::Value,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From 1, without gaps.
    pub number: u64,
    pub at_ms: i64,
    pub actor: String,
    pub action: String,
    pub subject: String,
    /// JSON, byte for byte as it was hashed.
    pub body: String,
    pub previous: Hash,
    pub hash: Hash,
}

/// The newest entry's place, kept apart from the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Zero: the record is empty.
    pub number: u64,
    pub hash: Hash,
}

impl Head {
    /// The head of an empty record.
    pub const EMPTY: Self = Self {
        number: 0,
        hash: GENESIS,
    };

    /// The entry that follows this head.
    #[must_use]
    pub fn next(self, draft: &Draft) -> Entry {
        let mut entry = Entry {
            number: self.number + 1,
            at_ms: draft.at_ms,
            actor: draft.actor.to_string(),
            action: draft.action.to_owned(),
            subject: draft.subject.clone(),
            body: draft.body.to_string(),
            previous: self.hash,
            hash: GENESIS,
        };
        entry.hash = entry.expected_hash();
        entry
    }
}

impl Entry {
    /// SHA-256 over the previous hash and every field, each text preceded by its length, so that no
    /// two entries have the same encoding.
    #[must_use]
    pub fn expected_hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(self.previous);
        hasher.update(self.number.to_be_bytes());
        hasher.update(self.at_ms.to_be_bytes());
        for text in [&self.actor, &self.action, &self.subject, &self.body] {
            hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().into()
    }

    /// The head after this entry.
    #[must_use]
    pub fn head(&self) -> Head {
        Head {
            number: self.number,
            hash: self.hash,
        }
    }

    /// The entry as it travels.
    #[must_use]
    pub fn to_wire(&self) -> v1::RecordEntry {
        v1::RecordEntry {
            number: self.number,
            at_ms: self.at_ms,
            actor: self.actor.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            body: self.body.clone(),
            previous_hash: hex::encode(self.previous),
            hash: hex::encode(self.hash),
        }
    }
}

/// The first place where a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// The number of the entry that should stand there.
    pub at: u64,
    pub why: &'static str,
}

/// Follows a chain entry by entry, in the order in which they are stored.
#[derive(Debug)]
pub struct Verifier {
    head: Head,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { head: Head::EMPTY }
    }
}

impl Verifier {
    /// Takes the next entry.
    ///
    /// # Errors
    /// It does not follow the one before, or its content is not what was hashed.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Break> {
        let at = self.head.number + 1;
        let broken = |why| Err(Break { at, why });
        if entry.number != at {
            return broken("the entry is missing");
        }
        if entry.previous != self.head.hash {
            return broken("the entry does not follow the one before it");
        }
        if entry.hash != entry.expected_hash() {
            return broken("the entry was changed after it was written");
        }
        self.head = entry.head();
        Ok(())
    }

    /// Compares where the chain ended with the head that was kept apart.
    ///
    /// # Errors
    /// Entries are missing at the end, or the last one is another than the head says.
    pub fn finish(self, kept: Head) -> Result<Head, Break> {
        if self.head.number < kept.number {
            return Err(Break {
                at: self.head.number + 1,
                why: "the entries from here to the end are missing",
            });
        }
        if self.head != kept {
            return Err(Break {
                at: self.head.number,
                why: "the end of the record is not the one that was written last",
            });
        }
        Ok(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> (Vec<Entry>, Head) {
        let mut head = Head::EMPTY;
        let entries = (0..length)
            .map(|at| {
                let entry = head.next(&Draft {
                    at_ms: i64::try_from(at).expect("small"),
                    actor: Actor::Operator("alice".into()),
                    action: "order.created",
                    subject: format!("order:{at}"),
                    body: serde_json::json!({ "at": at }),
                });
                head = entry.head();
                entry
            })
            .collect();
        (entries, head)
    }

    fn verify(entries: &[Entry], head: Head) -> Result<Head, Break> {
        let mut verifier = Verifier::default();
        for entry in entries {
            verifier.take(entry)?;
        }
        verifier.finish(head)
    }

    #[test]
    fn an_untouched_chain_holds() {
        let (entries, head) = chain(5);
        assert_eq!(verify(&entries, head), Ok(head));
        assert_eq!(verify(&[], Head::EMPTY), Ok(Head::EMPTY));
    }

    #[test]
    fn every_kind_of_tampering_is_found_at_its_entry() {
        let (entries, head) = chain(5);
        let at = |change: fn(&mut Vec<Entry>)| {
            let mut changed = entries.clone();
            change(&mut changed);
            verify(&changed, head).expect_err("found").at
        };
        assert_eq!(at(|e| e[2].body = "{}".into()), 3);
        assert_eq!(at(|e| e[0].actor = "operator:mallory".into()), 1);
        assert_eq!(at(|e| e[3].at_ms += 1), 4);
        assert_eq!(at(|e| drop(e.remove(1))), 2);
        assert_eq!(at(|e| e.swap(1, 2)), 2);
        assert_eq!(at(|e| e.truncate(3)), 4);
        assert_eq!(at(Vec::clear), 1);
        // Rewritten from an entry on, hashes and all: only the head kept apart tells.
        assert_eq!(
            at(|e| {
                e[4].body = "{}".into();
                e[4].hash = e[4].expected_hash();
            }),
            5
        );
    }

    #[test]
    fn moving_text_from_one_field_to_the_next_changes_the_hash() {
        let (entries, _) = chain(1);
        let mut moved = entries[0].clone();
        moved.action = "order.create".into();
        moved.subject = "dorder:0".into();
        assert_ne!(moved.expected_hash(), entries[0].expected_hash());
    }
}
