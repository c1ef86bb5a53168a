//! What is to be told to the controller: order events in their order and again after a reconnect, and
//! the newest state of each target. One task sends; nobody who works on the host ever waits for it.
//!
//! The end of an order is told behind what its targets are since: who waits for the end and asks next what runs, as
//! a script does, gets no answer from before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sternway_proto::{name::TargetName, v1};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

/// The outbox.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    /// The host was looked at once: before, an inventory would say that nothing runs.
    looked: bool,
    inventory_due: bool,
    orders: BTreeMap<Uuid, Telling>,
    targets: BTreeSet<TargetName>,
    replies: Vec<v1::PlanReply>,
    facts: Option<v1::HostFacts>,
    epoch: Option<u64>,
}

/// How long the end of an order may wait for a look at its targets: longer than a busy engine takes, and an engine
/// that hangs keeps no end back.
const END_WAITS: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Telling {
    events: Vec<v1::OrderEvent>,
    sent: usize,
    end: End,
}

/// When the last event of an order is told.
#[derive(Debug, Default)]
enum End {
    /// As soon as it is there.
    #[default]
    Told,
    /// When the order is over, its targets were looked at, and what they are was told.
    Waits {
        /// None: it is being carried out.
        over: Option<Over>,
        /// Told then in any case. None: there is no last event yet.
        until: Option<Instant>,
    },
}

#[derive(Debug)]
struct Over {
    targets: BTreeSet<TargetName>,
    unseen: BTreeSet<TargetName>,
}

impl Telling {
    /// The next event, if it may be told. `untold`: targets that wait to be told themselves.
    fn next(&self, untold: &BTreeSet<TargetName>, now: Instant) -> Option<&v1::OrderEvent> {
        let next = self.events.get(self.sent)?;
        let may = !is_last(next)
            || match &self.end {
                End::Told => true,
                End::Waits {
                    until: Some(until), ..
                } if *until <= now => true,
                End::Waits { over: None, .. } => false,
                End::Waits {
                    over: Some(over), ..
                } => over.unseen.is_empty() && over.targets.is_disjoint(untold),
            };
        may.then_some(next)
    }

    /// When its end is told although it would wait.
    fn due(&self) -> Option<Instant> {
        match self.end {
            End::Waits { until, .. } if self.sent < self.events.len() => until,
            _ => None,
        }
    }
}

fn is_last(event: &v1::OrderEvent) -> bool {
    matches!(event.event, Some(v1::order_event::Event::Finished(_)))
}

/// The next thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Facts(v1::HostFacts),
    HighestEpoch(u64),
    Inventory,
    Reply(v1::PlanReply),
    Event(Box<v1::OrderEvent>),
    Target(TargetName),
}

/// Plan replies that may wait; the controller asks again for one that was dropped.
const REPLIES: usize = 64;

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session was opened: everything is told from the beginning.
    pub fn connected(&self) {
        let mut state = self.state();
        state.connected = true;
        state.inventory_due = true;
        state.targets.clear();
        state.replies.clear();
        for telling in state.orders.values_mut() {
            telling.sent = 0;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The session is gone; what is to be told waits.
    pub fn disconnected(&self) {
        self.state().connected = false;
    }

    /// All events of an order so far; those that were told are not told again.
    pub fn order(&self, order: Uuid, events: Vec<v1::OrderEvent>) {
        let mut state = self.state();
        let telling = state.orders.entry(order).or_default();
        telling.events = events;
        telling.end = End::Told;
        drop(state);
        self.wake.notify_one();
    }

    /// As [`Self::order`], of one that is being carried out: its last event waits for [`Self::over`].
    pub fn under_way(&self, order: Uuid, events: Vec<v1::OrderEvent>) {
        let mut state = self.state();
        let telling = state.orders.entry(order).or_default();
        let ends = events.last().is_some_and(is_last);
        telling.events = events;
        telling.end = End::Waits {
            over: None,
            until: ends.then(|| Instant::now() + END_WAITS),
        };
        drop(state);
        self.wake.notify_one();
    }

    /// An order is no longer carried out. Its end is told when each of these targets [was looked
    /// at](Self::looked_at), or without that after some seconds.
    pub fn over(&self, order: Uuid, targets: impl IntoIterator<Item = TargetName>) {
        if let Some(telling) = self.state().orders.get_mut(&order)
            && let End::Waits { over, .. } = &mut telling.end
        {
            let targets: BTreeSet<TargetName> = targets.into_iter().collect();
            let unseen = targets.clone();
            *over = Some(Over { targets, unseen });
        }
        self.wake.notify_one();
    }

    /// What a target is now was told to [`Self::target`], or cannot be found out.
    pub fn looked_at(&self, target: &TargetName) {
        for telling in self.state().orders.values_mut() {
            if let End::Waits {
                over: Some(over), ..
            } = &mut telling.end
            {
                over.unseen.remove(target);
            }
        }
        self.wake.notify_one();
    }

    /// Tells all events of an order that is not settled again. False: it is not known here.
    pub fn again(&self, order: Uuid) -> bool {
        let mut state = self.state();
        let known = state.orders.get_mut(&order).map(|telling| telling.sent = 0);
        drop(state);
        self.wake.notify_one();
        known.is_some()
    }

    /// The host was looked at for the first time.
    pub fn looked(&self) {
        self.state().looked = true;
        self.wake.notify_one();
    }

    /// Tells all events of an order again.
    pub fn repeat(&self, order: Uuid, events: Vec<v1::OrderEvent>) {
        let telling = Telling {
            events,
            ..Telling::default()
        };
        self.state().orders.insert(order, telling);
        self.wake.notify_one();
    }

    /// The controller has stored the order's events up to that number. Answers whether the order's last
    /// event is among them, and forgets the order then.
    pub fn stored(&self, order: Uuid, up_to: u64) -> bool {
        let mut state = self.state();
        let over = state.orders.get(&order).is_some_and(|telling| {
            telling.events.last().is_some_and(|last| {
                last.number <= up_to
                    && matches!(last.event, Some(v1::order_event::Event::Finished(_)))
            })
        });
        if over {
            state.orders.remove(&order);
        }
        over
    }

    /// Nothing is told of that order any more.
    pub fn forget(&self, order: Uuid) {
        self.state().orders.remove(&order);
    }

    /// A target changed.
    pub fn target(&self, target: &TargetName) {
        self.state().targets.insert(target.clone());
        self.wake.notify_one();
    }

    /// Something changed that concerns every target.
    pub fn all(&self) {
        self.state().inventory_due = true;
        self.wake.notify_one();
    }

    /// The answer to a request for a plan.
    pub fn reply(&self, reply: v1::PlanReply) {
        let mut state = self.state();
        if state.connected && state.replies.len() < REPLIES {
            state.replies.push(reply);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// What the host is. For the link itself, so also without a session.
    pub fn facts(&self, facts: v1::HostFacts) {
        self.state().facts = Some(facts);
        self.wake.notify_one();
    }

    /// The highest epoch rose. For the link itself, so also without a session.
    pub fn epoch(&self, epoch: u64) {
        self.state().epoch = Some(epoch);
        self.wake.notify_one();
    }

    /// Waits for something to tell. Cancel safe: what was not taken stays.
    pub async fn next(&self) -> Next {
        loop {
            let woken = self.wake.notified();
            if let Some(next) = self.take() {
                return next;
            }
            match self.end_due() {
                Some(due) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(due) => {}
                },
                None => woken.await,
            }
        }
    }

    /// When the next end that waits for a look is told without it.
    fn end_due(&self) -> Option<Instant> {
        let state = self.state();
        let due = state.orders.values().filter_map(Telling::due);
        due.min().filter(|_| state.connected)
    }

    fn take(&self) -> Option<Next> {
        let mut state = self.state();
        if let Some(facts) = state.facts.take() {
            return Some(Next::Facts(facts));
        }
        if let Some(epoch) = state.epoch.take() {
            return Some(Next::HighestEpoch(epoch));
        }
        if !state.connected {
            return None;
        }
        if state.looked && std::mem::take(&mut state.inventory_due) {
            return Some(Next::Inventory);
        }
        if !state.replies.is_empty() {
            return Some(Next::Reply(state.replies.remove(0)));
        }
        let (now, untold) = (Instant::now(), std::mem::take(&mut state.targets));
        let event = state.orders.values_mut().find_map(|telling| {
            let event = telling.next(&untold, now)?.clone();
            telling.sent += 1;
            Some(Next::Event(Box::new(event)))
        });
        state.targets = untold;
        if event.is_some() || state.inventory_due {
            return event;
        }
        state.targets.pop_first().map(Next::Target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(order: Uuid, number: u64, last: bool) -> v1::OrderEvent {
        let event = if last {
            v1::order_event::Event::Finished(v1::OrderFinished::default())
        } else {
            v1::order_event::Event::Accepted(v1::OrderAccepted {})
        };
        v1::OrderEvent {
            order_id: order.to_string(),
            number,
            at_ms: 0,
            event: Some(event),
        }
    }

    fn all(outbox: &Outbox) -> Vec<Next> {
        std::iter::from_fn(|| outbox.take()).collect()
    }

    #[test]
    fn events_wait_for_a_session_and_are_told_again_until_they_are_stored() {
        let outbox = Outbox::default();
        outbox.looked();
        let order = Uuid::from_u128(1);
        let events = vec![event(order, 1, false), event(order, 2, true)];
        outbox.order(order, events.clone());
        assert_eq!(all(&outbox), []);
        let told = [
            Next::Inventory,
            Next::Event(Box::new(events[0].clone())),
            Next::Event(Box::new(events[1].clone())),
        ];
        for _ in 0..2 {
            outbox.connected();
            assert_eq!(all(&outbox), told);
        }
        assert!(!outbox.stored(order, 1));
        assert!(outbox.stored(order, 2));
        outbox.connected();
        assert_eq!(all(&outbox), [Next::Inventory]);
    }

    /// An outbox that is past its first look, and the target that an order changes.
    fn at_work() -> (Outbox, TargetName) {
        let outbox = Outbox::default();
        outbox.looked();
        outbox.connected();
        assert_eq!(all(&outbox), [Next::Inventory]);
        (outbox, "docker/shop".parse().expect("valid"))
    }

    #[tokio::test]
    async fn the_end_of_an_order_is_told_behind_a_look_at_its_target() {
        let (outbox, shop) = at_work();
        let order = Uuid::from_u128(1);
        let events = vec![event(order, 1, false), event(order, 2, true)];
        let [first, last] = [0, 1].map(|at: usize| Next::Event(Box::new(events[at].clone())));
        outbox.under_way(order, events);
        assert_eq!(all(&outbox), [first]);
        outbox.over(order, [shop.clone()]);
        assert_eq!(all(&outbox), []);
        outbox.target(&shop);
        outbox.looked_at(&shop);
        assert_eq!(all(&outbox), [Next::Target(shop), last]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_come_does_not_keep_back_the_end_of_an_order() {
        let (outbox, shop) = at_work();
        let (looked, office) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let begun = Instant::now();
        outbox.under_way(looked, vec![event(looked, 1, true)]);
        outbox.over(looked, [shop]);
        // Nor does whoever would say that it is over.
        outbox.under_way(office, vec![event(office, 1, true)]);
        for order in [looked, office] {
            let told = outbox.next().await;
            assert_eq!(told, Next::Event(Box::new(event(order, 1, true))));
            assert_eq!(begun.elapsed(), END_WAITS);
        }
    }

    #[tokio::test]
    async fn the_end_of_an_order_waits_for_its_own_targets_and_for_no_others() {
        let (outbox, shop) = at_work();
        let other: TargetName = "docker/other".parse().expect("valid");
        let order = Uuid::from_u128(1);
        let last = Next::Event(Box::new(event(order, 1, true)));
        outbox.target(&other);
        outbox.under_way(order, vec![event(order, 1, true)]);
        outbox.over(order, [shop.clone()]);
        outbox.looked_at(&shop);
        assert_eq!(all(&outbox), [last.clone(), Next::Target(other.clone())]);
        outbox.connected();
        assert_eq!(outbox.take(), Some(Next::Inventory));
        outbox.target(&other);
        outbox.target(&shop);
        let told = [Next::Target(other), Next::Target(shop), last];
        assert_eq!(all(&outbox), told);
    }

    #[test]
    fn a_target_that_changed_often_is_told_once() {
        let outbox = Outbox::default();
        outbox.connected();
        assert_eq!(
            all(&outbox),
            [],
            "before the first look nothing is said of targets"
        );
        outbox.looked();
        assert_eq!(all(&outbox), [Next::Inventory]);
        let target: TargetName = "docker/shop".parse().expect("valid");
        for _ in 0..1000 {
            outbox.target(&target);
        }
        assert_eq!(all(&outbox), [Next::Target(target)]);
    }
}
