//! The answers of the engine are lost: each call that changes something takes effect, and the agent does not hear of
//! it the first time. The target ends on exactly one revision all the same, and nothing is left over.

use std::collections::BTreeSet;

use serde_json::Value;
use sternway_tests::{engine::Scope, gate::Gate, stage::Stage};

use super::crash::Ground;

/// No restore calls more often than that.
const CALLS: usize = 40;

async fn ground() -> (Gate, Ground) {
    let scope = Scope::new().await;
    let gate = Gate::new(&scope.socket(), scope.folder());
    let stage = Stage::of(scope, gate.socket(), "").await;
    (gate, Ground::on(stage, &[]).await)
}

/// A rollback of which the first answer to each changing call is lost, and which ones that were.
async fn unheard(gate: &Gate, ground: &Ground, to: &str, swap: &str) -> (Value, BTreeSet<String>) {
    gate.lose_each_once();
    ground.rolls_back(to, swap).await;
    let rollout = ground.over().await;
    (rollout, gate.lose_none())
}

fn are_lost(calls: &[&str], lost: &BTreeSet<String>) {
    for call in calls {
        assert!(
            lost.iter().any(|one| one.contains(call)),
            "{call}: {lost:#?}"
        );
    }
}

/// A restore that was not undone serves v1; one that was, v2 as before.
async fn is_one(ground: &Ground, rollout: &Value, what: &str) {
    let version = match rollout["state"].as_str() {
        Some("succeeded") => "v1",
        Some("undone") => "v2",
        other => panic!("{what}: {other:?}: {rollout:#}"),
    };
    ground.exactly_one(version, rollout, what).await;
}

/// One answer is lost in each restore, every one in turn: that is ridden out.
async fn one_by_one(swap: &str, at_least: usize) {
    let (gate, ground) = ground().await;
    let mut losses = 0;
    for number in 0..CALLS {
        let what = format!("{swap}, answer {number} lost");
        let lost = gate.lose_change(number);
        ground.rolls_back("1", swap).await;
        let rollout = ground.over().await;
        gate.disarm();
        assert_eq!(rollout["state"], "succeeded", "{what}: {rollout:#}");
        ground.exactly_one("v1", &rollout, &what).await;
        if !lost.is_gone() {
            break;
        }
        losses += 1;
        ground.deploy(&ground.new).await;
        ground.stage.current("shop", 2).await;
    }
    assert!(losses >= at_least, "only {losses} calls");
    assert!(losses < CALLS, "the search came to an end");
}

#[tokio::test]
async fn a_cold_restore_rides_out_each_answer_that_is_lost() {
    one_by_one("cold", 5).await;
}

#[tokio::test]
async fn a_warm_restore_rides_out_each_answer_that_is_lost() {
    one_by_one("warm", 8).await;
}

/// Every answer is lost the first time: more than the attempts at a step may be.
async fn all_at_once(swap: &str) {
    let (gate, ground) = ground().await;
    let (rollout, lost) = unheard(&gate, &ground, "1", swap).await;
    are_lost(&["/create?", "/start", "/stop"], &lost);
    is_one(&ground, &rollout, &format!("{swap}, all answers lost")).await;
}

#[tokio::test]
async fn a_cold_restore_whose_answers_are_all_lost_ends_on_one_revision() {
    all_at_once("cold").await;
}

#[tokio::test]
async fn a_warm_restore_whose_answers_are_all_lost_ends_on_one_revision() {
    all_at_once("warm").await;
}

#[tokio::test]
async fn an_undo_whose_answers_are_all_lost_ends_on_the_old_one() {
    let (gate, ground) = ground().await;
    ground.deploy(&ground.old).await;
    ground.stage.current("shop", 1).await;
    let (rollout, lost) = unheard(&gate, &ground, "2", "cold").await;
    are_lost(
        &["/create?", "/start", "/stop", "/rename", "DELETE "],
        &lost,
    );
    assert_eq!(rollout["state"], "undone", "{rollout:#}");
    let what = "undo, answers lost";
    ground.exactly_one("v1", &rollout, what).await;
}

#[tokio::test]
async fn a_replacement_whose_creation_is_not_heard_of_is_not_made_twice() {
    let (gate, ground) = ground().await;
    let lost = gate.lose("POST", "/containers/create");
    ground.rolls_back("1", "cold").await;
    lost.gone().await;
    let rollout = ground.over().await;
    assert_eq!(rollout["state"], "succeeded", "{rollout:#}");
    ground.exactly_one("v1", &rollout, "creation lost").await;
}
