//! What a certificate of ours looks like.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::CertificateSigningRequestDer;
use sternway_proto::identity::{Identity, Role};
use time::OffsetDateTime;

use super::files::PkiError;

/// Certificates begin a little in the past, for hosts whose clock is behind.
const BACKDATE: Duration = Duration::from_hours(1);

/// The longest signing request that is read, bytes. One of ours has some 200.
const REQUEST_BYTES: usize = 4096;

/// How long certificates are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Renewed at half of it: an outage of the controller of half of it locks no host out.
    pub agent: Duration,
    pub operator: Duration,
    /// Renewed by the controller itself; short, because agents cannot ask whether it was revoked.
    pub controller: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            agent: DAY * 7,
            operator: DAY * 30,
            controller: DAY,
        }
    }
}

/// The public key of a signing request, after a check that whoever made it has the private one.
///
/// # Errors
/// It is no signing request, or its signature does not fit.
pub fn public_key(request: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    if request.len() > REQUEST_BYTES {
        return Err(PkiError::Request);
    }
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|_| PkiError::Request)
}

/// A random serial of 16 bytes, positive.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

fn base(common_name: &str, now: OffsetDateTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Sternway");
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.serial_number = Some(serial());
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    params.use_authority_key_identifier_extension = true;
    params
}

/// The parameters of an authority below which `depth` further authorities may stand.
pub(super) fn authority(
    common_name: &str,
    depth: u8,
    now: OffsetDateTime,
    lifetime: Duration,
) -> CertificateParams {
    let mut params = base(common_name, now, lifetime);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Signs a leaf for an identity.
pub(super) fn leaf(
    identity: &Identity,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, KeyPair>,
    now: OffsetDateTime,
    lifetime: Duration,
) -> Result<Certificate, PkiError> {
    let mut params = base(&identity.to_string(), now, lifetime);
    let uri = Ia5String::try_from(identity.uri()).map_err(PkiError::Sign)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if identity.role == Role::Controller {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    params.signed_by(key, issuer).map_err(PkiError::Sign)
}
