//! Bad days of the engine: stopped, killed, hung, at chosen places of a restore and outside of one. The agent is
//! never started again; exactly one revision runs in the end, and the rollout says what happened.

use std::time::Duration;

use serde_json::Value;
use sternway_tests::{
    engine::Scope,
    gate::Gate,
    http,
    port::Port,
    shop::Image,
    stage::{HOST, Stage},
    wait::until,
};

/// A rollout across a bad day: each call to the engine has its own deadline before.
const ROLLOUT: Duration = Duration::from_mins(2);
const REFUSED: i32 = 4;
/// What is seen of the engine is told within that time.
const TOLD: Duration = Duration::from_secs(90);

const CHECKS: [&str; 8] = [
    "-l",
    "sternway.check.http=:8080/health",
    "-l",
    "sternway.check.timeout=5s",
    "-l",
    "sternway.soak=0s",
    "--restart",
    "always",
];

/// Looks are frequent, so that what is seen is told soon.
const LOOKS: &str = "check_interval = \"1s\"\nreadiness_interval = \"1s\"\n";

/// What happens to the engine.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Stopped politely and started again, as by a package upgrade.
    Restarted,
    /// `kill -9`, and started again.
    Killed,
}

/// v1 is known-good, v2 runs and fails its checks.
struct Day {
    stage: Stage,
    gate: Gate,
    port: Port,
    old: String,
    new: String,
}

impl Day {
    async fn dawns() -> Self {
        Self::of(true).await
    }

    /// With the agent behind the gate, or at the engine's own socket.
    async fn of(gated: bool) -> Self {
        Self::on(Scope::with_own_engine().await, gated).await
    }

    async fn on(scope: Scope, gated: bool) -> Self {
        let gate = Gate::new(&scope.socket(), scope.folder());
        let socket = if gated {
            gate.socket().to_owned()
        } else {
            scope.socket()
        };
        let image = |version, fault| Image {
            version,
            fault,
            ..Image::default()
        };
        let (old, new) = (
            image("v1", "").own(&scope).await,
            image("v2", "health").own(&scope).await,
        );
        let day = Self {
            stage: Stage::of(scope, &socket, LOOKS).await,
            gate,
            port: Port::lease(),
            old,
            new,
        };
        let publish = day.publish();
        let flags = [&["-p", publish.as_str()], &CHECKS[..]].concat();
        day.stage.scope.run("shop", &flags, &day.old).await;
        day.stage.known_good("shop", 1).await;
        day.deploy_bad().await;
        day
    }

    /// Nobody but the test takes room there, or gives it back: both images were exported to the archive.
    async fn on_small_disk() -> Self {
        let scope = Scope::with_own_engine_on_small_disk(SMALL_MIB).await;
        let day = Self::on(scope, true).await;
        for image in [&day.old, &day.new] {
            let inspect = ["image", "inspect", "-f", "{{.Id}}", image];
            let id = day.stage.scope.cli(&inspect).await;
            day.stage.archived(&id).await;
        }
        day
    }

    fn publish(&self) -> String {
        format!("127.0.0.1:{}:8080", self.port)
    }

    async fn deploy_bad(&self) {
        let publish = self.publish();
        let flags = [&["-p", publish.as_str()], &CHECKS[..]].concat();
        self.stage.scope.redeploy("shop", &flags, &self.new).await;
        self.stage.current("shop", 2).await;
        self.ready().await;
    }

    /// Starts a rollback to v1 and answers with the rollout's id.
    async fn rollback(&self, swap: &str) -> String {
        let arguments = ["rollback", "--host", HOST, "--to", "1", "--swap", swap];
        let all = [&arguments[..], &["--yes", "--no-wait"]].concat();
        let _ = self.stage.ctl.run(&all).await.exits(0);
        let listed = self.stage.ctl.json(&["rollout", "ls"]).await;
        let id = listed["rollouts"][0]["id"].as_str();
        id.expect("a rollout has an id").to_owned()
    }

    async fn rollout(&self, id: &str) -> Value {
        self.stage.ctl.json(&["rollout", "show", id]).await
    }

    /// Waits until the rollout is over.
    async fn over(&self, id: &str) -> Value {
        until("the rollout's end", ROLLOUT, async || {
            let shown = self.rollout(id).await;
            let state = &shown["rollout"]["state"];
            (state != "running")
                .then_some(shown.clone())
                .ok_or_else(|| format!("{shown:#}"))
        })
        .await
    }

    /// Waits until the published port answers with that version.
    async fn serves(&self, version: &str, what: &str) {
        let address = format!("127.0.0.1:{}", self.port);
        until(what, TOLD, async || {
            let answer = http::get(&address, "/").await.map_err(|e| e.to_string())?;
            (answer.body == version)
                .then_some(())
                .ok_or_else(|| format!("{answer:?}"))
        })
        .await;
    }

    /// Exactly one runs, the one that the rollout's end says; it serves; nothing is left over.
    async fn exactly_one(&self, shown: &Value, what: &str) {
        let restored = match shown["rollout"]["state"].as_str() {
            Some("succeeded") => true,
            Some("undone") => false,
            _ => panic!("{what}: {shown:#}"),
        };
        let version = if restored { "v1" } else { "v2" };
        self.exactly_one_of(version, what).await;
        let all = self.stage.scope.containers().await;
        let ours = ["sternway-replacement-", "sternway-standby-"];
        let left = |name: &&String| ours.iter().any(|ours| name.starts_with(ours));
        assert_eq!(all.iter().find(left), None, "{what}");
    }

    /// Exactly one runs, of that version; it serves, and nothing is redirected.
    async fn exactly_one_of(&self, version: &str, what: &str) {
        self.serves(version, what).await;
        let scope = &self.stage.scope;
        let running = scope.cli(&["ps", "--format", "{{.Names}}"]).await;
        assert_eq!(running, scope.named("shop"), "{what}");
        let policy = "{{.HostConfig.RestartPolicy.Name}}";
        let name = scope.named("shop");
        let policy = scope.cli(&["inspect", "-f", policy, &name]).await;
        assert_eq!(policy, "always", "{what}");
        let tables = tokio::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .await;
        let tables = String::from_utf8_lossy(&tables.expect("nft runs").stdout).into_owned();
        assert!(!tables.contains("sternway_"), "{what}: {tables}");
    }

    async fn happens(&mut self, event: Event) {
        let engine = self.stage.scope.own_engine();
        match event {
            Event::Restarted => engine.stop().await,
            Event::Killed => engine.kill(),
        }
    }

    async fn readiness(&self) -> Value {
        self.stage.target("shop").await["readiness"].clone()
    }

    async fn ready(&self) {
        until("a ready target", TOLD, async || {
            let readiness = self.readiness().await;
            (readiness["verdict"] == "ready")
                .then_some(())
                .ok_or(readiness.to_string())
        })
        .await;
    }

    /// Waits until host and readiness say that the engine does not answer.
    async fn engine_is_missed(&self) {
        until("the host without its engine", TOLD, async || {
            let host = self.stage.ctl.json(&["host", "show", HOST]).await;
            // Its own word, not that of one of its targets, which may come first.
            let problem = host["host"]["engine_problem"].as_str().unwrap_or_default();
            problem
                .contains("the engine does not answer")
                .then_some(())
                .ok_or(host.to_string())
        })
        .await;
        let listed = self.stage.ctl.run(&["host", "ls"]).await.exits(0);
        assert!(listed.stdout.contains("no answer"), "{}", listed.stdout);
        until("a target that is not ready", TOLD, async || {
            let readiness = self.readiness().await;
            let text = readiness.to_string();
            let said = text.contains("the engine does not answer");
            (readiness["verdict"] == "not-ready" && said)
                .then_some(())
                .ok_or(text)
        })
        .await;
    }

    /// Waits until the host says nothing of that any more.
    async fn engine_is_back(&self) {
        until("the host with its engine", TOLD, async || {
            let host = self.stage.ctl.json(&["host", "show", HOST]).await;
            let problem = &host["host"]["engine_problem"];
            problem.is_null().then_some(()).ok_or(host.to_string())
        })
        .await;
        self.ready().await;
    }
}

async fn in_a_restore(swap: &str, event: Event, places: &[(usize, &'static str, &str)]) {
    let mut day = Day::dawns().await;
    for (at, &(skip, method, part)) in places.iter().enumerate() {
        let what = format!("{swap}, {event:?} at {method} …{part} ({skip})");
        let held = day.gate.hold_after(skip, method, part);
        let id = day.rollback(swap).await;
        held.reached().await;
        day.happens(event).await;
        // The call breaks off, and all that follow until the engine is back.
        held.release();
        until("the failed call", TOLD, async || {
            let shown = day.rollout(&id).await;
            let events = shown["events"].to_string();
            let told = events.contains("the engine");
            told.then_some(()).ok_or_else(|| format!("{shown:#}"))
        })
        .await;
        day.stage.scope.own_engine().up().await;
        let shown = day.over(&id).await;
        day.exactly_one(&shown, &what).await;
        if at + 1 < places.len() {
            day.deploy_bad().await;
        }
    }
}

#[tokio::test]
async fn an_engine_restarted_in_a_cold_restore_leaves_one_revision() {
    // Before the old one is stopped; between the two renames; before the new one is started.
    let places = [
        (0, "POST", "/stop"),
        (1, "POST", "/rename"),
        (0, "POST", "/start"),
    ];
    in_a_restore("cold", Event::Restarted, &places).await;
}

#[tokio::test]
async fn an_engine_killed_in_a_cold_restore_leaves_one_revision() {
    let places = [(0, "POST", "/containers/create"), (0, "POST", "/start")];
    in_a_restore("cold", Event::Killed, &places).await;
}

#[tokio::test]
async fn an_engine_killed_in_a_warm_restore_leaves_one_revision() {
    // The standby serves: the old one is to be stopped, then the new one to be started.
    let places = [(0, "POST", "/stop"), (1, "POST", "/start")];
    in_a_restore("warm", Event::Killed, &places).await;
}

#[tokio::test]
async fn an_engine_restarted_in_a_warm_restore_leaves_one_revision() {
    // It takes the standby, and what ran before, with it.
    let places = [(0, "POST", "/stop"), (1, "POST", "/start")];
    in_a_restore("warm", Event::Restarted, &places).await;
}

async fn hung_in_a_restore(swap: &str) {
    let mut day = Day::dawns().await;
    let held = day.gate.hold("POST", "/stop");
    let id = day.rollback(swap).await;
    held.reached().await;
    day.stage.scope.own_engine().hang();
    held.release();
    if swap == "warm" {
        day.serves("v1", "the standby to serve without the engine")
            .await;
    }
    // A stop may take minutes; that the engine hangs is found out all the same.
    until("the failed step", TOLD, async || {
        let shown = day.rollout(&id).await;
        let events = shown["events"].to_string();
        let told = events.contains("the engine does not answer");
        told.then_some(()).ok_or_else(|| format!("{shown:#}"))
    })
    .await;
    day.stage.scope.own_engine().wake();
    let shown = day.over(&id).await;
    day.exactly_one(&shown, &format!("{swap}, hung")).await;
}

#[tokio::test]
async fn an_engine_that_hangs_in_a_cold_restore_is_told_and_waited_for() {
    hung_in_a_restore("cold").await;
}

#[tokio::test]
async fn an_engine_that_hangs_in_a_warm_restore_is_told_and_waited_for_and_the_standby_serves() {
    hung_in_a_restore("warm").await;
}

async fn without_its_engine(hangs: bool) {
    let mut day = Day::of(false).await;
    let engine = day.stage.scope.own_engine();
    if hangs {
        engine.hang();
    } else {
        engine.stop().await;
    }
    day.engine_is_missed().await;
    let rollback = ["rollback", "--host", HOST, "--to", "1", "--yes"];
    let said = day.stage.ctl.run(&rollback).await.exits(REFUSED);
    let _ = said.complains("the engine does not answer");
    let engine = day.stage.scope.own_engine();
    if hangs {
        engine.wake();
    } else {
        engine.up().await;
    }
    day.engine_is_back().await;
    let listed = day.stage.ctl.json(&["rollout", "ls"]).await;
    let rollouts = listed["rollouts"].as_array().map(Vec::len);
    assert_eq!(rollouts, Some(0), "{listed:#}");
    let id = day.rollback("cold").await;
    let shown = day.over(&id).await;
    assert_eq!(shown["rollout"]["state"], "succeeded", "{shown:#}");
    day.exactly_one(&shown, "afterwards").await;
    // The replaced one is disarmed: it does not come back with the engine.
    day.stage.scope.own_engine().stop().await;
    day.stage.scope.own_engine().up().await;
    day.exactly_one(&shown, "after another restart").await;
}

#[tokio::test]
async fn a_host_whose_engine_is_stopped_says_so_refuses_and_recovers_by_itself() {
    without_its_engine(false).await;
}

#[tokio::test]
async fn a_host_whose_engine_hangs_says_so_refuses_and_recovers_by_itself() {
    without_its_engine(true).await;
}

/// What an engine and its images take, and some MiB for containers.
const SMALL_MIB: u32 = 96;

#[tokio::test]
async fn a_full_disk_of_the_engine_refuses_a_restore_and_nothing_is_touched() {
    let mut day = Day::on_small_disk().await;
    let before = day.stage.scope.inspect("shop").await.expect("there").id;
    day.stage.scope.own_engine().fill();
    let id = day.rollback("cold").await;
    let shown = day.over(&id).await;
    let events = shown["events"].as_array().expect("events");
    let end = events.iter().find(|event| event["event"] == "finished");
    let problem = &end.expect("an end")["problem"];
    assert_eq!(problem["code"], "no-disk-space", "{shown:#}");
    let next = problem["next_step"].as_str().unwrap_or_default();
    assert!(next.contains("free space"), "{problem:#}");
    let after = day.stage.scope.inspect("shop").await.expect("there").id;
    assert_eq!(after, before, "{shown:#}");
    day.serves("v2", "what ran before").await;

    day.stage.scope.own_engine().make_room();
    day.ready().await;
    let id = day.rollback("cold").await;
    let shown = day.over(&id).await;
    assert_eq!(shown["rollout"]["state"], "succeeded", "{shown:#}");
    day.exactly_one(&shown, "with room again").await;
}

/// The disk is full from that call of the restore on. What cannot be started for want of room is, once there is some.
async fn full_from(swap: &str, method: &'static str, part: &str) {
    let mut day = Day::on_small_disk().await;
    let held = day.gate.hold(method, part);
    let id = day.rollback(swap).await;
    held.reached().await;
    day.stage.scope.own_engine().fill();
    held.release();
    let what = format!("{swap}, full from {method} …{part} on");
    let serves = match swap {
        "warm" => "only the standby serves",
        _ => "nothing runs",
    };
    until(&what, TOLD, async || {
        let readiness = day.readiness().await;
        let problem = &readiness["problems"][0];
        let message = problem["message"].as_str().unwrap_or_default();
        let told = problem["code"] == "no-disk-space" && message.contains(serves);
        told.then_some(()).ok_or(readiness.to_string())
    })
    .await;
    if swap == "warm" {
        day.serves("v1", &what).await;
    }
    assert_eq!(day.rollout(&id).await["rollout"]["state"], "running");
    day.stage.scope.own_engine().make_room();
    let shown = day.over(&id).await;
    let state = shown["rollout"]["state"].as_str();
    assert_eq!(state, Some("needs-human"), "{what}: {shown:#}");
    // The last resort put back what ran before.
    day.exactly_one_of("v2", &what).await;
    day.ready().await;
    let id = day.rollback("cold").await;
    let shown = day.over(&id).await;
    day.exactly_one(&shown, "with room again").await;
}

#[tokio::test]
async fn what_cannot_be_started_on_a_full_disk_is_once_there_is_room() {
    full_from("cold", "POST", "/stop").await;
}

#[tokio::test]
async fn never_none_a_standby_serves_while_the_disk_is_full() {
    full_from("warm", "POST", "/stop").await;
}
