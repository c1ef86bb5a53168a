//! What a role may not do is refused on the wire, in words that name the role.

use sternway_proto::v1::{
    self, agent_service_client::AgentServiceClient, operator_service_client::OperatorServiceClient,
};
use sternway_tests::{
    ground::Ground,
    scripted::{Host, Session, WAIT, problem},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

const REFUSED: i32 = 4;

/// A host with a target, online for as long as its session lives.
async fn online(ground: &Ground) -> (Host, Session) {
    let host = ground.join("web-1").await;
    let session = ground.session("web-1", &host).await;
    (host, session)
}

#[tokio::test]
async fn a_viewer_reads_and_is_refused_whatever_changes_something() {
    let ground = Ground::new().await;
    let (_host, _session) = online(&ground).await;
    let viewer = ground.controller.operator("vera", "viewer");
    let listed = viewer.run(&["host", "ls"]).await.exits(0);
    assert!(listed.stdout.contains("web-1"), "{listed:?}");
    for reading in [&["history", "--host", "web-1"][..], &["record", "verify"]] {
        let _ = viewer.run(reading).await.exits(0);
    }
    let status = viewer.json(&["status"]).await;
    assert_eq!(
        (&status["caller_name"], &status["caller_role"]),
        (&"vera".into(), &"viewer".into())
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let deployment = [
        "deployment",
        "record",
        "--host",
        "web-1",
        "--digest",
        &digest,
    ];
    for (refused, what) in [
        (
            &["rollback", "--host", "web-1", "--yes"][..],
            "plan a rollback",
        ),
        (
            &["rollback", "--host", "web-1", "--dry-run"],
            "plan a rollback",
        ),
        (
            &["revision", "mark", "bad", "1", "--host", "web-1"],
            "mark a revision",
        ),
        (&deployment, "record a deployment"),
        (&["host", "token"], "make a join token"),
        (&["host", "revoke", "web-1", "--yes"], "revoke a host"),
    ] {
        let _ = viewer
            .run(refused)
            .await
            .exits(REFUSED)
            .complains(&format!("the role viewer may not {what}"))
            .complains("sternway-controller operator issue");
    }
    let rollouts = viewer.json(&["rollout", "ls"]).await;
    assert_eq!(rollouts["rollouts"], serde_json::json!([]));
}

#[tokio::test]
async fn an_operator_acts_and_lets_no_host_in_or_out() {
    let ground = Ground::new().await;
    let (_host, _session) = online(&ground).await;
    let operator = ground.controller.operator("oscar", "operator");
    let _ = operator
        .run(&["revision", "mark", "bad", "1", "--host", "web-1"])
        .await
        .exits(0);
    for refused in [
        &["host", "token"][..],
        &["host", "revoke", "web-1", "--yes"],
    ] {
        let _ = operator
            .run(refused)
            .await
            .exits(REFUSED)
            .complains("the role operator may not")
            .complains("that takes the role admin");
    }
}

fn not_allowed(status: &Status, role: &str) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let problem = problem(status).expect("a problem");
    assert_eq!(problem.code, "not-allowed", "{problem:?}");
    assert!(
        problem
            .message
            .contains(&format!("the role {role} may not")),
        "{problem:?}"
    );
}

#[tokio::test]
async fn agents_are_refused_what_is_for_operators_and_operators_what_is_for_agents() {
    let ground = Ground::new().await;
    let (host, _session) = online(&ground).await;
    let channel = host.channel().await.expect("reached");
    let asked = OperatorServiceClient::new(channel)
        .list_hosts(v1::ListHostsRequest {})
        .await;
    not_allowed(&asked.expect_err("refused"), "agent");
    for role in ["viewer", "operator", "admin"] {
        let ctl = ground.controller.operator(&format!("some-{role}"), role);
        let channel = ctl.channel().await;
        let (_sender, receiver) = mpsc::channel(1);
        let mut client = AgentServiceClient::new(channel.expect("reached"));
        let session = timeout(WAIT, client.session(ReceiverStream::new(receiver)))
            .await
            .expect("answered in time");
        not_allowed(&session.expect_err("refused"), role);
    }
}
