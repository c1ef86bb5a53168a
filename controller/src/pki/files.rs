//! How the authority stands on disk, and what can be wrong with it.

use std::{
    io,
    path::{Path, PathBuf},
};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use sternway_proto::tls::{self, CredentialsError};
use thiserror::Error;

use crate::cluster::Unreadable;

/// Why the authority could not be made, opened or used.
#[derive(Debug, Error)]
pub enum PkiError {
    #[error(transparent)]
    File(#[from] CredentialsError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("{} is there already", path.display())]
    Exists { path: PathBuf },
    #[error(
        "there are credentials in {} already: choose a new folder, then put it in the place of the old one",
        folder.display()
    )]
    InUse { folder: PathBuf },
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the certificate signing request cannot be read, or its signature does not fit")]
    Request,
    #[error("failed to sign")]
    Sign(#[source] rcgen::Error),
    #[error("the certificate was not noted in the record, and so not handed over")]
    NotKept(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{name:?} cannot be the name of an operator: {reason}")]
    Name { name: String, reason: String },
}

/// Writes `NAME.pem` and `NAME-key.pem`, for their owner only.
pub(super) fn store(
    dir: &Path,
    name: &str,
    certificate: &[u8],
    key: &KeyPair,
) -> Result<(), PkiError> {
    let pem = tls::pem("CERTIFICATE", certificate);
    tls::write_private(
        dir,
        &format!("{name}-key.pem"),
        key.serialize_pem().as_bytes(),
    )?;
    tls::write_private(dir, &format!("{name}.pem"), pem.as_bytes())?;
    Ok(())
}

/// Reads what [`store`] wrote.
pub(super) fn load(dir: &Path, name: &str) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
    let path = dir.join(format!("{name}-key.pem"));
    let text = std::fs::read_to_string(&path).map_err(|source| PkiError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let key = KeyPair::from_pem(&text).map_err(|_| PkiError::Damaged {
        path,
        reason: "it holds no private key".to_owned(),
    })?;
    Ok((certificate(dir, name)?, key))
}

/// The certificate alone.
pub(super) fn certificate(dir: &Path, name: &str) -> Result<CertificateDer<'static>, PkiError> {
    let path = dir.join(format!("{name}.pem"));
    let none = || PkiError::Damaged {
        path: path.clone(),
        reason: "it holds no certificate".to_owned(),
    };
    let certificates = tls::read_certificates(&path)?;
    certificates.into_iter().next().ok_or_else(none)
}
