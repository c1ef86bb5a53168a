//! One live connection of one agent: its queue, what was sent on it, the plans it owes.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use sternway_proto::v1::{self, ControllerMessage, controller_message::Message};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::claims::Claims;

/// Messages that may wait for one agent.
pub const OUTGOING: usize = 64;

/// How long a message may wait for a place in the queue. An agent that reads nothing for so long is
/// cut, and is told everything again when it is back.
const PLACE: Duration = Duration::from_secs(5);

/// Plans one agent may owe at the same time.
const PLANS: usize = 16;

/// How long after the first sending an order that was not answered is sent again; twice as long after each
/// further one, up to the longest.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_AT_MOST: Duration = Duration::from_mins(1);

/// How often an order is sent on one session, at most. The next session begins anew.
const TIMES: u32 = 12;

/// An order that was sent on a session.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The last time.
    at: Instant,
    times: u32,
}

impl Sent {
    /// Sent now, and `before` until now.
    #[must_use]
    pub fn after(before: Option<Self>, now: Instant) -> Self {
        Self {
            at: now,
            times: before.map_or(0, |before| before.times).saturating_add(1),
        }
    }

    /// Whether it is time to send it again.
    #[must_use]
    pub fn again(&self, now: Instant) -> bool {
        let pause = AGAIN.saturating_mul(1 << self.times.saturating_sub(1).min(16));
        self.times < TIMES && now.duration_since(self.at) >= pause.min(AGAIN_AT_MOST)
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent closed it, or the connection broke.
    Gone,
    /// Nothing was heard for three heartbeats.
    Silent,
    /// The agent does not read what it is sent.
    Slow,
    /// A newer session of the same host.
    Replaced,
    Revoked,
    /// The controller stops; another one, or this one again, will answer.
    Stopping,
    /// A message that no honest agent sends.
    Refused,
    /// Events of an order came with a gap: a new session brings them again.
    Gap,
    /// The store failed.
    Internal,
}

impl End {
    /// Stable, for metrics and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::Stopping => "stopping",
            Self::Refused => "refused",
            Self::Gap => "gap",
            Self::Internal => "internal",
        }
    }
}

/// The handle by which the rest of the controller reaches an agent.
#[derive(Debug)]
pub struct Session {
    /// Tells this session from an older one of the same host.
    pub number: u64,
    pub host_id: Uuid,
    pub host_name: String,
    /// When it began, Unix milliseconds.
    pub began_ms: i64,
    outgoing: mpsc::Sender<Result<ControllerMessage, Status>>,
    /// Cancelled when the session shall end; why stands in `end`.
    pub ended: CancellationToken,
    end: Mutex<Option<End>>,
    /// When the agent was last heard, Unix milliseconds.
    pub heard_ms: AtomicI64,
    /// The host's clock minus the controller's.
    pub clock_offset_ms: AtomicI64,
    plans: Mutex<HashMap<u64, oneshot::Sender<v1::PlanReply>>>,
    claims: Mutex<Option<Claims>>,
    /// Orders that were sent on this session and not answered. Held while orders are sent, so that they leave in the
    /// order of their sequence.
    pub sent: AsyncMutex<HashMap<Uuid, Sent>>,
    /// The agent has been told the marks: from then on it may be sent orders.
    pub greeted: AtomicBool,
    /// Orders may wait that were not sent, because the store failed.
    pub orders_due: AtomicBool,
    /// How often it was asked that the agent be told the marks.
    pub marks_asked: AtomicU64,
    /// How often when the marks were read that it was told last. Held from reading them to sending them, so that the
    /// newest leave last.
    pub marks: AsyncMutex<u64>,
}

impl Session {
    /// A session that sends into this queue.
    #[must_use]
    pub fn new(
        number: u64,
        host_id: Uuid,
        host_name: String,
        outgoing: mpsc::Sender<Result<ControllerMessage, Status>>,
        now_ms: i64,
    ) -> Self {
        Self {
            number,
            host_id,
            host_name,
            began_ms: now_ms,
            outgoing,
            ended: CancellationToken::new(),
            end: Mutex::new(None),
            heard_ms: AtomicI64::new(now_ms),
            clock_offset_ms: AtomicI64::new(0),
            plans: Mutex::default(),
            claims: Mutex::default(),
            sent: AsyncMutex::default(),
            greeted: AtomicBool::new(false),
            orders_due: AtomicBool::new(false),
            marks_asked: AtomicU64::new(0),
            marks: AsyncMutex::default(),
        }
    }

    /// Ends the session; the first reason stands.
    pub fn end(&self, why: End) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert(why);
        self.ended.cancel();
    }

    /// Why it ended.
    #[must_use]
    pub fn why(&self) -> End {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(End::Gone)
    }

    /// The agent was heard.
    pub fn heard(&self, now_ms: i64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The orders that the agent has said to be at. None: it has not told its inventory yet.
    pub fn claims(&self) -> MutexGuard<'_, Option<Claims>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent has not been told the marks as they stand now, and nobody is about to.
    pub fn marks_due(&self) -> bool {
        let told = self.marks.try_lock();
        told.is_ok_and(|told| *told < self.marks_asked.load(Ordering::Acquire))
    }

    /// Puts a message into the queue. False: the session is over.
    pub async fn send(&self, message: Message) -> bool {
        let message = ControllerMessage {
            message: Some(message),
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => false,
            sent = self.outgoing.send_timeout(Ok(message), PLACE) => {
                match sent {
                    Ok(()) => true,
                    Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                        self.end(End::Slow);
                        false
                    }
                    Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                        self.end(End::Gone);
                        false
                    }
                }
            }
        }
    }

    /// Says goodbye with a status, if there is still room for it.
    pub fn close(&self, status: Status) {
        // A full queue means that nobody reads: the closed stream says the same.
        drop(self.outgoing.try_send(Err(status)));
    }

    /// Awaits the reply to a plan request. None: too many are owed already.
    pub fn expect_plan(&self, request_id: u64) -> Option<oneshot::Receiver<v1::PlanReply>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, waiting| !waiting.is_closed());
        if plans.len() >= PLANS {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        plans.insert(request_id, sender);
        Some(receiver)
    }

    /// Hands a reply to whoever waits for it; a reply nobody asked for is dropped.
    pub fn planned(&self, reply: v1::PlanReply) {
        let waiting = self
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&reply.request_id);
        if let Some(waiting) = waiting {
            drop(waiting.send(reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_sent_again_less_and_less_often_and_not_for_ever() {
        let begun = Instant::now();
        let (mut now, mut sent, mut pauses) = (begun, Sent::after(None, begun), Vec::new());
        while pauses.len() < 100 {
            let Some(pause) = (1..=120).find(|s| sent.again(now + Duration::from_secs(*s))) else {
                break;
            };
            now += Duration::from_secs(pause);
            sent = Sent::after(Some(sent), now);
            pauses.push(pause);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]);
    }
}
