//! The life of one session: hello, welcome, what is owed, then message after message until it ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use sternway_proto::{
    fault::to_status,
    name::clean_text,
    v1::{self, AgentMessage, ControllerMessage, agent_message, controller_message::Message},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status, Streaming};

use super::{
    Fleet,
    claims::Claims,
    limits::{Act, TRUNCATED, between_renewals},
    session::{End, OUTGOING, Session},
    validate::{self, Refused},
};
use crate::{
    clock::{millis, now_ms},
    metrics::{AGENT_MESSAGES_REFUSED, SESSIONS_OPENED},
    record::Actor,
    store::{
        StoreError,
        types::{Host, Note, Observation, Seen, TARGETS},
    },
};

/// How long an agent may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// Heartbeats that may be missed before a host counts as offline.
const MISSED: u32 = 3;

/// Messages that are handled as one batch, where they arrived together.
const BATCH: usize = 64;

/// How often a host that only sends heartbeats is written down as seen.
const SEEN_EVERY_MS: i64 = 60_000;

type Outgoing = mpsc::Receiver<Result<ControllerMessage, Status>>;

impl Fleet {
    /// Opens a session for a host whose certificate was accepted, and answers with what it is sent.
    ///
    /// # Errors
    /// The controller is stopping.
    pub fn open(
        self: &Arc<Self>,
        host: Host,
        inbound: Streaming<AgentMessage>,
    ) -> Result<Outgoing, Status> {
        if self.stopping.is_cancelled() {
            return Err(stopping());
        }
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(
            number,
            host.id,
            host.name.clone(),
            sender,
            now_ms(),
        ));
        let fleet = Arc::clone(self);
        self.tasks.spawn(async move {
            let live = Serving {
                fleet,
                host,
                session,
                inbound,
                written_ms: 0,
                listed: 0,
            };
            live.run().await;
        });
        Ok(receiver)
    }
}

fn stopping() -> Status {
    let problem = v1::Problem::new(
        "controller-stopping",
        "the controller is stopping",
        "dial again in a moment",
    );
    to_status(Code::Unavailable, problem)
}

fn revoked() -> v1::Problem {
    v1::Problem::new(
        "host-revoked",
        "this host was revoked",
        "join it anew, with a token from `ctl host token`",
    )
}

fn too_early() -> v1::Problem {
    v1::Problem::new(
        "renewed-too-often",
        "this host's certificate was renewed a moment ago",
        "try again in a minute; make sure that one agent only uses this host's certificate",
    )
}

struct Serving {
    fleet: Arc<Fleet>,
    host: Host,
    session: Arc<Session>,
    inbound: Streaming<AgentMessage>,
    /// When the host was last written down as seen.
    written_ms: i64,
    /// Targets of the last inventory that had too many of them.
    listed: usize,
}

impl Serving {
    async fn run(mut self) {
        let why = match self.greet().await {
            Ok(()) => match self.follow().await {
                Ok(why) => why,
                Err(error) => self.failed(&error),
            },
            Err(End::Gone) => End::Gone,
            Err(why) => why,
        };
        self.session.end(why);
        let why = self.session.why();
        self.fleet.unregister(&self.session);
        self.say_goodbye(why);
        if why != End::Revoked {
            self.alive(None, String::new()).await;
        }
        tracing::info!(
            host.id = %self.host.id, why = why.code(),
            "session of {} ended: {}", self.host.name, why.code()
        );
    }

    fn failed(&self, error: &StoreError) -> End {
        tracing::error!(
            error = error as &dyn std::error::Error,
            host.id = %self.host.id,
            "the store failed in the session of {}", self.host.name
        );
        End::Internal
    }

    fn say_goodbye(&self, why: End) {
        let status = match why {
            End::Stopping => stopping(),
            End::Revoked => to_status(Code::PermissionDenied, revoked()),
            End::Replaced => to_status(
                Code::Aborted,
                v1::Problem::new(
                    "session-replaced",
                    "a newer session of the same host was opened",
                    "make sure that one agent only uses this host's certificate",
                ),
            ),
            End::Gap => to_status(
                Code::Aborted,
                v1::Problem::new(
                    "events-gap",
                    "events of an order are missing between what is stored and what came",
                    "dial again and send them from the first that was not acknowledged",
                ),
            ),
            End::Internal => to_status(
                Code::Unavailable,
                v1::Problem::new(
                    "store-failed",
                    "the controller's store failed: what this host said last may not be stored",
                    "dial again and say it again; the controller's log says what failed",
                ),
            ),
            End::Silent => to_status(
                Code::DeadlineExceeded,
                v1::Problem::new(
                    "agent-silent",
                    format!(
                        "nothing was heard for {} s",
                        (self.fleet.timing.heartbeat * MISSED).max(HELLO).as_secs()
                    ),
                    "send the hello at once, then a heartbeat as often as the welcome says",
                ),
            ),
            End::Slow => to_status(
                Code::ResourceExhausted,
                v1::Problem::new(
                    "agent-slow",
                    "the agent does not read what it is sent",
                    "dial again",
                ),
            ),
            End::Gone | End::Refused => return,
        };
        self.session.close(status);
    }

    fn refuse(&self, why: &Refused) -> End {
        tracing::warn!(
            host.id = %self.host.id,
            "a message of {} was refused: {why}", self.host.name
        );
        metrics::counter!(AGENT_MESSAGES_REFUSED, "why" => why.problem().code).increment(1);
        self.session
            .close(to_status(Code::InvalidArgument, why.problem()));
        End::Refused
    }

    /// The stream of the agent's messages broke off: by a message that cannot be read, or with its connection.
    fn broke(&self, status: &Status) -> End {
        let why = match status.code() {
            Code::OutOfRange => Refused::TooLarge,
            Code::Internal if status.message().contains("decode") => Refused::Invalid {
                what: "a message: it is no AgentMessage and",
            },
            _ => {
                tracing::debug!(
                    host.id = %self.host.id,
                    "the stream of {} broke: {status}", self.host.name
                );
                return End::Gone;
            }
        };
        self.refuse(&why)
    }

    /// From hello to the orders that wait.
    async fn greet(&mut self) -> Result<(), End> {
        let first = tokio::select! {
            biased;
            () = self.fleet.stopping.cancelled() => return Err(End::Stopping),
            first = tokio::time::timeout(HELLO, self.inbound.message()) => first,
        };
        let hello = match first {
            Err(_) => return Err(End::Silent),
            Ok(Err(status)) => return Err(self.broke(&status)),
            Ok(Ok(None)) => return Err(End::Gone),
            Ok(Ok(Some(AgentMessage {
                message: Some(agent_message::Message::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => {
                return Err(self.refuse(&Refused::Invalid {
                    what: "the first message: it must be a hello and",
                }));
            }
        };
        match self.welcome(hello).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(End::Gone),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn welcome(&mut self, hello: v1::Hello) -> Result<bool, StoreError> {
        let now = now_ms();
        self.offset(hello.clock_ms, now);
        self.fleet
            .follow_epoch(hello.highest_epoch, &self.host)
            .await?;
        let welcome = v1::Welcome {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ms: now_ms(),
            epoch: self.fleet.epoch(),
            host_name: self.host.name.clone(),
            labels: self.host.labels.clone().into_iter().collect(),
            heartbeat_interval_ms: u32::try_from(millis(self.fleet.timing.heartbeat))
                .unwrap_or(u32::MAX),
        };
        if !self.session.send(Message::Welcome(welcome)).await {
            return Ok(false);
        }
        self.fleet.register(&self.session);
        // Revoked between the check of its certificate and now: nobody else would cut it.
        let still = self.fleet.store.host_fetch(self.host.id).await?;
        if still.is_none_or(|host| host.revoked_ms.is_some()) {
            self.session.end(End::Revoked);
            return Ok(false);
        }
        metrics::counter!(SESSIONS_OPENED).increment(1);
        tracing::info!(
            host.id = %self.host.id,
            "session of {} opened", self.host.name
        );
        let facts = hello.facts.map(validate::facts);
        self.alive(facts, clean_text(&hello.agent_version)).await;
        if !self.fleet.tell_marks(&self.session).await? {
            return Ok(false);
        }
        // Before the orders are read: one that is made from now on is sent by whoever makes it.
        self.session.greeted.store(true, Ordering::Release);
        self.fleet.dispatch(self.host.id).await?;
        Ok(true)
    }

    async fn follow(&mut self) -> Result<End, StoreError> {
        let silence = self.fleet.timing.heartbeat * MISSED;
        loop {
            let next = tokio::select! {
                biased;
                () = self.session.ended.cancelled() => return Ok(self.session.why()),
                next = tokio::time::timeout(silence, self.inbound.message()) => next,
            };
            let first = match next {
                Err(_) => return Ok(End::Silent),
                Ok(Err(status)) => return Ok(self.broke(&status)),
                Ok(Ok(None)) => return Ok(End::Gone),
                Ok(Ok(Some(message))) => message,
            };
            let (mut batch, mut after) = (vec![first], None);
            while batch.len() < BATCH
                && after.is_none()
                && let Some(next) = self.inbound.message().now_or_never()
            {
                match next {
                    Ok(Some(message)) => batch.push(message),
                    // What came before the end still counts.
                    Ok(None) => after = Some(Ok(())),
                    Err(status) => after = Some(Err(status)),
                }
            }
            self.session.heard(now_ms());
            if let Err(end) = self.take(batch).await? {
                return Ok(end);
            }
            match after {
                None => {}
                Some(Ok(())) => return Ok(End::Gone),
                Some(Err(status)) => return Ok(self.broke(&status)),
            }
        }
    }

    /// Handles messages in their order; events that stand together are stored together.
    async fn take(&mut self, batch: Vec<AgentMessage>) -> Result<Result<(), End>, StoreError> {
        let mut events = Vec::new();
        for message in batch {
            match message.message {
                Some(agent_message::Message::OrderEvent(event)) => {
                    match validate::order_event(event) {
                        Ok(event) => events.push(event),
                        Err(why) => return Ok(Err(self.refuse(&why))),
                    }
                }
                Some(other) => {
                    if let Err(end) = self.events(&mut events).await? {
                        return Ok(Err(end));
                    }
                    if let Err(why) = self.one(other).await? {
                        return Ok(Err(self.refuse(&why)));
                    }
                }
                // A message of a newer agent: not for us.
                None => {}
            }
        }
        self.events(&mut events).await
    }

    async fn events(
        &mut self,
        events: &mut Vec<v1::OrderEvent>,
    ) -> Result<Result<(), End>, StoreError> {
        if events.is_empty() {
            return Ok(Ok(()));
        }
        let batch = std::mem::take(events);
        // Who hears of an end and asks next what runs gets no answer from before.
        if batch.iter().any(is_end) {
            self.fleet.observed().await;
        }
        let appended = self
            .fleet
            .store
            .order_events_append(&self.host, &batch, now_ms())
            .await?;
        self.fleet.effects(appended.effects);
        for stored in appended.stored {
            self.session.send(Message::EventsStored(stored)).await;
        }
        if appended.foreign > 0 {
            metrics::counter!(AGENT_MESSAGES_REFUSED, "why" => "foreign-order")
                .increment(appended.foreign);
            tracing::warn!(
                host.id = %self.host.id,
                "{} sent {} events of orders that are another host's",
                self.host.name, appended.foreign
            );
        }
        if let Some(order) = appended.gap {
            tracing::warn!(
                host.id = %self.host.id, order.id = %order,
                "events of order {order} came from {} with a gap", self.host.name
            );
            return Ok(Err(End::Gap));
        }
        Ok(Ok(()))
    }

    async fn one(
        &mut self,
        message: agent_message::Message,
    ) -> Result<Result<(), Refused>, StoreError> {
        match message {
            agent_message::Message::Inventory(inventory) => {
                *self.session.claims() = Some(Claims::of(&inventory));
                let listed = inventory.targets.len();
                let (seen, refused) = validate::inventory(inventory);
                for why in refused {
                    self.left_out(&why);
                }
                self.truncated(listed).await?;
                self.observe(seen).await;
            }
            agent_message::Message::Target(target) => {
                if let Some(claims) = &mut *self.session.claims() {
                    claims.said(&target);
                }
                match validate::target(target) {
                    Ok(target) => self.observe(Seen::Target(Box::new(target))).await,
                    Err(why) => self.left_out(&why),
                }
            }
            agent_message::Message::TargetRemoved(name) => match validate::removed(name) {
                Ok(name) => {
                    if let Some(claims) = &mut *self.session.claims() {
                        claims.removed(&name);
                    }
                    self.observe(Seen::TargetRemoved(name)).await;
                }
                Err(why) => self.left_out(&why),
            },
            agent_message::Message::PlanReply(reply) => self.session.planned(reply),
            agent_message::Message::Renew(request) => self.renew(&request).await?,
            agent_message::Message::Heartbeat(heartbeat) => self.heartbeat(heartbeat).await,
            agent_message::Message::Hello(_) => {
                return Ok(Err(Refused::Invalid {
                    what: "a second hello",
                }));
            }
            agent_message::Message::OrderEvent(_) => {}
        }
        Ok(Ok(()))
    }

    /// Says in the record, once for each such number on a session, that a host has more targets than are kept.
    async fn truncated(&mut self, listed: usize) -> Result<(), StoreError> {
        if listed <= TARGETS || self.listed == listed {
            return Ok(());
        }
        self.listed = listed;
        let now = Instant::now();
        if !self.fleet.limits().may(self.host.id, Act::Truncated, now) {
            return Ok(());
        }
        self.fleet
            .limits()
            .did(self.host.id, Act::Truncated, now + TRUNCATED);
        let note = Note {
            actor: Actor::Controller,
            action: "inventory.truncated",
            subject: format!("host:{}", self.host.name),
            body: serde_json::json!({
                "host_id": self.host.id,
                "targets": listed,
                "kept": TARGETS,
                "next_step": "let the agent look after fewer targets: `include` and `exclude` in its configuration",
            }),
            at_ms: now_ms(),
        };
        self.fleet.store.record_append(&note).await
    }

    fn left_out(&self, why: &Refused) {
        metrics::counter!(AGENT_MESSAGES_REFUSED, "why" => why.problem().code).increment(1);
        tracing::warn!(
            host.id = %self.host.id,
            "a target of {} is left out: {why}", self.host.name
        );
    }

    async fn renew(&self, request: &v1::RenewRequest) -> Result<(), StoreError> {
        let reply = v1::RenewReply {
            result: Some(self.renewed(request).await?),
        };
        self.session.send(Message::Renew(reply)).await;
        Ok(())
    }

    async fn renewed(
        &self,
        request: &v1::RenewRequest,
    ) -> Result<v1::renew_reply::Result, StoreError> {
        let host = self.host.id;
        // Each is signed, committed and written into the record for ever.
        if !self.fleet.limits().may(host, Act::Renewal, Instant::now()) {
            return Ok(v1::renew_reply::Result::Problem(too_early()));
        }
        Ok(
            match self.fleet.renew.renew(&self.host, &request.csr_der).await {
                Ok((certificate, kept)) => {
                    let (store, now) = (&self.fleet.store, now_ms());
                    let pause = between_renewals(kept.not_after_ms.saturating_sub(now));
                    self.fleet
                        .limits()
                        .did(host, Act::Renewal, Instant::now() + pause);
                    // Said by the store, in the same moment in which it notes it: no certificate leaves after the
                    // host was revoked.
                    if store.host_certified(host, &kept, now).await? {
                        v1::renew_reply::Result::Certificate(certificate)
                    } else {
                        v1::renew_reply::Result::Problem(revoked())
                    }
                }
                Err(problem) => v1::renew_reply::Result::Problem(problem),
            },
        )
    }

    async fn heartbeat(&mut self, heartbeat: v1::Heartbeat) {
        let now = now_ms();
        self.offset(heartbeat.clock_ms, now);
        let reply = v1::HeartbeatReply {
            agent_clock_ms: heartbeat.clock_ms,
            clock_ms: now,
        };
        self.session.send(Message::Heartbeat(reply)).await;
        let facts = heartbeat.facts.map(validate::facts);
        let changed = facts.is_some() && facts != self.host.facts;
        if changed || now - self.written_ms > SEEN_EVERY_MS {
            self.alive(facts, String::new()).await;
        }
    }

    fn offset(&self, agent_clock_ms: i64, now_ms: i64) {
        self.session
            .clock_offset_ms
            .store(agent_clock_ms.saturating_sub(now_ms), Ordering::Relaxed);
    }

    async fn alive(&mut self, facts: Option<v1::HostFacts>, agent_version: String) {
        self.written_ms = now_ms();
        if facts.is_some() {
            self.host.facts.clone_from(&facts);
        }
        let clock_offset_ms = self.session.clock_offset_ms.load(Ordering::Relaxed);
        self.observe(Seen::Alive {
            facts,
            agent_version,
            clock_offset_ms,
        })
        .await;
    }

    async fn observe(&self, seen: Seen) {
        self.fleet
            .observe(Observation {
                host_id: self.host.id,
                host_name: self.host.name.clone(),
                at_ms: now_ms(),
                seen,
            })
            .await;
    }
}

fn is_end(event: &v1::OrderEvent) -> bool {
    matches!(event.event, Some(v1::order_event::Event::Finished(_)))
}
