//! The controller is killed: nothing acknowledged is lost, and what runs goes on.

use sternway_tests::{
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

#[tokio::test]
async fn a_controller_killed_in_a_rollout_finds_its_end_after_the_restart() {
    let mut stage = Stage::new().await;
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::bad("v2", "health").shared().await,
    );
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &[], &v2).await;
    stage.current("shop", 2).await;
    let start = [
        "rollback",
        "--host",
        HOST,
        "--to",
        "1",
        "--yes",
        "--no-wait",
    ];
    let _ = stage.ctl.run(&start).await.exits(0);
    stage.controller.kill();
    stage.controller.start().await;
    until("the rollout's end", SETTLES, async || {
        let listed = stage.ctl.json(&["rollout", "ls"]).await;
        let ended = &listed["rollouts"][0]["state"];
        (ended == "succeeded")
            .then_some(())
            .ok_or(listed.to_string())
    })
    .await;
    stage.current("shop", 1).await;
    let verified = stage.ctl.json(&["record", "verify"]).await;
    assert_eq!(verified["holds"], true);
}

#[tokio::test]
async fn an_order_for_a_host_that_is_away_is_carried_out_when_it_is_back() {
    let mut stage = Stage::new().await;
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::bad("v2", "health").shared().await,
    );
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &[], &v2).await;
    stage.current("shop", 2).await;
    stage.agent.kill();
    stage.host_is("offline").await;
    let start = [
        "rollback",
        "--host",
        HOST,
        "--to",
        "1",
        "--yes",
        "--no-wait",
    ];
    let _ = stage.ctl.run(&start).await.exits(0);
    // The controller, too, is killed while the order waits.
    stage.controller.kill();
    stage.controller.start().await;
    stage.agent.start();
    stage.current("shop", 1).await;
    let listed = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(
        listed["rollouts"][0]["waves"][0]["orders"][0]["target"],
        stage.scope.target("shop").as_str()
    );
}

#[tokio::test]
async fn a_revoked_host_is_shown_as_such_and_its_agent_does_not_come_back() {
    let mut stage = Stage::new().await;
    let revoke = ["host", "revoke", HOST, "--reason", "stolen", "--yes"];
    let _ = stage.ctl.run(&revoke).await.exits(0);
    stage.host_is("revoked").await;
    let shown = stage.ctl.json(&["host", "show", HOST]).await;
    let last_seen = shown["host"]["last_seen"].clone();
    // A new process is not let in either, and its log says why and what to do.
    let before = stage.agent.process().log().len();
    stage.agent.kill();
    stage.agent.start();
    let agent = stage.agent.process();
    until("the reason in the agent's log", SETTLES, async || {
        let log = agent.log();
        let new = log.get(before..).unwrap_or_default();
        let said = new.contains("this host was revoked") && new.contains("join --again");
        said.then_some(()).ok_or(log)
    })
    .await;
    let shown = stage.ctl.json(&["host", "show", HOST]).await;
    assert_eq!(shown["host"]["state"], "revoked");
    assert_eq!(shown["host"]["last_seen"], last_seen, "never seen again");
}
