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
    Image::plain("v1", "").shared().await
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

/// What a check saw of what was put there.
fn evidence(events: &[Value], check: &str) -> Vec<Value> {
    let evidence = events.iter().map(|event| &event["evidence"]);
    evidence
        .filter(|one| one["check"] == check && one["instance"] == "replacement")
        .cloned()
        .collect()
}

fn verdicts(events: &[Value], check: &str) -> Vec<String> {
    let seen = evidence(events, check);
    let verdict = |one: &Value| one["verdict"].as_str().map(str::to_owned);
    seen.iter().filter_map(verdict).collect()
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
    let cases: [(&str, &str, &[&str]); 5] = [
        ("tcp", "none", &["-l", "sternway.check.tcp=:9"]),
        ("command", "health", &["-l", COMMAND]),
        (
            "log",
            "errors",
            &["-l", "sternway.check.log=ERROR", "-l", "sternway.soak=3s"],
        ),
        // Four a second: some are tolerated, not so many.
        (
            "log",
            "errors",
            &[
                "-l",
                "sternway.check.log=ERROR",
                "-l",
                "sternway.check.log.max=2",
                "-l",
                "sternway.soak=4s",
            ],
        ),
        // It runs when it is looked at first, and dies a second later; the engine starts it again.
        (
            "restarts",
            "crash",
            &["--restart", "always", "-l", "sternway.soak=6s"],
        ),
    ];
    let named = |index: usize, check: &str| format!("{check}-{index}");
    for (index, (check, fault, flags)) in cases.iter().enumerate() {
        let fault = format!("SHOP_FAIL={fault}");
        let bad = [&QUICK[..], &["-e", &fault], flags].concat();
        stage.scope.run(&named(index, check), &bad, &image).await;
    }
    let stage = &stage;
    let image = image.as_str();
    join_all(
        cases
            .iter()
            .enumerate()
            .map(|(index, (check, ..))| async move {
                is_undone(stage, &named(index, check), check, image).await;
            }),
    )
    .await;
}

#[tokio::test]
async fn so_many_lines_of_the_log_as_are_tolerated_pass() {
    let stage = Stage::new().await;
    let image = plain().await;
    // It says this once, when it listens.
    let once = [
        "-l",
        "sternway.check.log=listens",
        "-l",
        "sternway.check.log.max=1",
    ];
    let once = [&QUICK[..], &once].concat();
    stage.scope.run("shop", &once, &image).await;
    stage.current("shop", 1).await;
    stage.scope.redeploy("shop", &QUICK, &image).await;
    stage.current("shop", 2).await;
    let events = rollback(&stage, "shop", 0).await;
    let seen = evidence(&events, "log");
    assert_eq!(seen.len(), 1, "{events:#?}");
    assert_eq!(
        (&seen[0]["verdict"], &seen[0]["observed"]),
        (&"passed".into(), &"1 lines".into()),
        "{events:#?}"
    );
}

#[tokio::test]
async fn a_healthcheck_that_is_looked_at_seldom_has_its_time_and_no_more() {
    let stage = Stage::new().await;
    let image = Image::good("v1").shared().await;
    // The engine looks for the first time when the time for the checks alone would be up.
    let seldom = ["--health-interval", "4s", "-l", "sternway.check.timeout=3s"];
    let seldom = [&["-l", "sternway.soak=0s"], &seldom[..]].concat();
    // Never one nor the other, as it takes more looks to call it unhealthy than there is time.
    let never = ["--health-retries", "20", "-e", "SHOP_FAIL=health"];
    let never = [&seldom[..], &never].concat();
    for (local, flags) in [("good", &seldom), ("never", &never)] {
        stage.scope.run(local, flags, &image).await;
        stage.current(local, 1).await;
        stage.scope.redeploy(local, &QUICK, &image).await;
        stage.current(local, 2).await;
    }
    let events = rollback(&stage, "good", 0).await;
    let seen = evidence(&events, "health");
    assert_eq!(seen[0]["verdict"], "passed", "{events:#?}");
    let took = |seen: &Value| seen["duration_ms"].as_i64().expect("a number");
    assert!(took(&seen[0]) > 3000, "longer than the timeout: {seen:#?}");

    let events = rollback(&stage, "never", UNDONE).await;
    let seen = evidence(&events, "health");
    assert_eq!(seen[0]["verdict"], "failed", "{events:#?}");
    let observed = seen[0]["observed"].as_str().expect("a text");
    assert!(observed.contains("starting"), "{events:#?}");
    // Its interval and the timeout, and what a busy machine takes to look.
    assert!(
        (7000..20_000).contains(&took(&seen[0])),
        "within its bound: {seen:#?}"
    );
}

/// A good deployment over what fails that check, and its rollback.
async fn is_undone(stage: &Stage, local: &str, check: &str, image: &str) {
    stage.current(local, 1).await;
    let before = stage.scope.redeploy(local, &QUICK, image).await;
    stage.current(local, 2).await;
    let events = rollback(stage, local, UNDONE).await;
    assert_eq!(verdicts(&events, check), ["failed"], "{local}: {events:#?}");
    let now = stage.scope.inspect(local).await.expect("it is there");
    assert_eq!(now.id, Some(before), "what ran before runs again");
    assert_eq!(now.state.and_then(|state| state.running), Some(true));
    is_told(stage, local).await;
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
    let said = until("the label to be told", SETTLES, async || {
        let said = stage.ctl.run(&["readiness"]).await.stdout;
        let told = said.contains("sternway.check.http");
        told.then(|| said.clone()).ok_or(said)
    })
    .await;
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
