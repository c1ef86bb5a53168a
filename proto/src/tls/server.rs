//! The accepting side: the controller's listeners.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use uuid::Uuid;

use super::{ALPN, Credentials, VERSIONS, algorithms, not_accepted, provider, roots, schemes};
use crate::identity::{PeerCertificate, Role};

/// Who may no longer connect, asked at every handshake.
pub trait Revocations: fmt::Debug + Send + Sync {
    /// Whether this peer, or this certificate of it, was revoked.
    fn is_revoked(&self, peer: &PeerCertificate) -> bool;
}

/// Nobody was revoked.
#[derive(Debug, Clone, Copy)]
pub struct AnyoneValid;

impl Revocations for AnyoneValid {
    fn is_revoked(&self, _peer: &PeerCertificate) -> bool {
        false
    }
}

/// Whom a listener believes.
#[derive(Debug, Clone)]
pub struct ServerTrust {
    pub cluster: Uuid,
    /// The authorities that issue agents' certificates, and nobody else's.
    pub agents: Vec<CertificateDer<'static>>,
    /// The authorities that issue operators' certificates, and no agent's.
    pub operators: Vec<CertificateDer<'static>>,
    pub revocations: Arc<dyn Revocations>,
}

/// The TLS of a listener. Clones share it; the next connection uses what [`ServerTls::replace`] brought.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ArcSwap<ServerConfig>>,
    verifier: Option<Arc<PeerVerifier>>,
}

impl ServerTls {
    /// A listener for peers with certificates.
    ///
    /// # Errors
    /// Chain and key do not fit, or an authority's certificate cannot be read.
    pub fn new(credentials: Credentials, trust: &ServerTrust) -> Result<Self, Error> {
        let verifier = Arc::new(PeerVerifier::new(trust)?);
        let config = mutual(credentials, verifier.clone())?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            verifier: Some(verifier),
        })
    }

    /// Presents another certificate from the next connection on.
    ///
    /// # Errors
    /// Chain and key do not fit; then nothing has changed.
    pub fn replace(&self, credentials: Credentials) -> Result<(), Error> {
        let config = match &self.verifier {
            Some(verifier) => mutual(credentials, verifier.clone())?,
            None => anonymous(credentials)?,
        };
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// The configuration of the next connection.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

/// The TLS of the enrolment listener, whose clients have no certificate yet. Its chain must go up to the
/// root, which join tokens pin.
///
/// # Errors
/// Chain and key do not fit.
pub fn server_only(credentials: Credentials) -> Result<ServerTls, Error> {
    Ok(ServerTls {
        config: Arc::new(ArcSwap::from_pointee(anonymous(credentials)?)),
        verifier: None,
    })
}

fn mutual(credentials: Credentials, verifier: Arc<PeerVerifier>) -> Result<ServerConfig, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)?;
    Ok(finished(config))
}

fn anonymous(credentials: Credentials) -> Result<ServerConfig, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)?;
    Ok(finished(config))
}

fn finished(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

/// Believes agents by the agents' authority and operators by the operators', never the other way round.
#[derive(Debug)]
struct PeerVerifier {
    cluster: Uuid,
    agents: Arc<dyn ClientCertVerifier>,
    operators: Arc<dyn ClientCertVerifier>,
    revocations: Arc<dyn Revocations>,
    hints: Vec<DistinguishedName>,
}

impl PeerVerifier {
    fn new(trust: &ServerTrust) -> Result<Self, Error> {
        let verifier = |anchors: &[CertificateDer<'static>]| {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(anchors)?), provider())
                .build()
                .map_err(|error| Error::General(error.to_string()))
        };
        let (agents, operators) = (verifier(&trust.agents)?, verifier(&trust.operators)?);
        let hints = [agents.root_hint_subjects(), operators.root_hint_subjects()].concat();
        Ok(Self {
            cluster: trust.cluster,
            agents,
            operators,
            revocations: trust.revocations.clone(),
            hints,
        })
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // The role only chooses the authority; it is believed when that authority's chain holds.
        let peer = PeerCertificate::from_der(end_entity).map_err(|_| not_accepted())?;
        let verifier = match peer.identity.role {
            Role::Agent => &self.agents,
            Role::Viewer | Role::Operator | Role::Admin => &self.operators,
            Role::Controller => return Err(not_accepted()),
        };
        let accepted = verifier.verify_client_cert(end_entity, intermediates, now)?;
        if peer.identity.cluster != self.cluster {
            return Err(not_accepted());
        }
        if self.revocations.is_revoked(&peer) {
            return Err(Error::InvalidCertificate(rustls::CertificateError::Revoked));
        }
        Ok(accepted)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
