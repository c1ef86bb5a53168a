//! The link: one stream to the controller, dialled from here. It has no rights on the host and decides
//! nothing about it; what it is told by the executor it passes on, and the other way round.

mod pace;
mod session;

use std::time::{Duration, Instant};

use sternway_proto::{
    channel::{ConnectError, Revoked},
    fault,
    service::notify,
    tls::ClientTls,
    v1,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    boundary::{Report, Request},
    chain::chain,
    clock::now_ms,
    identity::{Identity, IdentityError},
};

/// The same trouble is logged at most this often.
const QUIET: Duration = Duration::from_mins(1);

/// How a session ended.
#[derive(Debug, Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the controller ended the session: {}", said(.0))]
    Status(Box<tonic::Status>),
    #[error("the controller ended the session")]
    Closed,
    #[error("nothing was heard from the controller for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the controller sent {0}, which does not belong here")]
    Unexpected(&'static str),
    #[error("the certificate was renewed")]
    Renewed,
    #[error("the executor has stopped")]
    Executor,
}

/// What the log says where this host was revoked.
const REVOKED: &str = "this host was revoked: the controller does not let it in any more, and nothing can be ordered. \
     What runs is not touched. If the host is to be looked after again: make a token for it (`ctl host token --name`), \
     stop the agent, join anew (`sternway-agent join --again -`), start the agent";

/// What it says where its certificate ended while it was away.
const EXPIRED: &str = "this host's certificate has ended: the controller does not let it in any more, and nothing can be \
     ordered. What runs is not touched. To bring it back: revoke the host (`ctl host revoke`), make a token with its name \
     and labels (`ctl host token --name`), stop the agent, join anew (`sternway-agent join --again -`), start the agent";

impl Ended {
    /// Whether the controller says in words that this host was revoked.
    fn says_revoked(&self) -> bool {
        let Self::Status(status) = self else {
            return false;
        };
        fault::from_status(status).is_some_and(|it| it.code == "host-revoked")
    }
}

fn said(status: &tonic::Status) -> String {
    match fault::from_status(status) {
        Some(problem) if problem.next_step.is_empty() => problem.message,
        Some(problem) => format!("{}; next: {}", problem.message, problem.next_step),
        None => sternway_proto::name::clean_text(status.message()),
    }
}

/// What the link knows of the host, for its Hello.
#[derive(Debug, Clone, Default)]
struct Host {
    facts: v1::HostFacts,
    highest_epoch: u64,
}

impl Host {
    /// Takes in what is for the link itself. Anything else comes back.
    fn take(&mut self, report: Report) -> Option<Report> {
        match report {
            Report::Facts(facts) => {
                self.facts = facts;
                None
            }
            Report::HighestEpoch(epoch) => {
                self.highest_epoch = epoch;
                None
            }
            other => Some(other),
        }
    }
}

/// The link.
pub struct Link {
    identity: Identity,
    tls: ClientTls,
    host: Host,
    requests: mpsc::Sender<Request>,
    reports: mpsc::Receiver<Report>,
    shutdown: CancellationToken,
    clock: pace::ClockOffset,
    revoked: Revoked,
}

impl Link {
    /// A link for this identity.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(
        identity: Identity,
        requests: mpsc::Sender<Request>,
        reports: mpsc::Receiver<Report>,
        shutdown: CancellationToken,
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            tls: identity.tls()?,
            identity,
            host: Host::default(),
            requests,
            reports,
            shutdown,
            clock: pace::ClockOffset::default(),
            revoked: Revoked::default(),
        })
    }

    /// Keeps a session open until the shutdown.
    pub async fn keep(mut self) {
        let mut failures = 0;
        let mut logged: Option<(String, Instant)> = None;
        let shutdown = self.shutdown.clone();
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                ended = self.session() => ended,
            };
            if matches!(ended, Ended::Executor) {
                return;
            }
            // Nothing that was on its way belongs into the next session: all of it is told again.
            if self.requests.send(Request::Disconnected).await.is_err() {
                return;
            }
            failures = if begun.elapsed() >= pace::GOOD || matches!(ended, Ended::Renewed) {
                0
            } else {
                failures + 1
            };
            self.log(&ended, &mut logged);
            let wait = pace::back_off(failures, rand::random());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.discard_for(wait) => {}
            }
        }
    }

    /// Waits; reports that come meanwhile are dropped but for what the link itself needs.
    async fn discard_for(&mut self, wait: Duration) {
        let end = tokio::time::sleep(wait);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => drop(self.host.take(report)),
                () = &mut end => return,
            }
        }
    }

    fn log(&self, ended: &Ended, logged: &mut Option<(String, Instant)>) {
        let text = match ended {
            Ended::Renewed => {
                tracing::info!("the certificate was renewed; dialling again with it");
                return;
            }
            // In words where a session is open, by TLS where another one is dialled.
            ended if self.revoked.take() || ended.says_revoked() => REVOKED.to_owned(),
            Ended::Connect(error) => sternway_proto::name::clean_text(&chain(error)),
            other => other.to_string(),
        };
        let controller = &self.identity.controller;
        let name = &self.identity.host_name;
        let expired = self
            .identity
            .certificate()
            .is_ok_and(|certificate| certificate.not_after_ms <= now_ms());
        let status = if text == REVOKED {
            format!("cut off: {name} was revoked at {controller}")
        } else if expired {
            format!("cut off: the certificate of {name} has ended")
        } else {
            format!("looking after {name}; no session with {controller}")
        };
        // Each time, because a session in between has said otherwise.
        notify::status(&status);
        let again = logged
            .as_ref()
            .is_some_and(|(before, when)| *before == text && when.elapsed() < QUIET);
        if again {
            return;
        }
        if text == REVOKED {
            tracing::error!(%controller, "{REVOKED}");
        } else if expired {
            tracing::error!(%controller, "{EXPIRED}");
        } else {
            tracing::warn!(%controller, "no session with {controller}: {text}");
        }
        *logged = Some((text, Instant::now()));
    }
}
