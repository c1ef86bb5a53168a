//! Where a test may kill the agent: compiled in only with the feature `faults`, which no release has.
//!
//! `STERNWAY_FAULT=journal:N:before|in|after` kills the process (SIGKILL, nothing is unwound or flushed)
//! before the N-th append to any order's journal, after it was written and before it was synced, or after it
//! was synced. N counts from 1 over the life of the process.

/// A moment in an append to a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    In,
    After,
}

/// Dies here if a test asked for it.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn journal(_moment: Moment) {}

/// Dies here if a test asked for it.
#[cfg(feature = "faults")]
pub fn journal(moment: Moment) {
    armed::journal(moment);
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
        let (number, moment) = text.strip_prefix("journal:")?.split_once(':')?;
        let moment = match moment {
            "before" => Moment::Before,
            "in" => Moment::In,
            "after" => Moment::After,
            _ => return None,
        };
        Some((number.parse().ok()?, moment))
    });
    static APPENDS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn journal(moment: Moment) {
        let number = match moment {
            Moment::Before => APPENDS.fetch_add(1, Ordering::SeqCst) + 1,
            Moment::In | Moment::After => APPENDS.load(Ordering::SeqCst),
        };
        if *ARMED == Some((number, moment)) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}
