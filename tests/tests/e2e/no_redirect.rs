//! Hosts on which `nft` is there and may do nothing, or stops working on the way: swaps are cold there, an undo is one,
//! and what could not be taken away is told of while the service runs on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use sternway_tests::{
    engine::Scope,
    gate::Gate,
    http,
    port::Port,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

use super::crash::newest_rollout;

/// What a dry run of something that can be done exits with.
const WOULD_CHANGE: i32 = 20;
/// What a refused rollback exits with.
const REFUSED: i32 = 4;
const ROLLOUT: Duration = Duration::from_mins(2);
/// Looks are frequent, so that what an order left is collected soon.
const LOOKS: &str = "check_interval = \"1s\"\nreadiness_interval = \"1s\"\n";
/// nft without the right to do anything, which is what an agent without `CAP_NET_ADMIN` has.
const POWERLESS: &str =
    "exec /usr/bin/setpriv --bounding-set -net_admin --inh-caps -net_admin /usr/sbin/nft \"$@\"";

/// v1 is as it is asked for, v2 runs and is good. Both could go warm.
struct Ground {
    stage: Stage,
    gate: Gate,
    port: Port,
}

impl Ground {
    /// v1 with a fault or none, and a script of that body instead of nft.
    async fn with(fault: &'static str, nft: impl FnOnce(&Path) -> String) -> Self {
        let scope = Scope::new().await;
        let gate = Gate::new(&scope.socket(), scope.folder());
        let program = stand_in(scope.folder(), &nft(scope.folder()));
        let mut stage = Stage::of(scope, gate.socket(), LOOKS).await;
        stage.agent.kill();
        let program = program.display().to_string();
        stage.agent.start_with(&[("STERNWAY_NFT", &program)]);
        stage.online().await;
        let ground = Self {
            stage,
            gate,
            port: Port::lease(),
        };
        let publish = format!("127.0.0.1:{}:8080", ground.port);
        let checks = [
            "-p",
            &publish,
            "-l",
            "sternway.check.http=:8080/health",
            "-l",
            "sternway.check.timeout=2s",
            "-l",
            "sternway.soak=0s",
        ];
        let image = Image::plain;
        let scope = &ground.stage.scope;
        let broken = image("v1", fault).shared().await;
        scope.run("shop", &checks, &broken).await;
        ground.stage.current("shop", 1).await;
        let good = image("v2", "").shared().await;
        scope.redeploy("shop", &checks, &good).await;
        ground.stage.known_good("shop", 2).await;
        ground
    }

    async fn rolls_back(&self) {
        let target = self.stage.scope.target("shop");
        let start = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
        let all = [&start[..], &["--yes", "--no-wait"]].concat();
        let _ = self.stage.ctl.run(&all).await.exits(0);
    }

    async fn over(&self) -> Value {
        until("the rollout's end", ROLLOUT, async || {
            let newest = newest_rollout(&self.stage).await;
            let over = newest["state"] != "running";
            over.then(|| newest.clone()).ok_or(newest.to_string())
        })
        .await
    }

    async fn serves(&self, version: &str) {
        let address = format!("127.0.0.1:{}", self.port);
        until(version, SETTLES, async || {
            let answer = http::get(&address, "/").await.map_err(|e| e.to_string())?;
            (answer.body == version).then_some(()).ok_or(answer.body)
        })
        .await;
    }

    async fn standbys(&self) -> usize {
        let all = self.stage.scope.containers().await;
        let standby = |name: &&String| name.starts_with("sternway-standby-");
        all.iter().filter(standby).count()
    }
}

fn stand_in(folder: &Path, body: &str) -> PathBuf {
    let program = folder.join("nft");
    fs::write(&program, format!("#!/bin/sh\n{body}\n")).expect("the script is written");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, executable).expect("it is made executable");
    program
}

#[tokio::test]
async fn where_nft_may_do_nothing_a_swap_is_cold_in_its_words_and_is_undone_all_the_same() {
    let ground = Ground::with("health", |_| POWERLESS.to_owned()).await;
    let target = ground.stage.scope.target("shop");
    let dry = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
    let plan = [&dry[..], &["--dry-run"]].concat();
    let said = ground.stage.ctl.run(&plan).await.exits(WOULD_CHANGE).stdout;
    assert!(said.contains("cold") && said.contains("nft"), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    ground.rolls_back().await;
    let rollout = ground.over().await;
    assert_eq!(rollout["state"], "undone", "{rollout:#}");
    ground.serves("v2").await;
    assert_eq!(ground.standbys().await, 0, "it was cold");
}

/// As in most containers: a bridge cannot be told to accept loopback addresses.
#[tokio::test]
async fn where_settings_of_the_kernel_are_read_only_a_swap_is_cold_and_the_plan_says_why() {
    let scope = Scope::new().await;
    let socket = scope.socket();
    let mut stage = Stage::of(scope, &socket, LOOKS).await;
    stage.agent.kill();
    let mut shell = Command::new("unshare");
    let read_only =
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
    shell.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        read_only,
        "sh",
    ]);
    stage.agent.start_by(shell);
    stage.online().await;
    // On a bridge of its own: what others let theirs accept is of no matter.
    let network = stage.scope.network("own", &[]).await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let flags = [
        "--network",
        &network,
        "-p",
        &publish,
        "-l",
        "sternway.soak=0s",
    ];
    for (number, version) in [(1, "v1"), (2, "v2")] {
        let image = Image {
            version,
            ..Image::default()
        };
        let image = image.shared().await;
        if number == 1 {
            stage.scope.run("shop", &flags, &image).await;
        } else {
            stage.scope.redeploy("shop", &flags, &image).await;
        }
        stage.known_good("shop", number).await;
    }
    let target = stage.scope.target("shop");
    let start = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
    let plan = [&start[..], &["--dry-run"]].concat();
    let said = stage.ctl.run(&plan).await.exits(WOULD_CHANGE).stdout;
    assert!(
        said.contains("cold") && said.contains("route_localnet"),
        "{said}"
    );
    let rollback = [&start[..], &["--yes"]].concat();
    let _ = stage.ctl.run(&rollback).await.exits(0);
    stage.current("shop", 1).await;
}

#[tokio::test]
async fn where_nft_fails_on_the_way_what_runs_and_what_is_left_is_told_and_collected_later() {
    let fails = |folder: &Path| {
        let file = folder.join("nft-fails").display().to_string();
        format!(
            "[ -e {file} ] && {{ echo 'it is broken' >&2; exit 1; }}; exec /usr/sbin/nft \"$@\""
        )
    };
    let ground = Ground::with("", fails).await;
    let start = ground.gate.hold("POST", "/start");
    ground.rolls_back().await;
    start.reached().await;
    let fails = ground.stage.scope.folder().join("nft-fails");
    fs::write(&fails, "").expect("the file is written");
    start.release();
    let rollout = ground.over().await;
    assert_eq!(rollout["state"], "needs-human", "{rollout:#}");
    let said = rollout["waves"][0]["orders"][0]["problem"]["message"].to_string();
    assert!(said.contains("the one from before, runs"), "{said}");
    assert!(said.contains("sternway-standby-"), "{said}");
    assert!(said.contains("it is broken"), "{said}");
    ground.serves("v2").await;
    assert_eq!(ground.standbys().await, 1, "connections may go to it");
    // Nor is another one begun, whose replacement nobody might reach.
    let target = ground.stage.scope.target("shop");
    let start = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
    let again = [&start[..], &["--yes"]].concat();
    let refused = ground.stage.ctl.run(&again).await.exits(REFUSED);
    let _ = refused.complains("their redirect cannot be ended");
    fs::remove_file(&fails).expect("nft works again");
    until("the standby to be collected", SETTLES, async || {
        let left = ground.standbys().await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    ground.serves("v2").await;
}
