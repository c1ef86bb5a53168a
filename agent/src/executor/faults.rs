//! The executor against the scripted kind.

use std::{fs, sync::Arc, time::Duration};

use sternway_proto::{
    name::{RevisionId, TargetName},
    order::seal,
    v1,
};
use tempfile::TempDir;
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use super::scripted::{Agent, SOON, Scripted, World, deployed, id, order, shop};
use crate::{
    boundary::{Report, Request},
    engine::{
        event::Event,
        journal::{Journal, file_name},
    },
    fault,
    store::revisions::Revisions,
};

#[tokio::test]
async fn an_order_restores_and_says_what_runs() {
    let (_dir, kind, mut agent) = deployed().await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    assert_eq!(end.running_revision, id("v1").as_str());
    assert_eq!(kind.world().switches, 1);
    agent.stop().await;
}

#[tokio::test]
async fn never_arbitrary_an_order_for_what_this_host_never_recorded_is_refused() {
    let (_dir, kind, mut agent) = deployed().await;
    let target = |name: &str| v1::Order {
        target: name.to_owned(),
        ..order(0)
    };
    let never_seen = v1::Order {
        revision: id("v3").to_string(),
        ..order(0)
    };
    for (number, ordered, code) in [
        (1, never_seen, "revision-unknown"),
        (2, target("scripted/other"), "revision-unknown"),
        (3, target("docker/shop"), "target-unknown"),
    ] {
        let ordered = v1::Order {
            order_id: order(number).order_id,
            sequence: order(number).sequence,
            ..ordered
        };
        agent.send(Request::Order(seal(&ordered))).await;
        let end = agent.end(Uuid::from_u128(number)).await.expect("told");
        assert_eq!(end.outcome(), v1::Outcome::Refused, "{end:?}");
        let problem = end.problem.expect("a problem");
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(!problem.next_step.is_empty(), "{problem:?}");
    }
    {
        let world = kind.world();
        assert_eq!((world.running, world.switches), (Some("v2"), 0));
    }
    agent.stop().await;
}

#[tokio::test]
async fn never_blind_an_undo_that_leaves_nothing_running_is_not_called_undone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().apply_fails = true;
    kind.world().undo_loses = true;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_ne!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn never_none_what_was_put_back_and_does_not_run_is_not_called_undone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().apply_fails = true;
    kind.world().undo_stops = true;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::NeedsHuman, "{end:?}");
    assert_eq!(end.running_revision, "", "{end:?}");
    assert_eq!(kind.world().rescues, 1);
    agent.stop().await;
}

#[tokio::test]
async fn never_none_the_last_resort_waits_for_an_engine_that_is_away() {
    let (_dir, kind, mut agent) = deployed().await;
    {
        let mut world = kind.world();
        (world.apply_fails, world.undo_loses, world.rescues_away) = (true, true, 2);
    }
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(Uuid::from_u128(1), "engine-away").await);
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::NeedsHuman, "{end:?}");
    assert_eq!(end.running_revision, id("v2").as_str(), "{end:?}");
    assert_eq!(kind.world().rescues, 3);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_while_the_engine_is_away_leaves_the_order_to_the_next_one() {
    let (dir, kind, mut agent) = deployed().await;
    {
        let mut world = kind.world();
        (world.apply_fails, world.undo_loses, world.rescues_away) = (true, true, 1_000);
    }
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(Uuid::from_u128(1), "engine-away").await);
    agent.stop().await;
    kind.world().rescues_away = 0;
    let mut agent = Agent::start(dir.path(), &kind).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::NeedsHuman, "{end:?}");
    assert_eq!(end.running_revision, id("v2").as_str(), "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn never_both_what_an_order_takes_along_is_busy_and_found_again() {
    let (dir, kind, mut agent) = deployed().await;
    let other: TargetName = "scripted/other".parse().expect("valid");
    {
        let mut world = kind.world();
        world.with = vec![other.clone()];
        (world.apply_fails, world.undo_loses, world.rescues_away) = (true, true, 1_000);
    }
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(Uuid::from_u128(1), "engine-away").await);
    for number in [2, 3] {
        let beside = v1::Order {
            target: other.to_string(),
            ..order(number)
        };
        agent.send(Request::Order(seal(&beside))).await;
        let end = agent.end(Uuid::from_u128(number)).await.expect("told");
        assert_eq!(end.problem.expect("refused").code, "target-busy");
        agent.stop().await;
        agent = Agent::start(dir.path(), &kind).await;
    }
    kind.world().rescues_away = 0;
    assert!(agent.end(Uuid::from_u128(1)).await.is_some());
    let free = v1::Order {
        target: other.to_string(),
        ..order(4)
    };
    agent.send(Request::Order(seal(&free))).await;
    let end = agent.end(Uuid::from_u128(4)).await.expect("told");
    assert_eq!(end.problem.expect("refused").code, "revision-unknown");
    agent.stop().await;
}

#[tokio::test]
async fn what_did_not_run_before_is_undone_when_it_is_back() {
    let (_dir, kind, mut agent) = deployed().await;
    {
        let mut world = kind.world();
        (world.apply_fails, world.undo_stops, world.stopped) = (true, true, true);
    }
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    assert_eq!(end.running_revision, "", "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_target_that_cannot_be_read_is_not_taken_for_gone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().unread = true;
    timeout(SOON, async {
        while kind.world().unread_looks < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is looked at");
    kind.run("v3");
    kind.world().unread = false;
    timeout(SOON, async {
        loop {
            let found = match agent.reports.recv().await.expect("running") {
                Report::Inventory(all) => all.targets,
                Report::Target(one) => vec![one],
                _ => Vec::new(),
            };
            for one in found {
                assert_ne!(one.state(), v1::TargetState::Gone, "{one:?}");
                if one.current_revision == id("v3").as_str() {
                    return;
                }
            }
        }
    })
    .await
    .expect("it is seen again");
    agent.stop().await;
}

#[tokio::test]
async fn an_unchanged_target_is_reported_to_run_what_it_runs() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().result_is_running = true;
    let mut order = order(1);
    order.scope = v1::RestoreScope::Image.into();
    agent.send(Request::Order(seal(&order))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.running_revision, id("v2").as_str(), "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_killed_before_the_first_append_still_answers_for_the_order() {
    let (dir, kind, agent) = deployed().await;
    agent.stop().await;
    // What `Journal::create` leaves when it is killed before its first append.
    let path = dir
        .path()
        .join("orders/open")
        .join(file_name(Uuid::from_u128(1)));
    fs::write(path, b"STWJRNL1").expect("left");
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v2").await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await;
    assert!(
        end.is_some(),
        "the order was delivered again and nothing was ever said of it"
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_order_that_was_told_refused_is_not_carried_out_when_it_comes_again() {
    let (dir, kind, mut agent) = deployed().await;
    let open = dir.path().join("orders/open");
    let aside = dir.path().join("orders/aside");
    fs::rename(&open, &aside).expect("the folder fails");
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Refused);
    fs::rename(&aside, &open).expect("the folder is well again");
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told again");
    assert_eq!(
        (end.outcome(), kind.world().switches),
        (v1::Outcome::Refused, 0)
    );
    agent.stop().await;
}

/// The disk is full from the N-th append on, for every N; then there is room again.
async fn full_in_mid_order(apply_fails: bool) {
    for spared in 1.. {
        assert!(spared < 30, "the search comes to an end");
        let (dir, kind, mut agent) = deployed().await;
        {
            let mut world = kind.world();
            world.in_two_steps = true;
            world.apply_fails = apply_fails;
        }
        fault::full::after(dir.path(), spared);
        let id = Uuid::from_u128(1);
        agent.send(Request::Order(seal(&order(1)))).await;
        let stood_still = agent.stands_still(id, "journal-failed").await;
        // Never none, also while nothing can be written down.
        timeout(SOON, async {
            while kind.world().running.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("nothing runs, full after {spared}"));
        fault::full::no_longer(dir.path());
        if !stood_still {
            agent.stop().await;
            return;
        }
        let end = agent.end(id).await.expect("told");
        let (rescues, running) = {
            let world = kind.world();
            (world.rescues, world.running)
        };
        let expected = if apply_fails || rescues > 0 {
            (v1::Outcome::Undone, Some("v2"))
        } else {
            (v1::Outcome::Restored, Some("v1"))
        };
        assert_eq!(
            (end.outcome(), running),
            expected,
            "after {spared}: {end:?}"
        );
        // The next order finds nothing in its way, and the journal tells one story.
        agent.stop().await;
        let mut agent = Agent::start(dir.path(), &kind).await;
        let again = agent.end(id).await.expect("told again");
        assert_eq!(again, end);
        agent.stop().await;
    }
}

#[tokio::test]
async fn never_none_an_order_goes_on_by_itself_when_its_journal_can_be_written_again() {
    full_in_mid_order(false).await;
}

#[tokio::test]
async fn never_none_an_undo_goes_on_by_itself_when_its_journal_can_be_written_again() {
    full_in_mid_order(true).await;
}

#[tokio::test]
async fn an_order_found_open_goes_on_by_itself_when_its_journal_can_be_written() {
    let (dir, kind, mut agent) = deployed().await;
    kind.world().in_two_steps = true;
    fault::full::after(dir.path(), 4);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    agent.stop().await;
    let mut agent = Agent::start(dir.path(), &kind).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    fault::full::no_longer(dir.path());
    let end = agent.end(id).await.expect("told");
    let running = match end.outcome() {
        v1::Outcome::Restored => "v1",
        v1::Outcome::Undone => "v2",
        other => panic!("{other:?}"),
    };
    assert_eq!(kind.world().running, Some(running));
    agent.stop().await;
}

#[tokio::test]
async fn an_order_whose_task_panics_is_gone_on_with_as_after_a_crash() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().panics = 2;
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(id).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    // One that panics again and again is undone, and the target is free.
    kind.run("v2");
    agent.sees("v2").await;
    kind.world().panics = u32::MAX;
    agent.send(Request::Order(seal(&order(2)))).await;
    let end = agent.end(Uuid::from_u128(2)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    kind.world().panics = 0;
    agent.send(Request::Order(seal(&order(3)))).await;
    let end = agent.end(Uuid::from_u128(3)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_order_whose_task_panics_while_it_stands_still_no_longer_stands_still() {
    for spared in 1.. {
        assert!(spared < 30, "the search comes to an end");
        let (dir, kind, mut agent) = deployed().await;
        {
            let mut world = kind.world();
            world.in_two_steps = true;
            world.rescue_panics = Some(dir.path().to_owned());
        }
        fault::full::after(dir.path(), spared);
        let id = Uuid::from_u128(1);
        agent.send(Request::Order(seal(&order(1)))).await;
        agent.stands_still(id, "journal-failed").await;
        fault::full::no_longer(dir.path());
        agent.end(id).await.expect("told");
        agent.sees_no_problem("journal-failed").await;
        let panicked = kind.world().rescue_panics.is_none();
        agent.stop().await;
        if panicked {
            return;
        }
    }
}

#[tokio::test]
async fn checks_that_panic_leave_the_agent_alive() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().checks_panic = true;
    kind.run("v3");
    agent.sees("v3").await;
    kind.run("v2");
    agent.sees("v2").await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    agent.stop().await;
}

/// Waits until the scripted world is so.
async fn becomes(kind: &Scripted, what: &str, so: impl Fn(&World) -> bool) {
    let waited = timeout(SOON, async {
        while !so(&kind.world()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never {what}: {:?}", kind.world());
}

#[tokio::test]
async fn what_is_checked_often_is_kept_at_its_own_interval_and_when_an_order_is_over() {
    let dir = TempDir::new().expect("folder");
    let kind = Scripted::default();
    kind.run("v1");
    let mut agent = Agent::checking(dir.path(), &kind, Duration::from_millis(100)).await;
    agent.sees("v1").await;
    kind.run("v2");
    agent.sees("v2").await;
    becomes(&kind, "v2 is kept", |world| world.kept.len() == 2).await;
    let counted = |world: &World| (world.checks, world.keeps);
    let (checks, keeps) = counted(&kind.world());
    becomes(&kind, "it is checked", |world| world.checks > checks + 5).await;
    assert_eq!(kind.world().keeps, keeps);
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    becomes(&kind, "it is kept again", |world| world.keeps > keeps).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_was_deployed_is_kept_while_checks_go_through_their_soak() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().checks_soak = true;
    for version in ["v3", "v4", "v5"] {
        kind.run(version);
        agent.sees(version).await;
        becomes(&kind, "kept", |world| world.kept.contains(&id(version))).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_look_that_began_before_an_orders_end_and_is_used_after_it_records_nothing() {
    let (dir, kind, mut agent) = deployed().await;
    let waits = Arc::new(Semaphore::new(0));
    let looks = {
        let mut world = kind.world();
        world.look_waits = Some(waits.clone());
        world.looks
    };
    becomes(&kind, "looked at", |world| world.looks > looks).await;
    let order = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&self::order(1)))).await;
    // Told although the look hangs, which is the one that would say what runs.
    agent.end(order).await.expect("told");
    let looks = {
        let mut world = kind.world();
        world.look_waits = None;
        world.looks
    };
    waits.add_permits(1);
    // The look after the next one began: what the held one saw was used, or not.
    becomes(&kind, "looked at again", |world| world.looks > looks + 1).await;
    agent.stop().await;
    let revisions = Revisions::open(dir.path(), 1_000_000).expect("opened");
    let history = revisions.history(&shop()).expect("there");
    let known: Vec<_> = history
        .entries()
        .iter()
        .map(|entry| entry.id.clone())
        .collect();
    assert_eq!(known, [id("v1"), id("v2")]);
}

/// The target as it was told last, when the end of that order is told.
async fn told_before_the_end(agent: &mut Agent, order: Uuid) -> v1::Target {
    timeout(SOON, async {
        let mut last = None;
        loop {
            match agent.reports.recv().await.expect("running") {
                Report::Target(target) => last = Some(target),
                Report::Inventory(all) => last = all.targets.into_iter().next(),
                Report::OrderEvent(event)
                    if event.order_id == order.to_string()
                        && matches!(event.event, Some(v1::order_event::Event::Finished(_))) =>
                {
                    return last.expect("told");
                }
                _ => {}
            }
        }
    })
    .await
    .expect("in time")
}

#[tokio::test]
async fn who_hears_of_the_end_of_an_order_has_heard_what_runs_since() {
    let (_dir, _kind, mut agent) = deployed().await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let told = told_before_the_end(&mut agent, Uuid::from_u128(1)).await;
    assert_eq!(told.current_revision, id("v1").as_str(), "{told:#?}");
    assert_eq!(told.lineage, [id("v1").to_string()]);
    assert_eq!(told.active_order, "");
    agent.stop().await;
}

#[tokio::test]
async fn never_silent_without_its_watcher_the_executor_ends() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().watch_ends = true;
    timeout(SOON, agent.executor.ended()).await.expect("ended");
}

#[tokio::test]
async fn the_time_of_checks_comes_on_top_of_the_limit() {
    let (dir, kind, mut agent) = deployed().await;
    kind.world().waiting = Duration::from_hours(1);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.end(id).await.is_some());
    agent.stop().await;
    let journal = Journal::open(&dir.path().join("orders/open"), id).expect("there");
    let limit_ms = journal.lines().iter().find_map(|line| match &line.event {
        Event::Planned { until_ms, .. } => Some(until_ms - line.at_ms),
        _ => None,
    });
    // The minute of these settings, and the hour; the line was made a moment after the limit was.
    let limit_ms = limit_ms.expect("planned");
    assert!((3_600_000..=3_660_000).contains(&limit_ms), "{limit_ms}");
}

/// An agent that was stopped in the middle of an order, and whose journal is then changed.
async fn cannot_resume(change: impl FnOnce(&mut Vec<u8>)) -> (v1::OrderFinished, Vec<Uuid>) {
    let (dir, kind, mut agent) = deployed().await;
    fault::full::after(dir.path(), 4);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    agent.stop().await;
    fault::full::no_longer(dir.path());
    let path = dir.path().join("orders/open").join(file_name(id));
    let mut bytes = fs::read(&path).expect("there");
    change(&mut bytes);
    fs::write(&path, &bytes).expect("changed");
    let mut agent = Agent::start(dir.path(), &kind).await;
    assert!(agent.stands_still(id, "cannot-resume").await);
    let mut next = order(2);
    next.expected_revision = id_of_running(&kind).to_string();
    agent.send(Request::Order(seal(&next))).await;
    let end = agent.end(Uuid::from_u128(2)).await.expect("told");
    let spared = timeout(SOON, async {
        while kind.world().spared.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kind.world().spared.clone()
    })
    .await
    .expect("collected");
    assert_eq!(fs::read(&path).expect("there"), bytes, "it is left alone");
    agent.stop().await;
    (end, spared)
}

fn id_of_running(kind: &Scripted) -> RevisionId {
    id(kind.world().running.expect("runs"))
}

#[tokio::test]
async fn an_open_order_that_cannot_be_read_blocks_its_target_and_is_spared() {
    let last = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    };
    let newer = |bytes: &mut Vec<u8>| bytes[7] = b'2';
    for (what, (end, spared)) in [
        ("damaged", cannot_resume(last).await),
        ("of a newer version", cannot_resume(newer).await),
    ] {
        assert_eq!(end.outcome(), v1::Outcome::Refused, "{what}: {end:?}");
        let problem = end.problem.unwrap_or_default();
        assert_eq!(problem.code, "cannot-resume", "{what}");
        let file = file_name(Uuid::from_u128(1));
        assert!(problem.next_step.contains(&file), "{what}: {problem:?}");
        assert_eq!(spared, [Uuid::from_u128(1)], "{what}");
    }
}

#[tokio::test]
async fn a_long_collection_holds_nothing_else_up() {
    let dir = TempDir::new().expect("folder");
    let kind = Scripted::default();
    kind.world().collect_hangs = true;
    kind.run("v1");
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v1").await;
    timeout(SOON, async {
        while kind.world().collections == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it begins");
    kind.run("v2");
    agent.sees("v2").await;
    assert_eq!(kind.world().cut_off, 0, "it is still under way");
    agent.stop().await;
    assert_eq!(kind.world().cut_off, 1);
}

#[tokio::test]
async fn refusals_without_end_are_told_and_not_all_written_down() {
    let (dir, kind, mut agent) = deployed().await;
    let stranger = |number| v1::Order {
        host_id: Uuid::from_u128(8).to_string(),
        ..order(number)
    };
    for number in 1..=40 {
        agent.send(Request::Order(seal(&stranger(number)))).await;
        let end = agent.end(Uuid::from_u128(number)).await.expect("told");
        assert_eq!(end.outcome(), v1::Outcome::Refused, "{end:?}");
    }
    let written = fs::read_dir(dir.path().join("orders/open")).expect("a folder");
    assert_eq!(written.count(), 30);
    // What was said of the last one stands.
    agent.send(Request::Order(seal(&order(40)))).await;
    let end = agent.end(Uuid::from_u128(40)).await.expect("told again");
    assert_eq!(end.outcome(), v1::Outcome::Refused, "{end:?}");
    assert_eq!(kind.world().switches, 0);
    agent.stop().await;
}
