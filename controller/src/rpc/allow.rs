//! Who may call what: one table, default deny. A test holds it against the contract itself, so that an RPC
//! without a row, or a row without an RPC, fails the build.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::LazyLock,
    task::{Context, Poll},
};

use futures_util::future::Either;
use sternway_proto::{fault, identity::Role, v1::Problem};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::listen::{PER_IDENTITY, Peer};

const AGENT: &[Role] = &[Role::Agent];
const READ: &[Role] = &[Role::Viewer, Role::Operator, Role::Admin];
const ACT: &[Role] = &[Role::Operator, Role::Admin];
const ADMIN: &[Role] = &[Role::Admin];
const EVERYONE: &[Role] = &[Role::Agent, Role::Viewer, Role::Operator, Role::Admin];

/// The allow-list of the mutual-TLS listener.
const TABLE: &[(&str, &[Role])] = &[
    ("/sternway.v1.AgentService/Session", AGENT),
    ("/sternway.v1.OperatorService/GetStatus", READ),
    ("/sternway.v1.OperatorService/ListHosts", READ),
    ("/sternway.v1.OperatorService/GetHost", READ),
    ("/sternway.v1.OperatorService/CreateJoinToken", ADMIN),
    ("/sternway.v1.OperatorService/RevokeHost", ADMIN),
    ("/sternway.v1.OperatorService/ListTargets", READ),
    ("/sternway.v1.OperatorService/GetTarget", READ),
    ("/sternway.v1.OperatorService/DiffRevisions", READ),
    ("/sternway.v1.OperatorService/MarkRevision", ACT),
    ("/sternway.v1.OperatorService/PlanRollback", ACT),
    ("/sternway.v1.OperatorService/StartRollback", ACT),
    ("/sternway.v1.OperatorService/ListRollouts", READ),
    ("/sternway.v1.OperatorService/GetRollout", READ),
    ("/sternway.v1.OperatorService/WatchRollout", READ),
    ("/sternway.v1.OperatorService/RecordDeployment", ACT),
    ("/sternway.v1.OperatorService/CheckDeployment", READ),
    ("/sternway.v1.OperatorService/ListRecord", READ),
    ("/sternway.v1.OperatorService/VerifyRecord", READ),
    ("/sternway.v1.OperatorService/ExportRecord", READ),
    ("/grpc.health.v1.Health/Check", EVERYONE),
    ("/grpc.health.v1.Health/Watch", EVERYONE),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        READ,
    ),
];

static BY_PATH: LazyLock<HashMap<&str, &[Role]>> =
    LazyLock::new(|| TABLE.iter().copied().collect());

/// Whether a role may call the method at that path.
///
/// # Errors
/// It may not, or no such method is listed.
pub fn check(role: Role, path: &str) -> Result<(), Problem> {
    let refused = |message: String| Problem::new("not-allowed", message, "");
    let Some(roles) = BY_PATH.get(path) else {
        return Err(refused(format!("{path} is no method of this controller")));
    };
    if roles.contains(&role) {
        return Ok(());
    }
    let needed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    Err(Problem::new(
        "not-allowed",
        format!(
            "{path} is for {}; this certificate's role is {role}",
            needed.join(" or ")
        ),
        "use a certificate with that role: `sternway-controller operator issue` makes one",
    ))
}

/// Checks every request against the table before anything else sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowLayer;

impl<S> Layer<S> for AllowLayer {
    type Service = Allow<S>;
    fn layer(&self, inner: S) -> Allow<S> {
        Allow { inner }
    }
}

/// See [`AllowLayer`].
#[derive(Debug, Clone)]
pub struct Allow<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Allow<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Self::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match judge(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

fn judge<B>(request: &http::Request<B>) -> Result<(), Status> {
    let connection = request.extensions().get::<Peer>();
    let Some(peer) = connection.and_then(|peer| peer.certificate.as_ref()) else {
        return Err(fault::to_status(
            Code::Unauthenticated,
            Problem::new(
                "no-certificate",
                "this listener is for peers with a certificate",
                "",
            ),
        ));
    };
    if connection.is_some_and(|peer| peer.crowded) {
        return Err(fault::to_status(
            Code::ResourceExhausted,
            Problem::new(
                "too-many-connections",
                format!(
                    "{} has {PER_IDENTITY} connections to this controller already",
                    peer.identity
                ),
                "close some, or use a certificate of its own for each program",
            ),
        ));
    }
    let path = request.uri().path();
    check(peer.identity.role, path).map_err(|problem| {
        tracing::warn!(peer = %peer.identity, "refused: {}", problem.message);
        fault::to_status(Code::PermissionDenied, problem)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn methods(descriptors: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(descriptors).expect("descriptors");
        set.file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file, service)))
            .flat_map(|(file, service)| {
                service.method.iter().map(move |method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                })
            })
            .collect()
    }

    #[test]
    fn every_method_of_the_contract_has_a_row_and_every_row_a_method() {
        let mut contract = methods(sternway_proto::DESCRIPTORS);
        contract.extend(methods(tonic_health::pb::FILE_DESCRIPTOR_SET));
        contract.extend(methods(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
        // Served on the enrolment listener, where nobody has a role.
        assert!(contract.remove("/sternway.v1.EnrolmentService/Join"));
        let table: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(table.len(), TABLE.len(), "a path stands twice");
        assert_eq!(table, contract);
    }

    #[test]
    fn each_role_may_call_its_own_and_nothing_else() {
        for (path, roles) in TABLE {
            for role in Role::ALL {
                assert_eq!(
                    check(role, path).is_ok(),
                    roles.contains(&role),
                    "{role} {path}"
                );
            }
        }
        for role in Role::ALL {
            let refused = check(role, "/sternway.v1.OperatorService/Unlisted").expect_err("denied");
            assert_eq!(refused.code, "not-allowed");
        }
    }

    #[test]
    fn no_agent_and_no_viewer_changes_anything() {
        let reading = [
            "Get",
            "List",
            "Watch",
            "Diff",
            "Check",
            "Verify",
            "Export",
            "ServerReflection",
        ];
        for (path, roles) in TABLE {
            let method = path.rsplit('/').next().unwrap_or_default();
            if roles.contains(&Role::Viewer) {
                assert!(
                    reading.iter().any(|verb| method.starts_with(verb)),
                    "{path}"
                );
            }
            if roles.contains(&Role::Agent) {
                assert!(
                    path.contains("AgentService") || path.contains("Health"),
                    "{path}"
                );
            }
        }
    }
}
