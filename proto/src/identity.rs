//! Who a peer is: one URI name in its certificate, `sternway://CLUSTER/ROLE/NAME`, read in one way only.

use std::{fmt, str::FromStr};

use thiserror::Error;
use uuid::Uuid;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use crate::name::HostName;

const SCHEME: &str = "sternway://";

/// What a certificate entitles its holder to be. What each may call stands in the controller's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A host's agent. Its name is the host's id.
    Agent,
    /// Reads.
    Viewer,
    /// Reads and rolls back.
    Operator,
    /// Also enrols and revokes.
    Admin,
    /// A controller, as the server of a connection.
    Controller,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Agent,
        Self::Viewer,
        Self::Operator,
        Self::Admin,
        Self::Controller,
    ];

    /// The role as it stands in a URI name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Controller => "controller",
        }
    }

    /// Whether a person or a program of theirs bears it.
    #[must_use]
    pub fn is_operator(self) -> bool {
        matches!(self, Self::Viewer | Self::Operator | Self::Admin)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(IdentityError::Uri)
    }
}

/// Why a certificate names nobody we know how to name. Says nothing of what stood there: it may be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    #[error("the certificate cannot be read")]
    Certificate,
    #[error("the certificate has {count} URI names where exactly one belongs")]
    UriCount { count: usize },
    #[error("the certificate's URI name is not of the form sternway://CLUSTER/ROLE/NAME")]
    Uri,
    #[error("the certificate is one of a certificate authority")]
    Authority,
}

/// Who somebody is, within a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Given to the cluster when its authority was made.
    pub cluster: Uuid,
    pub role: Role,
    /// For an agent the id of its host, for others a name with the rules of [`HostName`].
    pub name: String,
}

impl Identity {
    /// The URI name.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }

    /// Reads a URI name: the exact form that [`Identity::uri`] writes and no other, so that two spellings
    /// never name one peer.
    ///
    /// # Errors
    /// It has another form.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix(SCHEME).ok_or(IdentityError::Uri)?;
        let mut parts = rest.split('/');
        let (Some(cluster), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Uri);
        };
        let identity = Self {
            cluster: Uuid::try_parse(cluster).map_err(|_| IdentityError::Uri)?,
            role: role.parse()?,
            name: name.to_owned(),
        };
        let named = if identity.role == Role::Agent {
            Uuid::try_parse(name).is_ok_and(|id| id.to_string() == name)
        } else {
            name.parse::<HostName>().is_ok()
        };
        if named && identity.uri() == uri {
            Ok(identity)
        } else {
            Err(IdentityError::Uri)
        }
    }

    /// The host, for an agent.
    #[must_use]
    pub fn host_id(&self) -> Option<Uuid> {
        (self.role == Role::Agent)
            .then(|| Uuid::try_parse(&self.name).ok())
            .flatten()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role, self.name)
    }
}

/// When a certificate, also an authority's, ends: Unix milliseconds.
///
/// # Errors
/// It is no certificate.
pub fn not_after_ms(der: &[u8]) -> Result<i64, IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
    Ok(certificate.validity().not_after.timestamp() * 1000)
}

/// What a verified peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub identity: Identity,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Unix milliseconds.
    pub not_before_ms: i64,
    pub not_after_ms: i64,
}

impl PeerCertificate {
    /// Reads a leaf certificate. Judges its form only; whether it may be believed is the verifier's affair.
    ///
    /// # Errors
    /// It is no certificate, an authority's, or does not have exactly one URI name of our form.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
        if !rest.is_empty() {
            return Err(IdentityError::Certificate);
        }
        let authority = certificate
            .basic_constraints()
            .map_err(|_| IdentityError::Certificate)?
            .is_some_and(|extension| extension.value.ca);
        if authority {
            return Err(IdentityError::Authority);
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Certificate)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else {
            return Err(IdentityError::UriCount { count: uris.len() });
        };
        Ok(Self {
            identity: Identity::parse(uri)?,
            serial: hex::encode(certificate.raw_serial()),
            not_before_ms: certificate.validity().not_before.timestamp() * 1000,
            not_after_ms: certificate.validity().not_after.timestamp() * 1000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for (role, name) in [
            ("agent", "01890a5d-ac96-774b-bcce-b302099a8057"),
            ("admin", "alice"),
            ("controller", "controller-1"),
        ] {
            let uri = format!("sternway://{CLUSTER}/{role}/{name}");
            let identity = Identity::parse(&uri).expect("valid");
            assert_eq!(
                (identity.role.as_str(), identity.name.as_str()),
                (role, name)
            );
            assert_eq!(identity.uri(), uri);
        }
    }

    #[test]
    fn another_spelling_is_another_name_and_refused() {
        let upper = CLUSTER.to_uppercase();
        let bare = CLUSTER.replace('-', "");
        for uri in [
            String::new(),
            format!("spiffe://{CLUSTER}/admin/alice"),
            format!("STERNWAY://{CLUSTER}/admin/alice"),
            format!("sternway://{upper}/admin/alice"),
            format!("sternway://{bare}/admin/alice"),
            format!("sternway://{CLUSTER}/Admin/alice"),
            format!("sternway://{CLUSTER}/root/alice"),
            format!("sternway://{CLUSTER}/admin/Alice"),
            format!("sternway://{CLUSTER}/admin/alice/"),
            format!("sternway://{CLUSTER}/admin/alice/x"),
            format!("sternway://{CLUSTER}//admin/alice"),
            format!("sternway://{CLUSTER}/admin/al%69ce"),
            format!("sternway://{CLUSTER}/admin/alice?x"),
            format!("sternway://{CLUSTER}/admin/alice#x"),
            format!("sternway://{CLUSTER}/admin/alice\0"),
            format!("sternway://{CLUSTER}/admin/*"),
            format!("sternway://{CLUSTER}/admin/{}", "a".repeat(10_000)),
            format!("sternway://{CLUSTER}/agent/web-1"),
            format!("sternway://{CLUSTER}/agent/{bare}"),
            format!("sternway://{CLUSTER}:443/admin/alice"),
            format!("sternway://x@{CLUSTER}/admin/alice"),
        ] {
            assert_eq!(Identity::parse(&uri), Err(IdentityError::Uri), "{uri:.80}");
        }
    }
}
