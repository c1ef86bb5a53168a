//! The controller is killed: nothing acknowledged is lost, and what runs goes on.

use sternway_tests::{
    http,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

use crate::crash::Ground;

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

#[tokio::test]
async fn an_agent_killed_in_an_order_finishes_it_without_its_controller() {
    let mut ground = Ground::new().await;
    // In the middle of each: behind the first change, before the last.
    for (append, swap) in [(9, "cold"), (12, "warm")] {
        let what = format!("{swap}, killed after append {append}");
        ground.stage.agent.kill();
        let fault = format!("journal:{append}:after");
        let fault = [("STERNWAY_FAULT", fault.as_str())];
        ground.stage.agent.start_with(&fault);
        ground.stage.online().await;
        ground.rolls_back("1", swap).await;
        until(&format!("its death, {what}"), SETTLES, async || {
            let status = ground.stage.agent.process().status();
            status.map(drop).ok_or("it lives")
        })
        .await;
        ground.stage.controller.kill();
        let known = log(&mut ground.stage).len();
        ground.stage.agent.start();
        until(&format!("the order's end, {what}"), SETTLES, async || {
            let log = log(&mut ground.stage);
            let over = log.get(known..).is_some_and(|new| new.contains("is over"));
            over.then_some(()).ok_or(log)
        })
        .await;
        // Nobody was there to ask, and exactly one of them serves.
        let answer = http::get(&ground.address(), "/").await.expect("it serves");
        let running = running(&ground.stage).await;
        assert_eq!(running, [ground.stage.scope.named("shop")], "{what}");
        ground.stage.controller.start().await;
        let rollout = ground.over().await;
        let version = match rollout["state"].as_str() {
            Some("succeeded") => "v1",
            Some("undone") => "v2",
            other => panic!("{what}: {other:?}: {rollout:#}"),
        };
        assert_eq!(answer.body, version, "{what}: as it was without it");
        ground.exactly_one(version, &rollout, &what).await;
        let new = ground.new.clone();
        ground.deploy(&new).await;
        ground.stage.current("shop", 2).await;
    }
    let verified = ground.stage.ctl.json(&["record", "verify"]).await;
    assert_eq!(verified["holds"], true);
}

/// What the agent has written, over all its lives.
fn log(stage: &mut Stage) -> String {
    stage.agent.process().log()
}

/// The containers of the scope that run.
async fn running(stage: &Stage) -> Vec<String> {
    let filter = format!("name={}", stage.scope.name());
    let arguments = ["ps", "--filter", &filter, "--format", "{{.Names}}"];
    let listed = stage.scope.cli(&arguments).await;
    listed.lines().map(str::to_owned).collect()
}
