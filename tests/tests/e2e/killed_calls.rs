//! `kill -9` of the agent in each of its calls to the engine that change something, also between two calls of one
//! step: the call takes effect, and nobody hears of it. The target ends on exactly one revision.

use std::time::Duration;

use sternway_tests::{engine::Scope, gate::Gate, stage::Stage, wait::until};

use super::crash::{Ground, newest_rollout};

/// No restore calls more often than that: a run that is never killed ends the search.
const CALLS: usize = 40;
const ROLLOUT: Duration = Duration::from_mins(3);

async fn every_call(swap: &str, at_least: usize) {
    let scope = Scope::new().await;
    let gate = Gate::new(&scope.socket(), scope.folder());
    let stage = Stage::of(scope, gate.socket(), "").await;
    let mut ground = Ground::on(stage, &[]).await;
    let mut deaths = 0;
    for number in 0..CALLS {
        let what = format!("{swap}, killed in call {number}");
        let held = gate.hold_change(number);
        ground.rolls_back("1", swap).await;
        let died = until("the call or the rollout's end", ROLLOUT, async || {
            if held.is_reached() {
                return Ok(true);
            }
            let newest = newest_rollout(&ground.stage).await;
            (newest["state"] != "running")
                .then_some(false)
                .ok_or(newest.to_string())
        })
        .await;
        if died {
            ground.stage.agent.kill();
            held.done().await;
            if swap == "warm" {
                ground.somebody_serves(&what).await;
            }
            ground.stage.agent.start();
        } else {
            gate.disarm();
        }
        let rollout = ground.over().await;
        // A restore that was not undone serves v1; one that was, v2 as before. Never none, never both.
        let version = match rollout["state"].as_str() {
            Some("succeeded") => "v1",
            Some("undone") => "v2",
            other => panic!("{what}: {other:?}: {rollout:#}"),
        };
        ground.exactly_one(version, &rollout, &what).await;
        if !died {
            break;
        }
        deaths += 1;
        ground.deploy(&ground.new).await;
        ground.stage.online().await;
        ground.stage.current("shop", 2).await;
    }
    assert!(deaths >= at_least, "only {deaths} calls");
    assert!(deaths < CALLS, "the search came to an end");
}

#[tokio::test]
async fn a_cold_restore_killed_in_each_call_ends_on_one_revision() {
    every_call("cold", 5).await;
}

#[tokio::test]
async fn a_warm_restore_killed_in_each_call_ends_on_one_revision() {
    every_call("warm", 8).await;
}
