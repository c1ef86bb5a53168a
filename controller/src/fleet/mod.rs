//! The live sessions of agents: who is there, what is sent to them, and who is cut. What matters stands
//! in the store; everything here can be lost and is rebuilt when agents dial again.

pub mod claims;
mod limits;
mod observer;
mod serve;
pub mod session;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sternway_proto::v1::{self, controller_message::Message};
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use uuid::Uuid;

use self::{
    claims::{UNCLAIMED, Unclaimed},
    limits::Limits,
    session::{End, Sent, Session},
    watch::{Watch, Watchers},
};
use crate::{
    clock::{millis, now_ms},
    metrics::{ORDER_ACCEPTED_SECONDS, ORDERS_FINISHED, SESSIONS, SESSIONS_ENDED},
    rollout::order::{Lost, Unsent},
    store::{
        SharedStore, StoreError,
        types::{Certified, DueOrder, Effects, Host, Observation, Sending},
    },
};

/// How far above this controller's own epoch a host's may be for the epoch to follow it, over one run of
/// the controller. A restored backup is some restarts behind; a hostile agent must not be able to push
/// the epoch so far that other agents refuse the jump.
const EPOCH_FOLLOWS: u64 = 4096;

/// Issues a new certificate to a host that has one.
#[async_trait]
pub trait Renew: Send + Sync + 'static {
    /// The certificate, and what is kept of it.
    ///
    /// # Errors
    /// The request is not acceptable, or the certificate cannot be made: a reason for the agent.
    async fn renew(
        &self,
        host: &Host,
        csr_der: &[u8],
    ) -> Result<(v1::RenewedCertificate, Certified), v1::Problem>;
}

/// What a session needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub heartbeat: Duration,
    /// For the answer to a plan request.
    pub plan: Duration,
    /// How long past its deadline, and past the last sign of its host, an order that was sent stays open; where its
    /// host is there and not at it, at most so long.
    pub lost: Duration,
}

/// Why an agent gave no plan.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("the host is offline")]
    Offline,
    #[error("the agent did not answer in time")]
    Late,
    #[error("the agent is asked for many plans already")]
    TooMany,
    #[error("the agent refused")]
    Refused(v1::Problem),
}

/// What a live session knows better than the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    pub heard_ms: i64,
    pub clock_offset_ms: i64,
}

/// All live sessions.
pub struct Fleet {
    store: SharedStore,
    renew: Arc<dyn Renew>,
    timing: Timing,
    /// When this controller began to listen: hosts could not be heard before.
    started_ms: i64,
    epoch: AtomicU64,
    /// The epoch may follow agents up to here.
    epoch_limit: u64,
    numbers: AtomicU64,
    sessions: Mutex<HashMap<Uuid, Arc<Session>>>,
    /// Hosts that were sent orders since this controller began: they have its epoch from itself.
    ordered: Mutex<HashSet<Uuid>>,
    unclaimed: Mutex<Unclaimed>,
    limits: Mutex<Limits>,
    observations: Mutex<Option<mpsc::Sender<Observation>>>,
    observer: Mutex<Option<JoinHandle<()>>>,
    watchers: Arc<Watchers>,
    stopping: tokio_util::sync::CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

impl Fleet {
    /// An empty fleet over a store, with the epoch of this start.
    #[must_use]
    pub fn new(store: SharedStore, renew: Arc<dyn Renew>, timing: Timing, epoch: u64) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(observer::QUEUE);
        Arc::new_cyclic(|fleet: &Weak<Self>| {
            let fleet = fleet.clone();
            // A session whose observations are lost ends: its agent dials again and says everything again.
            let lost = move |host| {
                if let Some(fleet) = fleet.upgrade() {
                    fleet.end(host, End::Internal);
                }
            };
            let observer = tokio::spawn(observer::run(Arc::clone(&store), receiver, lost));
            Self {
                store,
                renew,
                timing,
                started_ms: now_ms(),
                epoch: AtomicU64::new(epoch),
                epoch_limit: epoch.saturating_add(EPOCH_FOLLOWS),
                numbers: AtomicU64::new(1),
                sessions: Mutex::default(),
                ordered: Mutex::default(),
                unclaimed: Mutex::default(),
                limits: Mutex::default(),
                observations: Mutex::new(Some(sender)),
                observer: Mutex::new(Some(observer)),
                watchers: Arc::default(),
                stopping: tokio_util::sync::CancellationToken::new(),
                tasks: tokio_util::task::TaskTracker::new(),
            }
        })
    }

    /// The controller's fencing number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// How many agents are connected.
    #[must_use]
    pub fn online(&self) -> usize {
        self.locked().len()
    }

    /// What the host's session knows. None: offline.
    #[must_use]
    pub fn live(&self, host: Uuid) -> Option<Live> {
        self.session(host).map(|session| Live {
            heard_ms: session.heard_ms.load(Ordering::Relaxed),
            clock_offset_ms: session.clock_offset_ms.load(Ordering::Relaxed),
        })
    }

    /// Sees every change of a rollout from now on. None: this watcher has too many of them open.
    #[must_use]
    pub fn watch(&self, rollout: Uuid, watcher: &str) -> Option<Watch> {
        self.watchers.subscribe(rollout, watcher)
    }

    /// Ends a host's session, if there is one.
    pub fn end(&self, host: Uuid, why: End) {
        if let Some(session) = self.session(host) {
            session.end(why);
        }
    }

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
    async fn tell_marks(&self, session: &Session) -> Result<bool, StoreError> {
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
    fn tell_marks_due(self: &Arc<Self>) {
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
            metrics::counter!(ORDERS_FINISHED, "outcome" => outcome.as_str_name()).increment(1);
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
    async fn look(self: &Arc<Self>, now_ms: i64) {
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

    /// Ends every session until the one time, so that the agents dial again elsewhere, and writes down what they said
    /// until the other.
    pub async fn stop(&self, sessions_by: Instant, stored_by: Instant) {
        self.stopping.cancel();
        for session in self.locked().values() {
            session.end(End::Stopping);
        }
        self.tasks.close();
        let tasks = tokio::time::timeout_at(sessions_by, self.tasks.wait()).await;
        if tasks.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
        drop(
            self.observations
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let observer = self
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(observer) = observer
            && tokio::time::timeout_at(stored_by, observer).await.is_err()
        {
            tracing::warn!("some observations were not stored in time");
        }
    }

    fn lock_ordered(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> std::sync::MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, host: Uuid) -> Option<Arc<Session>> {
        self.locked().get(&host).cloned()
    }

    fn register(&self, session: &Arc<Session>) {
        let older = self.locked().insert(session.host_id, Arc::clone(session));
        if let Some(older) = older {
            older.end(End::Replaced);
        }
        if self.stopping.is_cancelled() {
            session.end(End::Stopping);
        }
        self.count();
    }

    fn unregister(&self, session: &Session) {
        let mut sessions = self.locked();
        let mine = sessions
            .get(&session.host_id)
            .is_some_and(|current| current.number == session.number);
        if mine {
            sessions.remove(&session.host_id);
        }
        drop(sessions);
        self.count();
        metrics::counter!(SESSIONS_ENDED, "why" => session.why().code()).increment(1);
    }

    fn count(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
        metrics::gauge!(SESSIONS).set(self.online() as f64);
    }

    async fn observe(&self, observation: Observation) {
        let queue = self
            .observations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(queue) = queue {
            // Closed only once the controller stops: the next inventory says it again.
            drop(queue.send(observation).await);
        }
    }

    /// Follows the epoch a host has seen, within bounds.
    async fn follow_epoch(&self, seen: u64, host: &Host) -> Result<(), StoreError> {
        let own = self.epoch();
        // It has our own from our own orders.
        if seen < own || seen == own && self.lock_ordered().contains(&host.id) {
            return Ok(());
        }
        if seen >= self.epoch_limit {
            tracing::error!(
                host.id = %host.id, epoch = seen,
                "host {} has seen epoch {seen}, far above ours: it will refuse our orders as stale",
                host.name
            );
            return Ok(());
        }
        let epoch = self.store.epoch_jump(seen, &host.name, now_ms()).await?;
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        tracing::warn!(
            host.id = %host.id,
            "host {} has seen epoch {seen}: ours is {epoch} from now on", host.name
        );
        Ok(())
    }
}
