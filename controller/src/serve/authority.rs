//! What the fleet and the operators' service need of the certificate authority and the listeners.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rand::TryRngCore as _;
use sternway_proto::{address, tls::ServerTls, token::JoinToken, v1};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::RunError;
use crate::{
    clock::now_ms,
    fleet::Renew,
    listen::Peers,
    metrics::CERTIFICATE_END,
    pki::Authority,
    rpc::{enrolment::certified, operator},
    store::{
        SharedStore,
        types::{Certified, Host},
    },
};

/// From revoking a host to cutting its connections: its agent is told why, if it listens.
const FAREWELL: Duration = Duration::from_millis(500);

/// The authority of a running controller.
pub(super) struct Running {
    pub(super) authority: Arc<Authority>,
    pub(super) peers: Arc<Peers>,
    /// `host:port` of enrolment, for join tokens.
    pub(super) enrolment: String,
}

#[async_trait]
impl Renew for Running {
    async fn renew(
        &self,
        host: &Host,
        csr_der: &[u8],
    ) -> Result<(v1::RenewedCertificate, Certified), v1::Problem> {
        let chain = self
            .authority
            .issue_agent(host.id, csr_der, SystemTime::now())
            .map_err(|error| {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no certificate for {}",
                    host.name
                );
                v1::Problem::new("request-invalid", error.to_string(), "see the agent's log")
            })?;
        let kept = certified(&chain).map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a certificate is not readable"
            );
            v1::Problem::new(
                "internal",
                "the certificate could not be made",
                "see the controller's log",
            )
        })?;
        let trust = self.authority.controller_trust();
        let renewed = v1::RenewedCertificate {
            certificate_chain: chain,
            controller_trust: trust
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
        };
        Ok((renewed, kept))
    }
}

impl operator::Authority for Running {
    fn mint_token(&self) -> Result<(String, [u8; 32]), v1::Problem> {
        // Of a machine whose own name is none, for instance: nobody could dial what the token says.
        address::check(&self.enrolment).map_err(|why| {
            v1::Problem::new(
                "address-not-valid",
                format!("machines cannot join at {:?}: {why}", self.enrolment),
                "set advertise_enrolment (or advertise) to HOST:PORT in the controller's settings",
            )
        })?;
        let mut secret = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut secret).map_err(|_| {
            v1::Problem::new("no-randomness", "the system gave no random bytes", "")
        })?;
        let token = JoinToken {
            secret,
            pin: self.authority.pin(),
            address: self.enrolment.clone(),
        };
        Ok((token.to_string(), JoinToken::secret_hash(&secret)))
    }

    fn revoke_host(&self, host: Uuid) {
        self.peers.refuse(host);
        let peers = Arc::clone(&self.peers);
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            peers.cut(host);
        });
    }
}

/// How often revocations of operators are looked for. A command writes them, beside the controller.
const REVOCATIONS: Duration = Duration::from_secs(2);

/// Refuses the operators that are revoked, until the controller stops.
pub(super) async fn refuse_operators(
    store: SharedStore,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(REVOCATIONS) => {}
        }
        match store.operator_revoked_list(now_ms()).await {
            Ok(revoked) => {
                let cut = peers.refuse_operators(revoked);
                if cut > 0 {
                    tracing::warn!("{cut} connections of revoked operators are cut");
                }
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "which operators are revoked could not be read; this is tried again"
            ),
        }
    }
}

/// The name in the controller's own certificate.
pub(super) const NAME: &str = "controller";

/// How often the age of the controller's own certificate is looked at, at most.
const LOOK: Duration = Duration::from_mins(1);

/// Gives the listeners a new certificate at half of its life, until the controller stops.
///
/// By the wall clock, which is what the certificate's ends are compared with: a machine that was paused, and one
/// whose clock was set, would sleep on beside an expired one. What fails is tried again at the next look.
pub(super) async fn refresh(
    authority: Arc<Authority>,
    listeners: [ServerTls; 2],
    mut issued: SystemTime,
    end_ms: i64,
    shutdown: CancellationToken,
) {
    let lifetime = authority.lifetimes().controller;
    let mut end = OfAuthority::new(end_ms);
    tell_own_end(issued + lifetime);
    let pause = (lifetime / 8).clamp(Duration::from_millis(100), LOOK);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let now = SystemTime::now();
        end.look(now_ms());
        if !is_due(issued, lifetime, now) {
            continue;
        }
        match replace(&authority, &listeners, now) {
            Ok(()) => {
                issued = now;
                tell_own_end(issued + lifetime);
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the controller's own certificate was not renewed; this is tried again"
            ),
        }
    }
}

fn tell_own_end(end: SystemTime) {
    let end = end.duration_since(SystemTime::UNIX_EPOCH);
    metrics::gauge!(CERTIFICATE_END, "of" => "controller")
        .set(end.unwrap_or_default().as_secs_f64());
}

/// The end of the issuing authorities, told at the start and, in their last year, once a day.
struct OfAuthority {
    not_after_ms: i64,
    told_ms: i64,
}

impl OfAuthority {
    fn new(not_after_ms: i64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        metrics::gauge!(CERTIFICATE_END, "of" => "authority").set(not_after_ms as f64 / 1000.0);
        let now_ms = now_ms();
        warn_of_its_end(not_after_ms, now_ms);
        Self {
            not_after_ms,
            told_ms: now_ms,
        }
    }

    /// By the wall clock; one that was set back begins the day anew.
    fn look(&mut self, now_ms: i64) -> bool {
        let due = !(0..DAY_MS).contains(&now_ms.saturating_sub(self.told_ms));
        if due {
            self.told_ms = now_ms;
            warn_of_its_end(self.not_after_ms, now_ms);
        }
        due
    }
}

const DAY_MS: i64 = 24 * 3_600_000;

/// Says in the log that the issuing authorities end within a year: what follows takes a while to prepare.
fn warn_of_its_end(not_after_ms: i64, now_ms: i64) {
    if let Some(days) = last_days(not_after_ms, now_ms) {
        tracing::warn!(
            "the cluster's certificate authority ends in {days} days, and with it every connection of agents and \
             operators: make a new cluster before, as the chapter \"What is not\" of SECURITY.md says"
        );
    }
}

/// The whole days that are left, in the last year.
fn last_days(not_after_ms: i64, now_ms: i64) -> Option<i64> {
    let days = not_after_ms.saturating_sub(now_ms).max(0) / DAY_MS;
    (days < 365).then_some(days)
}

/// Whether a certificate that was issued then is to be replaced now: half of its life is over, or the clock was set
/// to before it, where it may not be valid yet.
fn is_due(issued: SystemTime, lifetime: Duration, now: SystemTime) -> bool {
    now.duration_since(issued)
        .map_or(true, |age| age >= lifetime / 2)
}

fn replace(
    authority: &Authority,
    listeners: &[ServerTls; 2],
    now: SystemTime,
) -> Result<(), RunError> {
    for tls in listeners {
        tls.replace(authority.issue_controller(NAME, now)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_made_for_an_address_that_nobody_can_dial() {
        use crate::rpc::operator::Authority as _;
        let folder = tempfile::tempdir().expect("a folder");
        let now = SystemTime::now();
        Authority::create(folder.path(), Uuid::from_u128(9), now).expect("made");
        let authority = Authority::open(folder.path(), crate::pki::Lifetimes::default());
        let mut running = Running {
            authority: Arc::new(authority.expect("opened")),
            peers: Arc::default(),
            enrolment: "my machine:7444".into(),
        };
        let refused = running.mint_token().expect_err("refused");
        assert_eq!(refused.code, "address-not-valid");
        assert!(refused.message.contains("my machine:7444"), "{refused:?}");
        running.enrolment = "my-machine:7444".into();
        let (token, _) = running.mint_token().expect("minted");
        token.parse::<JoinToken>().expect("one that can be used");
    }

    #[test]
    fn the_end_of_the_authority_is_told_in_its_last_year() {
        let end = 5 * 365 * DAY_MS;
        for (day, left) in [
            (0, None),
            (4 * 365, None),
            (4 * 365 + 1, Some(364)),
            (5 * 365, Some(0)),
            (6 * 365, Some(0)),
        ] {
            assert_eq!(last_days(end, day * DAY_MS), left, "{day}");
        }
    }

    #[test]
    fn the_end_of_the_authority_is_told_again_after_a_day() {
        let mut end = OfAuthority {
            not_after_ms: 5 * 365 * DAY_MS,
            told_ms: 10 * DAY_MS,
        };
        for (now_ms, told) in [
            (10 * DAY_MS, false),
            (11 * DAY_MS - 1, false),
            (11 * DAY_MS, true),
            (11 * DAY_MS + 1, false),
            (13 * DAY_MS, true),
            (12 * DAY_MS, true),
            (13 * DAY_MS - 1, false),
        ] {
            assert_eq!(end.look(now_ms), told, "{now_ms}");
        }
    }

    #[test]
    fn a_certificate_is_due_by_the_wall_clock() {
        const HOUR: Duration = Duration::from_hours(1);
        let issued = SystemTime::UNIX_EPOCH + HOUR * 1_000;
        let due = |now| is_due(issued, HOUR * 24, now);
        assert!(!due(issued));
        assert!(!due(issued + HOUR * 11));
        assert!(due(issued + HOUR * 12));
        assert!(due(issued + HOUR * 240), "a machine that was paused");
        assert!(due(issued - HOUR * 2), "a clock that was set back");
    }
}
