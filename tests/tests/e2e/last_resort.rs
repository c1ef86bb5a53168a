//! A rollback undoes itself, and what it puts back ends right after its start: the last resort starts it once more, and
//! a person is asked for, told what runs and what does not.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use sternway_tests::{
    binary,
    engine::Scope,
    gate::{Gate, Held},
    http,
    port::Port,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};

use super::crash::newest_rollout;

const ROLLOUT: Duration = Duration::from_mins(2);
const CHECKS: [&str; 6] = [
    "-l",
    "sternway.check.http=:8080/health",
    "-l",
    "sternway.check.timeout=2s",
    "-l",
    "sternway.soak=0s",
];

/// #1 fails its checks; #2 runs a program of the host's, which can be exchanged.
struct Ground {
    stage: Stage,
    gate: Gate,
    port: Port,
    folder: PathBuf,
}

impl Ground {
    async fn new() -> Self {
        let scope = Scope::new().await;
        let gate = Gate::new(&scope.socket(), scope.folder());
        let folder = scope.folder().join("app");
        fs::create_dir(&folder).expect("the folder is made");
        let ground = Self {
            stage: Stage::of(scope, gate.socket(), "").await,
            gate,
            port: Port::lease(),
            folder,
        };
        ground.program_is("shop");
        let publish = format!("127.0.0.1:{}:8080", ground.port);
        let flags = [&["-p", publish.as_str()], &CHECKS[..]].concat();
        let image = |version, fault| Image {
            version,
            fault,
            ..Image::default()
        };
        let (broken, good) = (
            image("v1", "health").shared().await,
            image("v2", "").shared().await,
        );
        let scope = &ground.stage.scope;
        scope.run("shop", &flags, &broken).await;
        ground.stage.current("shop", 1).await;
        let bind = format!("{}:/app:ro", ground.folder.display());
        let own = ["-v", &bind, "--entrypoint", "/app/shop"];
        let flags = [&flags[..], &own].concat();
        scope.redeploy("shop", &flags, &good).await;
        ground.stage.known_good("shop", 2).await;
        ground
    }

    /// Its next start runs this: `shop` serves, `prober` ends at once for want of arguments.
    fn program_is(&self, name: &str) {
        let next = self.folder.join("next");
        fs::copy(binary::find(name), &next).expect("the program is copied");
        fs::rename(&next, self.folder.join("shop")).expect("it is exchanged");
    }

    /// A rollback to #1 that is undone while the program ends at once, up to the start of the last resort.
    async fn last_resort(&self) -> Held {
        let undo = self.gate.hold_after(1, "POST", "/start");
        let rollback = ["rollback", "--host", HOST, "--to", "1", "--swap", "cold"];
        let rollback = [&rollback[..], &["--yes", "--no-wait"]].concat();
        let _ = self.stage.ctl.run(&rollback).await.exits(0);
        undo.reached().await;
        self.program_is("prober");
        let rescue = self.gate.hold("POST", "/start");
        undo.release();
        rescue.reached().await;
        rescue
    }

    /// The rollout's end, and the problem of its order.
    async fn over(&self) -> (Value, Value) {
        let rollout = until("the rollout's end", ROLLOUT, async || {
            let newest = newest_rollout(&self.stage).await;
            let over = newest["state"] != "running";
            over.then(|| newest.clone()).ok_or(newest.to_string())
        })
        .await;
        assert_eq!(rollout["state"], "needs-human", "{rollout:#}");
        let order = rollout["waves"][0]["orders"][0].clone();
        assert_eq!(order["problem"]["code"], "undo-failed", "{rollout:#}");
        (rollout, order)
    }

    /// The names of all containers of the target that run.
    async fn running(&self) -> String {
        let filter = format!("name={}", self.stage.scope.name());
        let list = ["ps", "--filter", &filter, "--format", "{{.Names}}"];
        self.stage.scope.cli(&list).await
    }
}

#[tokio::test]
async fn what_was_put_back_and_ended_is_started_by_the_last_resort_and_a_person_is_asked_for() {
    let ground = Ground::new().await;
    let rescue = ground.last_resort().await;
    ground.program_is("shop");
    rescue.release();
    let (rollout, order) = ground.over().await;
    let said = order["problem"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("the one from before, runs"), "{rollout:#}");
    let known = ground.stage.revision("shop", 2).await;
    assert_eq!(order["running_revision"], known["id"], "{rollout:#}");
    assert_eq!(ground.running().await, ground.stage.scope.named("shop"));
    let address = format!("127.0.0.1:{}", ground.port);
    let answer = until("an answer", SETTLES, async || {
        http::get(&address, "/").await.map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(answer.body, "v2");
}

#[tokio::test]
async fn never_blind_what_ends_again_and_again_is_not_told_as_running() {
    let ground = Ground::new().await;
    let rescue = ground.last_resort().await;
    rescue.release();
    let (rollout, order) = ground.over().await;
    let said = order["problem"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("nothing could be started"), "{rollout:#}");
    assert!(!said.contains("runs"), "{rollout:#}");
    let running = order["running_revision"].as_str().unwrap_or_default();
    assert_eq!(running, "", "{rollout:#}");
    assert_eq!(ground.running().await, "");
    // Why the new one failed can be read for as long as after any undo.
    let filter = format!("name={}", ground.stage.scope.name());
    let list = ["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"];
    let there = ground.stage.scope.cli(&list).await;
    assert!(there.contains("sternway-failed-"), "{there}");
    assert!(!there.contains("sternway-replacement-"), "{there}");
}
