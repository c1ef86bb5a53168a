//! Places for connections that have shown no certificate: bounded for each listener, so that strangers on one
//! of them keep nobody out of the other, nor take the file descriptors of those who are known. When places
//! are gone, whoever has kept us waiting longest makes room: a peer that speaks TLS is served at once, a peer
//! that stalls is not.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// A connection that has kept us waiting for less is not evicted: an honest one keeps us waiting for a round trip
/// or two, and longer where its machine is busy. Whoever finds no place waits for about so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often somebody who found no place looks whether a connection has used up our patience.
const LOOK: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    capacity: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    by_number: HashMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    waited: Arc<Waited>,
    evicted: CancellationToken,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// To be told how long the peer keeps us waiting.
    pub(super) waited: Arc<Waited>,
    /// Cancelled when somebody else needs the place.
    pub(super) evicted: CancellationToken,
}

impl Places {
    /// So many places (at least one), all free.
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Takes a place. Waits only while all of them are held by peers that do not keep us waiting.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            // Registered before the look, so that a place freed in between is noticed.
            let freed = self.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            // Nobody free within this time: somebody's patience may be over by now.
            let _ = tokio::time::timeout(LOOK, freed).await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.by_number.len() >= self.capacity && !evict(&mut taken, PATIENCE) {
            return None;
        }
        taken.next += 1;
        let number = taken.next;
        let holder = Holder {
            waited: Arc::new(Waited::new()),
            evicted: CancellationToken::new(),
        };
        let place = Place {
            places: Arc::clone(self),
            number,
            waited: Arc::clone(&holder.waited),
            evicted: holder.evicted.clone(),
        };
        taken.by_number.insert(number, holder);
        Some(place)
    }

    /// Frees the place of whoever has kept us waiting longest, however short: for when file descriptors, not
    /// places, are gone.
    pub(super) fn make_room(&self) {
        evict(&mut self.taken(), Duration::ZERO);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the holder that has kept us waiting longest, if it was for at least `least`. False: none has.
fn evict(taken: &mut Taken, least: Duration) -> bool {
    let longest = taken
        .by_number
        .iter()
        .map(|(number, holder)| (holder.waited.total(), *number))
        .max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let Some((waited, number)) = longest else {
        return false;
    };
    if waited < least {
        return false;
    }
    if let Some(holder) = taken.by_number.remove(&number) {
        holder.evicted.cancel();
    }
    true
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().by_number.remove(&self.number);
        self.places.freed.notify_one();
    }
}

/// For how long in all a peer has kept us waiting for its bytes.
#[derive(Debug)]
pub(super) struct Waited {
    begun: Instant,
    /// Milliseconds of the waits that are over.
    over: AtomicU64,
    /// When the present wait began, milliseconds after `begun` plus one; zero: it does not keep us waiting.
    since: AtomicU64,
}

impl Waited {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            over: AtomicU64::new(0),
            since: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// There is nothing to read.
    pub(super) fn waits(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Something was read. A peer that sends a byte now and then does not gain by it: waits add up.
    pub(super) fn heard(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since > 0 {
            let waited = (self.now() + 1).saturating_sub(since);
            self.over.fetch_add(waited, Ordering::Relaxed);
        }
    }

    fn total(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let present = if since == 0 {
            0
        } else {
            (self.now() + 1).saturating_sub(since)
        };
        Duration::from_millis(self.over.load(Ordering::Relaxed) + present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_kept_us_waiting_longest_makes_room_and_who_speaks_stays() {
        let places = Places::new(3);
        let speaks = places.take().await;
        let stalls = places.take().await;
        stalls.waited.waits();
        tokio::time::sleep(PATIENCE).await;
        let drips = places.take().await;
        drips.waited.waits();
        tokio::time::sleep(PATIENCE * 2).await;
        // A byte does not wipe out the wait before it.
        drips.waited.heard();
        let _first = places.take().await;
        assert!(stalls.evicted.is_cancelled());
        let _second = places.take().await;
        assert!(drips.evicted.is_cancelled());
        assert!(!speaks.evicted.is_cancelled());
    }

    #[tokio::test]
    async fn while_nobody_stalls_a_newcomer_waits_for_a_free_place() {
        let places = Places::new(1);
        let speaks = places.take().await;
        let late = tokio::time::timeout(PATIENCE + LOOK * 4, places.take()).await;
        assert!(late.is_err(), "no place was free");
        assert!(!speaks.evicted.is_cancelled());
        drop(speaks);
        let held = places.take().await;
        places.make_room();
        assert!(held.evicted.is_cancelled());
    }
}
