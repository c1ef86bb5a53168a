//! The authority while it works: issues certificates, and says whom to trust.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use sternway_proto::{
    identity::{Identity, Role, not_after_ms},
    tls::{self, Credentials},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cluster::{self, Unreadable};

use super::{
    files::{self, PkiError},
    issue::{self, Lifetimes},
};

const ROOT: &str = "root";
const AGENTS: &str = "agents";
const CONTROL: &str = "control";
const CLUSTER: &str = "cluster";
const YEAR: Duration = Duration::from_hours(24 * 365);

/// The authority of a cluster. The root's key is not needed to run and is not read: `root-key.pem` may be
/// moved to where it is safe.
pub struct Authority {
    cluster: Uuid,
    lifetimes: Lifetimes,
    root: CertificateDer<'static>,
    agents: Issuing,
    control: Issuing,
}

struct Issuing {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .field("lifetimes", &self.lifetimes)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes the authority of a new cluster in an empty folder.
    ///
    /// # Errors
    /// There is one already, or a file cannot be written.
    pub fn create(dir: &Path, cluster: Uuid, now: SystemTime) -> Result<(), PkiError> {
        let marker = dir.join(CLUSTER);
        if cluster::there(&marker)? {
            return Err(PkiError::Exists { path: marker });
        }
        let now = OffsetDateTime::from(now);
        let short: String = cluster.to_string().chars().take(8).collect();
        let params = |what: &str, depth, lifetime| {
            issue::authority(&format!("Sternway {what} {short}"), depth, now, lifetime)
        };
        let root_key = new_key()?;
        let root_params = params("root", 1, YEAR * 10);
        let root = root_params.self_signed(&root_key).map_err(PkiError::Sign)?;
        files::store(dir, ROOT, root.der(), &root_key)?;
        let issuer = Issuer::new(root_params, root_key);
        for name in [AGENTS, CONTROL] {
            let key = new_key()?;
            let certificate = params(name, 0, YEAR * 5)
                .signed_by(&key, &issuer)
                .map_err(PkiError::Sign)?;
            files::store(dir, name, certificate.der(), &key)?;
        }
        // Last: a folder with this file is whole.
        tls::write_private(dir, CLUSTER, cluster.to_string().as_bytes())?;
        Ok(())
    }

    /// Opens the authority in a folder.
    ///
    /// # Errors
    /// There is none, or a file of it cannot be read.
    pub fn open(dir: &Path, lifetimes: Lifetimes) -> Result<Self, PkiError> {
        let path = dir.join(CLUSTER);
        let text = std::fs::read_to_string(&path).map_err(|source| PkiError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let cluster = Uuid::try_parse(text.trim()).map_err(|_| PkiError::Damaged {
            path,
            reason: "it holds no UUID".to_owned(),
        })?;
        let issuing = |name| {
            let (certificate, key) = files::load(dir, name)?;
            let issuer =
                Issuer::from_ca_cert_der(&certificate, key).map_err(|error| PkiError::Damaged {
                    path: dir.join(name),
                    reason: error.to_string(),
                })?;
            Ok::<_, PkiError>(Issuing {
                certificate,
                issuer,
            })
        };
        Ok(Self {
            cluster,
            lifetimes,
            root: files::certificate(dir, ROOT)?,
            agents: issuing(AGENTS)?,
            control: issuing(CONTROL)?,
        })
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// When the first of the two issuing authorities ends, and every certificate below it: Unix milliseconds.
    ///
    /// # Errors
    /// A certificate of them cannot be read.
    pub fn not_after_ms(&self) -> Result<i64, PkiError> {
        let end =
            |one: &Issuing| not_after_ms(&one.certificate).map_err(tls::CredentialsError::from);
        Ok(end(&self.agents)?.min(end(&self.control)?))
    }

    /// How long certificates are valid.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// SHA-256 of the root certificate: what join tokens pin.
    #[must_use]
    pub fn pin(&self) -> [u8; 32] {
        Sha256::digest(&self.root).into()
    }

    /// Whom agents and operators believe to be a controller.
    #[must_use]
    pub fn controller_trust(&self) -> Vec<CertificateDer<'static>> {
        vec![self.control.certificate.clone()]
    }

    /// Who issues agents' certificates.
    #[must_use]
    pub fn agent_trust(&self) -> Vec<CertificateDer<'static>> {
        vec![self.agents.certificate.clone()]
    }

    /// A host's certificate for the key of its signing request: the chain, DER, leaf first.
    ///
    /// # Errors
    /// The request cannot be used.
    pub fn issue_agent(
        &self,
        host_id: Uuid,
        request: &[u8],
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, PkiError> {
        let request = issue::public_key(request)?;
        let identity = self.identity(Role::Agent, host_id.to_string());
        let leaf = issue::leaf(
            &identity,
            &request.public_key,
            &self.agents.issuer,
            now.into(),
            self.lifetimes.agent,
        )?;
        Ok(vec![leaf.der().to_vec(), self.agents.certificate.to_vec()])
    }

    /// Credentials for an operator, key included: it is made here and handed over as files.
    ///
    /// # Errors
    /// The role is no operator's, or the library failed.
    pub fn issue_operator(
        &self,
        name: &str,
        role: Role,
        now: SystemTime,
    ) -> Result<Credentials, PkiError> {
        operator_name(name, role)?;
        self.issue_control(role, name, now, self.lifetimes.operator)
    }

    /// Credentials for this controller. The chain goes up to the root, for machines that join.
    ///
    /// # Errors
    /// The library failed.
    pub fn issue_controller(&self, name: &str, now: SystemTime) -> Result<Credentials, PkiError> {
        let mut credentials =
            self.issue_control(Role::Controller, name, now, self.lifetimes.controller)?;
        credentials.chain.push(self.root.clone());
        Ok(credentials)
    }

    fn issue_control(
        &self,
        role: Role,
        name: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Credentials, PkiError> {
        let key = new_key()?;
        let identity = self.identity(role, name.to_owned());
        let leaf = issue::leaf(&identity, &key, &self.control.issuer, now.into(), lifetime)?;
        let chain = [leaf.der().to_vec(), self.control.certificate.to_vec()];
        Ok(Credentials::new(chain, key.serialize_der()))
    }

    fn identity(&self, role: Role, name: String) -> Identity {
        Identity {
            cluster: self.cluster,
            role,
            name,
        }
    }
}

/// Whether there is a whole authority in that folder.
pub(super) fn is_in(dir: &Path) -> Result<bool, Unreadable> {
    cluster::there(&dir.join(CLUSTER))
}

/// Whether somebody of that name can be an operator with that role.
pub(super) fn operator_name(name: &str, role: Role) -> Result<(), PkiError> {
    let reason = if role.is_operator() {
        name.parse::<sternway_proto::name::HostName>()
            .err()
            .map(|error| error.to_string())
    } else {
        Some(format!("{role} is no role of an operator"))
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(PkiError::Name {
            name: name.chars().take(80).collect(),
            reason,
        }),
    }
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Sign)
}
