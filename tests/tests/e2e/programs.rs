//! What programs rely on: exit codes and JSON documents.

use sternway_tests::{
    ctl::Ctl,
    port::Port,
    shop::Image,
    stage::{HOST, Stage},
};

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const ANSWER_IS_NO: i32 = 13;

#[tokio::test]
async fn exit_codes_tell_usage_from_an_unreachable_controller() {
    let mut stage = Stage::new().await;
    for wrong in [
        &["rollbak"][..],
        &["rollback"],
        &["rollback", "--host", HOST, "--swap", "lukewarm"],
    ] {
        let _ = stage.ctl.run(wrong).await.exits(USAGE);
    }
    stage.controller.kill();
    let said = stage.ctl.run(&["host", "ls"]).await.exits(UNREACHABLE);
    assert!(!said.stderr.is_empty(), "{said:?}");
    assert_eq!(said.stdout, "", "data only on stdout");
    let _ = Ctl::new("/nonexistent/ctl.toml")
        .run(&["host", "ls"])
        .await
        .exits(1)
        .complains("/nonexistent/ctl.toml");
}

#[tokio::test]
async fn every_list_is_one_json_document_with_a_version() {
    let stage = Stage::new().await;
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    for (arguments, field) in [
        (&["host", "ls"][..], "hosts"),
        (&["host", "show", HOST], "targets"),
        (&["target", "ls"], "targets"),
        (&["history", "--host", HOST], "revisions"),
        (&["rollout", "ls"], "rollouts"),
        (&["record", "ls"], "entries"),
        (&["status"], "cluster"),
    ] {
        let document = stage.ctl.json(arguments).await;
        assert_eq!(document["version"], 1, "{arguments:?}: {document:#}");
        assert!(!document[field].is_null(), "{arguments:?}: {document:#}");
    }
}

#[tokio::test]
async fn the_record_names_who_did_what_and_holds() {
    let stage = Stage::new().await;
    let exported = stage.ctl.run(&["record", "export"]).await.exits(0).lines();
    assert!(!exported.is_empty());
    let numbers: Vec<u64> = exported
        .iter()
        .filter_map(|entry| entry["number"].as_u64())
        .collect();
    let gapless: Vec<u64> = (1..).take(exported.len()).collect();
    assert_eq!(numbers, gapless, "oldest first, without gaps");
    for pair in exported.windows(2) {
        assert_eq!(pair[1]["previous_hash"], pair[0]["hash"]);
    }
    let of_host = format!("host:{HOST}");
    assert!(
        exported
            .iter()
            .any(|entry| entry["subject"] == of_host.as_str()),
        "that {HOST} joined is on record: {exported:#?}"
    );
}

#[tokio::test]
async fn a_pipeline_learns_that_a_digest_is_marked_bad() {
    let stage = Stage::new().await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("shop", &["-p", &publish], &v1).await;
    stage.known_good("shop", 1).await;
    let id = stage.revision("shop", 1).await["image_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let _ = stage.ctl.run(&["deployment", "check", &id]).await.exits(0);
    let mark = [
        "revision", "mark", "bad", "1", "--host", HOST, "--reason", "leaks",
    ];
    let _ = stage.ctl.run(&mark).await.exits(0);
    let said = stage
        .ctl
        .run(&["deployment", "check", &id])
        .await
        .exits(ANSWER_IS_NO);
    assert!(said.stdout.contains("leaks"), "{said:?}");
}
