//! What agents are sent: orders, marks, and questions for plans.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use sternway_proto::v1::{self, controller_message::Message};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Fleet, PlanError,
    session::{Sent, Session},
    validate,
};
use crate::{
    clock::now_ms,
    metrics::{ORDER_ACCEPTED_SECONDS, ORDERS_FINISHED},
    store::{
        StoreError,
        types::{Effects, Sending},
    },
};

impl Fleet {
    /// Asks an agent what a restore would do.
    ///
    /// # Errors
    /// The host is offline, is asked for too many plans at once, does not answer in time, or refuses.
    pub async fn plan(
        &self,
        host: Uuid,
        mut request: v1::PlanRequest,
    ) -> Result<v1::Plan, PlanError> {
        let session = self.session(host).ok_or(PlanError::Offline)?;
        request.request_id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let waiting = session
            .expect_plan(request.request_id)
            .ok_or(PlanError::TooMany)?;
        if !session.send(Message::Plan(request)).await {
            return Err(PlanError::Offline);
        }
        let reply = tokio::select! {
            biased;
            () = session.ended.cancelled() => return Err(PlanError::Offline),
            reply = tokio::time::timeout(self.timing.plan, waiting) => reply,
        };
        match reply {
            Err(_) => Err(PlanError::Late),
            Ok(Err(_)) => Err(PlanError::Offline),
            Ok(Ok(reply)) => match reply.result {
                Some(v1::plan_reply::Result::Plan(plan)) => {
                    validate::plan(plan).map_err(|why| PlanError::Refused(why.problem()))
                }
                Some(v1::plan_reply::Result::Problem(problem)) => {
                    Err(PlanError::Refused(v1::Problem::new(
                        &sternway_proto::name::clean_text(&problem.code),
                        problem.message,
                        problem.next_step,
                    )))
                }
                None => Err(PlanError::Refused(
                    validate::Refused::Invalid { what: "a plan" }.problem(),
                )),
            },
        }
    }

    /// Tells a host all marks of its revisions, if it is there.
    ///
    /// # Errors
    /// The store failed: they are told at the next look.
    pub async fn push_marks(&self, host: Uuid) -> Result<(), StoreError> {
        if let Some(session) = self.session(host) {
            self.tell_marks(&session).await?;
        }
        Ok(())
    }

    /// Read and sent by one at a time: of two that read one after the other the older could be sent last, and stand.
    /// Whoever is dropped on the way has told nothing: it stays due. False: the session is over.
    pub(super) async fn tell_marks(&self, session: &Session) -> Result<bool, StoreError> {
        let mine = session.marks_asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut told = session.marks.lock().await;
        // Whoever had the turn before has read what is due here.
        if *told >= mine {
            return Ok(true);
        }
        let asked = session.marks_asked.load(Ordering::Acquire);
        let marks = self.store.mark_list(session.host_id).await?;
        if !session.send(Message::Marks(v1::Marks { marks })).await {
            return Ok(false);
        }
        *told = asked;
        Ok(true)
    }

    /// Tells the marks that were not told when they should have been.
    pub(super) fn tell_marks_due(self: &Arc<Self>) {
        let due: Vec<Arc<Session>> = self
            .locked()
            .values()
            .filter(|session| session.marks_due())
            .cloned()
            .collect();
        for session in due {
            let fleet = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Err(error) = fleet.tell_marks(&session).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to tell {} its marks",
                        session.host_name
                    );
                }
            });
        }
    }

    /// Sends a host the orders that are stored for it and of which its agent has said nothing, by sequence: at
    /// once what was not sent on its session, and again, less and less often, what was. Nothing before its agent knows
    /// the marks: it refuses by them.
    ///
    /// # Errors
    /// The store failed: what was not sent is sent at the next look.
    pub async fn dispatch(self: &Arc<Self>, host: Uuid) -> Result<(), StoreError> {
        let Some(session) = self.session(host) else {
            return Ok(());
        };
        if !session.greeted.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut sent = session.sent.lock().await;
        let done = self.send_orders(&session, &mut sent).await;
        session.orders_due.store(done.is_err(), Ordering::Release);
        done
    }

    async fn send_orders(
        self: &Arc<Self>,
        session: &Session,
        sent: &mut HashMap<Uuid, Sent>,
    ) -> Result<(), StoreError> {
        let host = session.host_id;
        let mut orders = self.store.order_active_list(host).await?;
        orders.retain(|order| order.progress.last_event == 0);
        sent.retain(|id, _| orders.iter().any(|order| order.id == *id));
        for order in orders {
            let before = sent.get(&order.id).copied();
            if before.is_some_and(|before| !before.again(Instant::now())) {
                continue;
            }
            // Stored as sent before it leaves: from here on it may have arrived.
            let sealed = match self.store.order_sending(order.id, now_ms()).await? {
                Sending::Goes(sealed) => sealed,
                Sending::Stays(effects) => {
                    self.effects(effects);
                    continue;
                }
            };
            if !session.send(Message::Order(sealed)).await {
                break;
            }
            tracing::info!(
                order.id = %order.id, host.id = %host,
                "order {} sent to {}", order.id, order.host_name
            );
            sent.insert(order.id, Sent::after(before, Instant::now()));
            self.lock_ordered().insert(host);
            self.watchers.changed(order.rollout_id);
        }
        Ok(())
    }

    /// Tells everyone concerned about changes that were committed.
    pub fn effects(self: &Arc<Self>, effects: Effects) {
        for outcome in effects.ended {
            let word = outcome.word().unwrap_or("unknown");
            metrics::counter!(ORDERS_FINISHED, "outcome" => word).increment(1);
        }
        for millis in effects.accepted_after_ms {
            #[expect(clippy::cast_precision_loss, reason = "a latency")]
            metrics::histogram!(ORDER_ACCEPTED_SECONDS).record(millis as f64 / 1000.0);
        }
        for rollout in effects.rollouts {
            self.watchers.changed(rollout);
        }
        for host in effects.hosts {
            let fleet = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Err(error) = fleet.dispatch(host).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to send orders to {host}"
                    );
                }
            });
        }
    }
}
