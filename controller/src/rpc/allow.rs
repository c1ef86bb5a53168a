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

/// A method, who may call it, and what that is for a person: reads after "may" and "to".
type Row = (&'static str, &'static [Role], &'static str);

/// A row for a method of the operators' service.
macro_rules! operators {
    ($method:ident, $roles:ident, $what:literal) => {
        (
            concat!("/sternway.v1.OperatorService/", stringify!($method)),
            $roles,
            $what,
        )
    };
}

/// The allow-list of the mutual-TLS listener.
const TABLE: &[Row] = &[
    (
        "/sternway.v1.AgentService/Session",
        AGENT,
        "speak for a host",
    ),
    operators!(GetStatus, READ, "ask for the status"),
    operators!(ListHosts, READ, "list hosts"),
    operators!(GetHost, READ, "look at a host"),
    operators!(CreateJoinToken, ADMIN, "make a join token"),
    operators!(RevokeHost, ADMIN, "revoke a host"),
    operators!(ListTargets, READ, "list targets"),
    operators!(GetTarget, READ, "look at a target"),
    operators!(DiffRevisions, READ, "compare revisions"),
    operators!(MarkRevision, ACT, "mark a revision"),
    operators!(PlanRollback, ACT, "plan a rollback"),
    operators!(StartRollback, ACT, "start a rollback"),
    operators!(ListRollouts, READ, "list rollouts"),
    operators!(GetRollout, READ, "look at a rollout"),
    operators!(WatchRollout, READ, "follow a rollout"),
    operators!(RecordDeployment, ACT, "record a deployment"),
    operators!(CheckDeployment, READ, "ask whether a digest is marked bad"),
    operators!(ListRecord, READ, "read the record"),
    operators!(VerifyRecord, READ, "verify the record"),
    operators!(ExportRecord, READ, "export the record"),
    (
        "/grpc.health.v1.Health/Check",
        EVERYONE,
        "ask whether the controller is well",
    ),
    (
        "/grpc.health.v1.Health/Watch",
        EVERYONE,
        "follow whether the controller is well",
    ),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        READ,
        "ask for the contract",
    ),
];

static BY_PATH: LazyLock<HashMap<&str, &Row>> =
    LazyLock::new(|| TABLE.iter().map(|row| (row.0, row)).collect());

/// Whether a role may call the method at that path.
///
/// # Errors
/// It may not, or no such method is listed.
pub fn check(role: Role, path: &str) -> Result<(), Problem> {
    let Some((_, roles, what)) = BY_PATH.get(path) else {
        return Err(Problem::new(
            "not-allowed",
            "this controller does not know what was asked of it",
            "compare `ctl --version` with the controller's: `ctl status`",
        ));
    };
    if roles.contains(&role) {
        return Ok(());
    }
    let needed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let needed = needed.join(" or ");
    let next_step = if *roles == AGENT {
        "`sternway-agent join` makes a host's certificate, with a token of `ctl host token`"
            .to_owned()
    } else {
        format!(
            "ask somebody who may, or on the controller's machine make a certificate that may: \
             `sternway-controller operator issue --operator NAME --role {} --operator-dir DIR`",
            lowest(roles)
        )
    };
    Err(Problem::new(
        "not-allowed",
        format!("the role {role} may not {what}: that takes the role {needed}"),
        next_step,
    ))
}

/// The role that is entitled to the least of those that people bear.
fn lowest(roles: &[Role]) -> Role {
    let people = roles.iter().copied().filter(|role| role.is_operator());
    people.min().unwrap_or(Role::Admin)
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
                "connect with `ctl`, or as an agent that has joined",
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
        tracing::warn!(peer = %peer.identity, path, "refused: {}", problem.message);
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
        let table: BTreeSet<String> = TABLE.iter().map(|(path, ..)| (*path).to_owned()).collect();
        assert_eq!(table.len(), TABLE.len(), "a path stands twice");
        assert_eq!(table, contract);
    }

    #[test]
    fn each_role_may_call_its_own_and_nothing_else() {
        for (path, roles, _) in TABLE {
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
    fn a_refusal_says_in_words_who_may_not_do_what_and_what_next() {
        let refused = check(Role::Viewer, "/sternway.v1.OperatorService/PlanRollback");
        let refused = refused.expect_err("denied");
        assert_eq!(
            refused.message,
            "the role viewer may not plan a rollback: that takes the role operator or admin"
        );
        assert!(
            refused.next_step.contains("--role operator "),
            "{refused:?}"
        );
        for (path, ..) in TABLE {
            for problem in Role::ALL
                .into_iter()
                .filter_map(|role| check(role, path).err())
            {
                let said = format!("{} {}", problem.message, problem.next_step);
                assert!(
                    !said.contains("sternway.v1") && !said.contains("grpc"),
                    "{said}"
                );
                assert!(!problem.next_step.is_empty(), "{said}");
            }
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
        for (path, roles, _) in TABLE {
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
