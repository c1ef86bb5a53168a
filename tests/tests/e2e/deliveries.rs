//! What is delivered twice, late, out of order, with gaps, for somebody else, or broken: each is answered, and
//! the record says what became of it. The agent is scripted, its stream is the real one.

use serde_json::Value;
use sternway_proto::{
    enrol, limits,
    v1::{self, agent_message::Message as Up, controller_message::Message as Down},
};
use sternway_tests::{
    ground::Ground,
    scripted::{
        Host, Session, TARGET, WAIT, accepted, finished, inventory, order_event, passed, restored,
        target,
    },
    wait::until,
};

/// A controller and one host.
struct Story {
    host: Host,
    ground: Ground,
}

impl Story {
    async fn new() -> Self {
        Self::on(Ground::new().await).await
    }

    /// Orders are given up soon.
    async fn losing() -> Self {
        let mut ground = Ground::new().await;
        ground.controller.kill();
        ground
            .controller
            .spawn(&[("STERNWAY_CONTROLLER__ORDER_LOST_AFTER", "2s")]);
        ground.controller.serves().await;
        Self::on(ground).await
    }

    async fn on(ground: Ground) -> Self {
        let host = ground.join("web-1").await;
        Self { host, ground }
    }

    /// A session whose inventory is known.
    async fn session(&self) -> Session {
        self.ground.session("web-1", &self.host).await
    }

    /// Starts a rollback while the agent is there and plans it.
    async fn start(&self, session: &mut Session, deadline: &str) {
        let ctl = self.ground.ctl.clone();
        let deadline = deadline.to_owned();
        let starting = tokio::spawn(async move {
            ctl.run(&[
                "rollback",
                "--host",
                "web-1",
                "--yes",
                "--no-wait",
                "--deadline",
                &deadline,
            ])
            .await
        });
        session.plan().await;
        let _ = starting.await.expect("no panic").exits(0);
    }

    async fn newest(&self) -> Value {
        let newest = self.ground.rollouts().await.into_iter().next();
        newest.unwrap_or_default()
    }

    async fn ends(&self, state: &str) -> Value {
        until(&format!("the rollout to be {state}"), WAIT, async || {
            let newest = self.newest().await;
            if newest["state"] == state {
                Ok(newest)
            } else {
                Err(newest.to_string())
            }
        })
        .await
    }

    /// Entries of the record with that action.
    async fn recorded(&self, action: &str) -> usize {
        let listed = self
            .ground
            .ctl
            .json(&["record", "ls", "--limit", "500"])
            .await;
        let entries = listed["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["action"] == action)
            .count()
    }
}

#[tokio::test]
async fn an_order_that_is_not_answered_comes_again_and_has_one_effect() {
    let story = Story::new().await;
    let mut session = story.session().await;
    story.start(&mut session, "5m").await;
    let first = session.order().await;
    // Not answered: it comes again on the same session, and on the next one.
    let second = session.order().await;
    assert_eq!(first, second, "byte for byte the same");
    drop(session);
    let mut session = story.session().await;
    let third = session.order().await;
    assert_eq!(first, third);
    session.report(&third, 1, accepted()).await;
    session.report(&third, 2, passed()).await;
    session.report(&third, 3, restored()).await;
    story.ends("succeeded").await;
    for (action, times) in [
        ("order.created", 1),
        ("order.sent", 1),
        ("order.accepted", 1),
        ("evidence.seen", 1),
        ("order.finished", 1),
    ] {
        assert_eq!(story.recorded(action).await, times, "{action}");
    }
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn acknowledgements_that_are_lost_and_events_that_come_twice_count_once() {
    let story = Story::new().await;
    let mut session = story.session().await;
    story.start(&mut session, "5m").await;
    let order = session.order().await;
    // Said, and gone before the acknowledgement.
    session.event(&order, 1, accepted()).await;
    session.event(&order, 2, passed()).await;
    until("the evidence", WAIT, async || {
        let seen = story.recorded("evidence.seen").await;
        (seen == 1).then_some(()).ok_or(seen)
    })
    .await;
    drop(session);
    let mut session = story.session().await;
    for _ in 0..3 {
        session.report(&order, 1, accepted()).await;
        session.report(&order, 2, passed()).await;
    }
    session.report(&order, 3, restored()).await;
    session.report(&order, 3, restored()).await;
    // What comes after the end is settled: acknowledged, and changes nothing.
    session
        .report(&order, 4, finished(v1::Outcome::Undone))
        .await;
    story.ends("succeeded").await;
    assert_eq!(story.recorded("evidence.seen").await, 1);
    assert_eq!(story.recorded("order.finished").await, 1);
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn a_gap_and_a_wrong_order_of_events_are_said_and_mended_by_the_next_session() {
    let story = Story::new().await;
    let mut session = story.session().await;
    story.start(&mut session, "5m").await;
    let order = session.order().await;
    session.event(&order, 3, restored()).await;
    let refusal = session.refused().await;
    assert_eq!(refusal.code, "events-gap");
    assert!(!refusal.next_step.is_empty(), "{refusal:?}");
    assert_eq!(story.newest().await["state"], "running");
    let mut session = story.session().await;
    session.report(&order, 1, accepted()).await;
    session.report(&order, 2, passed()).await;
    session.report(&order, 3, restored()).await;
    story.ends("succeeded").await;
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn events_of_a_foreign_order_change_nothing_and_of_an_unknown_one_the_end_is_noted() {
    let story = Story::new().await;
    let mut session = story.session().await;
    story.start(&mut session, "5m").await;
    let order = session.order().await;
    let other = story.ground.join("web-2").await;
    let mut foreign = other.session().await;
    for number in 1..=3 {
        foreign.event(&order, number, restored()).await;
    }
    let unknown = "00000000-0000-4000-8000-000000000000";
    foreign
        .say(Up::OrderEvent(order_event(unknown, 1, restored())))
        .await;
    let stored = loop {
        match foreign.hear().await {
            Down::EventsStored(stored) => break stored,
            Down::Marks(_) => {}
            other => panic!("not acknowledged: {other:?}"),
        }
    };
    assert_eq!((stored.order_id.as_str(), stored.up_to), (unknown, 1));
    let record = story.ground.ctl.json(&["record", "ls"]).await.to_string();
    assert!(record.contains("order.unknown"), "{record}");
    until("the log to say so", WAIT, async || {
        let metrics =
            sternway_tests::http::get(&story.ground.controller.metrics(), "/metrics").await;
        let text = metrics.map(|answer| answer.body).unwrap_or_default();
        let counted = text.lines().any(|line| {
            line.starts_with("sternway_agent_messages_refused_total")
                && line.contains("foreign-order")
                && line.ends_with(" 3")
        });
        counted.then_some(()).ok_or(text)
    })
    .await;
    assert_eq!(story.newest().await["state"], "running");
    session.report(&order, 1, accepted()).await;
    session.report(&order, 2, passed()).await;
    session.report(&order, 3, restored()).await;
    story.ends("succeeded").await;
}

#[tokio::test]
async fn an_order_that_was_never_sent_expires_and_the_record_says_so() {
    let story = Story::new().await;
    drop(story.session().await);
    until("the host to be offline", WAIT, async || {
        let shown = story.ground.ctl.json(&["host", "show", "web-1"]).await;
        let state = shown["host"]["state"].clone();
        (state == "offline").then_some(()).ok_or(state.to_string())
    })
    .await;
    let start = [
        "rollback",
        "--host",
        "web-1",
        "--yes",
        "--no-wait",
        "--deadline",
        "2s",
    ];
    let _ = story.ground.ctl.run(&start).await.exits(0);
    let ended = story.ends("expired").await;
    let order = &ended["waves"][0]["orders"][0];
    assert_eq!(order["problem"]["code"], "order-expired", "{order:#}");
    assert_eq!(story.recorded("order.finished").await, 1);
    assert_eq!(story.recorded("order.sent").await, 0);
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn an_order_whose_host_does_not_come_back_ends_unknown_and_the_truth_is_stored_when_it_does()
{
    let story = Story::losing().await;
    let mut session = story.session().await;
    story.start(&mut session, "2s").await;
    let order = session.order().await;
    session.report(&order, 1, accepted()).await;
    drop(session);
    let ended = story.ends("needs-human").await;
    let lost = &ended["waves"][0]["orders"][0];
    assert_eq!(lost["problem"]["code"], "outcome-unknown", "{lost:#}");
    // Its target is free for another one, and the truth still comes through.
    let mut session = story.session().await;
    session.report(&order, 2, passed()).await;
    assert_eq!(story.newest().await["state"], "needs-human");
    session.report(&order, 3, restored()).await;
    let truth = story.ends("succeeded").await;
    let known = &truth["waves"][0]["orders"][0];
    assert_eq!(known["outcome"], "restored", "{known:#}");
    assert!(known["problem"].is_null(), "{known:#}");
    assert_eq!(story.recorded("order.finished").await, 2);
    story.start(&mut session, "5m").await;
    let next = session.order().await;
    assert_ne!(next.id(), order.id());
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn an_order_that_an_agent_that_is_there_is_not_at_ends_unknown_and_frees_its_target() {
    let story = Story::losing().await;
    let mut session = story.session().await;
    story.start(&mut session, "5m").await;
    let order = session.order().await;
    let id = order.id().to_string();
    let at = |active: &str, problem: Option<v1::Problem>| {
        Up::Target(v1::Target {
            active_order: active.to_owned(),
            readiness: Some(v1::Readiness {
                verdict: v1::ReadinessVerdict::NotReady.into(),
                problems: problem.into_iter().collect(),
                ..v1::Readiness::default()
            }),
            ..target(TARGET)
        })
    };
    session.say(at(&id, None)).await;
    session.report(&order, 1, accepted()).await;
    // Acknowledged behind it: what was said before is known, and a while has gone by.
    session.report(&order, 2, passed()).await;
    assert_eq!(story.newest().await["state"], "running");
    let problem = v1::Problem::new(
        "cannot-resume",
        format!("order {id} is open and cannot be gone on with"),
        "move its journal away",
    );
    session.say(at("", Some(problem))).await;
    let ended = story.ends("needs-human").await;
    let lost = &ended["waves"][0]["orders"][0]["problem"];
    assert_eq!(lost["code"], "outcome-unknown", "{lost:#}");
    let next = lost["next_step"].as_str().unwrap_or_default();
    assert!(next.contains("move its journal away"), "{lost:#}");
    // Its target is free, and what its agent says after all is stored.
    story.start(&mut session, "5m").await;
    let next = session.order().await;
    assert_ne!(next.id(), order.id());
    session.report(&order, 3, restored()).await;
    assert_eq!(story.recorded("order.finished").await, 2);
    story.ground.holds("at the end").await;
}

#[tokio::test]
async fn a_broken_or_hostile_answer_is_refused_with_its_reason_and_the_host_may_come_again() {
    let story = Story::new().await;
    let mut session = story.session().await;
    story.start(&mut session, "10m").await;
    let order = session.order().await;
    let id = order.id().to_string();
    drop(session);
    let huge = "x".repeat(limits::MESSAGE_BYTES + 1);
    let cases = [
        ("no order", order_message("x", 1), "malformed"),
        ("no number", order_message(&id, 0), "malformed"),
        ("too large", Up::TargetRemoved(huge), "too-large"),
        (
            "too many steps",
            Up::OrderEvent(order_event(
                &id,
                1,
                v1::order_event::Event::Planned(v1::Plan {
                    target: TARGET.to_owned(),
                    steps: vec![v1::StepInfo::default(); 10_000],
                    ..v1::Plan::default()
                }),
            )),
            "too-many",
        ),
        (
            "an end with a hostile revision",
            Up::OrderEvent(order_event(
                &id,
                1,
                v1::order_event::Event::Finished(v1::OrderFinished {
                    running_revision: "../../etc/passwd".to_owned(),
                    ..v1::OrderFinished::default()
                }),
            )),
            "malformed",
        ),
        (
            "a second hello",
            Up::Hello(v1::Hello::default()),
            "malformed",
        ),
    ];
    for (what, message, code) in cases {
        let mut session = story.host.session().await;
        session.say(message).await;
        let refusal = session.refused().await;
        assert_eq!(refusal.code, code, "{what}: {refusal:?}");
        assert!(
            !refusal.message.is_empty() && !refusal.next_step.is_empty(),
            "{what}"
        );
    }
    // Anything before the hello is refused, too.
    let mut stranger = story.host.stranger().await;
    stranger.say(inventory()).await;
    assert_eq!(stranger.refused().await.code, "malformed");
    let mut session = story.session().await;
    session.report(&order, 1, accepted()).await;
    session.report(&order, 2, passed()).await;
    session.report(&order, 3, restored()).await;
    story.ends("succeeded").await;
    story.ground.holds("at the end").await;
}

fn order_message(id: &str, number: u64) -> Up {
    Up::OrderEvent(order_event(id, number, accepted()))
}

#[tokio::test]
async fn of_too_many_targets_some_are_kept_and_the_operator_can_see_it() {
    let story = Story::new().await;
    let session = story.host.session().await;
    let targets = (0..520)
        .map(|number| target(&format!("docker/shop-{number:03}")))
        .collect();
    session.say(Up::Inventory(v1::Inventory { targets })).await;
    until("the targets", WAIT, async || {
        let shown = story.ground.ctl.json(&["host", "ls"]).await;
        let counted = shown["hosts"][0]["target_count"].clone();
        (counted == 500).then_some(()).ok_or(shown.to_string())
    })
    .await;
    // Older than the thousand revisions that came with the targets.
    let exported = story.ground.ctl.run(&["record", "export"]).await.exits(0);
    let noted = exported.stdout.matches("inventory.truncated").count();
    assert_eq!(noted, 1);
    let listed = story.ground.ctl.json(&["target", "ls"]).await;
    assert_eq!(listed["targets"].as_array().map(Vec::len), Some(500));
}

#[tokio::test]
async fn a_host_that_says_far_too_much_can_be_looked_at_and_revoked() {
    let ground = Ground::new().await;
    let host = ground.join("web-1").await;
    let session = ground.session("web-1", &host).await;
    let long = "x".repeat(2_000);
    // All together many times what fits into one answer.
    for number in 0..60 {
        let readiness = v1::Readiness {
            problems: vec![v1::Problem::new(&long, &long, &long); 30],
            ..v1::Readiness::default()
        };
        let told = v1::Target {
            readiness: Some(readiness),
            ..target(&format!("docker/shop-{number:02}"))
        };
        session.say(Up::Target(told)).await;
    }
    until("the targets", WAIT, async || {
        let shown = ground.ctl.json(&["host", "ls"]).await;
        let counted = shown["hosts"][0]["target_count"].clone();
        // That of the inventory, too.
        (counted.as_u64() >= Some(60))
            .then_some(())
            .ok_or(shown.to_string())
    })
    .await;
    for (command, list) in [
        (&["host", "show", "web-1"][..], "targets"),
        (&["target", "ls", "--host", "web-1"], "targets"),
        (&["target", "ls"], "targets"),
    ] {
        let shown = ground.ctl.json(command).await;
        let told = shown[list].as_array().map_or(0, Vec::len);
        assert!(told >= 60, "{command:?}: {told}");
        assert_eq!(shown["thinned"], true, "{command:?}");
    }
    let revoke = ["host", "revoke", "web-1", "--reason", "hostile", "--yes"];
    let said = ground.ctl.run(&revoke).await.exits(0);
    assert!(said.stdout.contains("is revoked"), "{said:?}");
}

async fn renewed(session: &mut Session) -> v1::renew_reply::Result {
    let (_key, csr_der) = enrol::new_key_and_request().expect("a key");
    session.say(Up::Renew(v1::RenewRequest { csr_der })).await;
    loop {
        if let Down::Renew(reply) = session.hear().await {
            return reply.result.expect("an answer");
        }
    }
}

#[tokio::test]
async fn a_host_that_renews_all_the_time_gets_one_certificate_and_its_session_goes_on() {
    let story = Story::new().await;
    let mut session = story.session().await;
    let first = renewed(&mut session).await;
    let certificate = matches!(first, v1::renew_reply::Result::Certificate(_));
    assert!(certificate, "{first:?}");
    // Also on another session.
    let mut next = story.session().await;
    for _ in 0..3 {
        match renewed(&mut next).await {
            v1::renew_reply::Result::Problem(problem) => {
                assert_eq!(problem.code, "renewed-too-often");
                assert!(!problem.next_step.is_empty(), "{problem:?}");
            }
            v1::renew_reply::Result::Certificate(_) => panic!("renewed again"),
        }
    }
    // The one of the join, and the one renewal.
    assert_eq!(story.recorded("certificate.issued").await, 2);
}

#[tokio::test]
async fn a_revoked_agent_is_told_why_and_revoking_again_is_no_error() {
    let story = Story::new().await;
    let mut session = story.session().await;
    let revoke = ["host", "revoke", "web-1", "--reason", "stolen", "--yes"];
    let _ = story.ground.ctl.run(&revoke).await.exits(0);
    assert_eq!(session.refused().await.code, "host-revoked");
    let _ = story.ground.ctl.run(&revoke).await.exits(0);
    assert_eq!(story.recorded("host.revoked").await, 1);
    until("the host to stay out", WAIT, async || {
        let Ok(mut client) = story.host.client().await else {
            return Ok(());
        };
        let none = tokio_stream::empty::<v1::AgentMessage>();
        match client.session(none).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it is let in"),
        }
    })
    .await;
}
