use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message as _;
use tempfile::TempDir;

use super::*;

const HOST: Uuid = Uuid::from_u128(7);
const NOW: i64 = 1_000_000;

fn sealed(id: u128, target: &str, epoch: u64, sequence: u64) -> v1::SealedOrder {
    order::seal(&v1::Order {
        order_id: Uuid::from_u128(id).to_string(),
        rollout_id: Uuid::from_u128(1).to_string(),
        host_id: HOST.to_string(),
        epoch,
        sequence,
        target: target.to_owned(),
        expected_revision: String::new(),
        revision: "a".repeat(64),
        scope: v1::RestoreScope::Both.into(),
        swap: v1::Swap::Unspecified.into(),
        issued_at_ms: NOW - 1_000,
        not_after_ms: NOW + 10_000,
        operator: "alice".into(),
        reason: String::new(),
    })
}

fn opened(dir: &TempDir) -> Ledger {
    Ledger::open(dir.path(), HOST, NOW).expect("opened").0
}

/// `accepted`, `repeated`, or the code of the refusal.
fn arrive_at(ledger: &mut Ledger, sealed: &v1::SealedOrder, now_ms: i64) -> String {
    match ledger
        .arrive(sealed, now_ms, now_ms, |_| Ok(()))
        .expect("the disk works")
    {
        Arrival::Accepted(..) => "accepted".to_owned(),
        Arrival::Repeated(_) => "repeated".to_owned(),
        Arrival::Refused(_, lines) => match &lines[0].event {
            Event::Finished {
                problem: Some(problem),
                ..
            } => problem.code.clone(),
            other => panic!("{other:?}"),
        },
        Arrival::RefusedUnkept(_, told) => match told.last().and_then(|one| one.event.clone()) {
            Some(v1::order_event::Event::Finished(end)) => match end.problem {
                Some(problem) if problem.code == "order-refused-before" => {
                    let numbers: Vec<u64> = told.iter().map(|one| one.number).collect();
                    format!("{} {numbers:?}", problem.code)
                }
                _ => "unkept".to_owned(),
            },
            other => panic!("{other:?}"),
        },
        Arrival::Unreadable(error) => error.code().to_owned(),
    }
}

fn arrive(ledger: &mut Ledger, sealed: &v1::SealedOrder) -> String {
    arrive_at(ledger, sealed, NOW)
}

#[test]
fn never_twice_an_order_is_accepted_once_also_after_a_restart_and_when_it_is_settled() {
    let dir = TempDir::new().expect("folder");
    let order = sealed(10, "docker/shop", 3, 5);
    let mut ledger = opened(&dir);
    assert_eq!(arrive(&mut ledger, &order), "accepted");
    for _ in 0..1_000 {
        assert_eq!(arrive(&mut ledger, &order), "repeated");
    }
    let (mut ledger, found) = Ledger::open(dir.path(), HOST, NOW).expect("opened");
    assert_eq!(found.len(), 1);
    assert_eq!(arrive(&mut ledger, &order), "repeated");
    ledger.settle(Uuid::from_u128(10)).expect("settled");
    let (mut ledger, found) = Ledger::open(dir.path(), HOST, NOW).expect("opened");
    assert!(found.is_empty());
    assert_eq!(arrive(&mut ledger, &order), "repeated");
    assert_eq!(ledger.lines(Uuid::from_u128(10)).expect("there").len(), 1);
}

#[test]
fn never_stale_older_orders_epochs_and_deadlines_are_refused_also_after_a_restart() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    assert_eq!(
        arrive(&mut ledger, &sealed(10, "docker/shop", 3, 5)),
        "accepted"
    );
    drop(ledger);
    let mut ledger = opened(&dir);
    assert_eq!(ledger.highest_epoch(), 3);
    for (order, code) in [
        (sealed(11, "docker/shop", 3, 4), "order-superseded"),
        (sealed(12, "docker/shop", 2, 9), "order-stale"),
        (sealed(13, "docker/web", 2, 9), "order-stale"),
        (sealed(14, "docker/web", u64::MAX, 9), "order-epoch-jump"),
        (sealed(15, "docker/web", 3, 4), "accepted"),
        (sealed(16, "docker/shop", 4, 1), "accepted"),
        (sealed(17, "docker/shop", 3, 99), "order-stale"),
    ] {
        assert_eq!(arrive(&mut ledger, &order), code);
    }
    let late = sealed(20, "docker/shop", 4, 2);
    assert_eq!(arrive_at(&mut ledger, &late, NOW + 10_000), "order-expired");
    assert_eq!(arrive(&mut ledger, &late), "repeated", "a refusal is final");
}

#[test]
fn refusals_without_end_do_not_fill_the_disk() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    // For a host that is none of this controller's.
    let refused = |id: u128| {
        let mut order = order::parse(&sealed(id, "docker/shop", 3, 5))
            .expect("an order")
            .order()
            .clone();
        order.host_id = Uuid::from_u128(8).to_string();
        order::seal(&order)
    };
    let first = arrive(&mut ledger, &refused(100));
    assert!(first.starts_with("order-"), "{first}");
    for id in 101..1_000 {
        arrive(&mut ledger, &refused(id));
    }
    let files = || fs::read_dir(dir.path().join("open")).expect("a folder");
    assert_eq!(files().count(), 30);
    assert_eq!(arrive(&mut ledger, &refused(100)), "repeated");
    assert_eq!(arrive(&mut ledger, &refused(999)), "unkept");
    // What is in order is accepted meanwhile.
    let good = sealed(10, "docker/shop", 3, 5);
    assert_eq!(arrive(&mut ledger, &good), "accepted");
    let later = NOW + 3_600_000;
    assert_eq!(arrive_at(&mut ledger, &refused(2_000), later), first);
    assert_eq!(files().count(), 32);
}

fn refused() -> Event {
    Event::Finished {
        outcome: Finish::Refused,
        problem: Some(v1::Problem::new("image-missing", "gone", "load it")),
        running: None,
    }
}

/// Accepts an order that ends with these lines. How many lines there are to remember, where its journal is not kept.
fn ends(
    ledger: &mut Ledger,
    order: &v1::SealedOrder,
    now_ms: i64,
    events: impl IntoIterator<Item = Event>,
) -> Option<usize> {
    let arrival = ledger.arrive(order, now_ms, NOW, |_| Ok(()));
    let Ok(Arrival::Accepted(order, mut journal)) = arrival else {
        panic!("it is not accepted: {arrival:?}");
    };
    let at_ms = now_ms;
    for event in events {
        journal.append(Line { at_ms, event }).expect("written");
    }
    drop(journal);
    // The controller may have stored it before.
    if order.id().as_u128().is_multiple_of(2) {
        ledger.settle(order.id()).expect("settled");
    }
    let told = ledger.ended(order.id(), now_ms, now_ms).expect("looked at");
    told.map(|lines| lines.len())
}

#[test]
fn never_twice_an_order_whose_journal_was_not_kept_is_refused_again_also_after_a_restart() {
    const HOUR: i64 = 3_600_000;
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    let order = |id: u64| sealed(id.into(), "docker/shop", 3, id);
    for id in 1..=30 {
        assert_eq!(ends(&mut ledger, &order(id), NOW, [refused()]), None);
    }
    // Only a refusal that looked at nothing counts as one.
    let unchanged = Event::Finished {
        outcome: Finish::Unchanged,
        problem: None,
        running: None,
    };
    let evidence = Event::Evidence {
        evidence: v1::Evidence::default(),
    };
    for (id, events) in [(31, vec![unchanged]), (32, vec![evidence, refused()])] {
        assert_eq!(ends(&mut ledger, &order(id), NOW, events), None, "{id}");
    }
    let found_again = [Event::Recovered, refused()];
    assert_eq!(ends(&mut ledger, &order(33), NOW, found_again), Some(3));
    assert_eq!(ends(&mut ledger, &order(34), NOW, [refused()]), Some(2));
    drop(ledger);
    let mut ledger = opened(&dir);
    for id in 1..=32 {
        assert_eq!(arrive(&mut ledger, &order(id)), "repeated", "{id}");
    }
    // Its end bears the number that it had, and there is no gap before it.
    for (id, numbers) in [(33, "[1, 2, 3]"), (34, "[1, 2]")] {
        let told = arrive(&mut ledger, &order(id));
        assert_eq!(told, format!("order-refused-before {numbers}"));
    }
    // Its deadline has passed meanwhile, and it is forgotten with the next order.
    let mut next = order::parse(&order(35)).expect("an order").order().clone();
    next.not_after_ms = NOW + 3 * HOUR;
    let later = NOW + 2 * HOUR;
    assert_eq!(
        arrive_at(&mut ledger, &order::seal(&next), later),
        "accepted"
    );
    assert_eq!(ledger.fence.let_go, BTreeMap::new());
    assert_eq!(ledger.fence.let_go_lines, BTreeMap::new());
    assert_eq!(arrive_at(&mut ledger, &order(33), later), "order-expired");
}

#[test]
fn no_order_is_accepted_that_could_not_be_remembered() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    let all = 0..u128::try_from(LET_GO).expect("it fits");
    ledger.fence.let_go = all
        .map(|id| (Uuid::from_u128(1_000 + id), NOW + 1))
        .collect();
    let order = sealed(10, "docker/shop", 3, 5);
    assert_eq!(arrive(&mut ledger, &order), "too-many-refused");
    let order = sealed(11, "docker/shop", 3, 5);
    assert_eq!(arrive_at(&mut ledger, &order, NOW + 1), "accepted");
}

#[test]
fn orders_without_end_that_their_plans_refuse_do_not_fill_the_disk() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    let mut refused_by_its_plan = |id: u64, now_ms: i64| {
        let order = sealed(id.into(), "docker/shop", 3, id);
        let told = ends(&mut ledger, &order, now_ms, [refused()]);
        let id = Uuid::from_u128(id.into());
        assert!(!ledger.lost(id, now_ms), "{id}");
        told
    };
    for id in 1..=30 {
        assert_eq!(refused_by_its_plan(id, NOW), None, "{id}");
    }
    for id in 31..100 {
        assert_eq!(refused_by_its_plan(id, NOW), Some(2), "{id}");
    }
    assert_eq!(refused_by_its_plan(100, NOW + 3_600_000), None);
    let files = |folder| {
        fs::read_dir(dir.path().join(folder))
            .expect("a folder")
            .count()
    };
    assert_eq!(files("open") + files("done"), 31);
}

#[test]
fn a_deadline_is_judged_by_the_controllers_clock_however_wrong_the_hosts_is() {
    const WRONG: i64 = 3_600_000;
    for host_ms in [NOW - WRONG, NOW, NOW + WRONG] {
        let dir = TempDir::new().expect("folder");
        let mut ledger = opened(&dir);
        let mut arrive = |id, controller_ms: i64| {
            let order = sealed(id, "docker/shop", 3, 5);
            let ahead = host_ms - NOW;
            ledger
                .arrive(&order, controller_ms + ahead, controller_ms, |_| Ok(()))
                .expect("the disk works")
        };
        let Arrival::Accepted(_, journal) = arrive(10, NOW) else {
            panic!("not accepted by a host at {host_ms}");
        };
        let deadline = journal.events().find_map(|event| match event {
            Event::Accepted { not_after_ms, .. } => Some(*not_after_ms),
            _ => None,
        });
        assert_eq!(deadline, Some(host_ms + 10_000), "on the host's clock");
        let late = arrive(11, NOW + 10_000);
        assert!(
            matches!(late, Arrival::Refused(..)),
            "at {host_ms}: {late:?}"
        );
    }
}

#[test]
fn what_is_no_order_leaves_nothing_behind() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    let nonsense = v1::SealedOrder {
        order: vec![0xff; 100],
    };
    assert_eq!(arrive(&mut ledger, &nonsense), "order-malformed");
    assert!(journals(&ledger.open).expect("listed").is_empty());
}

#[test]
fn a_death_before_the_first_record_leaves_the_order_new() {
    let dir = TempDir::new().expect("folder");
    let order = sealed(10, "docker/shop", 3, 5);
    let mut ledger = opened(&dir);
    ledger
        .raise(&order::parse(&order).expect("an order"))
        .expect("raised");
    fs::write(ledger.open.join(file_name(Uuid::from_u128(10))), b"STWJR").expect("written");
    let (mut ledger, found) = Ledger::open(dir.path(), HOST, NOW).expect("opened");
    assert!(found.is_empty());
    assert_eq!(
        arrive(&mut ledger, &order),
        "accepted",
        "its own fence does not stop it"
    );
}

#[test]
fn an_order_is_lost_for_a_day_once_its_journal_is_gone_whatever_was_accepted_after_it() {
    const DAY: i64 = 24 * 3_600_000;
    let (first, second, stranger) = (
        Uuid::from_u128(10),
        Uuid::from_u128(11),
        Uuid::from_u128(12),
    );
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    for (id, sequence) in [(10, 5), (11, 6)] {
        let order = sealed(id, "docker/shop", 3, sequence);
        assert_eq!(arrive(&mut ledger, &order), "accepted");
    }
    assert!(!ledger.lost(first, NOW), "its journal is there");
    fs::remove_file(ledger.path(first)).expect("it was there");
    let mut ledger = opened(&dir);
    assert!(ledger.lost(first, NOW + DAY));
    assert_eq!(ledger.all_lost(NOW), [first]);
    let again = sealed(10, "docker/shop", 3, 7);
    assert_eq!(arrive(&mut ledger, &again), "repeated", "never twice");
    assert!(
        !ledger.lost(first, NOW + DAY + 1),
        "people went on from there"
    );
    assert!(!ledger.lost(second, NOW) && !ledger.lost(stranger, NOW));
}

#[test]
fn a_machine_that_has_joined_again_begins_anew_and_tells_nothing_of_before() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    arrive(&mut ledger, &sealed(10, "docker/shop", 9, 7));
    assert_eq!(
        arrive(&mut ledger, &sealed(11, "docker/shop", 3, 8)),
        "order-stale"
    );
    let open = Ledger::unfinished(dir.path()).expect("read");
    assert_eq!(open, [Uuid::from_u128(10)], "not one that is over");
    fs::remove_file(ledger.path(Uuid::from_u128(10))).expect("moved out");
    let open = Ledger::unfinished(dir.path()).expect("read");
    assert!(open.is_empty(), "{open:?}");

    let other = Uuid::from_u128(8);
    let (mut ledger, found) = Ledger::open(dir.path(), other, NOW).expect("opened");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(ledger.highest_epoch(), 0);
    // What was for the host before stays refused.
    assert_eq!(
        arrive(&mut ledger, &sealed(12, "docker/shop", 9, 9)),
        "order-for-another-host"
    );
    let mut order =
        v1::Order::decode(sealed(13, "docker/shop", 1, 1).order.as_slice()).expect("read");
    order.host_id = other.to_string();
    assert_eq!(arrive(&mut ledger, &order::seal(&order)), "accepted");
    let (ledger, _) = Ledger::open(dir.path(), other, NOW).expect("opened");
    assert_eq!(ledger.highest_epoch(), 1, "the new fence is on disk");
}

#[test]
fn a_ledger_that_was_never_begun_has_nothing_unfinished() {
    let dir = TempDir::new().expect("folder");
    let unfinished = Ledger::unfinished(&dir.path().join("orders")).expect("read");
    assert!(unfinished.is_empty(), "{unfinished:?}");
}

#[test]
fn a_fence_that_cannot_be_read_stops_the_agent_rather_than_begin_anew() {
    let dir = TempDir::new().expect("folder");
    let mut ledger = opened(&dir);
    arrive(&mut ledger, &sealed(10, "docker/shop", 3, 5));
    fs::write(dir.path().join("fence.json"), b"{").expect("damaged");
    assert!(matches!(
        Ledger::open(dir.path(), HOST, NOW),
        Err(LedgerError::Fence { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is delivered however often, with restarts between: no order is accepted twice, and what is
    /// accepted for a target never goes back in epoch and sequence.
    #[test]
    fn acceptance_is_once_and_forward(
        deliveries in prop::collection::vec((0u128..12, 0usize..2, 1u64..4, 1u64..6, any::<bool>()), 1..40),
    ) {
        let dir = TempDir::new().expect("folder");
        let mut ledger = opened(&dir);
        let mut accepted = BTreeSet::new();
        let mut newest = BTreeMap::new();
        for (id, target, epoch, sequence, restart) in deliveries {
            if restart {
                drop(ledger);
                ledger = opened(&dir);
            }
            let target = ["docker/a", "docker/b"][target];
            if arrive(&mut ledger, &sealed(id, target, epoch, sequence)) == "accepted" {
                prop_assert!(accepted.insert(id), "order {id} was accepted twice");
                let before = newest.insert(target, (epoch, sequence));
                prop_assert!(before.is_none_or(|before| before <= (epoch, sequence)));
            }
        }
    }
}
