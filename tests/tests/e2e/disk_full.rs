//! The disk below the agent is full, before an order or in the middle of one: the target keeps exactly one
//! revision running, the operator learns why nothing goes on, and everything goes on once there is room.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use sternway_tests::{
    engine::Scope,
    gate::Gate,
    http,
    stage::{HOST, Stage},
    wait::until,
};

use crate::crash::{Ground, newest_rollout};

const SOON: Duration = Duration::from_mins(3);

/// A disk of some MiB under the agent's state. Unmounted with its owner, also in a panic.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Moves the state of a stopped agent onto a disk of its own.
    fn under(state: &Path) -> Self {
        let aside = state.with_extension("aside");
        fs::rename(state, &aside).expect("moved aside");
        fs::create_dir(state).expect("made");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"])
            .arg(state));
        let disk = Self(state.to_owned());
        // Copies of images are larger than this disk: what an agent has of them there is none.
        fs::remove_dir_all(aside.join("images")).expect("removed");
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(state));
        fs::remove_dir_all(&aside).expect("removed");
        disk
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("made");
        // In small pieces at last, so that not a page is left.
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached at once, whoever has files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

/// A ground whose agent looks often, on a small disk. Fields end in this order.
struct Small {
    disk: SmallDisk,
    ground: Ground,
}

impl Small {
    async fn new() -> Self {
        Self::of(Ground::new().await).await
    }

    async fn of(mut ground: Ground) -> Self {
        ground.stage.agent.kill();
        let state = ground.stage.agent.folder().join("state");
        let disk = SmallDisk::under(&state);
        let mut small = Self { disk, ground };
        small.start().await;
        small
    }

    async fn start(&mut self) {
        self.ground
            .stage
            .agent
            .start_with(&[("STERNWAY_AGENT__CHECK_INTERVAL", "500ms")]);
        self.ground.stage.online().await;
    }
}

async fn begin(stage: &Stage, arguments: &[&str]) {
    let all = [
        &["rollback", "--host", HOST, "--yes", "--no-wait"],
        arguments,
    ]
    .concat();
    let _ = stage.ctl.run(&all).await.exits(0);
}

async fn over(stage: &Stage) -> Value {
    until("the rollout's end", SOON, async || {
        let newest = newest_rollout(stage).await;
        if newest["state"] == "running" {
            return Err(newest.to_string());
        }
        Ok(newest)
    })
    .await
}

#[tokio::test]
async fn on_a_full_disk_an_order_is_refused_and_nothing_is_touched() {
    let small = Small::new().await;
    let stage = &small.ground.stage;
    let before = stage.scope.inspect("shop").await.expect("there").id;
    small.disk.fill();
    let said = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--to", "1", "--yes"])
        .await;
    assert_ne!(said.code, 0, "{said:?}");
    let _ = said.complains("make room");
    let refused = newest_rollout(stage).await;
    let after = stage.scope.inspect("shop").await.expect("there").id;
    assert_eq!(after, before, "{refused:#}");
    small
        .ground
        .exactly_one("v2", &refused, "a refused order")
        .await;

    small.disk.make_room();
    let _ = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--to", "1", "--yes"])
        .await
        .exits(0);
    let done = newest_rollout(stage).await;
    small
        .ground
        .exactly_one("v1", &done, "with room again")
        .await;
}

#[tokio::test]
async fn a_disk_that_fills_up_in_mid_order_leaves_one_revision_and_what_it_missed_is_made_up_for() {
    let scope = Scope::new().await;
    let gate = Gate::new(&scope.socket(), scope.folder());
    let stage = Stage::of(scope, gate.socket(), "").await;
    let small = Small::of(Ground::on(stage, &[]).await).await;
    let stage = &small.ground.stage;
    let held = gate.hold("POST", "/stop");
    begin(stage, &["--to", "1"]).await;
    held.reached().await;
    small.disk.fill();
    held.release();
    let rollout = over(stage).await;
    let (version, number) = match rollout["state"].as_str() {
        Some("succeeded") => ("v1", 1),
        Some("undone" | "refused" | "failed") => ("v2", 2),
        other => panic!("{other:?}: {rollout:#}"),
    };
    small
        .ground
        .exactly_one(version, &rollout, "full in mid-order")
        .await;

    small.disk.make_room();
    stage.current("shop", number).await;
    let other = if number == 1 {
        ("2", "v2")
    } else {
        ("1", "v1")
    };
    begin(stage, &["--to", other.0]).await;
    let next = over(stage).await;
    // #2 is broken: a restore of it is undone, and v1 stays.
    small
        .ground
        .exactly_one("v1", &next, "with room again")
        .await;
}

/// The journal of the order fails from an append on, for as long as the disk stays full.
async fn journal_fails(number: u32) {
    let mut ground = Ground::new().await;
    let full = ground.stage.agent.folder().join("full");
    fs::write(&full, "").expect("written");
    ground.stage.agent.kill();
    let fault = format!("journal:{number}:fail:{}", full.display());
    ground.stage.agent.start_with(&[("STERNWAY_FAULT", &fault)]);
    ground.stage.online().await;
    let stage = &ground.stage;
    begin(stage, &["--to", "1", "--swap", "cold"]).await;
    until("the hold", SOON, async || {
        let target = stage.target("shop").await;
        has_problem(&target, "journal-failed")
            .then_some(())
            .ok_or(target.to_string())
    })
    .await;
    until("an answer while it stands still", SOON, async || {
        let answer = http::get(&ground.address(), "/").await;
        let answer = answer.map_err(|error| error.to_string())?;
        matches!(answer.body.as_str(), "v1" | "v2")
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
    assert!(ground.stage.agent.process().status().is_none(), "it lives");
    fs::remove_file(&full).expect("removed");
    let stage = &ground.stage;
    let rollout = over(stage).await;
    let version = match rollout["state"].as_str() {
        Some("succeeded") => "v1",
        Some("undone") => "v2",
        other => panic!("{other:?}: {rollout:#}"),
    };
    let what = format!("a journal that failed from append {number} on");
    ground.exactly_one(version, &rollout, &what).await;
    until("the problem's end", SOON, async || {
        let target = stage.target("shop").await;
        (!has_problem(&target, "journal-failed"))
            .then_some(())
            .ok_or(target.to_string())
    })
    .await;
}

fn has_problem(target: &Value, code: &str) -> bool {
    let problems = target["readiness"]["problems"].as_array();
    problems
        .into_iter()
        .flatten()
        .any(|problem| problem["code"] == code)
}

#[tokio::test]
async fn a_journal_that_fails_before_anything_is_changed_is_told_and_gone_on_with() {
    journal_fails(3).await;
}

#[tokio::test]
async fn a_journal_that_fails_with_the_old_one_stopped_is_told_and_gone_on_with() {
    journal_fails(10).await;
}

#[tokio::test]
async fn a_journal_that_fails_with_the_names_exchanged_is_told_and_gone_on_with() {
    journal_fails(12).await;
}

#[tokio::test]
async fn a_journal_that_fails_with_the_new_one_started_is_told_and_gone_on_with() {
    journal_fails(14).await;
}
