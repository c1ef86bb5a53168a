//! What is done again and again, whatever happens or does not: what is over by time is ended, and what could not be sent
//! when it should have been is sent.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{Fleet, claims::UNCLAIMED};
use crate::{
    clock::{millis, now_ms},
    rollout::order::{Lost, Unsent},
    store::{
        StoreError,
        types::{DueOrder, Effects},
    },
};

impl Fleet {
    /// Ends orders whose deadline passes, until the controller stops.
    pub async fn expire(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.look(now_ms()).await;
        }
    }

    /// What is to be done again and again, whatever happens or does not.
    pub(super) async fn look(self: &Arc<Self>, now_ms: i64) {
        let expired = self.expire_due(now_ms).await;
        self.committed("expire orders", expired);
        let away = self.give_up_away(now_ms).await;
        self.committed("give up orders of hosts that are away", away);
        let unclaimed = self.give_up_unclaimed(now_ms).await;
        self.committed("give up orders that nobody is at", unclaimed);
        self.effects(self.unanswered());
        self.tell_marks_due();
    }

    fn committed(self: &Arc<Self>, doing: &str, done: Result<Effects, StoreError>) {
        match done {
            Ok(effects) => self.effects(effects),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to {doing}"
            ),
        }
    }

    /// Ends orders that were never sent and whose deadline has passed.
    async fn expire_due(&self, now_ms: i64) -> Result<Effects, StoreError> {
        let due = self.store.order_due_list(now_ms).await?;
        if due.is_empty() {
            return Ok(Effects::default());
        }
        // One that came back only after the deadline was away when it passed.
        let there = |one: &DueOrder| {
            self.session(one.host)
                .is_some_and(|session| session.began_ms < one.not_after_ms)
        };
        let unsent = |one: DueOrder| {
            let why = if there(&one) {
                Unsent::Failed
            } else {
                Unsent::HostAway
            };
            (one.id, why)
        };
        let due: Vec<(Uuid, Unsent)> = due.into_iter().map(unsent).collect();
        self.store.order_expired(&due, now_ms).await
    }

    /// Ends orders that were sent and whose hosts have not come back for too long: their targets shall not be
    /// held for ever.
    async fn give_up_away(&self, now_ms: i64) -> Result<Effects, StoreError> {
        let before_ms = now_ms.saturating_sub(millis(self.timing.lost));
        if before_ms < self.started_ms {
            return Ok(Effects::default());
        }
        let overdue = self.store.order_overdue_list(before_ms).await?;
        let lost: Vec<(Uuid, Lost)> = overdue
            .into_iter()
            .filter(|(_, host)| self.session(*host).is_none())
            .map(|(order, _)| (order, Lost::HostAway))
            .collect();
        if lost.is_empty() {
            return Ok(Effects::default());
        }
        tracing::warn!(
            "{} orders are given up: their hosts were not heard of again",
            lost.len()
        );
        self.store.order_lost(&lost, now_ms).await
    }

    /// Ends orders whose agents are there and are not at them. One that its agent is at goes on, however long it
    /// takes.
    async fn give_up_unclaimed(&self, now_ms: i64) -> Result<Effects, StoreError> {
        if self.online() == 0 {
            return Ok(Effects::default());
        }
        let open = self.store.order_sent_list().await?;
        let after = UNCLAIMED.min(self.timing.lost);
        let now = Instant::now();
        let lost = self
            .unclaimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(&open, (now, now_ms), after, |order| {
                let session = self.session(order.host)?;
                let why = session.claims().as_ref()?.lost(order)?;
                Some((session.number, why))
            });
        if lost.is_empty() {
            return Ok(Effects::default());
        }
        for (order, _) in &lost {
            tracing::warn!(order.id = %order, "order {order} is given up: its agent is there and not at it");
        }
        self.store.order_lost(&lost, now_ms).await
    }

    /// Which agents that are there are to be sent orders: those that they have not answered, and those that could not
    /// be sent when they were made, because the store failed. Asks the sessions only: most have none.
    fn unanswered(&self) -> Effects {
        let now = Instant::now();
        let hosts = self
            .locked()
            .values()
            .filter(|session| {
                // Held: it is being sent to at this moment.
                let Ok(sent) = session.sent.try_lock() else {
                    return false;
                };
                session.orders_due.load(Ordering::Acquire)
                    || sent.values().any(|one| one.again(now))
            })
            .map(|session| session.host_id)
            .collect();
        Effects {
            hosts,
            ..Effects::default()
        }
    }
}
