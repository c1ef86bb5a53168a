//! What no honest program sends: too large, malformed, in the wrong wrapping, too many at once, with names made to
//! hurt. Each is answered with an error that says why, and the controller goes on.

use std::{collections::HashMap, fmt::Debug};

use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _},
};
use prost_types::FileDescriptorSet;
use sternway_proto::{
    DESCRIPTORS, enrol, limits,
    v1::{self, enrolment_service_client::EnrolmentServiceClient},
};
use sternway_tests::{
    ground::Ground,
    scripted::{Session, TARGET, WAIT, problem},
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{
        Service as _,
        http::{self, uri::PathAndQuery},
    },
    transport::Channel,
};

const OPERATORS: &str = "sternway.v1.OperatorService";
const ENROLMENT: &str = "sternway.v1.EnrolmentService";

/// Every call of a service that takes one message, as the contract has them: a new one is tested without a word here.
fn calls(service: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    let mut calls = Vec::new();
    for file in &set.file {
        for one in &file.service {
            if format!("{}.{}", file.package(), one.name()) == service {
                let unary = one.method.iter().filter(|it| !it.client_streaming());
                calls.extend(unary.map(|it| format!("/{service}/{}", it.name())));
            }
        }
    }
    assert!(!calls.is_empty(), "no calls of {service}");
    calls
}

/// Bytes as they are, in both directions.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

async fn raw(channel: &Channel, call: &str, bytes: Vec<u8>) -> Result<Response<Vec<u8>>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let path: PathAndQuery = call.parse().expect("a path");
    timeout(WAIT, client.unary(Request::new(bytes), path, Raw))
        .await
        .expect("answered in time")
}

/// A controller and one host with a target, online.
struct Story {
    session: Session,
    ground: Ground,
}

impl Story {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let host = ground.join("web-1").await;
        Self {
            session: ground.session("web-1", &host).await,
            ground,
        }
    }

    /// It is the same process, and it answers.
    async fn serves(&mut self) {
        let dead = self.ground.controller.process().status();
        assert_eq!(dead, None, "it is dead");
        let said = self.ground.ctl.run(&["host", "ls"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        self.ground.holds("afterwards").await;
        self.session
            .say(v1::agent_message::Message::Heartbeat(
                v1::Heartbeat::default(),
            ))
            .await;
    }
}

/// Garbage is refused by that call, and so is a message of one byte more than it takes.
async fn is_refused_unread(channel: &Channel, call: &str, limit: usize) {
    let broken = raw(channel, call, vec![0xff; 40]).await;
    let status = broken.expect_err("no message");
    assert!(status.message().contains("decode"), "{call}: {status:?}");
    let large = raw(channel, call, vec![0; limit + 1]).await;
    let status = large.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{call}: {status:?}");
    assert!(status.message().contains("too large"), "{call}: {status:?}");
}

#[tokio::test]
async fn the_enrolment_refuses_what_no_machine_says_and_its_token_stays_good() {
    /// A token, a signing request and two names fit into this.
    const REQUEST_BYTES: usize = 16 * 1024;
    let mut story = Story::new().await;
    let token = story.ground.token("web-2").await;
    let address = story.ground.controller.enrolment();
    let channel = story.ground.ctl.channel_to(Some(&address)).await;
    let channel = channel.expect("reached");
    for call in calls(ENROLMENT) {
        is_refused_unread(&channel, &call, REQUEST_BYTES).await;
    }
    let mut client = EnrolmentServiceClient::new(channel.clone());
    // Nothing of it, and the right token with half of the rest.
    for asked in [
        v1::JoinRequest::default(),
        v1::JoinRequest {
            token_secret: token.secret.to_vec(),
            csr_der: vec![0x30; 200],
            hostname: "web-2".to_owned(),
            agent_version: "0.0.0".to_owned(),
        },
    ] {
        let refused = timeout(WAIT, client.join(asked)).await;
        let status = refused.expect("answered in time").expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(
            problem(&status).expect("a problem").code,
            "request-invalid",
            "{status:?}"
        );
    }
    // The operators' calls are not there.
    let other = raw(&channel, &format!("/{OPERATORS}/ListHosts"), Vec::new()).await;
    let status = other.expect_err("not here");
    assert!(
        matches!(status.code(), Code::Unimplemented | Code::PermissionDenied),
        "{status:?}"
    );
    let filled = full_of_headers(v1::JoinRequest::default());
    let refused = timeout(WAIT, client.join(filled)).await;
    assert!(refused.expect("answered in time").is_err());
    // On a connection of its own: the one with too many headers may be gone.
    let joined = enrol::join(&token, None, "web-2", "0.0.0").await;
    assert!(joined.is_ok(), "{joined:?}");
    story.serves().await;
}

#[tokio::test]
async fn what_is_too_large_or_no_message_is_refused_by_every_call() {
    let mut story = Story::new().await;
    let channel = story.ground.ctl.channel().await.expect("reached");
    for call in calls(OPERATORS) {
        is_refused_unread(&channel, &call, limits::MESSAGE_BYTES).await;
    }
    let unknown = format!("/{OPERATORS}/DropTables");
    let unknown = raw(&channel, &unknown, Vec::new()).await;
    let status = unknown.expect_err("no such call");
    assert_eq!(problem(&status).expect("a problem").code, "not-allowed");
    story.serves().await;
}

#[tokio::test]
async fn what_is_no_grpc_gets_an_error_and_no_answer() {
    let mut story = Story::new().await;
    let mut channel = story.ground.ctl.channel().await.expect("reached");
    for (method, kind) in [
        ("POST", "text/plain"),
        ("POST", "application/json"),
        ("GET", "application/grpc"),
        ("DELETE", "application/grpc"),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri("http://controller/sternway.v1.OperatorService/ListHosts")
            .header("content-type", kind)
            .body(Body::empty())
            .expect("a request");
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .expect("connected");
        let answer = timeout(WAIT, channel.call(request))
            .await
            .expect("answered in time")
            .expect("an answer");
        let headers = answer.headers();
        let said = headers.get("grpc-status").and_then(|v| v.to_str().ok());
        let refused = !answer.status().is_success() || said.is_some_and(|code| code != "0");
        assert!(refused, "{method} {kind}: {answer:?}");
    }
    story.serves().await;
}

/// 40 kB of headers around a message.
fn full_of_headers<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    for number in 0..40 {
        let key: tonic::metadata::MetadataKey<_> =
            format!("x-filling-{number}").parse().expect("a key");
        let value = "x".repeat(1024).parse().expect("a value");
        request.metadata_mut().insert(key, value);
    }
    request
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let mut story = Story::new().await;
    let mut client = story.ground.ctl.client().await.expect("reached");
    let request = full_of_headers(v1::GetStatusRequest {});
    let refused = timeout(WAIT, client.get_status(request)).await;
    assert!(refused.expect("answered in time").is_err());
    story.serves().await;
}

#[tokio::test]
async fn hundreds_of_calls_on_one_connection_take_turns() {
    let mut story = Story::new().await;
    let client = story.ground.ctl.client().await.expect("reached");
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let mut client = client.clone();
        calls.spawn(async move { client.list_hosts(v1::ListHostsRequest {}).await });
    }
    while let Some(answer) = calls.join_next().await {
        let hosts = answer.expect("no panic").expect("an answer").into_inner();
        assert_eq!(hosts.hosts.len(), 1);
    }
    story.serves().await;
}

fn hostile() -> Vec<String> {
    vec![
        "\u{1b}[31mred".to_owned(),
        "a\0b".to_owned(),
        "a\r\nb".to_owned(),
        "../../etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        "docker/../shop".to_owned(),
        "\u{202e}bew".to_owned(),
        "'; DROP TABLE hosts; --".to_owned(),
        "%s%n".to_owned(),
        "x".repeat(10_000),
    ]
}

/// Refused for a reason that a person can read, and not because something broke.
fn refused<T: Debug>(what: &str, answer: Result<Response<T>, Status>) {
    let status = answer.expect_err(what);
    assert!(
        matches!(
            status.code(),
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition
        ),
        "{what}: {status:?}"
    );
    let problem = problem(&status).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        !problem.code.is_empty() && !problem.message.is_empty(),
        "{what}"
    );
    for text in [&problem.message, &problem.next_step] {
        assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
        assert!(text.len() <= 4096, "{what}: {} bytes", text.len());
    }
}

#[tokio::test]
async fn names_made_to_hurt_are_refused_by_every_call_that_takes_one() {
    let mut story = Story::new().await;
    let mut client = story.ground.ctl.client().await.expect("reached");
    for bad in hostile() {
        let host = || bad.clone();
        let known = || "web-1".to_owned();
        let target = || TARGET.to_owned();
        let asked = v1::GetHostRequest { host: host() };
        refused("get_host", client.get_host(asked).await);
        let asked = v1::RevokeHostRequest {
            host: host(),
            reason: String::new(),
        };
        refused("revoke_host", client.revoke_host(asked).await);
        let asked = v1::CreateJoinTokenRequest {
            host_name: host(),
            ..v1::CreateJoinTokenRequest::default()
        };
        refused("token's name", client.create_join_token(asked).await);
        // Slashes and dots may stand in a label: it never becomes a path.
        let as_label = format!("{bad} ");
        for label in [
            (as_label.clone(), "x".to_owned()),
            ("x".to_owned(), as_label),
        ] {
            let asked = v1::CreateJoinTokenRequest {
                labels: HashMap::from([label]),
                ..v1::CreateJoinTokenRequest::default()
            };
            refused("token's label", client.create_join_token(asked).await);
        }
        let asked = v1::ListTargetsRequest { host: host() };
        refused("list_targets", client.list_targets(asked).await);
        for (host, target) in [(host(), String::new()), (known(), host())] {
            let asked = v1::GetTargetRequest { host, target };
            refused("get_target", client.get_target(asked).await);
        }
        for (host, target, before) in [
            (host(), target(), String::new()),
            (known(), host(), String::new()),
            (known(), target(), host()),
        ] {
            let asked = v1::DiffRevisionsRequest {
                host: host.clone(),
                target: target.clone(),
                before: before.clone(),
                after: String::new(),
            };
            refused("diff_revisions", client.diff_revisions(asked).await);
            let asked = v1::MarkRevisionRequest {
                host: host.clone(),
                target: target.clone(),
                revision: before.clone(),
                mark: v1::Mark::Bad.into(),
                reason: String::new(),
            };
            refused("mark_revision", client.mark_revision(asked).await);
            let asked = v1::PlanRollbackRequest {
                host,
                target,
                to: if before.is_empty() {
                    "99".to_owned()
                } else {
                    before
                },
                ..v1::PlanRollbackRequest::default()
            };
            refused("plan_rollback", client.plan_rollback(asked).await);
        }
        let asked = v1::StartRollbackRequest {
            plan_id: host(),
            request_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            ..v1::StartRollbackRequest::default()
        };
        refused("start_rollback", client.start_rollback(asked).await);
        let asked = v1::StartRollbackRequest {
            plan_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            request_id: host(),
            ..v1::StartRollbackRequest::default()
        };
        refused(
            "start_rollback's request",
            client.start_rollback(asked).await,
        );
        let asked = v1::ListRolloutsRequest {
            host: host(),
            limit: 0,
        };
        refused("list_rollouts", client.list_rollouts(asked).await);
        let asked = v1::GetRolloutRequest { rollout: host() };
        refused("get_rollout", client.get_rollout(asked).await);
        let asked = v1::WatchRolloutRequest { rollout: host() };
        let watched = client.watch_rollout(asked).await;
        refused("watch_rollout", watched.map(|_| Response::new(())));
        let digest = format!("sha256:{}", "0".repeat(64));
        for (host, target, digest) in [
            (host(), target(), digest.clone()),
            (known(), host(), digest),
            (known(), target(), host()),
        ] {
            let deployment = v1::Deployment {
                host,
                target,
                digest,
                ..v1::Deployment::default()
            };
            let asked = v1::RecordDeploymentRequest {
                deployment: Some(deployment),
                ..v1::RecordDeploymentRequest::default()
            };
            refused("record_deployment", client.record_deployment(asked).await);
        }
        let asked = v1::CheckDeploymentRequest { digest: host() };
        refused("check_deployment", client.check_deployment(asked).await);
    }
    story.serves().await;
}

#[tokio::test]
async fn a_machine_with_a_name_made_to_hurt_does_not_join_and_its_token_stays_good() {
    let mut story = Story::new().await;
    let made = story.ground.ctl.json(&["host", "token"]).await;
    let token = made["token"].as_str().expect("a token");
    let token = token.parse().expect("whole");
    for bad in hostile() {
        let refused = enrol::join(&token, None, &bad, &bad).await;
        assert!(
            matches!(refused, Err(enrol::JoinError::Refused(_))),
            "{bad:?}: {refused:?}"
        );
    }
    let version = "\u{1b}[31m".repeat(100);
    let joined = enrol::join(&token, None, "web-2", &version).await;
    assert!(joined.is_ok(), "{joined:?}");
    let listed = story.ground.ctl.run(&["host", "ls", "-o", "json"]).await;
    assert!(!listed.stdout.contains('\u{1b}'), "{}", listed.stdout);
    story.serves().await;
}
