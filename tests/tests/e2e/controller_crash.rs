//! `kill -9` of the controller around every commit while an operator rolls back: the order is
//! carried out once or not at all, nothing acknowledged is lost, and the record holds.

use std::time::Duration;

use serde_json::Value;
use sternway_tests::{stage::HOST, wait::until};

use super::crash::{Ground, newest_rollout};

/// No rollback commits more often than that: a run in which nobody dies ends the search.
const COMMITS: u32 = 80;
const ROLLOUT: Duration = Duration::from_mins(3);

const ROLLBACK: [&str; 7] = [
    "rollback",
    "--host",
    HOST,
    "--to",
    "1",
    "--yes",
    "--swap=cold",
];

/// One rollback under a fault of the controller, which is started again when it has died of it. Answers with
/// whether it has.
async fn killed(ground: &mut Ground, number: u32, moment: &str) -> bool {
    let fault = format!("commit:{number}:{moment}");
    ground.stage.controller.kill();
    ground.stage.controller.spawn(&[("STERNWAY_FAULT", &fault)]);
    let ctl = ground.stage.ctl.clone();
    let mut operator = tokio::spawn(async move {
        // As a person: again, while the controller cannot be reached or does not know the host as online.
        for _ in 0..40 {
            let said = ctl.run(&ROLLBACK).await;
            // What was done before the answer was lost is, asked for again, what runs already.
            if said.code == 0 {
                return Ok(());
            }
            if !matches!(said.code, 1 | 3 | 6) && !said.stderr.contains("is restoring") {
                return Err(format!("{said:?}"));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Err("the operator gave up".to_owned())
    });
    let mut died = false;
    let said = loop {
        tokio::select! {
            said = &mut operator => break said.expect("the operator does not panic"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        if !died && ground.stage.controller.process().status().is_some() {
            died = true;
            ground.stage.controller.start().await;
        }
    };
    assert_eq!(said, Ok(()), "killed {moment} commit {number}");
    // Nobody dies later, of a fault that was not met; and an agent that saw its controller die again and
    // again would wait longer and longer before it dials.
    ground.stage.controller.kill();
    ground.stage.controller.start().await;
    ground.stage.agent.kill();
    ground.stage.agent.start();
    died
}

/// `first`: 1 or 2, every second commit from there. After a commit is as before the next one, so that the two
/// tests together see all of them.
async fn every_second_commit(moment: &str, first: u32) {
    let mut ground = Ground::new().await;
    let mut deaths = 0;
    let mut survived = 0;
    for number in (first..=COMMITS).step_by(2) {
        let what = format!("controller killed {moment} commit {number}");
        let died = killed(&mut ground, number, moment).await;
        let rollout: Value = until("the rollout's end", ROLLOUT, async || {
            let newest = newest_rollout(&ground.stage).await;
            (newest["state"] != "running")
                .then(|| newest.clone())
                .ok_or(newest.to_string())
        })
        .await;
        assert_eq!(rollout["state"], "succeeded", "{what}: {rollout:#}");
        ground.exactly_one("v1", &rollout, &what).await;
        let verified = ground.stage.ctl.json(&["record", "verify"]).await;
        assert_eq!(verified["holds"], true, "{what}");
        // What is stored in batches varies a little: two runs without a death end the search.
        survived = if died { 0 } else { survived + 1 };
        if survived == 2 {
            break;
        }
        deaths += u32::from(died);
        let new = ground.new.clone();
        ground.deploy(&new).await;
        ground.stage.online().await;
        ground.stage.current("shop", 2).await;
    }
    assert!(
        deaths > 5,
        "a rollback commits more often than {deaths} times"
    );
    assert_eq!(survived, 2, "the search came to an end");
}

#[tokio::test]
async fn never_lost_a_controller_killed_before_a_commit_loses_nothing() {
    every_second_commit("before", 1).await;
}

#[tokio::test]
async fn never_lost_a_controller_killed_after_a_commit_loses_nothing() {
    every_second_commit("after", 2).await;
}
