//! How a machine becomes a host: its side of it. The key is made here and never leaves.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tonic::Code;
use uuid::Uuid;

use crate::{
    channel::{self, ConnectError},
    fault,
    name::{HostName, NameError},
    tls::{self, Credentials},
    token::JoinToken,
    v1::{JoinRequest, enrolment_service_client::EnrolmentServiceClient},
};

/// How long the controller may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a machine did not become a host.
#[derive(Debug, Error)]
pub enum JoinError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "{address} is not where machines join, but where agents and operators connect, with certificates (listen, port \
         7443 unless it is set otherwise); join where the controller listens for that (listen_enrolment, port 7444)"
    )]
    NotForJoining { address: String },
    #[error("no answer came from {address}, so it is not known whether the token was used")]
    Lost {
        address: String,
        #[source]
        source: Box<tonic::Status>,
    },
    #[error("the controller refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the controller's answer cannot be used: its {field} is not valid")]
    Answer { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("failed to make a key")]
    Key(#[source] rcgen::Error),
    #[error("failed to set TLS up")]
    Tls(#[source] rustls::Error),
}

/// What a machine has when it has become a host.
#[derive(Debug, Clone)]
pub struct Joined {
    pub credentials: Credentials,
    /// The authorities that issue controllers' certificates.
    pub controller_trust: Vec<CertificateDer<'static>>,
    pub host_id: Uuid,
    pub host_name: HostName,
    pub cluster: Uuid,
    /// `host:port` for the agent's stream.
    pub controller_address: String,
}

/// A new P-256 key, PKCS#8 DER, and a signing request for it, DER. The request names nobody: the
/// controller takes the public key from it and nothing else.
///
/// # Errors
/// The cryptographic library failed.
pub fn new_key_and_request() -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_der(), request.der().to_vec()))
}

/// Exchanges a join token for the host's first credentials. `address` overrides the token's.
///
/// # Errors
/// The controller cannot be reached, is not the pinned one, refuses, or answers nonsense.
pub async fn join(
    token: &JoinToken,
    address: Option<&str>,
    hostname: &str,
    agent_version: &str,
) -> Result<Joined, JoinError> {
    let (key, csr_der) = new_key_and_request().map_err(JoinError::Key)?;
    let config = tls::pinned(token.pin).map_err(JoinError::Tls)?;
    let address = address.unwrap_or(&token.address);
    let said = channel::Revoked::default();
    let unless_wanted = |error: JoinError| {
        if said.take_wanted() {
            let address = address.to_owned();
            JoinError::NotForJoining { address }
        } else {
            error
        }
    };
    let channel = channel::open(address, move || config.clone(), &said)
        .await
        .map_err(|error| unless_wanted(error.into()))?;
    let mut request = tonic::Request::new(JoinRequest {
        token_secret: token.secret.to_vec(),
        csr_der,
        hostname: hostname.to_owned(),
        agent_version: agent_version.to_owned(),
    });
    request.set_timeout(ANSWER_TIMEOUT);
    let answer = EnrolmentServiceClient::new(channel)
        .join(request)
        .await
        .map_err(|status| unless_wanted(failed(address, status)))?
        .into_inner();
    let id = |field, text: &str| Uuid::try_parse(text).map_err(|_| JoinError::Answer { field });
    let host_id = id("host_id", &answer.host_id)?;
    let cluster = id("cluster_id", &answer.cluster_id)?;
    let credentials = Credentials::new(answer.certificate_chain, key);
    let us = credentials.peer().map_err(|_| JoinError::Answer {
        field: "certificate_chain",
    })?;
    if us.identity.host_id() != Some(host_id) || us.identity.cluster != cluster {
        return Err(JoinError::Answer {
            field: "certificate_chain",
        });
    }
    let controller_trust: Vec<_> = answer
        .controller_trust
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    // Also finds a key that does not fit the certificate, and trust that cannot be read.
    tls::ClientTls::new(credentials.clone(), &controller_trust, cluster).map_err(JoinError::Tls)?;
    Ok(Joined {
        credentials,
        controller_trust,
        host_id,
        host_name: answer.host_name.parse()?,
        cluster,
        controller_address: answer.controller_address,
    })
}

/// What a failed call means: a connection that breaks says nothing of a reason.
fn failed(address: &str, status: tonic::Status) -> JoinError {
    let broken = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    );
    let source = Box::new(status);
    if broken && fault::from_status(&source).is_none() {
        let address = address.to_owned();
        return JoinError::Lost { address, source };
    }
    JoinError::Refused(source)
}
