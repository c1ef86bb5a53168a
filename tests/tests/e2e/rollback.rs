//! One host, one container, undone: what the project is for.

use std::time::Duration;

use serde_json::Value;
use sternway_tests::{
    http,
    netns::Netns,
    port::Port,
    prober::Prober,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

/// A stage on which v1 of shop is known-good and a bad v2 was deployed over it by the runbook.
async fn bad_deployment(fault: &'static str) -> (Stage, Port) {
    let stage = Stage::new().await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let flags = ["-p", publish.as_str()];
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::bad("v2", fault).shared().await,
    );
    stage.scope.run("shop", &flags, &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &flags, &v2).await;
    stage.current("shop", 2).await;
    (stage, port)
}

async fn serves(port: &Port, version: &str) {
    let address = format!("127.0.0.1:{port}");
    until(version, SETTLES, async || {
        match http::get(&address, "/").await {
            Ok(answer) if answer.status == 200 && answer.body == version => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn events(lines: &[Value]) -> Vec<&Value> {
    lines
        .iter()
        .filter(|line| line["type"] == "order_event")
        .map(|line| &line["event"])
        .collect()
}

#[tokio::test]
async fn a_bad_deployment_is_rolled_back_by_one_command_with_evidence() {
    let (stage, port) = bad_deployment("health").await;
    let said = stage
        .ctl
        .run(&[
            "rollback", "--host", HOST, "--yes", "--reason", "500s", "-o", "json",
        ])
        .await
        .exits(0);
    serves(&port, "v1").await;

    let lines = said.lines();
    let events = events(&lines);
    let passed = events
        .iter()
        .filter(|event| event["evidence"]["verdict"] == "passed")
        .count();
    assert!(passed > 0, "never blind: {events:#?}");
    let last = events.last().expect("an order has events");
    assert_eq!(last["outcome"], "restored", "{last:#}");

    let target = stage.target("shop").await;
    assert_eq!(
        target["current_revision"],
        stage.revision("shop", 1).await["id"]
    );
    assert_eq!(
        target["lineage"].as_array().map(Vec::len),
        Some(1),
        "{target:#}"
    );
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(rollouts["rollouts"][0]["state"], "succeeded");
    assert_eq!(rollouts["rollouts"][0]["reason"], "500s");
    let verified = stage.ctl.json(&["record", "verify"]).await;
    assert_eq!(verified["holds"], true);
    assert!(verified["entries"].as_u64() > Some(2), "{verified}");
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let (stage, _port) = bad_deployment("health").await;
    let before = stage.scope.inspect("shop").await.expect("there").id;
    let said = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--dry-run"])
        .await
        .exits(20);
    assert!(said.stdout.contains("#1"), "{}", said.stdout);
    assert_eq!(stage.scope.inspect("shop").await.expect("there").id, before);
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(rollouts["rollouts"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn a_rollback_to_what_runs_changes_nothing_and_a_further_one_has_to_be_named() {
    let (stage, port) = bad_deployment("health").await;
    let rollback = ["rollback", "--host", HOST, "--to", "1", "--yes"];
    let _ = stage.ctl.run(&rollback).await.exits(0);
    serves(&port, "v1").await;
    let before = stage.scope.inspect("shop").await.expect("there").id;
    let dry = ["rollback", "--host", HOST, "--to", "1", "--dry-run"];
    let planned = stage.ctl.run(&dry).await.exits(0).stdout;
    assert!(planned.contains("nothing will be changed"), "{planned}");
    let said = stage.ctl.run(&rollback).await.exits(0).stdout;
    assert!(said.contains("✔ unchanged"), "{said}");
    assert!(said.contains("✔ passed"), "with evidence: {said}");
    assert_eq!(stage.scope.inspect("shop").await.expect("there").id, before);
    assert_eq!(
        stage.ctl.json(&["rollout", "ls"]).await["rollouts"][0]["state"],
        "succeeded"
    );
}

#[tokio::test]
async fn a_rollback_that_is_repeated_unasked_goes_no_further_back() {
    let stage = Stage::new().await;
    for (number, version) in (1..).zip(["v1", "v2", "v3"]) {
        let image = Image::good(version).shared().await;
        if number == 1 {
            stage.scope.run("shop", &[], &image).await;
        } else {
            stage.scope.redeploy("shop", &[], &image).await;
        }
        stage.known_good("shop", number).await;
    }
    let rollback = ["rollback", "--host", HOST, "--yes"];
    let _ = stage.ctl.run(&rollback).await.exits(0);
    stage.current("shop", 2).await;
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    let first = rollouts["rollouts"][0]["id"].as_str().expect("an id");
    let _ = stage
        .ctl
        .run(&rollback)
        .await
        .exits(4)
        .complains(&format!(
            "what runs, #2, was put there by rollout {first}, "
        ))
        .complains("this goes back one more, to #1")
        .complains("name it: `--to 1`");
    stage.unchanged("shop", 2).await;
    let named = ["rollback", "--host", HOST, "--to", "1", "--yes"];
    let _ = stage.ctl.run(&named).await.exits(0);
    stage.current("shop", 1).await;
}

#[tokio::test]
async fn a_rollback_to_a_broken_revision_undoes_itself_and_says_so() {
    let (stage, port) = bad_deployment("health").await;
    let _ = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--yes"])
        .await
        .exits(0);
    serves(&port, "v1").await;
    let said = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--to", "2", "--yes"])
        .await
        .exits(10);
    serves(&port, "v1").await;
    assert!(
        format!("{}{}", said.stdout, said.stderr).contains("health"),
        "the failed check is named: {said:?}"
    );
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    let failed = rollouts["rollouts"][0]["id"].as_str().expect("an id");
    let again = ["rollback", "--host", HOST, "--to", "2", "--dry-run"];
    let planned = stage.ctl.run(&again).await.exits(20).stdout;
    assert!(
        planned.contains("a restore of #2 failed its checks ") && planned.contains(failed),
        "{planned}"
    );
    assert!(
        planned.contains("`--to 1` goes to the one before"),
        "{planned}"
    );
    assert_eq!(
        stage.target("shop").await["current_revision"],
        stage.revision("shop", 1).await["id"]
    );
}

#[tokio::test]
async fn one_half_of_a_revision_goes_back_and_the_other_stays() {
    let stage = Stage::new().await;
    let plain = |version| Image::plain(version, "");
    let (v1, v2) = (plain("v1").shared().await, plain("v2").shared().await);
    let flags = |setting| ["-l", "sternway.soak=0s", "-e", setting];
    let halves = ["image", "config"];
    for half in halves {
        stage.scope.run(half, &flags("A=1"), &v1).await;
    }
    for half in halves {
        stage.current(half, 1).await;
        stage.scope.redeploy(half, &flags("A=2"), &v2).await;
        stage.current(half, 2).await;
    }
    for (half, version, setting) in [("image", "v1", "A=2"), ("config", "v2", "A=1")] {
        let target = stage.scope.target(half);
        let rollback = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
        let rollback = [&rollback[..], &["--only", half, "--yes"]].concat();
        let _ = stage.ctl.run(&rollback).await.exits(0);
        let found = stage.scope.inspect(half).await.expect("it is there");
        let variables = found.config.and_then(|config| config.env);
        let variables = variables.unwrap_or_default();
        // The version is what the image itself sets.
        for wanted in [&format!("SHOP_VERSION={version}"), setting] {
            let set = variables.iter().any(|variable| variable == wanted);
            assert!(set, "only {half}: {wanted} in {variables:?}");
        }
        assert_eq!(found.state.and_then(|state| state.running), Some(true));
        // Neither of the two that were deployed: a third, which can be undone itself.
        stage.current(half, 3).await;
    }
}

/// The id of the plan that a dry run shows to programs.
async fn reviewed(stage: &Stage, to: &str) -> String {
    let dry = ["rollback", "--host", HOST, "--to", to, "--dry-run"];
    let all = [&dry[..], &["-o", "json"]].concat();
    let lines = stage.ctl.run(&all).await.exits(20).lines();
    let id = lines[0]["plan_id"].as_str().expect("an id");
    id.to_owned()
}

#[tokio::test]
async fn a_plan_that_was_reviewed_is_carried_out_once_while_it_holds() {
    let (mut stage, port) = bad_deployment("health").await;
    let carry_out = async |stage: &Stage, plan: &str| {
        let arguments = ["rollback", "--plan", plan, "--yes"];
        stage.ctl.run(&arguments).await
    };
    let (outdated, good) = (reviewed(&stage, "1").await, reviewed(&stage, "1").await);
    let said = carry_out(&stage, &good).await.exits(0);
    assert!(said.stdout.contains("✔ restored"), "{said:?}");
    serves(&port, "v1").await;
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    let first = rollouts["rollouts"][0]["id"].as_str().expect("an id");
    let _ = carry_out(&stage, &good)
        .await
        .exits(4)
        .complains(&format!("carried out already, by rollout {first}"))
        .complains(&format!("next: `ctl rollout show {first}`"));
    // Another runs than when it was made: its host does not do it.
    let said = carry_out(&stage, &outdated).await.exits(4);
    assert!(said.stdout.contains("nothing was changed"), "{said:?}");
    let unknown = "00000000-0000-4000-8000-000000000000";
    let again = "next: plan the rollback again";
    let _ = carry_out(&stage, unknown)
        .await
        .exits(4)
        .complains("there is no such plan")
        .complains(again);

    stage.controller.kill();
    let short = [("STERNWAY_CONTROLLER__PLAN_LIFETIME", "1s")];
    stage.controller.spawn(&short);
    until("the controller", SETTLES, async || {
        let said = stage.ctl.run(&["status"]).await;
        (said.code == 0).then_some(()).ok_or(said.stderr)
    })
    .await;
    stage.online().await;
    let late = reviewed(&stage, "2").await;
    // There is nothing to wait for but its time.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let _ = carry_out(&stage, &late)
        .await
        .exits(4)
        .complains("the plan has expired")
        .complains(again);
    serves(&port, "v1").await;
}

#[tokio::test]
async fn a_warm_rollback_by_ctl_loses_no_request_of_any_client() {
    /// As for the steps alone: a packet that is sent again after a second, and a busy machine.
    const LONGEST_GAP_MS: u64 = 2000;
    let stage = Stage::new().await;
    let port = Port::lease();
    let publish = format!("{port}:8080");
    let flags = [
        "-p",
        publish.as_str(),
        "-l",
        "sternway.soak=1s",
        "-l",
        "sternway.check.http=:8080/health",
    ];
    let plain = |version| Image::plain(version, "");
    let (v1, v2) = (plain("v1").shared().await, plain("v2").shared().await);
    stage.scope.run("shop", &flags, &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &flags, &v2).await;
    stage.known_good("shop", 2).await;
    serves(&port, "v2").await;
    let netns = Netns::new(&stage.scope);
    let folder = stage.scope.folder();
    let near = format!("127.0.0.1:{port}");
    let probers = [
        Prober::start_patient("near", &near, 50, folder).await,
        Prober::start_patient_in(&netns, port.number(), 50, folder).await,
    ];
    let rollback = ["rollback", "--host", HOST, "--yes", "-o", "json"];
    let said = stage.ctl.run(&rollback).await.exits(0);
    let lines = said.lines();
    // Nobody asked for it: the plan finds by itself that it can.
    assert_eq!(lines[0]["plan"]["swap"], "warm", "{:#}", lines[0]);
    for prober in probers {
        let seen = prober.stop().await;
        assert_eq!(seen.lost, 0, "{seen:?}");
        assert!(seen.longest_gap_ms < LONGEST_GAP_MS, "{seen:?}");
        for version in ["v1", "v2"] {
            assert!(seen.answers.contains_key(version), "{version}: {seen:?}");
        }
    }
    stage.current("shop", 1).await;
}

#[tokio::test]
async fn what_a_container_became_after_its_start_is_what_comes_back() {
    let stage = Stage::new().await;
    let plain = |version| Image::plain(version, "");
    let (v1, v2) = (plain("v1").shared().await, plain("v2").shared().await);
    let quick = ["-l", "sternway.soak=0s"];
    stage.scope.run("shop", &quick, &v2).await;
    stage.current("shop", 1).await;
    stage.scope.redeploy("shop", &quick, &v1).await;
    stage.current("shop", 2).await;
    // As runbooks go on: in the container that runs.
    let scope = &stage.scope;
    let (network, name) = (scope.network("back", &[]).await, scope.named("shop"));
    scope
        .cli(&["network", "connect", "--alias", "shop", &network, &name])
        .await;
    scope.cli(&["update", "--restart", "always", &name]).await;
    let target = scope.target("shop");
    let diff = ["diff", "--host", HOST, "--target", &target, "1", "current"];
    until("both to be recorded", SETTLES, async || {
        let changes = stage.ctl.json(&diff).await["changes"].to_string();
        let both = changes.contains(&network) && changes.contains("always");
        both.then_some(()).ok_or(changes)
    })
    .await;
    let meant = stage.target("shop").await["current_revision"].clone();
    stage.scope.redeploy("shop", &quick, &v2).await;
    until("what was deployed over it", SETTLES, async || {
        let now = stage.target("shop").await["current_revision"].clone();
        (now != meant).then_some(()).ok_or(now)
    })
    .await;
    let id = meant.as_str().expect("an id");
    let rollback = ["rollback", "--host", HOST, "--to", id, "--yes"];
    let _ = stage.ctl.run(&rollback).await.exits(0);
    let found = stage.scope.inspect("shop").await.expect("it is there");
    let settings = found.network_settings.and_then(|all| all.networks);
    let networks = settings.unwrap_or_default();
    let aliases = networks.get(&network).and_then(|it| it.aliases.clone());
    let aliases = aliases.expect("it is on the network");
    assert!(aliases.contains(&"shop".to_owned()), "{aliases:?}");
    assert!(networks.contains_key("bridge"), "{networks:?}");
    let policy = found.host_config.and_then(|host| host.restart_policy);
    let policy = policy.and_then(|it| it.name).expect("a policy");
    assert_eq!(policy.to_string(), "always");
    assert_eq!(found.state.and_then(|state| state.running), Some(true));
    assert_eq!(stage.target("shop").await["current_revision"], meant);
}
