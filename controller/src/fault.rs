//! Where a test may kill the controller: compiled in only with the feature `faults`, which no release has.
//!
//! `STERNWAY_FAULT=commit:N:before|after` kills the process (SIGKILL, nothing is unwound or flushed) before or
//! after the N-th commit to the store. N counts from 1 over the life of the process. In the middle of a commit there is
//! only SQLite: there `tests/src/torn.c` kills, from outside.

/// A moment around a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// Dies here if a test asked for it.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn commit(_moment: Moment) {}

/// Dies here if a test asked for it.
#[cfg(feature = "faults")]
pub fn commit(moment: Moment) {
    armed::commit(moment);
}

#[cfg(feature = "faults")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::Moment;

    static ARMED: LazyLock<Option<(u64, Moment)>> = LazyLock::new(|| {
        let text = std::env::var("STERNWAY_FAULT").ok()?;
        let (number, moment) = text.strip_prefix("commit:")?.split_once(':')?;
        let moment = match moment {
            "before" => Moment::Before,
            "after" => Moment::After,
            _ => return None,
        };
        Some((number.parse().ok()?, moment))
    });
    static COMMITS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn commit(moment: Moment) {
        // Writers take turns, so that no other commit comes between the two moments of one.
        let number = match moment {
            Moment::Before => COMMITS.fetch_add(1, Ordering::SeqCst) + 1,
            Moment::After => COMMITS.load(Ordering::SeqCst),
        };
        if *ARMED == Some((number, moment)) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}
