//! Who calls: what the TLS handshake proved, and never what a message says.

use sternway_proto::v1::Problem;
use tonic::{Code, Extensions, Status};
use uuid::Uuid;

/// The caller, put into a request's extensions by the listener once certificate and role were accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name in the certificate: of an operator, or the id of a host.
    pub name: String,
    /// `agent`, `viewer`, `operator`, `admin`.
    pub role: String,
}

fn unknown() -> Status {
    sternway_proto::fault::to_status(
        Code::Unauthenticated,
        Problem::new(
            "caller-unknown",
            "the connection carries no accepted certificate",
            "",
        ),
    )
}

/// The caller of a request.
pub(super) fn of(extensions: &Extensions) -> Result<Caller, Status> {
    extensions.get::<Caller>().cloned().ok_or_else(unknown)
}

/// The host whose agent calls.
pub(super) fn host(extensions: &Extensions) -> Result<Uuid, Status> {
    let caller = of(extensions)?;
    if caller.role != "agent" {
        return Err(unknown());
    }
    Uuid::try_parse(&caller.name).map_err(|_| unknown())
}
