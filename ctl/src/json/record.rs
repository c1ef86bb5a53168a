//! The record as documents.

use serde::Serialize;
use sternway_proto::v1;

use super::target::Problem;

/// `ctl record ls`, newest first.
#[derive(Debug, Serialize)]
pub struct Entries {
    pub entries: Vec<Entry>,
}

/// One entry. `ctl record export` writes one a line.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub number: u64,
    /// Unix milliseconds, exactly as hashed.
    pub at_ms: i64,
    pub at: Option<String>,
    pub actor: String,
    pub action: String,
    pub subject: String,
    /// JSON as text, exactly as hashed.
    pub body: String,
    pub previous_hash: String,
    pub hash: String,
}

impl From<&v1::RecordEntry> for Entry {
    fn from(entry: &v1::RecordEntry) -> Self {
        Self {
            number: entry.number,
            at_ms: entry.at_ms,
            at: super::time(entry.at_ms),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            body: entry.body.clone(),
            previous_hash: entry.previous_hash.clone(),
            hash: entry.hash.clone(),
        }
    }
}

/// `ctl record verify`.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub holds: bool,
    pub entries: u64,
    pub head_hash: String,
    /// The first entry that does not fit.
    pub broken_at: Option<u64>,
    pub problem: Option<Problem>,
}
