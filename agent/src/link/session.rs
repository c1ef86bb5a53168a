//! One session: Hello, Welcome, then messages both ways until something ends it.

use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use sternway_proto::{
    channel, enrol, limits,
    service::notify,
    tls::Credentials,
    v1::{
        self, AgentMessage, Heartbeat, Hello, RenewRequest, agent_message::Message as Up,
        agent_service_client::AgentServiceClient, controller_message::Message as Down,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Ended, Link, pace};
use crate::{
    boundary::{Report, Request},
    clock::now_ms,
};

/// Messages that may wait to be sent.
const OUTGOING: usize = 32;

/// How long the controller may take to open the stream, and to say Welcome.
const OPENING: Duration = Duration::from_secs(15);

/// What a heartbeat interval is held to, whatever the controller says.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(1);

/// Heartbeats without an answer after which the controller counts as gone.
const MISSED: u32 = 3;

/// After a renewal that was refused.
const RENEW_AGAIN: Duration = Duration::from_mins(1);

/// The state of an open session.
struct Open {
    outgoing: mpsc::Sender<AgentMessage>,
    /// A report that waits for a place in the queue.
    waiting: Option<Up>,
    interval: Duration,
    heard: Instant,
    heartbeat_at: Instant,
    renew_at: Instant,
    /// The key of a request for renewal that is on its way, PKCS#8.
    renewing: Option<Vec<u8>>,
}

impl Link {
    /// Opens a session and keeps it until something ends it.
    pub(super) async fn session(&mut self) -> Ended {
        match self.open().await {
            Ok((open, incoming)) => self.converse(open, incoming).await,
            Err(ended) => ended,
        }
    }

    async fn open(&mut self) -> Result<(Open, Streaming<v1::ControllerMessage>), Ended> {
        let channel =
            channel::connect_listening(&self.identity.controller, &self.tls, &self.revoked).await?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        while let Ok(report) = self.reports.try_recv() {
            drop(self.host.take(report));
        }
        let sent_ms = now_ms();
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let hello = up(Up::Hello(Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id(),
            clock_ms: sent_ms,
            highest_epoch: self.host.highest_epoch,
            facts: Some(self.host.facts.clone()),
        }));
        outgoing.send(hello).await.map_err(|_| Ended::Closed)?;
        let silent = |_| Ended::Silent(OPENING);
        let status = |status| Ended::Status(Box::new(status));
        let mut incoming = timeout(OPENING, client.session(ReceiverStream::new(queue)))
            .await
            .map_err(silent)?
            .map_err(status)?
            .into_inner();
        let first = timeout(OPENING, incoming.message())
            .await
            .map_err(silent)?
            .map_err(status)?
            .ok_or(Ended::Closed)?;
        let Some(Down::Welcome(welcome)) = first.message else {
            return Err(Ended::Unexpected("something else than a welcome"));
        };
        let offset = self.clock.measured(sent_ms, welcome.clock_ms, now_ms());
        self.ask(Request::Connected {
            clock_offset_ms: offset.unwrap_or_default(),
        })
        .await?;
        tracing::info!(
            controller = self.identity.controller,
            "connected to the controller at {} as {}",
            self.identity.controller,
            self.identity.host_name
        );
        notify::status(&format!(
            "looking after {}, connected to {}",
            self.identity.host_name, self.identity.controller
        ));
        let interval = Duration::from_millis(welcome.heartbeat_interval_ms.into());
        let open = Open {
            outgoing,
            waiting: None,
            interval: interval.clamp(SHORTEST, LONGEST),
            heard: Instant::now(),
            heartbeat_at: Instant::now(),
            renew_at: self.renewal(),
            renewing: None,
        };
        Ok((open, incoming))
    }

    async fn converse(
        &mut self,
        mut open: Open,
        mut incoming: Streaming<v1::ControllerMessage>,
    ) -> Ended {
        loop {
            let silence = open.interval * MISSED;
            let now = Instant::now();
            if open.heard.elapsed() > silence {
                return Ended::Silent(silence);
            }
            if open.waiting.is_none() {
                if open.heartbeat_at <= now {
                    open.waiting = Some(Up::Heartbeat(Heartbeat {
                        clock_ms: now_ms(),
                        facts: Some(self.host.facts.clone()),
                    }));
                    open.heartbeat_at = now + pace::jittered(open.interval, rand::random());
                } else if open.renew_at <= now {
                    open.waiting = open.renewal_request();
                }
            }
            let can_send = open.waiting.is_some();
            let silent_at = open.heard + silence;
            // With a message that waits for its place there is nothing else to be woken for.
            let next = if can_send {
                silent_at
            } else {
                silent_at.min(open.heartbeat_at).min(open.renew_at)
            };
            let outgoing = open.outgoing.clone();
            tokio::select! {
                biased;
                message = incoming.message() => match message {
                    Ok(Some(message)) => {
                        open.heard = Instant::now();
                        if let Err(ended) = self.received(&mut open, message).await {
                            return ended;
                        }
                    }
                    Ok(None) => return Ended::Closed,
                    Err(status) => return Ended::Status(Box::new(status)),
                },
                place = outgoing.reserve(), if can_send => match place {
                    Ok(place) => {
                        if let Some(message) = open.waiting.take() {
                            place.send(up(message));
                        }
                    }
                    Err(_) => return Ended::Closed,
                },
                report = self.reports.recv(), if !can_send => match report {
                    Some(report) => open.waiting = self.host.take(report).map(report_of),
                    None => return Ended::Executor,
                },
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    async fn received(
        &mut self,
        open: &mut Open,
        message: v1::ControllerMessage,
    ) -> Result<(), Ended> {
        let request = match message.message {
            Some(Down::Order(order)) => Request::Order(order),
            Some(Down::EventsStored(stored)) => Request::EventsStored(stored),
            Some(Down::Plan(plan)) => Request::Plan(plan),
            Some(Down::Marks(marks)) => Request::Marks(marks),
            Some(Down::Heartbeat(reply)) => {
                let offset = self
                    .clock
                    .measured(reply.agent_clock_ms, reply.clock_ms, now_ms());
                let Some(clock_offset_ms) = offset else {
                    return Ok(());
                };
                Request::ClockOffset { clock_offset_ms }
            }
            Some(Down::Renew(reply)) => return self.renewed(open, reply),
            Some(Down::Welcome(_)) => return Err(Ended::Unexpected("a second welcome")),
            // A newer controller may say more; what is not understood is not acted on.
            None => return Ok(()),
        };
        self.ask(request).await
    }

    async fn ask(&self, request: Request) -> Result<(), Ended> {
        self.requests
            .send(request)
            .await
            .map_err(|_| Ended::Executor)
    }

    fn renewed(&mut self, open: &mut Open, reply: v1::RenewReply) -> Result<(), Ended> {
        let Some(key) = open.renewing.take() else {
            return Ok(());
        };
        open.renew_at = Instant::now() + RENEW_AGAIN;
        match reply.result {
            Some(v1::renew_reply::Result::Certificate(renewed)) => {
                let credentials = Credentials::new(renewed.certificate_chain, key);
                let trust = renewed
                    .controller_trust
                    .into_iter()
                    .map(CertificateDer::from)
                    .collect();
                match self.identity.renew(&self.tls, credentials, trust, now_ms()) {
                    Ok(()) => return Err(Ended::Renewed),
                    Err(error) => {
                        tracing::error!("the renewed certificate cannot be used: {error}");
                    }
                }
            }
            Some(v1::renew_reply::Result::Problem(problem)) => {
                tracing::error!(
                    "the controller does not renew the certificate: {}",
                    sternway_proto::name::clean_text(&problem.message)
                );
            }
            None => tracing::error!("the controller's answer to a renewal is empty"),
        }
        Ok(())
    }

    /// When to renew the certificate.
    fn renewal(&self) -> Instant {
        let Ok(certificate) = self.identity.certificate() else {
            return Instant::now();
        };
        let at = pace::renew_at(
            self.identity.obtained_ms.max(certificate.not_before_ms),
            certificate.not_after_ms,
            rand::random(),
        );
        let wait = u64::try_from(at - now_ms()).unwrap_or_default();
        Instant::now() + Duration::from_millis(wait)
    }
}

impl Open {
    fn renewal_request(&mut self) -> Option<Up> {
        // An answer that does not come is not waited for: the next request takes its place.
        self.renew_at = Instant::now() + RENEW_AGAIN;
        match enrol::new_key_and_request() {
            Ok((key, csr_der)) => {
                self.renewing = Some(key);
                Some(Up::Renew(RenewRequest { csr_der }))
            }
            Err(error) => {
                tracing::error!("no key for a renewal could be made: {error}");
                None
            }
        }
    }
}

fn up(message: Up) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn report_of(report: Report) -> Up {
    match report {
        Report::Inventory(inventory) => Up::Inventory(inventory),
        Report::Target(target) => Up::Target(target),
        Report::TargetRemoved(name) => Up::TargetRemoved(name),
        Report::OrderEvent(event) => Up::OrderEvent(event),
        Report::PlanReply(reply) => Up::PlanReply(reply),
        // Taken in before; were they not, a heartbeat says the same.
        Report::Facts(facts) => Up::Heartbeat(Heartbeat {
            clock_ms: now_ms(),
            facts: Some(facts),
        }),
        Report::HighestEpoch(_) => Up::Heartbeat(Heartbeat {
            clock_ms: now_ms(),
            facts: None,
        }),
    }
}

/// Changes with every boot. Empty: not known here.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
