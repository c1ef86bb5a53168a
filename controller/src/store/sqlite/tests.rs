//! The record in a real file, with the database's own protection taken away first.

use serde_json::json;

use super::Sqlite;
use crate::{
    record::Actor,
    store::{MetaStore as _, RecordStore as _, StoreError, types::Note},
};

async fn filled(folder: &std::path::Path) -> Sqlite {
    let store = Sqlite::open(folder).await.expect("opened");
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
