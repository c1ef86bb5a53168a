//! Other tools at work on the same container: in the middle of a restore, and in its namespaces. What they made
//! is left alone, exactly one runs, and the rollout says why.

use std::time::Duration;

use serde_json::Value;
use sternway_tests::{
    engine::Scope,
    gate::Gate,
    shop::Image,
    stage::{HOST, Stage},
    wait::until,
};

const ROLLOUT: Duration = Duration::from_mins(2);
const FLAGS: [&str; 4] = ["-l", "sternway.soak=0s", "--restart", "always"];
const REFUSED: i32 = 4;

struct Ground {
    stage: Stage,
    gate: Gate,
}

impl Ground {
    async fn new() -> Self {
        Self::with("").await
    }

    /// The agent has further settings.
    async fn with(settings: &str) -> Self {
        let scope = Scope::new().await;
        let gate = Gate::new(&scope.socket(), scope.folder());
        Self {
            stage: Stage::of(scope, gate.socket(), settings).await,
            gate,
        }
    }

    /// v1 of it is known-good, v2 runs.
    async fn deployed(&self, local: &str) {
        let (v1, v2) = (
            Image::plain("v1", "").shared().await,
            Image::plain("v2", "").shared().await,
        );
        self.stage.scope.run(local, &FLAGS, &v1).await;
        self.stage.known_good(local, 1).await;
        self.stage.scope.redeploy(local, &FLAGS, &v2).await;
        self.stage.known_good(local, 2).await;
    }

    async fn rollback(&self, local: &str) -> String {
        let target = self.stage.scope.target(local);
        let arguments = ["rollback", "--host", HOST, "--target", &target, "--to", "1"];
        let all = [&arguments[..], &["--swap", "cold", "--yes", "--no-wait"]].concat();
        let _ = self.stage.ctl.run(&all).await.exits(0);
        let listed = self.stage.ctl.json(&["rollout", "ls"]).await;
        let id = listed["rollouts"][0]["id"].as_str();
        id.expect("a rollout has an id").to_owned()
    }

    async fn over(&self, id: &str) -> Value {
        until("the rollout's end", ROLLOUT, async || {
            let shown = self.stage.ctl.json(&["rollout", "show", id]).await;
            let over = shown["rollout"]["state"] != "running";
            over.then_some(shown.clone())
                .ok_or_else(|| format!("{shown:#}"))
        })
        .await
    }

    /// Of all that has to do with that name exactly this container runs, under that name and as it was made.
    async fn only(&self, local: &str, id: &str, shown: &Value) {
        let name = self.stage.scope.named(local);
        let filter = format!("name={name}");
        let format = "{{.ID}} {{.Names}}";
        let arguments = ["ps", "--no-trunc", "--filter", &filter, "--format", format];
        let running = self.stage.scope.cli(&arguments).await;
        assert_eq!(running, format!("{id} {name}"), "{shown:#}");
        let policy = "{{.HostConfig.RestartPolicy.Name}}";
        let policy = self
            .stage
            .scope
            .cli(&["inspect", "-f", policy, &name])
            .await;
        assert_eq!(policy, "always", "{shown:#}");
    }

    /// The rollout's end says first that what somebody deployed serves, and what that is.
    fn calm(shown: &Value, image: &str, id: &str) {
        assert_eq!(shown["rollout"]["state"], "needs-human", "{shown:#}");
        let problem = &shown["rollout"]["waves"][0]["orders"][0]["problem"];
        assert_eq!(problem["code"], "changed-meanwhile", "{shown:#}");
        let said = problem["message"].as_str().unwrap_or_default();
        let short: String = id.chars().take(12).collect();
        let at = |part: &str| said.find(part).unwrap_or_else(|| panic!("{part}: {said}"));
        assert!(at("is served by") < at("nothing has to be done at once"));
        assert!(at(image) < at("which has run since") && at(&short) < at(image));
    }

    async fn id(&self, local: &str) -> String {
        let found = self.stage.scope.inspect(local).await;
        found.and_then(|found| found.id).expect("it is there")
    }
}

#[tokio::test]
async fn a_container_deployed_over_the_one_that_is_to_be_stopped_is_left_alone() {
    let ground = Ground::new().await;
    ground.deployed("shop").await;
    let held = ground.gate.hold("POST", "/stop");
    let rollout = ground.rollback("shop").await;
    held.reached().await;
    let scope = &ground.stage.scope;
    scope.cli(&["rm", "-f", &scope.named("shop")]).await;
    let v3 = Image::plain("v3", "").shared().await;
    let theirs = scope.run("shop", &FLAGS, &v3).await;
    held.release();
    let shown = ground.over(&rollout).await;
    ground.only("shop", &theirs, &shown).await;
    Ground::calm(&shown, &v3, &theirs);
    let events = shown["events"].to_string();
    assert!(events.contains("somebody deployed it"), "{shown:#}");
}

#[tokio::test]
async fn a_container_that_took_the_free_name_is_left_alone() {
    let ground = Ground::new().await;
    ground.deployed("shop").await;
    // The old one has given its name away, the new one has not yet taken it.
    let held = ground.gate.hold_after(1, "POST", "/rename");
    let rollout = ground.rollback("shop").await;
    held.reached().await;
    let v3 = Image::plain("v3", "").shared().await;
    let theirs = ground.stage.scope.run("shop", &FLAGS, &v3).await;
    held.release();
    let shown = ground.over(&rollout).await;
    ground.only("shop", &theirs, &shown).await;
    Ground::calm(&shown, &v3, &theirs);
    let events = shown["events"].to_string();
    assert!(events.contains("somebody deployed it"), "{shown:#}");
}

#[tokio::test]
async fn a_new_container_that_somebody_removed_leaves_the_old_one_running() {
    let ground = Ground::new().await;
    ground.deployed("shop").await;
    let before = ground.id("shop").await;
    let held = ground.gate.hold("POST", "/start");
    let rollout = ground.rollback("shop").await;
    held.reached().await;
    let scope = &ground.stage.scope;
    scope.cli(&["rm", "-f", &scope.named("shop")]).await;
    held.release();
    let shown = ground.over(&rollout).await;
    ground.only("shop", &before, &shown).await;
    assert_eq!(shown["rollout"]["state"], "undone", "{shown:#}");
}

#[tokio::test]
async fn an_old_container_that_somebody_stopped_is_exchanged_all_the_same() {
    let ground = Ground::new().await;
    ground.deployed("shop").await;
    let held = ground.gate.hold("POST", "/stop");
    let rollout = ground.rollback("shop").await;
    held.reached().await;
    let scope = &ground.stage.scope;
    scope.cli(&["stop", &scope.named("shop")]).await;
    held.release();
    let shown = ground.over(&rollout).await;
    assert_eq!(shown["rollout"]["state"], "succeeded", "{shown:#}");
    ground.only("shop", &ground.id("shop").await, &shown).await;
    ground.stage.current("shop", 1).await;
}

#[tokio::test]
async fn what_shares_any_namespace_of_a_container_shares_that_of_the_new_one() {
    let ground = Ground::new().await;
    let scope = &ground.stage.scope;
    let (v1, v2) = (
        Image::plain("v1", "").shared().await,
        Image::plain("v2", "").shared().await,
    );
    let flags = [&FLAGS[..], &["--ipc", "shareable"]].concat();
    scope.run("shop", &flags, &v1).await;
    ground.stage.known_good("shop", 1).await;
    scope.redeploy("shop", &flags, &v2).await;
    ground.stage.known_good("shop", 2).await;
    let target = scope.target("shop");
    let shared = format!("container:{}", scope.named("shop"));
    let sidecar = scope.named("sidecar");
    for (flag, setting, to) in [
        ("--network", "NetworkMode", "1"),
        ("--ipc", "IpcMode", "2"),
        ("--pid", "PidMode", "1"),
    ] {
        let sharing = [flag, &shared, "-e", "SHOP_PORT=9000"];
        scope.run("sidecar", &sharing, &v1).await;
        let rollback = ["rollback", "--host", HOST, "--target", &target, "--to", to];
        let all = [&rollback[..], &["--yes"]].concat();
        let _ = ground.stage.ctl.run(&all).await.exits(0);
        let what = format!("{{{{.State.Running}}}} {{{{.HostConfig.{setting}}}}}");
        let found = scope.cli(&["inspect", "-f", &what, &sidecar]).await;
        let wanted = format!("true container:{}", ground.id("shop").await);
        assert_eq!(found, wanted, "{flag}");
        scope.cli(&["rm", "-f", &sidecar]).await;
    }
}

#[tokio::test]
async fn a_container_that_was_put_aside_and_runs_is_told_and_what_is_printed_ends_it() {
    let ground = Ground::with("readiness_interval = \"1s\"\n").await;
    ground.deployed("shop").await;
    let rollout = ground.rollback("shop").await;
    let shown = ground.over(&rollout).await;
    assert_eq!(shown["rollout"]["state"], "succeeded", "{shown:#}");
    let scope = &ground.stage.scope;
    let name = scope.named("shop");
    let filter = format!("name=sternway-previous-.*-{name}");
    let listed = ["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"];
    let aside = scope.cli(&listed).await;
    scope.cli(&["start", &aside]).await;
    let problem = until("the problem", ROLLOUT, async || {
        let target = ground.stage.target("shop").await;
        let problems = target["readiness"]["problems"].as_array().cloned();
        let found = problems
            .into_iter()
            .flatten()
            .find(|problem| problem["code"] == "previous-runs");
        found.ok_or_else(|| format!("{target:#}"))
    })
    .await;
    let target = scope.target("shop");
    let rollback = ["rollback", "--host", HOST, "--target", &target, "--to", "2"];
    let rollback = [&rollback[..], &["--yes"]].concat();
    let refused = ground.stage.ctl.run(&rollback).await;
    let _ = refused.exits(REFUSED).complains(&aside);
    let next = problem["next_step"].as_str().unwrap_or_default();
    let printed = next
        .split('`')
        .find_map(|text| text.strip_prefix("docker "));
    let printed: Vec<&str> = printed.expect("a command").split(' ').collect();
    scope.cli(&printed).await;
    until("the problem's end", ROLLOUT, async || {
        let target = ground.stage.target("shop").await;
        let told = target.to_string().contains("previous-runs");
        (!told).then_some(()).ok_or(target.to_string())
    })
    .await;
}
