//! An order whose journal its agent cannot read any more, or does not find: the rollout ends, what ran before runs
//! where nothing does, and what is printed works.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sternway_tests::{stage::HOST, wait::until};

use super::crash::{Ground, newest_rollout};

/// The deadline of the order, the time until it is given up, and room for a busy machine.
const ENDS: Duration = Duration::from_mins(3);

const ROLLBACK: [&str; 8] = [
    "rollback", "--host", HOST, "--to", "1", "--swap", "cold", "--yes",
];

fn only_journal(state: &Path) -> PathBuf {
    let open = fs::read_dir(state.join("orders/open")).expect("the journals are listed");
    let mut all: Vec<PathBuf> = open.map(|entry| entry.expect("an entry").path()).collect();
    let one = all.pop().expect("a journal");
    assert!(all.is_empty(), "{all:?}");
    one
}

#[tokio::test]
async fn an_order_whose_journal_is_damaged_ends_and_what_is_printed_frees_its_target() {
    let mut ground = Ground::new().await;
    let stage = &mut ground.stage;
    stage.controller.kill();
    stage
        .controller
        .spawn(&[("STERNWAY_CONTROLLER__ORDER_LOST_AFTER", "2s")]);
    // Killed with a plan and a first step in its journal, before anything was changed.
    stage.agent.kill();
    stage
        .agent
        .start_with(&[("STERNWAY_FAULT", "journal:5:before")]);
    until("the controller", ENDS, async || {
        let said = stage.ctl.run(&["status"]).await;
        (said.code == 0).then_some(()).ok_or(said.stderr)
    })
    .await;
    stage.online().await;
    let start = [&ROLLBACK[..], &["--no-wait", "--deadline", "20s"]].concat();
    let _ = stage.ctl.run(&start).await.exits(0);
    until("the agent's death", ENDS, async || {
        let died = stage.agent.process().status().is_some();
        died.then_some(()).ok_or("it lives")
    })
    .await;
    stage.agent.kill();
    let journal = only_journal(&stage.agent.folder().join("state"));
    let mut bytes = fs::read(&journal).expect("the journal is read");
    // Behind what is written there is room that was set aside.
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("not empty");
    bytes[written / 2] ^= 1;
    fs::write(&journal, bytes).expect("the journal is damaged");
    stage.agent.start();

    let ended = until("the rollout's end", ENDS, async || {
        let newest = newest_rollout(stage).await;
        (newest["state"] == "needs-human")
            .then(|| newest.clone())
            .ok_or(newest.to_string())
    })
    .await;
    let problem = &ended["waves"][0]["orders"][0]["problem"];
    assert_eq!(problem["code"], "outcome-unknown", "{ended:#}");
    let next = problem["next_step"].as_str().unwrap_or_default();
    let path = journal.display().to_string();
    assert!(next.contains(&path), "{ended:#}");
    let id = ended["id"].as_str().expect("an id");
    let shown = stage.ctl.run(&["rollout", "show", id]).await;
    assert!(shown.stdout.contains(&path), "{shown:?}");

    // Until it is moved away nothing is begun over it; then it is as if it had never been.
    let refused = stage.ctl.run(&ROLLBACK).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    let newest = newest_rollout(stage).await;
    assert_eq!(newest["state"], "refused", "{newest:#}");
    stage.agent.kill();
    let aside = stage.agent.folder().join("aside.journal");
    fs::rename(&journal, aside).expect("the journal is moved");
    stage.agent.start();
    stage.online().await;
    let _ = stage.ctl.run(&ROLLBACK).await.exits(0);
    let newest = newest_rollout(&ground.stage).await;
    ground.exactly_one("v1", &newest, "after the remedy").await;
}

/// The journal is removed after a death at that append of a rollback from v2 to v1.
async fn gone(swap: &str, appends: &[(u32, &str)]) {
    let mut ground = Ground::with(&["--restart", "always"]).await;
    ground.stage.controller.kill();
    ground
        .stage
        .controller
        .spawn(&[("STERNWAY_CONTROLLER__ORDER_LOST_AFTER", "2s")]);
    until("the controller", ENDS, async || {
        let said = ground.stage.ctl.run(&["status"]).await;
        (said.code == 0).then_some(()).ok_or(said.stderr)
    })
    .await;
    for (number, runs) in appends {
        let what = format!("{swap}, the journal gone after append {number}");
        let stage = &mut ground.stage;
        stage.agent.kill();
        let fault = format!("journal:{number}:after");
        stage.agent.start_with(&[("STERNWAY_FAULT", &fault)]);
        stage.online().await;
        let start = ["rollback", "--host", HOST, "--to", "1", "--swap", swap];
        let start = [&start[..], &["--yes", "--no-wait"]].concat();
        let _ = stage.ctl.run(&start).await.exits(0);
        until("the agent's death", ENDS, async || {
            let died = stage.agent.process().status().is_some();
            died.then_some(()).ok_or("it lives")
        })
        .await;
        stage.agent.kill();
        let journal = only_journal(&stage.agent.folder().join("state"));
        fs::remove_file(&journal).expect("the journal is removed");
        stage.agent.start();

        let problem = until(&what, ENDS, async || {
            let target = stage.target("shop").await;
            let problems = target["readiness"]["problems"].as_array().cloned();
            let told = problems.into_iter().flatten().find(|problem| {
                let message = problem["message"].as_str().unwrap_or_default();
                problem["code"] == "cannot-resume" && !message.contains("being put right")
            });
            told.ok_or_else(|| format!("{target:#}"))
        })
        .await;
        let ended = until("the rollout's end", ENDS, async || {
            let newest = newest_rollout(stage).await;
            (newest["state"] != "running")
                .then(|| newest.clone())
                .ok_or(newest.to_string())
        })
        .await;
        assert_eq!(ended["state"], "needs-human", "{what}: {ended:#}");
        ground.exactly_one(runs, &ended, &what).await;
        let stage = &ground.stage;
        let name = stage.scope.named("shop");
        let policy = ["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &name];
        let policy = stage.scope.cli(&policy).await;
        assert_eq!(policy, "always", "{what}: {problem:#}");
        stage
            .current("shop", if *runs == "v2" { 2 } else { 1 })
            .await;

        let next = problem["next_step"].as_str().unwrap_or_default();
        let printed = next.split('`').find_map(|text| text.strip_prefix("ctl "));
        let remedy: Vec<&str> = printed.expect("a command").split(' ').collect();
        if *runs == "v2" {
            let _ = stage
                .ctl
                .run(&[&remedy[..], &["--yes"]].concat())
                .await
                .exits(0);
            let newest = newest_rollout(stage).await;
            ground.exactly_one("v1", &newest, &what).await;
        }
        let new = ground.new.clone();
        ground.deploy(&new).await;
        let stage = &ground.stage;
        stage.current("shop", 2).await;
        let target = until("the problem's end", ENDS, async || {
            let target = stage.target("shop").await;
            let told = target.to_string().contains("cannot-resume");
            (!told).then(|| target.clone()).ok_or(target.to_string())
        })
        .await;
        let revisions = target["revisions"].as_array().map_or(0, Vec::len);
        assert_eq!(revisions, 2, "{what}: {target:#}");
    }
}

#[tokio::test]
async fn an_order_whose_journal_is_gone_leaves_one_revision_running_and_is_told() {
    // Made, disarmed, stopped, names swapped, started.
    let cold = [(6, "v2"), (8, "v2"), (10, "v2"), (12, "v2"), (14, "v1")];
    gone("cold", &cold).await;
}

#[tokio::test]
async fn a_warm_order_whose_journal_is_gone_leaves_no_redirect_and_one_revision() {
    // With a standby, disarmed, names swapped, started.
    gone("warm", &[(15, "v2"), (19, "v2"), (23, "v2"), (25, "v1")]).await;
}
