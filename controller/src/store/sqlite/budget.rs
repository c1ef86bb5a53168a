//! How many entries of the record a host may cause outside its orders: the record only grows, and nobody asked for
//! these. Pure: the time comes in.

use std::collections::HashMap;

use uuid::Uuid;

const HOUR_MS: i64 = 3_600_000;

/// Entries at once: a host that joins again tells all that it has kept.
const AT_ONCE: i64 = 5_000;

/// Entries an hour in the long run: more than any team deploys on one host.
const AN_HOUR: i64 = 200;

/// Whether there is room for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Entry,
    /// No; and that is to be said, once in a while.
    Full,
    /// No, and it was said.
    None,
}

/// What is left, host by host. In memory: a restart is no way to write much.
#[derive(Debug)]
pub(super) struct Budget {
    at_once: i64,
    an_hour: i64,
    hosts: HashMap<Uuid, Account>,
}

#[derive(Debug)]
struct Account {
    /// In parts of an entry: as many as milliseconds in an hour.
    left: i64,
    at_ms: i64,
    said_ms: Option<i64>,
    /// When it was said last that the host has too many targets.
    crowded_ms: Option<i64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(AT_ONCE, AN_HOUR)
    }
}

impl Budget {
    pub(super) fn new(at_once: i64, an_hour: i64) -> Self {
        Self {
            at_once,
            an_hour,
            hosts: HashMap::new(),
        }
    }

    /// Takes room for one entry.
    pub(super) fn take(&mut self, host: Uuid, now_ms: i64) -> Room {
        let (most, an_hour) = (self.at_once * HOUR_MS, self.an_hour);
        let account = self.account(host, now_ms);
        let passed = now_ms.saturating_sub(account.at_ms).max(0);
        account.at_ms = now_ms;
        account.left = account
            .left
            .saturating_add(passed.saturating_mul(an_hour))
            .min(most);
        if account.left >= HOUR_MS {
            account.left -= HOUR_MS;
            return Room::Entry;
        }
        if seldom(&mut account.said_ms, now_ms) {
            Room::Full
        } else {
            Room::None
        }
    }

    /// Whether it is to be said, once in a while, that a host has too many targets.
    pub(super) fn crowded(&mut self, host: Uuid, now_ms: i64) -> bool {
        seldom(&mut self.account(host, now_ms).crowded_ms, now_ms)
    }

    fn account(&mut self, host: Uuid, now_ms: i64) -> &mut Account {
        self.hosts.entry(host).or_insert(Account {
            left: self.at_once * HOUR_MS,
            at_ms: now_ms,
            said_ms: None,
            crowded_ms: None,
        })
    }
}

/// Whether something was not said for an hour; it is from now on.
fn seldom(said_ms: &mut Option<i64>, now_ms: i64) -> bool {
    if said_ms.is_some_and(|said| now_ms.saturating_sub(said) < HOUR_MS) {
        return false;
    }
    *said_ms = Some(now_ms);
    true
}

#[cfg(test)]
mod tests {
    use super::{
        Room::{Entry, Full, None},
        *,
    };

    #[test]
    fn a_host_may_say_much_at_once_and_little_for_long_and_another_is_not_concerned() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut budget = Budget::new(3, 2);
        let mut rooms =
            |host, now_ms| -> Vec<Room> { (0..5).map(|_| budget.take(host, now_ms)).collect() };
        assert_eq!(rooms(one, 0), [Entry, Entry, Entry, Full, None]);
        assert_eq!(rooms(one, HOUR_MS / 2), [Entry, None, None, None, None]);
        assert_eq!(rooms(other, 1), [Entry, Entry, Entry, Full, None]);
        assert_eq!(rooms(one, 2 * HOUR_MS), [Entry, Entry, Entry, Full, None]);
        // A clock that goes back gives nothing.
        assert_eq!(rooms(one, HOUR_MS), [None, None, None, None, None]);
    }
}
