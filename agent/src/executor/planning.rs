//! How plans take turns, against the scripted kind.

use std::sync::Arc;

use sternway_proto::v1;
use tokio::{sync::Semaphore, time::timeout};

use super::scripted::{Agent, SOON, deployed, id, shop};
use crate::boundary::{Report, Request};

async fn asks_for_plans(agent: &Agent, numbers: std::ops::RangeInclusive<u64>) {
    for request_id in numbers {
        let request = v1::PlanRequest {
            request_id,
            target: shop().to_string(),
            revision: id("v1").to_string(),
            ..v1::PlanRequest::default()
        };
        agent.send(Request::Plan(request)).await;
    }
}

/// The next answer to a plan: which one, and the code of its refusal.
async fn answered(agent: &mut Agent) -> (u64, Option<String>) {
    timeout(SOON, async {
        loop {
            let Report::PlanReply(reply) = agent.reports.recv().await.expect("running") else {
                continue;
            };
            let refused = match reply.result.expect("answered") {
                v1::plan_reply::Result::Plan(_) => None,
                v1::plan_reply::Result::Problem(problem) => Some(problem.code),
            };
            return (reply.request_id, refused);
        }
    })
    .await
    .expect("in time")
}

#[tokio::test]
async fn the_ninth_plan_waits_for_its_turn() {
    let (_dir, kind, mut agent) = deployed().await;
    let turns = Arc::new(Semaphore::new(0));
    kind.world().plan_waits = Some(turns.clone());
    asks_for_plans(&agent, 1..=9).await;
    turns.add_permits(9);
    let mut made = Vec::new();
    for _ in 1..=9 {
        let (number, refused) = answered(&mut agent).await;
        assert_eq!(refused, None, "{number}");
        made.push(number);
    }
    made.sort_unstable();
    assert_eq!(made, (1..=9).collect::<Vec<_>>());
    agent.stop().await;
}

#[tokio::test]
async fn never_silent_more_plans_than_may_wait_are_refused_at_once() {
    let (_dir, kind, mut agent) = deployed().await;
    let turns = Arc::new(Semaphore::new(0));
    kind.world().plan_waits = Some(turns.clone());
    asks_for_plans(&agent, 1..=41).await;
    let refused = answered(&mut agent).await;
    assert_eq!(refused, (41, Some("too-many-plans".to_owned())));
    turns.add_permits(40);
    for _ in 1..=40 {
        assert_eq!(answered(&mut agent).await.1, None);
    }
    agent.stop().await;
}

#[tokio::test]
async fn never_silent_a_plan_whose_turn_does_not_come_is_refused() {
    let (_dir, kind, mut agent) = deployed().await;
    let turns = Arc::new(Semaphore::new(0));
    kind.world().plan_waits = Some(turns.clone());
    tokio::time::pause();
    asks_for_plans(&agent, 1..=9).await;
    let refused = answered(&mut agent).await;
    assert_eq!(refused, (9, Some("too-many-plans".to_owned())));
    tokio::time::resume();
    turns.add_permits(8);
    agent.stop().await;
}

#[tokio::test]
async fn marks_without_end_leave_room_for_plans() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().readiness_hangs = true;
    for _ in 0..100 {
        agent.send(Request::Marks(v1::Marks::default())).await;
    }
    asks_for_plans(&agent, 1..=1).await;
    assert_eq!(answered(&mut agent).await, (1, None));
    agent.stop().await;
}
