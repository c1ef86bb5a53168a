//! A certificate chain and its key, and how they stand on disk.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use thiserror::Error;

use crate::identity::{IdentityError, PeerCertificate};

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Why credentials could not be read or written.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no {what} in PEM", path.display())]
    Pem { what: &'static str, path: PathBuf },
    #[error("the chain is empty")]
    Empty,
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A certificate chain, leaf first, and the leaf's private key.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Credentials of a chain and a PKCS#8 key, DER.
    pub fn new(chain: impl IntoIterator<Item = Vec<u8>>, pkcs8: Vec<u8>) -> Self {
        Self {
            chain: chain.into_iter().map(CertificateDer::from).collect(),
            key: PrivatePkcs8KeyDer::from(pkcs8).into(),
        }
    }

    /// Who they say we are.
    ///
    /// # Errors
    /// The leaf is not one of ours.
    pub fn peer(&self) -> Result<PeerCertificate, CredentialsError> {
        let leaf = self.chain.first().ok_or(CredentialsError::Empty)?;
        Ok(PeerCertificate::from_der(leaf)?)
    }

    /// Reads them from two files.
    ///
    /// # Errors
    /// A file cannot be read or holds no PEM.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let chain = read_certificates(certificate)?;
        let key_pem = fs::read(key).map_err(|source| CredentialsError::Io {
            action: "read",
            path: key.to_owned(),
            source,
        })?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CredentialsError::Pem {
            what: "private key",
            path: key.to_owned(),
        })?;
        Ok(Self { chain, key })
    }

    /// Reads them from the folder that [`Credentials::store`] wrote.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn load(dir: &Path) -> Result<Self, CredentialsError> {
        Self::read(&dir.join(CERTIFICATE), &dir.join(KEY))
    }

    /// Writes `certificate.pem` and `key.pem` (0600) into a folder (made 0700), each in one piece: a
    /// reader after a crash finds the old file or the new one. The key first: a chain without its key
    /// would be noticed at once, and the old key fits the old chain.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn store(&self, dir: &Path) -> Result<(), CredentialsError> {
        write_private(
            dir,
            KEY,
            pem("PRIVATE KEY", self.key.secret_der()).as_bytes(),
        )?;
        let chain: String = self
            .chain
            .iter()
            .map(|certificate| pem("CERTIFICATE", certificate))
            .collect();
        write_private(dir, CERTIFICATE, chain.as_bytes())
    }
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let bytes = fs::read(path).map_err(|source| CredentialsError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let none = || CredentialsError::Pem {
        what: "certificate",
        path: path.to_owned(),
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if certificates.is_empty() {
        return Err(none());
    }
    Ok(certificates)
}

/// DER as PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END " + label + "-----\n"
}

/// Writes a file that only its owner reads, in one piece and durably; makes its folder (0700).
///
/// # Errors
/// The folder or the file cannot be written.
pub fn write_private(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), CredentialsError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    let io = |action: &'static str| {
        let path = path.clone();
        move |source| CredentialsError::Io {
            action,
            path,
            source,
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io("make the folder of"))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create"))?;
    file.write_all(bytes).map_err(io("write"))?;
    file.sync_all().map_err(io("sync"))?;
    fs::rename(&temporary, &path).map_err(io("rename to"))?;
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("sync the folder of"))
}
