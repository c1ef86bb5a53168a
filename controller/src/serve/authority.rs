//! What the fleet and the operators' service need of the certificate authority and the listeners.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rand::TryRngCore as _;
use sternway_proto::{tls::ServerTls, token::JoinToken, v1};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::RunError;
use crate::{
    fleet::Renew,
    listen::Peers,
    pki::Authority,
    rpc::{enrolment::certified, operator},
    store::types::{Certified, Host},
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

/// The name in the controller's own certificate.
pub(super) const NAME: &str = "controller";

/// Gives the listeners a new certificate at half of its life, until the controller stops.
pub(super) async fn refresh(
    authority: Arc<Authority>,
    listeners: [ServerTls; 2],
    shutdown: CancellationToken,
) {
    let half = (authority.lifetimes().controller / 2).max(Duration::from_secs(1));
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(half) => {}
        }
        for tls in &listeners {
            let replaced: Result<(), RunError> = authority
                .issue_controller(NAME, SystemTime::now())
                .map_err(RunError::from)
                .and_then(|credentials| Ok(tls.replace(credentials)?));
            if let Err(error) = replaced {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the controller's own certificate was not renewed"
                );
            }
        }
    }
}
