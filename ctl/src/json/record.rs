//! The record as documents.

use serde::Serialize;
use sternway_proto::v1;

use super::target::Problem;

/// `ctl record ls`, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Entries {
    pub(crate) entries: Vec<Entry>,
}

/// One entry. `ctl record export` writes one a line.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    /// Unix milliseconds, exactly as hashed.
    pub(crate) at_ms: i64,
    pub(crate) at: Option<String>,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    /// JSON as text, exactly as hashed.
    pub(crate) body: String,
    pub(crate) previous_hash: String,
    pub(crate) hash: String,
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
pub(crate) struct Verified {
    pub(crate) holds: bool,
    pub(crate) entries: u64,
    pub(crate) head_hash: String,
    /// The first entry that does not fit.
    pub(crate) broken_at: Option<u64>,
    pub(crate) problem: Option<Problem>,
}
