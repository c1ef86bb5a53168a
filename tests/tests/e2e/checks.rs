//! The checks that labels declare, on real containers: what passes them is restored with evidence of each, and
//! what fails one of them is undone.

use futures_util::future::join_all;
use serde_json::Value;
use sternway_tests::{
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

const UNDONE: i32 = 10;
const COMMAND: &str = "sternway.check.command=[\"/shop\",\"check\"]";
const QUICK: [&str; 4] = ["-l", "sternway.soak=0s", "-l", "sternway.check.timeout=2s"];

/// Without a HEALTHCHECK: the declared checks alone decide.
async fn plain() -> String {
    let image = Image {
        version: "v1",
        ..Image::default()
    };
    image.shared().await
}

/// What a rollback of that container to its first revision said, and that it ended so.
async fn rollback(stage: &Stage, local: &str, code: i32) -> Vec<Value> {
    let target = stage.scope.target(local);
    let first = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
    let all = [&first[..], &["--yes", "-o", "json"]].concat();
    let lines = stage.ctl.run(&all).await.exits(code).lines();
    let events = lines.iter().map(|line| line["event"].clone());
    events.filter(|event| !event.is_null()).collect()
}

fn verdicts(events: &[Value], check: &str) -> Vec<String> {
    let evidence = events.iter().map(|event| &event["evidence"]);
    evidence
        .filter(|one| one["check"] == check && one["instance"] == "replacement")
        .filter_map(|one| one["verdict"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn every_declared_check_of_what_is_restored_passes_with_evidence() {
    let stage = Stage::new().await;
    let labels = [
        "sternway.soak=1s",
        "sternway.check.tcp=:8080",
        "sternway.check.log=ERROR",
        COMMAND,
    ];
    let flags = labels.map(|label| ["-l", label]).concat();
    let image = plain().await;
    stage.scope.run("shop", &flags, &image).await;
    stage.known_good("shop", 1).await;
    let broken = [&QUICK[..], &["-e", "SHOP_FAIL=errors"]].concat();
    stage.scope.redeploy("shop", &broken, &image).await;
    stage.current("shop", 2).await;
    let events = rollback(&stage, "shop", 0).await;
    for check in ["tcp", "command", "log"] {
        assert_eq!(verdicts(&events, check), ["passed"], "{check}: {events:#?}");
    }
    stage.current("shop", 1).await;
}

#[tokio::test]
async fn a_restore_that_fails_a_declared_check_is_undone() {
    let stage = Stage::new().await;
    let image = plain().await;
    let cases = [
        ("tcp", "none", "sternway.check.tcp=:9", "sternway.soak=0s"),
        ("command", "health", COMMAND, "sternway.soak=0s"),
        (
            "log",
            "errors",
            "sternway.check.log=ERROR",
            "sternway.soak=3s",
        ),
    ];
    for (check, fault, label, soak) in cases {
        let fault = format!("SHOP_FAIL={fault}");
        let bad = ["-l", label, "-l", soak, "-e", &fault];
        let bad = [&QUICK[..], &bad].concat();
        stage.scope.run(check, &bad, &image).await;
    }
    join_all(cases.map(|(check, ..)| is_undone(&stage, check, &image))).await;
}

/// A good deployment over what fails that check, and its rollback.
async fn is_undone(stage: &Stage, check: &str, image: &str) {
    stage.current(check, 1).await;
    let before = stage.scope.redeploy(check, &QUICK, image).await;
    stage.current(check, 2).await;
    let events = rollback(stage, check, UNDONE).await;
    assert_eq!(verdicts(&events, check), ["failed"], "{check}: {events:#?}");
    let now = stage.scope.inspect(check).await.expect("it is there");
    assert_eq!(now.id, Some(before), "what ran before runs again");
    assert_eq!(now.state.and_then(|state| state.running), Some(true));
    is_told(stage, check).await;
}

/// That #1 failed its checks stands in its history, with the rollout, which also goes by the order's id.
async fn is_told(stage: &Stage, local: &str) {
    let target = stage.scope.target(local);
    let history = ["history", "--host", HOST, "--target", &target];
    let document = stage.ctl.json(&history).await;
    let failure = &document["failures"][0];
    assert_eq!(
        (&failure["revision"], failure["problem"]["code"].as_str()),
        (&stage.revision(local, 1).await["id"], Some("check-failed")),
        "{document:#}"
    );
    let rollout = failure["rollout"].as_str().expect("an id");
    let said = stage.ctl.run(&history).await.exits(0).stdout;
    let line = said.lines().find(|line| line.starts_with("#1 "));
    let line = line.expect("a revision");
    assert!(line.contains("✖ failed its checks"), "{said}");
    assert!(line.contains(rollout), "{said}");
    let shown = stage.ctl.json(&["rollout", "show", rollout]).await;
    let order = shown["events"][0]["order_id"].as_str().expect("an id");
    let by_order = stage.ctl.json(&["rollout", "show", order]).await;
    assert_eq!(by_order["rollout"]["id"], rollout, "{by_order:#}");
}

#[tokio::test]
async fn a_label_that_cannot_be_read_is_told_and_makes_nothing_known_good() {
    let stage = Stage::new().await;
    let image = plain().await;
    let label = "sternway.check.http=nonsense-with-a-secret";
    let unreadable = [&QUICK[..], &["-l", label]].concat();
    stage.scope.run("shop", &unreadable, &image).await;
    stage.current("shop", 1).await;
    let target = until("a verdict", SETTLES, async || {
        let target = stage.target("shop").await;
        match target["health"].as_str() {
            Some(_) => Ok(target),
            None => Err(format!("{target:#}")),
        }
    })
    .await;
    assert_eq!(target["health"], "inconclusive", "{target:#}");
    assert_eq!(stage.revision("shop", 1).await["known_good"], false);
    let said = stage.ctl.run(&["readiness"]).await.exits(0).stdout;
    assert!(said.contains("sternway.check.http"), "{said}");
    assert!(!said.contains("nonsense"), "{said}");
    // The next one is readable, and good.
    stage.scope.redeploy("shop", &QUICK, &image).await;
    stage.known_good("shop", 2).await;
    until("no problem", SETTLES, async || {
        let problems = stage.target("shop").await["readiness"]["problems"].clone();
        (problems == serde_json::json!([]))
            .then_some(())
            .ok_or(problems)
    })
    .await;
    assert_eq!(stage.revision("shop", 1).await["known_good"], false);
}
