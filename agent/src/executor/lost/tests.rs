use std::fs;

use sternway_proto::order::seal;
use tempfile::TempDir;

use super::*;
use crate::{
    boundary::{Report, Request},
    engine::journal::file_name,
    executor::scripted::{Agent, SOON, Scripted, deployed, id, order, shop},
    fault,
    store::revisions::Revisions,
};

const ORDER: Uuid = Uuid::from_u128(1);

/// An agent was stopped in the middle of an order; its journal is gone, and what it made bears the target's name.
async fn half_made(begun: bool) -> (TempDir, Scripted) {
    let (dir, kind, mut agent) = deployed().await;
    fault::full::after(dir.path(), 4);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(ORDER, "journal-failed").await);
    agent.stop().await;
    fault::full::no_longer(dir.path());
    let journal = dir.path().join("orders/open").join(file_name(ORDER));
    fs::remove_file(journal).expect("it was there");
    kind.run("half-made");
    let instance = kind.world().instance.to_string();
    kind.world().made = Some(Made {
        target: shop(),
        order: ORDER,
        instance,
        begun,
    });
    (dir, kind)
}

async fn runs(kind: &Scripted, what: &str) {
    timeout(SOON, async {
        while kind.world().running != Some(what) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it runs in time");
}

async fn told(agent: &mut Agent, what: impl Fn(&v1::Problem) -> bool) {
    timeout(SOON, async {
        loop {
            if let Report::Target(target) = agent.reports.recv().await.expect("running")
                && let Some(readiness) = &target.readiness
                && readiness.problems.iter().any(&what)
            {
                return;
            }
        }
    })
    .await
    .expect("it is told");
}

fn recorded(dir: &TempDir) -> Vec<String> {
    let revisions = Revisions::open(dir.path(), 1_000_000).expect("opened");
    let history = revisions.history(&shop()).expect("known");
    let ids = history.entries().iter().map(|one| one.id.to_string());
    ids.collect()
}

#[tokio::test]
async fn never_none_what_an_order_without_a_journal_left_is_put_right_told_and_not_recorded() {
    for begun in [false, true] {
        let (dir, kind) = half_made(begun).await;
        let mut agent = Agent::start(dir.path(), &kind).await;
        told(&mut agent, |problem| {
            problem.message.contains("what ran before runs")
        })
        .await;
        runs(&kind, "v2").await;
        kind.run("v3");
        agent.sees_no_problem("cannot-resume").await;
        assert_eq!(kind.world().mends, [ORDER], "{begun}");
        agent.stop().await;
        let known = ["v1", "v2", "v3"].map(|one| id(one).to_string());
        assert_eq!(recorded(&dir), known, "{begun}");
    }
}

#[tokio::test]
async fn what_can_never_be_put_right_says_what_to_do_and_is_left_to_whoever_does_it() {
    let (dir, kind) = half_made(true).await;
    kind.world().mend_fails = Some(false);
    let mut agent = Agent::start(dir.path(), &kind).await;
    told(&mut agent, |problem| problem.next_step == "do it by hand").await;
    kind.run("v3");
    kind.world().made = None;
    agent.sees_no_problem("cannot-resume").await;
    assert_eq!(kind.world().mends, [ORDER]);
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_put_right_now_says_what_to_do_and_is_tried_again() {
    let (dir, kind) = half_made(false).await;
    kind.world().mend_fails = Some(true);
    let mut agent = Agent::start(dir.path(), &kind).await;
    told(&mut agent, |problem| problem.next_step == "do it by hand").await;
    kind.world().mend_fails = None;
    runs(&kind, "v2").await;
    agent.stop().await;
    let known = ["v1", "v2"].map(|one| id(one).to_string());
    assert_eq!(recorded(&dir), known);
}

#[tokio::test]
async fn what_an_order_that_is_over_made_is_left_alone() {
    let (dir, kind, mut agent) = deployed().await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let _ = agent.end(ORDER).await.expect("told");
    agent.sees("v1").await;
    agent.stop().await;
    let journal = dir.path().join("orders/open").join(file_name(ORDER));
    fs::remove_file(journal).expect("it was there");
    let instance = kind.world().instance.to_string();
    kind.world().made = Some(Made {
        target: shop(),
        order: ORDER,
        instance,
        begun: true,
    });
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v1").await;
    kind.run("v3");
    kind.world().made = None;
    agent.sees("v3").await;
    assert!(kind.world().mends.is_empty());
    agent.stop().await;
}
