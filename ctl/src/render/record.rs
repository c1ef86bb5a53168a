//! The record for people.

use sternway_proto::v1;

use crate::{
    table::{Rows, plain},
    text::{View, clean, relative, short_id},
};

/// `ctl record ls`.
pub(crate) fn list(view: View, entries: &[v1::RecordEntry]) -> String {
    let mut rows = Rows::new(&["NUMBER", "WHEN", "WHO", "WHAT", "OF", "HASH"]);
    for entry in entries {
        rows.push([
            plain(entry.number.to_string()),
            plain(relative(view, entry.at_ms)),
            plain(&entry.actor),
            plain(&entry.action),
            plain(&entry.subject),
            plain(short_id(&entry.hash)),
        ]);
    }
    rows.render(view, "the record is empty")
}

/// `ctl record verify`.
pub(crate) fn verified(response: &v1::VerifyRecordResponse) -> String {
    match &response.problem {
        None => format!(
            "✔ the record holds: {} entries, head {}\n",
            response.entries,
            clean(&response.head_hash)
        ),
        Some(problem) => format!(
            "✖ the record is broken at entry {}: {}\n",
            response.broken_at,
            super::problem(problem)
        ),
    }
}
