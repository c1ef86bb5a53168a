//! `kill -9` of the agent at every append to its journal, forward and undo: the target ends on exactly one
//! revision, running and answering, and nothing is left over. While the agent is dead in a warm restore, somebody
//! serves.

use std::{ffi::OsString, fs, time::Duration};

use serde_json::Value;
use sternway_tests::{
    http,
    port::Port,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::{try_until, until},
};

/// No order appends more often than that: a run that is never killed ends the search.
const APPENDS: u32 = 60;
const ROLLOUT: Duration = Duration::from_mins(3);
/// While the agent is dead nothing changes: who does not serve at once never will. The rest is for a busy machine.
const SERVES: Duration = Duration::from_secs(10);

/// Quick to pass and quick to fail: each test restores some thirty times.
const CHECKS: [&str; 6] = [
    "-l",
    "sternway.check.http=:8080/health",
    "-l",
    "sternway.check.timeout=2s",
    "-l",
    "sternway.soak=0s",
];

fn plain(version: &'static str, fault: &'static str) -> Image {
    Image {
        version,
        fault,
        ..Image::default()
    }
}

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
    old: String,
    /// Broken, #2.
    pub(super) new: String,
    flags: &'static [&'static str],
}

impl Ground {
    pub(super) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Deployed with further flags.
    pub(super) async fn with(flags: &'static [&'static str]) -> Self {
        let stage = Stage::new().await;
        let network = stage.scope.network("net", &[]).await;
        let inspect = ["network", "inspect", "-f", "{{.Id}}", &network];
        let id = stage.scope.cli(&inspect).await;
        let ground = Self {
            stage,
            port: Port::lease(),
            bridge: format!("br-{}", id.chars().take(12).collect::<String>()),
            network,
            old: plain("v1", "").shared().await,
            new: plain("v2", "health").shared().await,
            flags,
        };
        let publish = ground.publish();
        let flags = ground.flags(&publish);
        ground.stage.scope.run("shop", &flags, &ground.old).await;
        ground.stage.known_good("shop", 1).await;
        ground.deploy(&ground.new).await;
        ground.stage.current("shop", 2).await;
        ground
    }

    fn publish(&self) -> String {
        format!("127.0.0.1:{}:8080", self.port)
    }

    fn flags<'a>(&'a self, publish: &'a str) -> Vec<&'a str> {
        let own = ["-p", publish, "--network", &self.network];
        [&own[..], &CHECKS[..], self.flags].concat()
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) async fn deploy(&self, image: &str) {
        let publish = self.publish();
        let flags = self.flags(&publish);
        self.stage.scope.redeploy("shop", &flags, image).await;
    }

    /// Starts a rollback under a fault, and answers with whether the agent died of it. In the end the agent
    /// runs again and the rollout is over. Of a warm one somebody serves in between.
    async fn killed(&mut self, number: u32, moment: &str, way: &Way<'_>) -> (bool, Value) {
        self.stage.agent.kill();
        let fault = format!("journal:{number}:{moment}");
        self.stage.agent.start_with(&[("STERNWAY_FAULT", &fault)]);
        self.stage.online().await;
        let start = ["rollback", "--host", HOST, "--yes", "--no-wait"];
        let how = ["--to", way.to, "--swap", way.swap];
        let all = [&start[..], &how[..]].concat();
        let _ = self.stage.ctl.run(&all).await.exits(0);
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
        let rollout = until("the rollout's end", ROLLOUT, async || {
            let newest = newest_rollout(&self.stage).await;
            if newest["state"] == "running" {
                return Err(newest.to_string());
            }
            Ok(newest)
        })
        .await;
        (died, rollout)
    }

    async fn somebody_serves(&self, what: &str) {
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
            let running = self
                .stage
                .scope
                .cli(&[
                    "ps",
                    "--filter",
                    &format!("name={}", self.stage.scope.name()),
                    "--format",
                    "{{.Names}}",
                ])
                .await;
            (running == self.stage.scope.named("shop"))
                .then_some(())
                .ok_or(running)
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

async fn forward(swap: &str, moment: &str) {
    let mut ground = Ground::new().await;
    let mut deaths = 0;
    for number in 1..=APPENDS {
        let what = format!("{swap}, killed {moment} append {number}");
        let (died, rollout) = ground.killed(number, moment, &Way { to: "1", swap }).await;
        // A restore that was not undone serves v1; one that was, v2 as before. Never none, never both.
        let version = match rollout["state"].as_str() {
            Some("succeeded") => "v1",
            Some("undone") => "v2",
            other => panic!("{what}: {other:?}: {rollout:#}"),
        };
        ground.exactly_one(version, &rollout, &what).await;
        if !died {
            break;
        }
        deaths += 1;
        let new = ground.new.clone();
        ground.deploy(&new).await;
        ground.stage.current("shop", 2).await;
    }
    assert!(
        deaths > 5,
        "an order appends more often than {deaths} times"
    );
    assert!(deaths < APPENDS, "the search came to an end");
    let verified = ground.stage.ctl.json(&["record", "verify"]).await;
    assert_eq!(verified["holds"], true);
}

/// The restored revision fails its checks, so that the order undoes itself; killed on the way.
async fn undo(swap: &str, moment: &str) {
    let mut ground = Ground::new().await;
    let old = ground.old.clone();
    ground.deploy(&old).await;
    ground.stage.current("shop", 1).await;
    let mut deaths = 0;
    for number in 1..=APPENDS {
        let what = format!("undo of {swap}, killed {moment} append {number}");
        let (died, rollout) = ground.killed(number, moment, &Way { to: "2", swap }).await;
        assert_eq!(rollout["state"], "undone", "{what}: {rollout:#}");
        ground.exactly_one("v1", &rollout, &what).await;
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(
        deaths > 5,
        "an order appends more often than {deaths} times"
    );
    assert!(deaths < APPENDS, "the search came to an end");
}

macro_rules! killed {
    ($($name:ident: $story:ident($swap:literal, $moment:literal);)+) => {
        $(#[tokio::test]
        async fn $name() {
            $story($swap, $moment).await;
        })+
    };
}

killed! {
    a_cold_restore_killed_before_each_append_ends_on_one_revision: forward("cold", "before");
    a_cold_restore_killed_in_each_append_ends_on_one_revision: forward("cold", "in");
    a_cold_restore_killed_after_each_append_ends_on_one_revision: forward("cold", "after");
    a_warm_restore_killed_before_each_append_ends_on_one_revision: forward("warm", "before");
    a_warm_restore_killed_in_each_append_ends_on_one_revision: forward("warm", "in");
    a_warm_restore_killed_after_each_append_ends_on_one_revision: forward("warm", "after");
    an_undo_of_a_cold_restore_killed_before_each_append_ends_on_the_old_one: undo("cold", "before");
    an_undo_of_a_cold_restore_killed_in_each_append_ends_on_the_old_one: undo("cold", "in");
    an_undo_of_a_cold_restore_killed_after_each_append_ends_on_the_old_one: undo("cold", "after");
    an_undo_of_a_warm_restore_killed_before_each_append_ends_on_the_old_one: undo("warm", "before");
    an_undo_of_a_warm_restore_killed_in_each_append_ends_on_the_old_one: undo("warm", "in");
    an_undo_of_a_warm_restore_killed_after_each_append_ends_on_the_old_one: undo("warm", "after");
}
