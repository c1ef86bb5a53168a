//! What cannot be done is refused, nothing is changed, and the person learns what, why and what next.

use sternway_tests::{
    shop::Image,
    stage::{HOST, Stage},
};

const UNKNOWN: i32 = 1;
const REFUSED: i32 = 4;

/// Holds a refusal against its exit code, its code for programs, and what a person is told: the reason, and what to do
/// next.
async fn refused(
    stage: &Stage,
    arguments: &[&str],
    exit: i32,
    code: &str,
    because: &str,
    next: &str,
) {
    let all = [arguments, &["-o", "json"]].concat();
    let said = stage.ctl.run(&all).await.exits(exit);
    let last = said.stderr.lines().last().unwrap_or_default();
    let error: serde_json::Value = serde_json::from_str(last).expect("an error as a document");
    assert_eq!(
        (error["exit_code"].as_i64(), error["code"].as_str()),
        (Some(i64::from(exit)), Some(code)),
        "{error:#}"
    );
    let said = stage.ctl.run(arguments).await.exits(exit);
    let _ = said
        .complains(&format!("\n  because: {because}"))
        .complains(&format!("\n  next: {next}"));
}

async fn two_revisions() -> Stage {
    let stage = Stage::new().await;
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::good("v2").shared().await,
    );
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &[], &v2).await;
    stage.known_good("shop", 2).await;
    stage
}

#[tokio::test]
async fn unknown_hosts_targets_and_revisions_are_named() {
    let stage = two_revisions().await;
    let target = stage.scope.target("shop");
    let nowhere = "there is no host \"nowhere\"";
    let known = "`ctl host ls` lists the hosts";
    let rollback = ["rollback", "--host", HOST, "--yes"];
    for (arguments, code, because, next) in [
        (
            &["rollback", "--host", "nowhere", "--yes"][..],
            "host-unknown",
            nowhere,
            known,
        ),
        (
            &["history", "--host", "nowhere"],
            "host-unknown",
            nowhere,
            known,
        ),
        // Nearly right is helped on.
        (
            &["host", "show", "web-2"],
            "host-unknown",
            "there is no host \"web-2\"",
            "did you mean web-1? `ctl host ls` lists them",
        ),
        (
            &[&rollback[..], &["--target", "docker/nothing"]].concat(),
            "target-unknown",
            "web-1 has no target \"docker/nothing\"",
            &format!("it has: {target}"),
        ),
    ] {
        refused(&stage, arguments, UNKNOWN, code, because, next).await;
    }
    let known = "the newest are #2, #1; see `ctl history`";
    for word in ["99", "#99", "zz"] {
        let because = format!("{target} has no revision \"{word}\"");
        let asked = [&rollback[..], &["--to", word]].concat();
        refused(&stage, &asked, UNKNOWN, "revision-unknown", &because, known).await;
    }
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn a_host_with_several_targets_needs_one_named_and_lists_them() {
    let stage = two_revisions().await;
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("other", &[], &v1).await;
    stage.known_good("other", 1).await;
    let because = format!(
        "web-1 has 2 targets: {}, {}",
        stage.scope.target("other"),
        stage.scope.target("shop")
    );
    let asked = ["rollback", "--host", HOST, "--yes"];
    let next = "name one: `--target NAME`";
    refused(&stage, &asked, UNKNOWN, "target-needed", &because, next).await;
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn a_revision_marked_bad_is_never_restored() {
    let stage = two_revisions().await;
    let target = stage.scope.target("shop");
    let mark = [
        "revision", "mark", "bad", "1", "--host", HOST, "--target", &target, "--reason", "leaks",
    ];
    let _ = stage.ctl.run(&mark).await.exits(0);
    let because = format!("#1 of {target} is marked bad: leaks");
    let asked = ["rollback", "--host", HOST, "--to", "1", "--yes"];
    let next = "choose another: `ctl history`; or take the mark away: `ctl revision mark`";
    refused(&stage, &asked, REFUSED, "revision-bad", &because, next).await;
    // Nor is it chosen.
    let because = format!(
        "there is nothing to go back to: #2 is the oldest revision of {target} that is not marked bad"
    );
    let asked = ["rollback", "--host", HOST, "--yes"];
    let next =
        "name another that was deployed since, `--to N` (see `ctl history`), or deploy a good one";
    refused(
        &stage,
        &asked,
        REFUSED,
        "nothing-to-go-back-to",
        &because,
        next,
    )
    .await;
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn a_first_deployment_has_nothing_to_go_back_to() {
    let stage = Stage::new().await;
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    let target = stage.scope.target("shop");
    let because = format!(
        "there is nothing to go back to: #1 is the oldest revision of {target} that is not marked bad"
    );
    let next =
        "name another that was deployed since, `--to N` (see `ctl history`), or deploy a good one";
    for asked in [
        &["rollback", "--host", HOST, "--yes"][..],
        &["rollback", "--host", HOST, "--dry-run"],
        &["rollback", "--host", HOST, "--to", "previous", "--yes"],
    ] {
        refused(
            &stage,
            asked,
            REFUSED,
            "nothing-to-go-back-to",
            &because,
            next,
        )
        .await;
    }
    let because = format!("no revision of {target} before #1 is known-good");
    let asked = ["rollback", "--host", HOST, "--to", "known-good", "--yes"];
    let next = "name another: `--to previous` or `--to N`; see `ctl history`";
    refused(&stage, &asked, REFUSED, "no-known-good", &because, next).await;
    let readiness = stage.target("shop").await["readiness"]["verdict"].clone();
    assert_eq!(readiness, "no-predecessor");
    stage.unchanged("shop", 1).await;
}

#[tokio::test]
async fn an_order_for_a_host_that_stays_offline_expires_and_ctl_says_so() {
    let mut stage = two_revisions().await;
    stage.agent.kill();
    stage.host_is("offline").await;
    // What it said last is no yes.
    let said = stage.ctl.run(&["readiness"]).await.exits(13).stdout;
    assert!(said.contains("it said ready then"), "{said}");
    let _ = stage
        .ctl
        .run(&[
            "rollback",
            "--host",
            HOST,
            "--to",
            "1",
            "--yes",
            "--deadline",
            "3s",
        ])
        .await
        .exits(12);
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(rollouts["rollouts"][0]["state"], "expired");
    stage.agent.start();
    stage.online().await;
    // Never stale: what has expired is not carried out when the host is back.
    stage.unchanged("shop", 2).await;
}

#[tokio::test]
async fn what_is_deployed_again_although_it_is_marked_bad_is_told() {
    let stage = two_revisions().await;
    let _ = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--yes"])
        .await
        .exits(0);
    stage.current("shop", 1).await;
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    let rollout = rollouts["rollouts"][0]["id"].as_str().expect("an id");
    let target = stage.scope.target("shop");
    let mark = [
        "revision", "mark", "bad", "2", "--host", HOST, "--target", &target, "--reason", "500s",
    ];
    let _ = stage.ctl.run(&mark).await.exits(0);
    // As an updater does that nobody told.
    let v2 = Image::good("v2").shared().await;
    stage.scope.redeploy("shop", &[], &v2).await;
    stage.current("shop", 2).await;
    let told = format!("what runs, #2, is marked bad (500s); rollout {rollout} went back from it ");
    for asked in [
        &["readiness"][..],
        &["target", "show", "--host", HOST, "--target", &target],
    ] {
        let said = stage.ctl.run(asked).await.stdout;
        assert!(said.contains(&told), "{said}");
    }
    let said = stage.ctl.run(&["target", "ls"]).await.exits(0).stdout;
    assert!(said.contains("#2 ✖ bad"), "{said}");
    let problems = stage.target("shop").await["readiness"]["problems"].clone();
    let is = |problem: &serde_json::Value| problem["code"] == "runs-marked-bad";
    let problem = problems.as_array().into_iter().flatten().find(|it| is(it));
    let next = problem.expect("told to programs, too")["next_step"].clone();
    let back = format!("ctl rollback --host {HOST} --target {target}");
    assert!(
        next.as_str().is_some_and(|next| next.contains(&back)),
        "{next}"
    );
}
