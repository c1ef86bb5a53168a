//! The record in a real file, with the database's own protection taken away first.

use serde_json::json;
use sternway_proto::v1;
use uuid::Uuid;

use super::{Sqlite, hosts, log, operators, orders, rollouts, targets};
use crate::{
    record::Actor,
    store::{
        HostStore as _, MetaStore as _, OperatorStore as _, RecordStore as _, RedeemError,
        RolloutStore as _, StoreError, TargetStore as _, Trouble,
        types::{
            Certified, Host, IssuedOperator, NewMark, NewToken, Note, Observation, Redeem,
            RevokedWho, Seen, TARGETS,
        },
    },
};

/// A new one, as a controller has it.
async fn made(folder: &std::path::Path) -> Sqlite {
    Sqlite::new(folder).await.expect("made").close().await;
    Sqlite::open(folder).await.expect("opened")
}

async fn filled(folder: &std::path::Path) -> Sqlite {
    let store = made(folder).await;
    for number in 0..5 {
        let note = Note {
            actor: Actor::Operator("alice".into()),
            action: "order.created",
            subject: format!("order:{number}"),
            body: json!({ "number": number }),
            at_ms: number,
        };
        store.record_append(&note).await.expect("appended");
    }
    store
}

#[tokio::test]
async fn the_record_cannot_be_changed_and_tampering_with_the_file_is_found() {
    for (tampering, broken_at) in [
        ("UPDATE record SET body = '{}' WHERE number = 3", 3),
        ("DELETE FROM record WHERE number = 2", 2),
        ("DELETE FROM record WHERE number > 3", 4),
        ("UPDATE record SET number = CASE number WHEN 2 THEN -3 ELSE -2 END WHERE number IN (2, 3);
          UPDATE record SET number = -number WHERE number < 0", 2),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = filled(folder.path()).await;
        let refused = sqlx::raw_sql(tampering).execute(&store.writer).await;
        assert!(refused.is_err(), "{tampering}");
        let held = store.record_verify().await.expect("read");
        assert_eq!((held.entries, held.broken), (5, None));
        let unprotected = "DROP TRIGGER record_never_changes; DROP TRIGGER record_never_shrinks";
        for statement in [unprotected, tampering] {
            sqlx::raw_sql(statement).execute(&store.writer).await.expect("done");
        }
        let found = store.record_verify().await.expect("read").broken;
        assert_eq!(found.expect("found").at, broken_at, "{tampering}");
    }
}

#[tokio::test]
async fn what_was_committed_is_there_when_it_is_opened_again_and_only_one_may_open_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    assert_eq!(store.epoch_raise(1).await.expect("raised"), 1);
    assert_eq!(store.epoch_jump(40, "web-1", 2).await.expect("jumped"), 41);
    let second = Sqlite::open(folder.path()).await;
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    drop(store);
    let again = Sqlite::open(folder.path()).await.expect("opened");
    assert_eq!(again.epoch_raise(3).await.expect("raised"), 42);
    let held = again.record_verify().await.expect("read");
    assert_eq!((held.entries, held.broken), (8, None));
}

#[tokio::test]
async fn a_full_disk_is_said_and_what_comes_after_it_is_stored_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let bound = |pages: i64| {
        let statement = format!("PRAGMA max_page_count = {pages}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&store.writer)
    };
    let note = |number: i64| Note {
        actor: Actor::Controller,
        action: "order.created",
        subject: format!("order:{number}"),
        body: json!({ "filling": "x".repeat(20_000) }),
        at_ms: number,
    };
    for round in 0..3 {
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
            .fetch_one(&store.writer)
            .await
            .expect("counted");
        bound(pages + 8).await.expect("bound");
        let mut stored = 0;
        let error = loop {
            match store.record_append(&note(stored)).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 100, "round {round}: it never gets full");
        };
        assert_eq!(error.trouble(), Trouble::Full, "round {round}: {error:?}");
        let said = error.to_string();
        assert!(said.contains("controller.db"), "{said}");
        assert!(said.contains("the disk is full"), "{said}");
        assert!(said.contains("make room"), "{said}");
        bound(1_000_000).await.expect("room again");
        store.record_append(&note(0)).await.expect("stored again");
        store.epoch_raise(1).await.expect("another statement");
        assert_eq!(store.record_verify().await.expect("read").broken, None);
    }
}

#[tokio::test]
async fn a_database_that_is_none_names_its_file_and_the_next_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("controller.db");
    std::fs::write(&path, "no database ".repeat(1000)).expect("written");
    let error = Sqlite::open(folder.path()).await.expect_err("no database");
    assert_eq!(error.trouble(), Trouble::Corrupt, "{error:?}");
    let said = error.to_string();
    assert!(said.contains(&path.display().to_string()), "{said}");
    assert!(said.contains("backup"), "{said}");
}

#[tokio::test]
async fn what_is_asked_all_the_time_reads_no_more_than_it_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    for (query, wanted) in [
        (orders::ORDERS_OPEN, "orders_one_active"),
        (orders::ORDERS_LOST, "orders_lost"),
        (orders::ORDERS_DUE, "orders_active"),
        (orders::ORDERS_OVERDUE, "orders_active"),
        (orders::ORDERS_SENT, "orders_active"),
        (orders::ORDERS_OF_REVOKED, "orders_one_active"),
        (orders::ORDERS_FAILED, "orders_failed"),
        (orders::ORDERS_PASSED, "COVERING INDEX orders_passed"),
        (orders::ORDERS_ENDED, "orders_sequence"),
        (orders::ORDER_LAST, "orders_sequence"),
        (rollouts::ROLLOUTS_NEWEST, "rollouts_created"),
        (rollouts::ROLLOUTS_OF_HOST, "orders_sequence"),
        (rollouts::ROLLOUTS_BY_PREFIX, "sqlite_autoindex_rollouts"),
        (rollouts::ROLLOUTS_BY_ORDER, "sqlite_autoindex_orders"),
        (log::RECORD_OLDER, "sqlite_autoindex_record"),
        (log::RECORD_FROM, "sqlite_autoindex_record"),
        (hosts::HOST_BY_NAME_OR_ID, "hosts_name"),
        (hosts::TOKENS_STALE, "join_tokens_unused"),
        (hosts::TOKENS_OF_OPERATOR, "join_tokens_unused"),
        (orders::ORDERS_OF_OPERATOR, "orders_active"),
        (operators::OPERATORS_REVOKED, "operators_revoked"),
        (targets::REVISIONS_SOME, "sqlite_autoindex_revisions"),
    ] {
        let asked = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(asked)
            .fetch_all(&store.reader)
            .await
            .expect("planned");
        let lines: Vec<String> = plan.into_iter().map(|(.., detail)| detail).collect();
        let said = lines.join("\n");
        assert!(said.contains(wanted), "{query}:\n{said}");
        // In the order of an index and with a limit, a scan ends as soon as there is enough.
        let scans = lines
            .iter()
            .any(|line| line.starts_with("SCAN") && !line.contains("USING INDEX"));
        assert!(!scans, "{query}:\n{said}");
    }
}

/// What stands in a folder, with its bytes.
fn files(folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("read"))
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_command_makes_no_database_where_there_is_none() {
    for empty in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        if empty {
            std::fs::write(path.join("controller.db"), b"").expect("written");
        }
        let before = files(path);
        for opened in [
            Sqlite::beside(path).await,
            Sqlite::reading(path).await,
            Sqlite::as_it_is(path).await,
            Sqlite::open(path).await,
        ] {
            let error = opened.expect_err("refused");
            assert!(matches!(error, StoreError::NoDatabase { .. }), "{error:?}");
        }
        assert_eq!(files(path), before);
    }
}

#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up_to_date_by_who_writes_and_nobody_else() {
    const OLDER: &str =
        "DROP TABLE operators; DROP TABLE operator_names_revoked; DROP TABLE orders_unknown;
         DROP INDEX orders_passed; DELETE FROM _sqlx_migrations WHERE version >= 3";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let store = filled(path).await;
    sqlx::raw_sql(OLDER)
        .execute(&store.writer)
        .await
        .expect("made older");
    store.close().await;
    drop(store);
    let newest = async |store: &Sqlite| -> i64 {
        sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(&store.reader)
            .await
            .expect("read")
    };
    let refused = Sqlite::reading(path).await.expect_err("of another version");
    assert!(
        matches!(refused, StoreError::OtherSchema { .. }),
        "{refused:?}"
    );
    let store = Sqlite::as_it_is(path).await.expect("opened");
    store
        .copy_into(&path.join("copy.db"))
        .await
        .expect("copied");
    assert_eq!(newest(&store).await, 2, "as it was");
    store.close().await;
    let store = Sqlite::beside(path).await.expect("opened");
    assert_eq!(newest(&store).await, 4);
}

#[tokio::test]
async fn a_command_waits_longer_for_a_database_that_is_busy_than_a_controller_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let busy = store.begin().await.expect("begun");
    let ends = async {
        tokio::time::sleep(super::BUSY + std::time::Duration::from_secs(1)).await;
        busy.commit().await.expect("committed");
    };
    let command = async {
        let beside = Sqlite::beside(folder.path()).await.expect("opened");
        let issued = IssuedOperator {
            serial: "1".repeat(32),
            name: "bob".into(),
            role: "viewer".into(),
            issued_ms: 1,
            not_after_ms: 2,
        };
        beside.operator_issued(&issued).await
    };
    let (noted, ()) = tokio::join!(command, ends);
    noted.expect("noted once there was room");
    let said = Trouble::Locked.next_step();
    assert!(said.contains("controller that is busy"), "{said}");
}

async fn host(store: &Sqlite) -> Host {
    redeemed(store, "web-1", "web-1").await.expect("a host")
}

async fn redeemed(store: &Sqlite, named: &str, hostname: &str) -> Result<Host, RedeemError> {
    let token = NewToken {
        hash: [1; 32],
        host_name: named.into(),
        labels: std::collections::BTreeMap::new(),
        created_ms: 1,
        created_by: "alice".into(),
        expires_ms: 1_000_000,
    };
    store.token_insert(&token).await.expect("a token");
    let redeem = Redeem {
        hash: token.hash,
        host_id: Uuid::from_u128(7),
        hostname: hostname.into(),
        agent_version: "0.0.0".into(),
        certificate: Certified {
            serial: "1".into(),
            not_after_ms: 1_000_000,
        },
        now_ms: 2,
    };
    store.token_redeem(&redeem).await
}

#[tokio::test]
async fn a_host_that_lists_and_takes_back_the_same_for_ever_does_not_fill_the_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    *store.budget.lock().expect("not poisoned") = super::budget::Budget::new(10, 1);
    let revision = |number: u32| v1::Revision {
        id: format!("{number:064}"),
        number,
        ..v1::Revision::default()
    };
    let target = v1::Target {
        name: "docker/shop".into(),
        revisions: (1..=4).map(revision).collect(),
        ..v1::Target::default()
    };
    let seen = |seen| Observation {
        host_id: host.id,
        host_name: host.name.clone(),
        at_ms: 10,
        seen,
    };
    for _ in 0..20 {
        let told = [
            seen(Seen::Target(Box::new(target.clone()))),
            seen(Seen::TargetRemoved(target.name.clone())),
        ];
        store.observations_store(&told).await.expect("stored");
    }
    let entries = store.record_list(0, 1000).await.expect("listed");
    let count = |action| entries.iter().filter(|one| one.action == action).count();
    assert_eq!((count("revision.seen"), count("record.limited")), (10, 1));
    let told = [seen(Seen::Target(Box::new(target)))];
    store.observations_store(&told).await.expect("stored");
    let kept = store.revision_list(host.id, "docker/shop").await;
    assert_eq!(kept.expect("listed").len(), 4, "what it has is known");
}

#[tokio::test]
async fn a_target_with_nothing_to_go_back_to_is_neither_ready_nor_a_worry() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let target = |name: &str, verdict: v1::ReadinessVerdict| v1::Target {
        name: format!("docker/{name}"),
        readiness: Some(v1::Readiness {
            verdict: verdict.into(),
            ..v1::Readiness::default()
        }),
        ..v1::Target::default()
    };
    let unsupported = v1::Target {
        unsupported: Some(v1::Problem::new("removed-on-stop", "it vanishes", "")),
        ..target("d", v1::ReadinessVerdict::Ready)
    };
    let told = Observation {
        host_id: host.id,
        host_name: host.name.clone(),
        at_ms: 10,
        seen: Seen::Inventory {
            targets: vec![
                target("a", v1::ReadinessVerdict::Ready),
                target("b", v1::ReadinessVerdict::NotReady),
                target("c", v1::ReadinessVerdict::NoPredecessor),
                unsupported,
            ],
            also: Vec::new(),
        },
    };
    store.observations_store(&[told]).await.expect("stored");
    let fetched = store.host_fetch(host.id).await.expect("read");
    let listed = store.host_list().await.expect("listed").pop();
    for host in [fetched, listed] {
        let host = host.expect("a host");
        let counts = (
            host.target_count,
            host.targets_ready,
            host.targets_without_predecessor,
        );
        assert_eq!(counts, (4, 1, 1));
    }
}

#[tokio::test]
async fn a_host_is_found_by_its_id_also_where_another_has_that_as_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let impostor = Uuid::from_u128(1);
    // From before such names were refused.
    sqlx::query("INSERT INTO hosts (id, name, labels, joined_ms) VALUES ($1, $2, '{}', 1)")
        .bind(impostor.to_string())
        .bind(host.id.to_string())
        .execute(&store.writer)
        .await
        .expect("joined");
    for _ in 0..2 {
        let found = store.host_find(&host.id.to_string()).await.expect("read");
        assert_eq!(found.expect("found").id, host.id);
        // A revoked one is still the one whose id that is.
        let revoked = store.host_revoke(host.id, "", "alice", 9).await;
        revoked.expect("revoked");
    }
}

#[tokio::test]
async fn a_machine_does_not_take_an_id_for_its_name_and_joins_where_its_token_names_it() {
    let id = Uuid::from_u128(1).to_string();
    for (named, taken) in [("", None), ("web-1", Some("web-1"))] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = made(folder.path()).await;
        let joined = redeemed(&store, named, &id).await;
        match taken {
            Some(name) => assert_eq!(joined.expect("joined").name, name),
            None => assert!(
                matches!(joined, Err(RedeemError::NameIsId { .. })),
                "{joined:?}"
            ),
        }
    }
}

#[tokio::test]
async fn an_inventory_that_leaves_the_fields_out_does_not_take_back_what_is_known_of_a_revision() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let told = |image: &str, fields: &[&str]| {
        let field = |path: &&str| v1::Field {
            path: (*path).into(),
            content: Some(v1::field::Content::Value("x".into())),
        };
        let revision = v1::Revision {
            id: "a".repeat(64),
            number: 1,
            image: image.into(),
            fields: fields.iter().map(field).collect(),
            ..v1::Revision::default()
        };
        let target = v1::Target {
            name: "docker/shop".into(),
            revisions: vec![revision],
            ..v1::Target::default()
        };
        [Observation {
            host_id: host.id,
            host_name: host.name.clone(),
            at_ms: 10,
            seen: Seen::Inventory {
                targets: vec![target],
                also: Vec::new(),
            },
        }]
    };
    for (fields, known) in [
        (&["image", "user"][..], 2),
        (&[], 2),
        (&["image"], 1),
        (&[], 1),
    ] {
        let image = format!("shop:{}", fields.len());
        let observations = told(&image, fields);
        store
            .observations_store(&observations)
            .await
            .expect("stored");
        let kept = store.revision_list(host.id, "docker/shop").await;
        let kept = kept.expect("listed").pop().expect("one");
        assert_eq!((kept.fields.len(), kept.image), (known, image));
    }
}

fn revisions_of(host: &Host, numbers: impl Iterator<Item = u32>) -> Observation {
    let revision = |number: u32| v1::Revision {
        id: format!("{number:064}"),
        number,
        image_id: format!("sha256:{number}"),
        ..v1::Revision::default()
    };
    let target = v1::Target {
        name: "docker/shop".into(),
        revisions: numbers.map(revision).collect(),
        ..v1::Target::default()
    };
    Observation {
        host_id: host.id,
        host_name: host.name.clone(),
        at_ms: 10,
        seen: Seen::Target(Box::new(target)),
    }
}

#[tokio::test]
async fn what_a_host_lists_no_more_is_told_as_gone_and_the_oldest_of_it_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let known = async || {
        let listed = store.revision_list(host.id, "docker/shop").await;
        let told = |one: v1::Revision| (one.number, one.gone);
        listed
            .expect("listed")
            .into_iter()
            .map(told)
            .collect::<Vec<_>>()
    };
    let told = async |numbers: std::ops::RangeInclusive<u32>| {
        let told = [revisions_of(&host, numbers)];
        store.observations_store(&told).await.expect("stored");
    };
    told(1..=3).await;
    let mark = NewMark {
        host_id: host.id,
        host_name: host.name.clone(),
        target: "docker/shop".into(),
        revision: format!("{:064}", 1),
        mark: v1::Mark::Bad,
        reason: "500s".into(),
        operator: "alice".into(),
        at_ms: 11,
    };
    store.mark_set(&mark).await.expect("marked");
    told(2..=4).await;
    assert_eq!(
        known().await,
        [(4, false), (3, false), (2, false), (1, true)]
    );
    // As after a restore of an agent's folder: it is there again.
    told(1..=2).await;
    assert_eq!(
        known().await,
        [(4, true), (3, true), (2, false), (1, false)]
    );
    for newest in 5..=205 {
        told(newest - 2..=newest).await;
    }
    let held = known().await;
    let there = held.iter().filter(|(_, gone)| !gone).count();
    assert_eq!(there, 3);
    let two = [format!("{:064}", 205), format!("{:064}", 180)];
    let two = [two[0].as_str(), two[1].as_str()];
    let some = store.revision_some(host.id, "docker/shop", two).await;
    let some: Vec<(u32, bool)> = some
        .expect("read")
        .iter()
        .map(|one| (one.number, one.gone))
        .collect();
    assert_eq!(some, [(205, false), (180, true)]);
    let gone: Vec<u32> = held
        .into_iter()
        .filter(|one| one.1)
        .map(|one| one.0)
        .collect();
    let mut wanted: Vec<u32> = (103..=202).rev().collect();
    wanted.push(1);
    assert_eq!(gone, wanted, "the newest hundred, and what is marked");
    let bad = store.digest_bad_list("sha256:1").await.expect("listed");
    assert_eq!(bad.len(), 1);
}

#[tokio::test]
async fn what_a_host_has_goes_before_what_it_had_where_there_is_no_room_for_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let stored = async |numbers: std::ops::RangeInclusive<u32>| {
        let told = [revisions_of(&host, numbers)];
        store.observations_store(&told).await.expect("stored");
    };
    stored(1..=2).await;
    stored(2..=2).await;
    // Other targets had so many that no more are kept.
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19998)
         INSERT INTO revisions (host_id, target, id, number, image_id, image_digest, stored_ms, body, listed)
         SELECT $1, 'docker/' || (i % 400), i, i, '', '', 1, x'', 2 FROM n",
    )
    .bind(host.id.to_string())
    .execute(&store.writer)
    .await
    .expect("filled");
    stored(2..=3).await;
    let listed = store.revision_list(host.id, "docker/shop").await;
    let numbers: Vec<u32> = listed
        .expect("listed")
        .iter()
        .map(|one| one.number)
        .collect();
    assert_eq!(numbers, [3, 2]);
}

#[tokio::test]
async fn a_host_that_names_more_and_more_targets_one_by_one_has_as_many_as_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let tell = async |name: usize, ready: bool| {
        let verdict = v1::ReadinessVerdict::Ready;
        let told = v1::Target {
            name: format!("docker/shop-{name:03}"),
            readiness: ready.then(|| v1::Readiness {
                verdict: verdict.into(),
                ..v1::Readiness::default()
            }),
            ..v1::Target::default()
        };
        let told = Observation {
            host_id: host.id,
            host_name: host.name.clone(),
            at_ms: 10,
            seen: Seen::Target(Box::new(told)),
        };
        store.observations_store(&[told]).await.expect("stored");
    };
    for name in 0..=TARGETS {
        tell(name, false).await;
    }
    // What is known is told of as before, and one more is left out once more.
    tell(7, true).await;
    tell(TARGETS + 1, true).await;
    let kept = store.host_fetch(host.id).await.expect("read");
    let kept = kept.expect("a host");
    assert_eq!((kept.target_count, kept.targets_ready), (500, 1));
    let entries = store.record_list(0, 1000).await.expect("listed");
    let said: Vec<&str> = entries
        .iter()
        .filter(|one| one.action == "inventory.truncated")
        .map(|one| one.body.as_str())
        .collect();
    assert!(
        matches!(said[..], [one] if one.contains("docker/shop-500")),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_target_that_is_named_and_not_told_stays_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await;
    let named = |name: &str| v1::Target {
        name: name.into(),
        ..v1::Target::default()
    };
    let tell = async |targets: &[&str], also: &[&str]| {
        let told = Observation {
            host_id: host.id,
            host_name: host.name.clone(),
            at_ms: 10,
            seen: Seen::Inventory {
                targets: targets.iter().copied().map(named).collect(),
                also: also.iter().map(ToString::to_string).collect(),
            },
        };
        store.observations_store(&[told]).await.expect("stored");
        let listed = store.target_list(Some(host.id)).await.expect("listed");
        let kept = listed.into_iter().map(|(_, target)| target.name);
        kept.collect::<Vec<_>>()
    };
    assert_eq!(
        tell(&["docker/a", "docker/b"], &[]).await,
        ["docker/a", "docker/b"]
    );
    assert_eq!(
        tell(&["docker/a"], &["docker/b", "docker/c"]).await,
        ["docker/a", "docker/b"]
    );
    assert_eq!(tell(&["docker/a"], &[]).await, ["docker/a"]);
}

#[tokio::test]
async fn each_revocation_of_a_name_is_in_the_record_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let issued = IssuedOperator {
        serial: "1".repeat(32),
        name: "bob".into(),
        role: "viewer".into(),
        issued_ms: 1,
        not_after_ms: 1_000,
    };
    store.operator_issued(&issued).await.expect("issued");
    let bob = RevokedWho::Name("bob".into());
    for (reason, at_ms) in [("left", 2), ("stolen", 3)] {
        let revoked = store.operator_revoke(&bob, reason, at_ms).await;
        revoked.expect("revoked");
    }
    let mut entries = store.record_list(0, 100).await.expect("listed");
    entries.retain(|entry| entry.action == "operator.revoked");
    let said: Vec<(i64, bool, bool)> = entries
        .iter()
        .map(|entry| {
            let of_certificate = entry.body.contains(&issued.serial);
            (entry.at_ms, of_certificate, entry.body.contains("stolen"))
        })
        .collect();
    assert_eq!(
        said,
        [(3, false, true), (2, true, false), (2, false, false)]
    );
}

#[tokio::test]
async fn what_was_restored_is_known_however_many_orders_of_other_targets_came_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = made(folder.path()).await;
    let host = host(&store).await.id;
    let outcomes = [
        ("docker/shop", v1::Outcome::Restored, "a"),
        ("docker/shop", v1::Outcome::Unchanged, "b"),
        ("docker/shop", v1::Outcome::Restored, "b"),
        ("docker/shop", v1::Outcome::Undone, "b"),
        ("docker/shop", v1::Outcome::Undone, "c"),
        ("docker/shop", v1::Outcome::NeedsHuman, "c"),
    ];
    let others = std::iter::repeat_n(("docker/other", v1::Outcome::Restored, "d"), 250);
    let mut tx = store.begin().await.expect("begun");
    sqlx::raw_sql("INSERT INTO rollouts VALUES ('r', 'q', 'p', 'alice', '', 4, 0, 1, 1)")
        .execute(&mut *tx)
        .await
        .expect("a rollout");
    for (number, (target, outcome, revision)) in (1_i64..).zip(outcomes.into_iter().chain(others)) {
        sqlx::query(
            "INSERT INTO orders (id, rollout_id, wave, host_id, host_name, target, sequence, state,
                 outcome, running_revision, created_ms, finished_ms, not_after_ms, plan, sealed)
             VALUES ($1, 'r', 0, $2, 'web-1', $3, $4, 4, $5, $6, 1, $4 * 1000, 1, x'', x'')",
        )
        .bind(Uuid::from_u128(number.unsigned_abs().into()).to_string())
        .bind(host.to_string())
        .bind(target)
        .bind(number)
        .bind(i64::from(i32::from(outcome)))
        .bind(revision)
        .execute(&mut *tx)
        .await
        .expect("an order");
    }
    tx.commit().await.expect("committed");
    let passed = store.order_passed_list(host, "docker/shop").await;
    let wanted = [("a".to_owned(), 1_000), ("b".to_owned(), 3_000)];
    assert_eq!(passed.expect("listed"), wanted.into());
    let other = store.order_passed_list(host, "docker/other").await;
    assert_eq!(other.expect("listed"), [("d".to_owned(), 256_000)].into());
}
