//! Our own rustls configurations: TLS 1.3 and HTTP/2 only, both ends known by the URI names in their
//! certificates, no resumption (a ticket would outlive a revocation), and certificates that can be
//! exchanged while connections live.

mod client;
mod credentials;
mod server;

use std::sync::Arc;

use rustls::{
    CertificateError, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::CertificateDer,
};

pub use self::{
    client::{ClientTls, pinned},
    credentials::{Credentials, CredentialsError, pem, read_certificates, write_private},
    server::{AnyoneValid, Revocations, ServerTls, ServerTrust, server_only},
};

/// What TLS is spoken: no other version is even compiled in.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What is spoken inside.
pub const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

fn schemes() -> Vec<SignatureScheme> {
    algorithms().supported_schemes()
}

fn roots(anchors: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.clone())?;
    }
    if roots.is_empty() {
        return Err(Error::General("no certificate authority to trust".into()));
    }
    Ok(roots)
}

/// The certificate is a good one, but not of somebody who may be here.
fn not_accepted() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
