//! What one host may cause only so often, whichever session it is on. Pure: the time comes in.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

/// Between two certificates of one host, at least, where they live for long. An agent whose renewal was refused tries
/// again after a minute.
const RENEWAL: Duration = Duration::from_secs(50);

/// Between two entries of the record that say that a host has too many targets.
pub(super) const TRUNCATED: Duration = Duration::from_hours(1);

/// Something that costs the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Renewal,
    Truncated,
}

/// Who did what, and until when not again.
#[derive(Debug, Default)]
pub(super) struct Limits {
    until: HashMap<(Uuid, Act), Instant>,
}

impl Limits {
    pub(super) fn may(&self, host: Uuid, act: Act, now: Instant) -> bool {
        self.until
            .get(&(host, act))
            .is_none_or(|until| now >= *until)
    }

    pub(super) fn did(&mut self, host: Uuid, act: Act, again: Instant) {
        self.until.insert((host, act), again);
    }
}

/// How long after a renewal there is none, of a certificate that lives for so long: agents renew at half of it.
pub(super) fn between_renewals(life_ms: i64) -> Duration {
    let life = Duration::from_millis(u64::try_from(life_ms).unwrap_or_default());
    (life / 4).min(RENEWAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_agent_is_never_too_early() {
        for life_ms in [6_000, 60_000, 7 * 24 * 3_600_000] {
            // A tenth before half of it, or a minute after a refusal, whichever is first.
            let soonest = Duration::from_millis(life_ms * 45 / 100).min(Duration::from_mins(1));
            let life_ms = i64::try_from(life_ms).expect("small");
            assert!(between_renewals(life_ms) < soonest, "{life_ms}");
        }
    }

    #[test]
    fn what_was_done_is_not_done_again_before_its_time() {
        let (host, now) = (Uuid::from_u128(1), Instant::now());
        let later = now + RENEWAL;
        let mut limits = Limits::default();
        assert!(limits.may(host, Act::Renewal, now));
        limits.did(host, Act::Renewal, later);
        assert!(!limits.may(host, Act::Renewal, now));
        assert!(limits.may(host, Act::Truncated, now));
        assert!(limits.may(Uuid::from_u128(2), Act::Renewal, now));
        assert!(limits.may(host, Act::Renewal, later));
    }
}
