//! Who this host is: what `join` brought, as it stands on disk.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sternway_proto::{
    enrol::Joined,
    identity::PeerCertificate,
    name::HostName,
    tls::{self, ClientTls, Credentials, CredentialsError},
};
use thiserror::Error;
use uuid::Uuid;

const DIR: &str = "identity";
/// Key and chain in one file, so that they always fit each other.
const CREDENTIALS: &str = "credentials.pem";
const TRUST: &str = "trust.pem";
const ABOUT: &str = "identity.toml";

/// Why there is no usable identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(
        "this machine has not joined yet; join with a token from `ctl host token`: sternway-agent join TOKEN"
    )]
    NotJoined,
    #[error("this machine has joined already, as {name}")]
    Joined { name: HostName },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{} cannot be read: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the identity's key, certificate and trust do not fit each other")]
    Tls(#[source] rustls::Error),
    #[error("the renewed certificate is not for this host")]
    NotOurs,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    host_id: Uuid,
    host_name: HostName,
    cluster: Uuid,
    controller: String,
}

/// The identity of a host.
#[derive(Debug, Clone)]
pub struct Identity {
    dir: PathBuf,
    pub host_id: Uuid,
    pub host_name: HostName,
    pub cluster: Uuid,
    /// `host:port` of the controller.
    pub controller: String,
    credentials: Credentials,
    trust: Vec<CertificateDer<'static>>,
    /// When the certificate was written, Unix milliseconds.
    pub obtained_ms: i64,
}

impl Identity {
    /// Refuses where there is an identity already.
    ///
    /// # Errors
    /// There is one, or what is there cannot be read.
    pub fn check_free(data_dir: &Path) -> Result<(), IdentityError> {
        match Self::load(data_dir) {
            Err(IdentityError::NotJoined) => Ok(()),
            Ok(identity) => Err(IdentityError::Joined {
                name: identity.host_name,
            }),
            Err(error) => Err(error),
        }
    }

    /// Writes what a join brought. The description last: with it the identity is whole.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn store(data_dir: &Path, joined: &Joined) -> Result<(), IdentityError> {
        let dir = data_dir.join(DIR);
        store_credentials(&dir, &joined.credentials)?;
        store_trust(&dir, &joined.controller_trust)?;
        let about = About {
            host_id: joined.host_id,
            host_name: joined.host_name.clone(),
            cluster: joined.cluster,
            controller: joined.controller_address.clone(),
        };
        let text = toml::to_string(&about).map_err(|error| IdentityError::Damaged {
            path: dir.join(ABOUT),
            reason: error.to_string(),
        })?;
        tls::write_private(&dir, ABOUT, text.as_bytes())?;
        Ok(())
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let dir = data_dir.join(DIR);
        let path = dir.join(ABOUT);
        let damaged = |reason: String| IdentityError::Damaged {
            path: path.clone(),
            reason,
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(IdentityError::NotJoined);
            }
            Err(error) => return Err(damaged(error.to_string())),
        };
        let about: About =
            toml::from_str(&text).map_err(|error| damaged(error.message().into()))?;
        let bundle = dir.join(CREDENTIALS);
        let credentials = Credentials::read(&bundle, &bundle)?;
        let obtained_ms = std::fs::metadata(&bundle)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or_default();
        let us = credentials.peer()?.identity;
        if us.host_id() != Some(about.host_id) || us.cluster != about.cluster {
            return Err(damaged(
                "it and the certificate beside it are of different hosts; join again with --again"
                    .to_owned(),
            ));
        }
        Ok(Self {
            trust: tls::read_certificates(&dir.join(TRUST))?,
            dir,
            host_id: about.host_id,
            host_name: about.host_name,
            cluster: about.cluster,
            controller: about.controller,
            credentials,
            obtained_ms,
        })
    }

    /// What the certificate says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn certificate(&self) -> Result<PeerCertificate, IdentityError> {
        Ok(self.credentials.peer()?)
    }

    /// The TLS to dial with.
    ///
    /// # Errors
    /// Key, certificate and trust do not fit each other.
    pub fn tls(&self) -> Result<ClientTls, IdentityError> {
        ClientTls::new(self.credentials.clone(), &self.trust, self.cluster)
            .map_err(IdentityError::Tls)
    }

    /// Takes a renewed certificate over: to disk, and only then to the next dial. Key and certificate are one
    /// file, replaced in one piece: whatever dies in between, those that are there fit each other.
    ///
    /// # Errors
    /// It is not for this host, does not fit its key, or cannot be written; then the old one stands, on disk and
    /// for the next dial.
    pub fn renew(
        &mut self,
        tls: &ClientTls,
        credentials: Credentials,
        trust: Vec<CertificateDer<'static>>,
        now_ms: i64,
    ) -> Result<(), IdentityError> {
        let peer = credentials.peer()?;
        if peer.identity.host_id() != Some(self.host_id) || peer.identity.cluster != self.cluster {
            return Err(IdentityError::NotOurs);
        }
        // Tried before it is written: a certificate that does not work must not replace one that does.
        ClientTls::new(credentials.clone(), &trust, self.cluster).map_err(IdentityError::Tls)?;
        store_trust(&self.dir, &trust)?;
        store_credentials(&self.dir, &credentials)?;
        tls.replace(credentials.clone(), &trust, self.cluster)
            .map_err(IdentityError::Tls)?;
        self.credentials = credentials;
        self.trust = trust;
        self.obtained_ms = now_ms;
        Ok(())
    }
}

fn store_credentials(dir: &Path, credentials: &Credentials) -> Result<(), IdentityError> {
    let mut text = tls::pem("PRIVATE KEY", credentials.key.secret_der());
    for certificate in &credentials.chain {
        text.push_str(&tls::pem("CERTIFICATE", certificate));
    }
    tls::write_private(dir, CREDENTIALS, text.as_bytes())?;
    Ok(())
}

fn store_trust(dir: &Path, trust: &[CertificateDer<'static>]) -> Result<(), IdentityError> {
    let text: String = trust
        .iter()
        .map(|certificate| tls::pem("CERTIFICATE", certificate))
        .collect();
    tls::write_private(dir, TRUST, text.as_bytes())?;
    Ok(())
}
