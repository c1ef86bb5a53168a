//! From messages to text for people: pure functions, and every string of the wire is cleaned here.

pub(crate) mod host;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod rollout;
pub(crate) mod target;

use sternway_proto::v1;

use crate::text::{Tone, View, clean, paint, prose};

/// An icon, a word, and the tone that goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sign {
    pub(crate) icon: &'static str,
    pub(crate) word: &'static str,
    pub(crate) tone: Tone,
}

impl Sign {
    const fn new(icon: &'static str, word: &'static str, tone: Tone) -> Self {
        Self { icon, word, tone }
    }

    /// `✔ online`, without colour.
    pub(crate) fn text(self) -> String {
        format!("{} {}", self.icon, self.word)
    }

    /// For a table.
    pub(crate) fn cell(self) -> (String, Tone) {
        (self.text(), self.tone)
    }

    /// For a sentence.
    pub(crate) fn painted(self, view: View) -> String {
        paint(view, self.tone, &self.text())
    }
}

/// The sign of a verdict.
pub(crate) fn verdict(verdict: v1::Verdict) -> Sign {
    match verdict {
        v1::Verdict::Unspecified => Sign::new("?", "unknown", Tone::Dim),
        v1::Verdict::Passed => Sign::new("✔", "passed", Tone::Good),
        v1::Verdict::Failed => Sign::new("✖", "failed", Tone::Bad),
        v1::Verdict::Inconclusive => Sign::new("?", "inconclusive", Tone::Warn),
    }
}

/// A problem on one line: message, and what to do.
pub(crate) fn problem(problem: &v1::Problem) -> String {
    let message = prose(&problem.message);
    if problem.next_step.is_empty() {
        message
    } else {
        format!("{message} → {}", clean(&problem.next_step))
    }
}

/// `LABEL  value` lines, values aligned; empty values are left out.
pub(crate) fn pairs(view: View, pairs: &[(&str, String)]) -> String {
    let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(key, _)| key.len()).max().unwrap_or(0);
    shown()
        .map(|(key, value)| {
            format!(
                "{}  {value}\n",
                paint(view, Tone::Dim, &format!("{key:width$}"))
            )
        })
        .collect()
}
