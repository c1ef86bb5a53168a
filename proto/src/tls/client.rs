//! The dialling side: agents and operators, and a machine that is about to join.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{ALPN, Credentials, VERSIONS, algorithms, not_accepted, provider, roots, schemes};
use crate::identity::{PeerCertificate, Role};

/// The TLS of somebody with credentials. Clones share them; the next connection uses what
/// [`ClientTls::replace`] brought.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ArcSwap<ClientConfig>>,
}

impl ClientTls {
    /// Presents `credentials`, and believes a controller of this cluster with a certificate by one of the
    /// authorities in `controller_trust`.
    ///
    /// # Errors
    /// Chain and key do not fit, or an authority's certificate cannot be read.
    pub fn new(
        credentials: Credentials,
        controller_trust: &[CertificateDer<'static>],
        cluster: Uuid,
    ) -> Result<Self, Error> {
        let config = config(credentials, controller_trust, cluster)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
        })
    }

    /// Uses other credentials from the next connection on.
    ///
    /// # Errors
    /// As [`ClientTls::new`]; then nothing has changed.
    pub fn replace(
        &self,
        credentials: Credentials,
        controller_trust: &[CertificateDer<'static>],
        cluster: Uuid,
    ) -> Result<(), Error> {
        let config = config(credentials, controller_trust, cluster)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// The configuration of the next connection.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.load_full()
    }
}

fn config(
    credentials: Credentials,
    trust: &[CertificateDer<'static>],
    cluster: Uuid,
) -> Result<ClientConfig, Error> {
    let verifier = ControllerVerifier {
        anchors: Anchors::Known(roots(trust)?),
        cluster: Some(cluster),
    };
    let config = builder(verifier)?.with_client_auth_cert(credentials.chain, credentials.key)?;
    Ok(finished(config))
}

/// The TLS of a machine that is about to join: without credentials, and it believes a controller whose
/// chain ends in the root certificate with this SHA-256.
///
/// # Errors
/// The cryptographic provider is not fit; never in practice.
pub fn pinned(pin: [u8; 32]) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ControllerVerifier {
        anchors: Anchors::Pinned(pin),
        cluster: None,
    };
    Ok(Arc::new(finished(builder(verifier)?.with_no_client_auth())))
}

fn builder(
    verifier: ControllerVerifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

#[derive(Debug)]
enum Anchors {
    Known(RootCertStore),
    /// SHA-256 of the root certificate, which the server presents at the end of its chain.
    Pinned([u8; 32]),
}

/// Believes controllers: by their authority, purpose and URI name. DNS names do not matter: an address
/// says where a controller is, not which one it is.
#[derive(Debug)]
struct ControllerVerifier {
    anchors: Anchors,
    cluster: Option<Uuid>,
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned;
        let (anchors, intermediates) = match &self.anchors {
            Anchors::Known(anchors) => (anchors, intermediates),
            Anchors::Pinned(pin) => {
                let (root, between) = intermediates.split_last().ok_or_else(not_accepted)?;
                if Sha256::digest(root).as_slice() != pin {
                    return Err(not_accepted());
                }
                pinned = roots(&[root.clone().into_owned()])?;
                (&pinned, between)
            }
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            anchors,
            intermediates,
            now,
            algorithms().all,
        )?;
        let peer = PeerCertificate::from_der(end_entity).map_err(|_| not_accepted())?;
        let ours = self
            .cluster
            .is_none_or(|cluster| cluster == peer.identity.cluster);
        if ours && peer.identity.role == Role::Controller {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(not_accepted())
        }
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

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
