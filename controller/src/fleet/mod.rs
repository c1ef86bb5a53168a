//! The live sessions of agents: who is there, and who is cut; what is sent to them is in `send`, what is given up by time
//! in `look`. What matters stands in the store; everything here can be lost and is rebuilt when agents dial again.

pub mod claims;
mod limits;
mod look;
mod observer;
mod send;
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
use sternway_proto::v1;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;

use self::{
    claims::Unclaimed,
    limits::Limits,
    observer::Queued,
    session::{End, Session},
    watch::{Watch, Watchers},
};
use crate::{
    clock::now_ms,
    metrics::{SESSIONS, SESSIONS_ENDED},
    store::{
        SharedStore, StoreError,
        types::{Certified, Host, Observation},
    },
};

/// How far above this controller's own epoch a host's may be for the epoch to follow it, over one run of
/// the controller. A restored backup is some restarts behind; a hostile agent must not be able to push
/// the epoch so far that other agents refuse the jump.
const EPOCH_FOLLOWS: u64 = 4096;

/// How long the end of an order waits for what its host said before it: longer than the observer takes for all that may
/// wait there, and a database that stands still is told by the end itself.
const OBSERVED: Duration = Duration::from_secs(5);

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
    observations: Mutex<Option<mpsc::Sender<Queued>>>,
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

    fn observations(&self) -> Option<mpsc::Sender<Queued>> {
        let queue = self.observations.lock();
        queue.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn observe(&self, observation: Observation) {
        if let Some(queue) = self.observations() {
            // Closed only once the controller stops: the next inventory says it again.
            drop(queue.send(Queued::Seen(Box::new(observation))).await);
        }
    }

    /// Waits until what was observed so far is stored, for no longer than [`OBSERVED`].
    async fn observed(&self) {
        let stored = async {
            let (until, stored) = oneshot::channel();
            if let Some(queue) = self.observations()
                && queue.send(Queued::Until(until)).await.is_ok()
            {
                let _ = stored.await;
            }
        };
        if tokio::time::timeout(OBSERVED, stored).await.is_err() {
            tracing::warn!("what hosts say takes long to be stored; ends of orders go before it");
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
