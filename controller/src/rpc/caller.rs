//! Who calls: what the TLS handshake proved, and never what a message says.

use sternway_proto::{
    identity::{Identity, Role},
    v1::Problem,
};
use tonic::{Code, Extensions, Status};
use uuid::Uuid;

use crate::listen::Peer;

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name in the certificate.
    pub(super) name: String,
    pub(super) role: Role,
}

fn unknown() -> Status {
    sternway_proto::fault::to_status(
        Code::Unauthenticated,
        Problem::new(
            "no-certificate",
            "the connection carries no accepted certificate",
            "connect with `ctl`, or as an agent that has joined",
        ),
    )
}

fn identity(extensions: &Extensions) -> Result<&Identity, Status> {
    extensions
        .get::<Peer>()
        .and_then(|peer| peer.certificate.as_ref())
        .map(|certificate| &certificate.identity)
        .ok_or_else(unknown)
}

/// The caller of a request.
pub(super) fn of(extensions: &Extensions) -> Result<Caller, Status> {
    identity(extensions).map(|identity| Caller {
        name: identity.name.clone(),
        role: identity.role,
    })
}

/// The host whose agent calls.
pub(super) fn host(extensions: &Extensions) -> Result<Uuid, Status> {
    identity(extensions)?.host_id().ok_or_else(unknown)
}
