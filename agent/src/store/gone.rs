//! Targets that are on no engine any more, and for how long that was seen: what decides when one is forgotten.
//! Counted is time in which the agent ran and the engine said so, never the clock: one that jumps forgets
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::TargetName;

use super::files::{self, FileError};

/// Targets that are gone and kept all the same.
const KEPT: usize = 50;

/// A target that is beyond [`KEPT`] was seen gone for at least this long: an engine that comes up empty once
/// makes nothing be forgotten.
const GRACE: Duration = Duration::from_hours(1);

/// For how long each target was seen gone, milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Seen(BTreeMap<TargetName, u64>);

impl Seen {
    /// Takes a look in: `gone` are gone, of `unseen` nothing could be learned, and the rest is there, or forgotten.
    /// `since`: since the look before.
    fn look(
        &mut self,
        gone: &BTreeSet<TargetName>,
        unseen: &BTreeSet<TargetName>,
        since: Duration,
    ) {
        self.0
            .retain(|target, _| gone.contains(target) || unseen.contains(target));
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        for target in gone {
            // The first look begins the count.
            self.0
                .entry(target.clone())
                .and_modify(|seen| *seen = seen.saturating_add(since))
                .or_default();
        }
    }

    /// Those to forget: gone for so long, or beyond what is kept, the longest gone first.
    fn due(&self, after: Duration) -> Vec<TargetName> {
        let mut all: Vec<(&TargetName, Duration)> = self
            .0
            .iter()
            .map(|(target, seen)| (target, Duration::from_millis(*seen)))
            .collect();
        all.sort_by_key(|(_, seen)| std::cmp::Reverse(*seen));
        let beyond = all.len().saturating_sub(KEPT);
        all.into_iter()
            .enumerate()
            .filter(|(at, (_, seen))| *seen >= after || *at < beyond && *seen >= GRACE)
            .map(|(_, (target, _))| target.clone())
            .collect()
    }
}

/// The same on disk.
#[derive(Debug)]
pub struct Gone {
    path: PathBuf,
    seen: Seen,
}

impl Gone {
    /// Reads what was seen before. What cannot be read is counted anew: that only keeps for longer.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("gone.json");
        let seen = match files::read(&path) {
            Ok(None) => Seen::default(),
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), "which targets are gone is counted anew: {error}");
                Seen::default()
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), "which targets are gone is counted anew: {}", error.source);
                Seen::default()
            }
        };
        Self { path, seen }
    }

    /// Takes a look in, as [`Seen::look`] says, and answers with the targets to forget.
    ///
    /// # Errors
    /// It cannot be written; it is counted on all the same.
    pub fn look(
        &mut self,
        gone: &BTreeSet<TargetName>,
        unseen: &BTreeSet<TargetName>,
        since: Duration,
        after: Duration,
    ) -> Result<Vec<TargetName>, FileError> {
        let before = self.seen.clone();
        self.seen.look(gone, unseen, since);
        if self.seen != before {
            let bytes = serde_json::to_vec(&self.seen).unwrap_or_default();
            files::replace(&self.path, &bytes)?;
        }
        Ok(self.seen.due(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn targets(numbers: std::ops::Range<u32>) -> BTreeSet<TargetName> {
        numbers
            .map(|number| format!("docker/job-{number}").parse().expect("valid"))
            .collect()
    }

    #[test]
    fn a_target_is_due_when_it_was_seen_gone_for_long_enough_also_after_a_restart() {
        let dir = tempfile::TempDir::new().expect("folder");
        let one = targets(1..2);
        let none = BTreeSet::new();
        let look = |gone: &mut Gone| gone.look(&one, &none, HOUR, HOUR * 3).expect("written");
        let mut gone = Gone::open(dir.path());
        // The first look only begins the count, however long the one before is ago.
        for _ in 0..3 {
            assert_eq!(look(&mut gone), []);
        }
        let mut gone = Gone::open(dir.path());
        assert_eq!(look(&mut gone).len(), 1);
        // While the engine does not answer nothing counts, and nothing is lost.
        gone.look(&none, &one, HOUR, HOUR).expect("written");
        assert_eq!(look(&mut gone).len(), 1);
        // Back again, it counts from the beginning.
        gone.look(&none, &none, HOUR, HOUR).expect("written");
        assert_eq!(look(&mut gone), []);
    }

    #[test]
    fn of_many_the_longest_gone_go_first_and_never_all_at_once() {
        let after = HOUR * 168;
        let mut seen = Seen::default();
        let none = BTreeSet::new();
        seen.look(&targets(0..10), &none, HOUR);
        seen.look(&targets(0..200), &none, HOUR / 2);
        assert_eq!(seen.due(after), [], "an engine that came up empty");
        seen.look(&targets(0..10), &targets(10..200), HOUR);
        let due: BTreeSet<TargetName> = seen.due(after).into_iter().collect();
        assert_eq!(due, targets(0..10));
        seen.look(&targets(0..200), &none, HOUR);
        assert_eq!(seen.due(after).len(), 150);
    }

    #[test]
    fn what_cannot_be_read_is_counted_anew() {
        let dir = tempfile::TempDir::new().expect("folder");
        std::fs::write(dir.path().join("gone.json"), b"[7").expect("written");
        let mut gone = Gone::open(dir.path());
        let due = gone.look(&targets(0..1), &BTreeSet::new(), HOUR, HOUR);
        assert_eq!(due.expect("written"), []);
    }
}
