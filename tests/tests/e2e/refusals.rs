//! What cannot be done is refused, nothing is changed, and the person learns what, why and what next.

use sternway_tests::{
    shop::Image,
    stage::{HOST, Stage},
};

const REFUSED: i32 = 4;

async fn two_revisions() -> Stage {
    let stage = Stage::new().await;
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::good("v2").shared().await,
    );
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &[], &v2).await;
    stage.known_good("shop", 2).await;
    stage
}

#[tokio::test]
async fn unknown_hosts_targets_and_revisions_are_named() {
    let stage = two_revisions().await;
    for (arguments, named) in [
        (&["rollback", "--host", "nowhere", "--yes"][..], "nowhere"),
        (
            &[
                "rollback",
                "--host",
                HOST,
                "--target",
                "docker/nothing",
                "--yes",
            ],
            "docker/nothing",
        ),
        (&["rollback", "--host", HOST, "--to", "99", "--yes"], "99"),
        (&["history", "--host", "nowhere"], "nowhere"),
    ] {
        let said = stage.ctl.run(arguments).await;
        assert!(said.code != 0, "{said:?}");
        let _ = said.complains(named);
    }
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn a_host_with_several_targets_needs_one_named_and_lists_them() {
    let stage = two_revisions().await;
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("other", &[], &v1).await;
    stage.known_good("other", 1).await;
    let said = stage.ctl.run(&["rollback", "--host", HOST, "--yes"]).await;
    assert!(said.code != 0, "{said:?}");
    let _ = said
        .complains(&stage.scope.target("shop"))
        .complains(&stage.scope.target("other"));
}

#[tokio::test]
async fn a_revision_marked_bad_is_never_restored() {
    let stage = two_revisions().await;
    let target = stage.scope.target("shop");
    let mark = [
        "revision", "mark", "bad", "1", "--host", HOST, "--target", &target, "--reason", "leaks",
    ];
    let _ = stage.ctl.run(&mark).await.exits(0);
    let _ = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--to", "1", "--yes"])
        .await
        .exits(REFUSED)
        .complains("leaks");
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn a_first_deployment_has_nothing_to_go_back_to() {
    let stage = Stage::new().await;
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    let said = stage.ctl.run(&["rollback", "--host", HOST, "--yes"]).await;
    assert!(said.code != 0, "{said:?}");
    let readiness = stage.target("shop").await["readiness"]["verdict"].clone();
    assert_eq!(readiness, "no-predecessor");
    stage.unchanged("shop", 1).await;
}

#[tokio::test]
async fn an_order_for_a_host_that_stays_offline_expires_and_ctl_says_so() {
    let mut stage = two_revisions().await;
    stage.agent.kill();
    stage.host_is("offline").await;
    let _ = stage
        .ctl
        .run(&[
            "rollback",
            "--host",
            HOST,
            "--to",
            "1",
            "--yes",
            "--deadline",
            "3s",
        ])
        .await
        .exits(12);
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(rollouts["rollouts"][0]["state"], "expired");
    stage.agent.start();
    stage.online().await;
    // Never stale: what has expired is not carried out when the host is back.
    stage.unchanged("shop", 2).await;
}
