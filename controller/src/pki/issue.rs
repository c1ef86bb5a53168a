//! What a certificate of ours looks like.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::CertificateSigningRequestDer;
use sternway_proto::identity::{Identity, PeerCertificate, Role};
use time::OffsetDateTime;

use super::files::PkiError;
use crate::clock::millis;

/// Certificates begin a little in the past, for hosts whose clock is behind.
const BACKDATE: Duration = Duration::from_hours(1);

/// The longest signing request that is read, bytes. One of ours has some 200.
const REQUEST_BYTES: usize = 4096;

/// When a certificate was issued, Unix milliseconds: the second in which it was.
#[must_use]
pub fn issued_ms(certificate: &PeerCertificate) -> i64 {
    certificate.not_before_ms.saturating_add(millis(BACKDATE))
}

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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use uuid::Uuid;
    use x509_parser::{
        extensions::GeneralName,
        prelude::{FromDer as _, X509Certificate},
    };

    use super::*;
    use crate::pki::Authority;

    const CLUSTER: Uuid = Uuid::from_u128(9);
    const HOST: Uuid = Uuid::from_u128(7);

    fn authority() -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().expect("a folder");
        Authority::create(folder.path(), CLUSTER, SystemTime::now()).expect("made");
        let authority = Authority::open(folder.path(), Lifetimes::default()).expect("opened");
        (folder, authority)
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
    }

    fn ia5(text: &str) -> Ia5String {
        text.try_into().expect("ASCII")
    }

    /// A request for everything that no request is given: to be an authority, a server, and somebody else.
    fn greedy(key: &KeyPair, role: Role) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Mallory");
        name.push(DnType::CommonName, "admin:mallory");
        params.distinguished_name = name;
        params.subject_alt_names = vec![
            SanType::URI(ia5(&format!("sternway://{CLUSTER}/{role}/mallory"))),
            SanType::DnsName(ia5("controller.example")),
        ];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::CodeSigning,
        ];
        let request = params.serialize_request(key).expect("a request");
        request.der().to_vec()
    }

    #[test]
    fn a_request_for_more_than_its_key_gets_what_every_host_gets() {
        let (_folder, authority) = authority();
        for role in [Role::Operator, Role::Admin, Role::Controller] {
            let (key, now) = (key(), SystemTime::now());
            let chain = authority
                .issue_agent(HOST, &greedy(&key, role), now)
                .expect("issued");
            let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("a certificate");
            assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
            assert_eq!(
                leaf.subject().to_string(),
                format!("O=Sternway, CN=agent:{HOST}")
            );
            let names = leaf.subject_alternative_name().expect("readable");
            let uri = format!("sternway://{CLUSTER}/agent/{HOST}");
            assert_eq!(
                names.expect("named").value.general_names,
                [GeneralName::URI(&uri)]
            );
            assert!(!leaf.is_ca());
            let usage = leaf.key_usage().expect("readable").expect("there").value;
            assert!(usage.digital_signature(), "{usage}");
            assert_eq!(usage.flags.count_ones(), 1, "{usage}");
            let purposes = leaf.extended_key_usage().expect("readable");
            let purposes = purposes.expect("there").value;
            assert!(purposes.client_auth, "{purposes:?}");
            let others = [
                purposes.any,
                purposes.server_auth,
                purposes.code_signing,
                purposes.email_protection,
                purposes.time_stamping,
                purposes.ocsp_signing,
                !purposes.other.is_empty(),
            ];
            assert!(!others.contains(&true), "{purposes:?}");
            let peer = PeerCertificate::from_der(&chain[0]).expect("a peer");
            let second = OffsetDateTime::from(now).unix_timestamp();
            assert_eq!(issued_ms(&peer), second * 1000);
            assert_eq!(peer.identity.role, Role::Agent);
            assert_eq!(peer.identity.host_id(), Some(HOST));
            let until = OffsetDateTime::from(now) + Lifetimes::default().agent;
            assert_eq!(
                leaf.validity().not_after.timestamp(),
                until.unix_timestamp()
            );
        }
    }

    #[test]
    fn who_does_not_prove_to_have_the_key_gets_nothing() {
        let (_folder, authority) = authority();
        let refused = |what: &str, request: &[u8]| {
            let answer = authority.issue_agent(HOST, request, SystemTime::now());
            assert!(matches!(answer, Err(PkiError::Request)), "{what}");
        };
        let (own, foreign) = (key(), key());
        let request = greedy(&own, Role::Admin);
        let mut broken = request.clone();
        *broken.last_mut().expect("not empty") ^= 1;
        refused("a broken signature", &broken);
        let point = own.public_key_raw();
        let at = request
            .windows(point.len())
            .position(|part| part == point)
            .expect("the key stands in it");
        let mut stolen = request.clone();
        stolen[at..at + point.len()].copy_from_slice(foreign.public_key_raw());
        refused("another's key", &stolen);
        refused("half a request", &request[..request.len() / 2]);
        refused("nothing", &[]);
        refused("too much", &[0x30; REQUEST_BYTES + 1]);
    }
}
