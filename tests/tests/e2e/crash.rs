//! `kill -9` of the agent at every append to its journal, forward and undo: the target ends on exactly one
//! revision, running and answering, and nothing is left over. While the agent is dead in a warm restore, somebody
//! serves.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use bollard::models::ContainerInspectResponse;
use serde_json::Value;
use sternway_tests::{
    http,
    port::Port,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::{try_until, until},
};
use tokio::{task::JoinHandle, time::sleep};

const ROLLOUT: Duration = Duration::from_mins(3);
/// While the agent is dead nothing changes: who does not serve at once never will. The rest is for a busy machine.
const SERVES: Duration = Duration::from_secs(10);

/// Quick to pass and quick to fail: each test restores some thirty times. What is well on a machine too busy for them
/// is taken for ill, and a restore of it undone, as it may be.
const CHECKS: [&str; 6] = [
    "-l",
    "sternway.check.http=:8080/health",
    "-l",
    "sternway.check.timeout=700ms",
    "-l",
    "sternway.soak=0s",
];

/// How a rollback is asked for.
struct Way<'a> {
    to: &'a str,
    swap: &'a str,
}

pub(super) struct Ground {
    pub(super) stage: Stage,
    port: Port,
    /// Of this test alone: nobody else changes its bridge.
    network: String,
    bridge: String,
    /// Known-good, #1.
    pub(super) old: String,
    /// Broken, #2.
    pub(super) new: String,
    flags: &'static [&'static str],
    /// A container `side` shares the network of the target.
    beside: bool,
    /// A folder that the containers see. A file `ill` in it makes #2 unhealthy; where there is no folder it always is.
    mood: Option<PathBuf>,
}

/// Between looks at whether #1 runs: far below what it takes to start what replaces it.
const LOOK: Duration = Duration::from_millis(20);

/// What makes #2 fall ill.
struct Illness {
    ill: PathBuf,
    watch: JoinHandle<()>,
}

impl Drop for Illness {
    fn drop(&mut self) {
        self.watch.abort();
        let _ = fs::remove_file(&self.ill);
    }
}

/// Where a container that shares the target's network listens.
const SIDE_PORT: u16 = 9090;

impl Ground {
    pub(super) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Deployed with further flags.
    pub(super) async fn with(flags: &'static [&'static str]) -> Self {
        Self::deployed(Stage::new().await, flags, false, false).await
    }

    /// #2 falls ill only when told: see [`Ground::falls_ill`].
    pub(super) async fn moody() -> Self {
        Self::deployed(Stage::new().await, &[], false, true).await
    }

    /// Deployed with further flags, and with another container that shares its network and has these flags, too.
    pub(super) async fn together(flags: &'static [&'static str]) -> Self {
        Self::deployed(Stage::new().await, flags, true, false).await
    }

    /// As [`Self::with`], on that stage.
    pub(super) async fn on(stage: Stage, flags: &'static [&'static str]) -> Self {
        Self::deployed(stage, flags, false, false).await
    }

    async fn deployed(
        stage: Stage,
        flags: &'static [&'static str],
        beside: bool,
        moody: bool,
    ) -> Self {
        let network = stage.scope.network("net", &[]).await;
        let inspect = ["network", "inspect", "-f", "{{.Id}}", &network];
        let id = stage.scope.cli(&inspect).await;
        let mood = moody.then(|| stage.scope.folder().join("mood"));
        if let Some(mood) = &mood {
            fs::create_dir(mood).expect("the folder is made");
        }
        let ground = Self {
            stage,
            port: Port::lease(),
            bridge: format!("br-{}", id.chars().take(12).collect::<String>()),
            network,
            old: Image::plain("v1", "").shared().await,
            new: Image::plain("v2", if moody { "mood" } else { "health" })
                .shared()
                .await,
            flags,
            beside,
            mood,
        };
        ground.run(&ground.old).await;
        ground.stage.known_good("shop", 1).await;
        ground.deploy(&ground.new).await;
        ground.stage.current("shop", 2).await;
        ground
    }

    /// Where it is published, and what it sees of this host.
    fn places(&self) -> Vec<String> {
        let publish = format!("127.0.0.1:{}:8080", self.port);
        let mut places = vec!["-p".to_owned(), publish];
        if let Some(mood) = &self.mood {
            places.extend(["-v".to_owned(), format!("{}:/mood:ro", mood.display())]);
        }
        places
    }

    fn flags<'a>(&'a self, places: &'a [String]) -> Vec<&'a str> {
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let own = ["--network", &self.network];
        [&places[..], &own[..], &CHECKS[..], self.flags].concat()
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// By the runbook.
    pub(super) async fn deploy(&self, image: &str) {
        let scope = &self.stage.scope;
        for local in ["side", "shop"] {
            if scope.inspect(local).await.is_some() {
                scope.cli(&["rm", "-f", &scope.named(local)]).await;
            }
        }
        self.run(image).await;
    }

    async fn run(&self, image: &str) {
        let scope = &self.stage.scope;
        let places = self.places();
        scope.run("shop", &self.flags(&places), image).await;
        if self.beside {
            let network = format!("container:{}", scope.named("shop"));
            let port = format!("SHOP_PORT={SIDE_PORT}");
            let own = ["--network", &network, "-e", &port];
            let flags = [&own[..], self.flags].concat();
            let image = Image::plain("side", "").shared().await;
            scope.run("side", &flags, &image).await;
        }
    }

    /// What listens in the target's network beside it answers with.
    pub(super) async fn side(&self) -> Result<String, String> {
        let found = self.stage.scope.inspect("shop").await.ok_or("no shop")?;
        let networks = found.network_settings.and_then(|all| all.networks);
        let mut networks = networks.into_iter().flatten();
        let address = networks.find_map(|(_, network)| network.ip_address);
        let address = format!("{}:{SIDE_PORT}", address.ok_or("no address")?);
        let answer = http::get(&address, "/").await;
        answer
            .map(|answer| answer.body)
            .map_err(|error| error.to_string())
    }

    /// Starts a rollback under a fault, and answers with whether the agent died of it. In the end the agent
    /// runs again and the rollout is over. Of a warm one somebody serves in between.
    async fn killed(&mut self, number: u32, moment: &str, way: &Way<'_>) -> (bool, Value) {
        self.stage.agent.kill();
        let fault = format!("journal:{number}:{moment}");
        self.stage.agent.start_with(&[("STERNWAY_FAULT", &fault)]);
        self.stage.online().await;
        self.rolls_back(way.to, way.swap).await;
        let mut died = false;
        until(
            "the agent's death or the rollout's end",
            ROLLOUT,
            async || {
                died = self.stage.agent.process().status().is_some();
                if died {
                    return Ok(());
                }
                let newest = newest_rollout(&self.stage).await;
                (newest["state"] != "running")
                    .then_some(())
                    .ok_or(newest.to_string())
            },
        )
        .await;
        if died {
            if way.swap == "warm" {
                let what = format!("somebody to serve, killed {moment} append {number}");
                self.somebody_serves(&what).await;
            }
            self.stage.agent.start();
        }
        (died, self.over().await)
    }

    /// #2 falls ill as soon as #1 runs no longer under its name: behind the proof of a standby, before that of what
    /// replaces #1. It is well again when this is dropped.
    fn falls_ill(&self) -> Illness {
        let ill = self.mood.as_ref().expect("it has moods").join("ill");
        let (docker, name) = (
            self.stage.scope.docker().clone(),
            self.stage.scope.named("shop"),
        );
        let (old, file) = (self.old.clone(), ill.clone());
        let watch = tokio::spawn(async move {
            loop {
                let found = docker.inspect_container(&name, None).await.ok();
                let runs = |found: &ContainerInspectResponse| {
                    let state = found.state.as_ref();
                    let image = found
                        .config
                        .as_ref()
                        .and_then(|config| config.image.as_ref());
                    state.and_then(|state| state.running) == Some(true) && image == Some(&old)
                };
                if !found.as_ref().is_some_and(runs) {
                    fs::write(&file, "").expect("the file is written");
                    return;
                }
                sleep(LOOK).await;
            }
        });
        Illness { ill, watch }
    }

    /// Starts a rollback.
    pub(super) async fn rolls_back(&self, to: &str, swap: &str) {
        let target = self.stage.scope.target("shop");
        let start = ["rollback", "--host", HOST, "--target", &target];
        let how = ["--to", to, "--swap", swap, "--yes", "--no-wait"];
        let all = [&start[..], &how[..]].concat();
        let _ = self.stage.ctl.run(&all).await.exits(0);
    }

    /// The newest rollout, once it is over.
    pub(super) async fn over(&self) -> Value {
        until("the rollout's end", ROLLOUT, async || {
            let newest = newest_rollout(&self.stage).await;
            if newest["state"] == "running" {
                return Err(newest.to_string());
            }
            Ok(newest)
        })
        .await
    }

    /// What the order of a rollout appended to its journal: each line is told.
    async fn told(&self, rollout: &Value) -> Vec<Value> {
        let id = rollout["id"].as_str().expect("an id");
        let shown = self.stage.ctl.json(&["rollout", "show", id]).await;
        shown["events"].as_array().expect("events").clone()
    }

    pub(super) async fn somebody_serves(&self, what: &str) {
        let address = self.address();
        until(what, SERVES, async || {
            let answer = http::get(&address, "/")
                .await
                .map_err(|error| error.to_string())?;
            let serves = matches!(answer.body.as_str(), "v1" | "v2");
            serves.then_some(()).ok_or_else(|| format!("{answer:?}"))
        })
        .await;
    }

    /// The journals of orders that are open.
    fn open_orders(&self) -> Vec<OsString> {
        let folder = self.stage.agent.folder().join("state/orders/open");
        let open = fs::read_dir(folder).expect("the open orders are listed");
        open.map(|entry| entry.expect("an entry").file_name())
            .collect()
    }

    /// Exactly one container of the target runs, the port answers with that version, nothing is left over.
    pub(super) async fn exactly_one(&self, version: &str, rollout: &Value, what: &str) {
        let address = self.address();
        let settled = try_until(what, SETTLES, async || {
            let answer = http::get(&address, "/")
                .await
                .map_err(|error| error.to_string())?;
            if answer.body != version {
                return Err(format!("{answer:?}"));
            }
            if self.beside && self.side().await? != "side" {
                return Err("another answers beside it".to_owned());
            }
            let scope = &self.stage.scope;
            let filter = format!("name={}", scope.name());
            let arguments = ["ps", "--filter", &filter, "--format", "{{.Names}}"];
            let running = scope.cli(&arguments).await;
            let mut running: Vec<&str> = running.lines().collect();
            running.sort_unstable();
            let mut wanted = vec![scope.named("shop")];
            if self.beside {
                wanted.push(scope.named("side"));
            }
            (running == wanted)
                .then_some(())
                .ok_or_else(|| format!("{running:?}"))
        })
        .await;
        assert_eq!(settled, Ok(()), "{what}");
        let all = self.stage.scope.containers().await;
        let ours = ["sternway-replacement-", "sternway-standby-"];
        let left = |name: &&String| ours.iter().any(|ours| name.starts_with(ours));
        assert_eq!(all.iter().find(left), None, "{what}");
        // Open until the controller has said that it knows the end.
        let put_away = try_until(what, SETTLES, async || {
            let open = self.open_orders();
            open.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{open:?} are open"))
        })
        .await;
        assert_eq!(put_away, Ok(()), "{what}");
        let tables = tokio::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .await;
        let tables = String::from_utf8_lossy(&tables.expect("nft runs").stdout).into_owned();
        let ours = rollout.to_string().replace('-', "");
        let left = tables
            .lines()
            .filter_map(|line| line.trim().strip_prefix("table ip sternway_"))
            .find(|order| ours.contains(order));
        assert_eq!(left, None, "{what}");
        let setting = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.bridge);
        let accepts = fs::read_to_string(setting).expect("the bridge is there");
        assert_eq!(accepts.trim(), "0", "{what}: loopback on the bridge");
    }
}

pub(super) async fn newest_rollout(stage: &Stage) -> Value {
    stage.ctl.json(&["rollout", "ls"]).await["rollouts"][0].clone()
}

/// At which appends the agent is killed, and when.
pub(super) enum Deaths {
    /// Wherever what it leaves differs.
    ///
    /// A torn record is cut off when the journal is opened, so that in an append is as before it: they take turns,
    /// two appends each, because announcements and what came of them alternate. Between what came of a step and the
    /// next announcement nothing is done, so that after the one is before the other. At the first append, the last
    /// and those of the committing step all three are tried.
    Each,
    /// Every so many appends, the moments in turn.
    Some {
        moments: &'static [&'static str],
        stride: usize,
    },
}

const MOMENTS: [&str; 3] = ["before", "in", "after"];

/// The step behind which nothing is undone.
const COMMITS: &str = "docker.commit";

impl Deaths {
    /// Those in an order that nobody disturbs, which tells that, from an append on. N counts from 1.
    fn of(&self, told: &[Value], from: usize) -> Vec<(u32, &'static str)> {
        assert!(told.len() > 5, "an order appends more often: {told:#?}");
        let mut all = Vec::new();
        match self {
            Self::Each => {
                for number in from..=told.len() {
                    let moments = distinct(told, from, number);
                    all.extend(moments.into_iter().map(|moment| (number, moment)));
                }
            }
            Self::Some { moments, stride } => {
                let numbers = (from..=told.len()).step_by(*stride);
                all.extend(numbers.zip(moments.iter().copied().cycle()));
            }
        }
        let number = |number| u32::try_from(number).expect("few appends");
        all.into_iter()
            .map(|(at, moment)| (number(at), moment))
            .collect()
    }
}

/// The moments of an append that leave something that no other one does.
fn distinct(told: &[Value], from: usize, number: usize) -> Vec<&'static str> {
    let is = |event: Option<&Value>, states: &[&str]| {
        let state = event.and_then(|event| event["state"].as_str());
        state.is_some_and(|state| states.contains(&state))
    };
    let (this, next) = (told.get(number - 1), told.get(number));
    let commits = this.is_some_and(|event| event["step"] == COMMITS);
    if commits || number == from || number == told.len() {
        return MOMENTS.to_vec();
    }
    let mut moments = vec![MOMENTS[number / 2 % 2]];
    let came_of_it = is(this, &["succeeded", "failed", "undone", "undo-failed"]);
    if !(came_of_it && is(next, &["started", "undo-started"])) {
        moments.push("after");
    }
    moments
}

pub(super) async fn forward(mut ground: Ground, swap: &str, at: Deaths) {
    ground.rolls_back("1", swap).await;
    let rollout = ground.over().await;
    assert_eq!(rollout["state"], "succeeded", "{swap}: {rollout:#}");
    ground.exactly_one("v1", &rollout, swap).await;
    for (number, moment) in at.of(&ground.told(&rollout).await, 1) {
        ground.deploy(&ground.new).await;
        ground.stage.current("shop", 2).await;
        let what = format!("{swap}, killed {moment} append {number}");
        let (died, rollout) = ground.killed(number, moment, &Way { to: "1", swap }).await;
        assert!(died, "{what}: it was not: {rollout:#}");
        // A restore that was not undone serves v1; one that was, v2 as before. Never none, never both.
        let version = match rollout["state"].as_str() {
            Some("succeeded") => "v1",
            Some("undone") => "v2",
            other => panic!("{what}: {other:?}: {rollout:#}"),
        };
        ground.exactly_one(version, &rollout, &what).await;
    }
    let verified = ground.stage.ctl.json(&["record", "verify"]).await;
    assert_eq!(verified["holds"], true);
}

/// The restored revision fails its checks, so that the order undoes itself; killed on the way.
pub(super) async fn undo(mut ground: Ground, swap: &str, at: Deaths) {
    ground.deploy(&ground.old).await;
    ground.stage.current("shop", 1).await;
    ground.rolls_back("2", swap).await;
    let rollout = ground.over().await;
    let what = format!("undo of {swap}");
    assert_eq!(rollout["state"], "undone", "{what}: {rollout:#}");
    ground.exactly_one("v1", &rollout, &what).await;
    for (number, moment) in at.of(&ground.told(&rollout).await, 1) {
        let what = format!("{what}, killed {moment} append {number}");
        let (died, rollout) = ground.killed(number, moment, &Way { to: "2", swap }).await;
        assert!(died, "{what}: it was not: {rollout:#}");
        assert_eq!(rollout["state"], "undone", "{what}: {rollout:#}");
        ground.exactly_one("v1", &rollout, &what).await;
    }
}

/// What replaced the old one fails its checks, when the standby was proven, connections were redirected to it and the
/// old one has stopped; killed on the way back from there.
async fn undo_from_behind(mut ground: Ground, at: Deaths) {
    let swap = "warm";
    ground.deploy(&ground.old).await;
    ground.stage.current("shop", 1).await;
    let illness = ground.falls_ill();
    ground.rolls_back("2", swap).await;
    let rollout = ground.over().await;
    drop(illness);
    assert_eq!(rollout["state"], "undone", "{rollout:#}");
    let told = ground.told(&rollout).await;
    let state = |event: &Value, state: &str| event["state"] == state;
    let fails = told.iter().position(|event| state(event, "failed"));
    let fails = fails.expect("a step fails");
    let undone = told.iter().filter(|event| state(event, "undone")).count();
    assert!(undone > 8, "redirected and exchanged before: {told:#?}");
    for (number, moment) in at.of(&told, fails + 1) {
        let what = format!("undo of {swap} from behind, killed {moment} append {number}");
        let illness = ground.falls_ill();
        let (died, rollout) = ground.killed(number, moment, &Way { to: "2", swap }).await;
        drop(illness);
        assert!(died, "{what}: it was not: {rollout:#}");
        assert_eq!(rollout["state"], "undone", "{what}: {rollout:#}");
        ground.exactly_one("v1", &rollout, &what).await;
    }
}

#[tokio::test]
async fn an_undo_behind_the_redirect_killed_at_each_append_ends_on_the_old_one() {
    undo_from_behind(Ground::moody().await, Deaths::Each).await;
}

#[tokio::test]
async fn a_cold_restore_killed_at_each_append_ends_on_one_revision() {
    forward(Ground::new().await, "cold", Deaths::Each).await;
}

#[tokio::test]
async fn a_warm_restore_killed_at_each_append_ends_on_one_revision() {
    forward(Ground::new().await, "warm", Deaths::Each).await;
}

#[tokio::test]
async fn an_undo_of_a_cold_restore_killed_at_each_append_ends_on_the_old_one() {
    undo(Ground::new().await, "cold", Deaths::Each).await;
}

/// The standby fails its checks: nothing was redirected yet.
#[tokio::test]
async fn an_undo_of_a_standby_killed_at_each_append_ends_on_the_old_one() {
    let at = Deaths::Some {
        moments: &MOMENTS,
        stride: 1,
    };
    undo(Ground::new().await, "warm", at).await;
}
