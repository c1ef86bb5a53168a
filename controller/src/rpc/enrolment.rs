//! The enrolment service: a one-time token and a public key in, a host's first certificate out.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use sternway_proto::{
    fault,
    identity::{IdentityError, PeerCertificate},
    name::{HostName, clean_text},
    token::JoinToken,
    v1::{
        JoinRequest, JoinResponse, Problem,
        enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
    },
};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::{
    pki::{Authority, public_key},
    store::{
        RedeemError, SharedStore,
        types::{Certified, Redeem},
    },
};

/// Joins at the same time; whoever comes beyond them is told to come again. Guessing a token of 256
/// bits needs no further bound.
const JOINS: usize = 32;

/// How long a join may wait for its turn.
const TURN: Duration = Duration::from_secs(10);

/// Requests are a token, a signing request and two names.
const REQUEST_BYTES: usize = 16 * 1024;

/// The enrolment service.
#[derive(Clone)]
pub struct Enrolment {
    store: SharedStore,
    authority: Arc<Authority>,
    /// `host:port` that agents are told to dial.
    advertise: String,
    turns: Arc<Semaphore>,
}

impl Enrolment {
    /// A service over that store and authority.
    #[must_use]
    pub fn new(store: SharedStore, authority: Arc<Authority>, advertise: String) -> Self {
        Self {
            store,
            authority,
            advertise,
            turns: Arc::new(Semaphore::new(JOINS)),
        }
    }

    /// The service, with its bounds.
    #[must_use]
    pub fn into_server(self) -> EnrolmentServiceServer<Self> {
        EnrolmentServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES)
    }
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let _turn = tokio::time::timeout(TURN, self.turns.acquire())
            .await
            .map_err(|_| {
                fault::to_status(
                    Code::ResourceExhausted,
                    Problem::new(
                        "too-many-joins",
                        "too many machines join at this moment",
                        "try again",
                    ),
                )
            })?;
        let request = request.into_inner();
        // Judged before the token is spent: a request that cannot be used leaves it valid.
        public_key(&request.csr_der)
            .map_err(|error| invalid("request-invalid", error.to_string()))?;
        let hostname = request.hostname.to_ascii_lowercase();
        let hostname: HostName = hostname
            .parse()
            .map_err(|error| invalid("host-name-invalid", format!("{error}")))?;
        let now = SystemTime::now();
        let host_id = Uuid::now_v7();
        // Made first, given away last: whatever happens between, either the whole join is stored and answered,
        // or nothing of it and the token is still good.
        let chain = self
            .authority
            .issue_agent(host_id, &request.csr_der, now)
            .map_err(internal)?;
        let redeem = Redeem {
            hash: JoinToken::secret_hash(&request.token_secret),
            host_id,
            certificate: certified(&chain).map_err(internal)?,
            hostname: hostname.to_string(),
            agent_version: clean_text(&request.agent_version)
                .chars()
                .take(64)
                .collect(),
            now_ms: crate::clock::now_ms(),
        };
        let host = self
            .store
            .token_redeem(&redeem)
            .await
            .map_err(|error| refused(&error))?;
        tracing::info!(host.id = %host.id, host.name = host.name, "host {} joined", host.name);
        Ok(Response::new(JoinResponse {
            host_id: host.id.to_string(),
            host_name: host.name,
            cluster_id: self.authority.cluster().to_string(),
            certificate_chain: chain,
            controller_trust: self
                .authority
                .controller_trust()
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            controller_address: self.advertise.clone(),
        }))
    }
}

/// What is kept of a certificate that was issued.
///
/// # Errors
/// It is none of ours.
pub(crate) fn certified(chain: &[Vec<u8>]) -> Result<Certified, IdentityError> {
    let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
    let leaf = PeerCertificate::from_der(leaf)?;
    Ok(Certified {
        serial: leaf.serial,
        not_after_ms: leaf.not_after_ms,
    })
}

fn invalid(code: &str, message: String) -> Status {
    fault::to_status(Code::InvalidArgument, Problem::new(code, message, ""))
}

fn internal(error: impl std::error::Error) -> Status {
    tracing::error!(error = %error, "a join failed");
    fault::to_status(
        Code::Internal,
        Problem::new(
            "internal",
            "the controller could not finish the join",
            "see the controller's log; make a new token with `ctl host token`",
        ),
    )
}

fn refused(error: &RedeemError) -> Status {
    let again = "make a new one with `ctl host token`";
    let (code, kind, next) = match error {
        RedeemError::Unknown => (Code::PermissionDenied, "token-unknown", again),
        RedeemError::Used => (
            Code::PermissionDenied,
            "token-used",
            "each token is for one host. If this machine's own join lost its answer: revoke the host it \
             made (`ctl host ls`), then make a new token",
        ),
        RedeemError::Expired => (Code::PermissionDenied, "token-expired", again),
        RedeemError::NameTaken { .. } => (
            Code::AlreadyExists,
            "host-name-taken",
            "revoke that host first, or make a token with another name: `ctl host token --name`",
        ),
        RedeemError::NameIsId { .. } => (
            Code::InvalidArgument,
            "host-name-invalid",
            "make a token that names the host: `ctl host token --name`",
        ),
        RedeemError::Store(source) => {
            tracing::error!(
                error = source as &dyn std::error::Error,
                "a join was not stored"
            );
            return fault::to_status(Code::Unavailable, super::fault::store_problem(source));
        }
    };
    fault::to_status(code, Problem::new(kind, error.to_string(), next))
}
