//! A controller that ends *in* a commit or a checkpoint, in the middle of what SQLite writes: by `kill -9`, and by a
//! power cut, which takes away what was not synced. What was acknowledged stands, what was ordered happens once, the
//! record holds, and the database is whole. The host is scripted.

use std::{
    collections::{BTreeSet, HashSet},
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
};

use rustix::process::Signal;
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use sternway_proto::v1;
use sternway_tests::{
    ctl::Ctl,
    dutiful::{Agent, other},
    ground::Ground,
    scripted::{WAIT, revision_id},
    torn::{self, Death, How, Torn, Where},
    wait::until,
};
use tokio::time::timeout;

/// Calls in which a controller dies, one run each.
struct Deaths {
    next: Death,
    stride: u32,
    survived: u32,
    count: u32,
    /// What it has died in: the file, and what was done to it.
    met: BTreeSet<String>,
}

impl Deaths {
    /// Every `stride`-th call. A frame of the log is two writes, of its header and of its page: an odd stride meets
    /// both.
    fn every(stride: u32, place: Where, how: How) -> Self {
        Self {
            next: Death {
                place,
                call: 1,
                how,
            },
            stride,
            survived: 0,
            count: 0,
            met: BTreeSet::new(),
        }
    }

    /// The next one; none where two runs have had no death: how much is written varies a little.
    fn next(&mut self) -> Option<Death> {
        let next = self.next;
        self.next.call += self.stride;
        assert!(next.call < 2000, "the search comes to an end");
        (self.survived < 2).then_some(next)
    }

    fn was(&mut self, died_in: Option<String>) {
        if died_in.is_some() {
            self.survived = 0;
            self.count += 1;
        } else {
            self.survived += 1;
        }
        self.met.extend(died_in);
    }

    fn ended(&self, at_least: u32, met: &[&str]) {
        let all = &self.met;
        assert!(self.count >= at_least, "{} deaths, {all:?}", self.count);
        for one in met {
            assert!(all.contains(*one), "{one} in {all:?}");
        }
    }
}

/// A controller that dies as it is told, and who looks at what it leaves.
struct Story {
    ground: Ground,
    torn: Torn,
}

impl Story {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let torn = Torn::build(ground.scope.folder());
        Self { ground, torn }
    }

    /// Starts the controller with an empty log, to die so.
    async fn arm(&mut self, death: Death) {
        let controller = &mut self.ground.controller;
        let ended = controller.stop().await;
        assert!(ended.success(), "before {death}: {ended}");
        controller.spawn(&self.torn.environment(death));
    }

    /// Does that while the controller dies so, which is started again then. What it died in.
    async fn dies(&mut self, death: Death, acts: impl Future<Output = ()>) -> Option<String> {
        self.arm(death).await;
        let ended = self.ground.survive(acts).await?;
        Some(self.died(death, ended))
    }

    /// What a controller that has ended so has died in: in what it was told to, and in nothing else.
    fn died(&mut self, death: Death, ended: ExitStatus) -> String {
        assert_eq!(
            ended.signal(),
            Some(Signal::KILL.as_raw()),
            "{death}: {ended}"
        );
        let log = self.ground.controller.process().log();
        torn::died_in(&log).expect("it says so").to_owned()
    }

    /// Makes join tokens one after the other, until so many are acknowledged, or none is answered any more.
    async fn tokens(&self, most: usize, acknowledged: &mut Vec<String>) {
        let mut client = self
            .ground
            .ctl
            .client()
            .await
            .expect("the controller is reached");
        for _ in 0..most {
            let host_name = format!("web-{}", acknowledged.len());
            let request = v1::CreateJoinTokenRequest {
                host_name: host_name.clone(),
                ..v1::CreateJoinTokenRequest::default()
            };
            if timeout(WAIT, client.create_join_token(request))
                .await
                .expect("it ends")
                .is_err()
            {
                return;
            }
            acknowledged.push(format!("host:{host_name}"));
        }
    }

    /// Every token that was acknowledged stands in the record. One that was not may, too.
    async fn stand(&self, acknowledged: &[String], death: Death) {
        let exported = self.ground.ctl.run(&["record", "export"]).await.exits(0);
        let entries = exported.lines();
        let made: HashSet<&str> = entries
            .iter()
            .filter(|entry| entry["action"] == "token.created")
            .filter_map(|entry| entry["subject"].as_str())
            .collect();
        for one in acknowledged {
            assert!(
                made.contains(one.as_str()),
                "{death}: {one} was acknowledged"
            );
        }
    }

    /// The record holds, and every page of the database fits the others.
    async fn whole(&self, death: Death) {
        self.ground.holds(&death.to_string()).await;
        let path = self.ground.controller.folder().join("data/controller.db");
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut database = SqliteConnection::connect_with(&options)
            .await
            .expect("the database opens");
        let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut database)
            .await
            .expect("the database is read");
        assert_eq!(found, ["ok"], "{death}");
        database.close().await.expect("the database is closed");
    }
}

/// Rolls back, as a person would: again, until it is done. Answers with the rollout that was acknowledged.
async fn rolled_back(ctl: &Ctl, to: u32, stood: usize) -> Option<String> {
    let to = to.to_string();
    let rollback = [
        "rollback",
        "--host",
        "web-1",
        "--to",
        &to,
        "--yes",
        "--no-wait",
    ];
    let mut acknowledged = None;
    until("a rollback that has succeeded", WAIT, async || {
        let said = ctl.run(&["rollout", "ls", "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let Some(all) = listed["rollouts"].as_array() else {
            return Err(said.stderr);
        };
        // What stands goes on by itself.
        if all.len() == stood {
            let said = ctl.run(&rollback).await;
            if said.code == 0 {
                acknowledged.get_or_insert(said.stdout.trim().to_owned());
            }
            return Err(said.stderr);
        }
        let ended = all[0]["state"] == "succeeded";
        ended.then_some(()).ok_or(listed.to_string())
    })
    .await;
    acknowledged
}

/// Rolls back once under each death.
async fn each_happens_once(mut deaths: Deaths) -> Deaths {
    let mut story = Story::new().await;
    let host = story.ground.join("web-1").await;
    let agent = Agent::start(host, v1::Outcome::Restored);
    story.ground.known("web-1").await;
    let mut stood = 0;
    while let Some(death) = deaths.next() {
        let (ctl, to) = (story.ground.ctl.clone(), other(agent.running()));
        let mut acknowledged = None;
        let acts = async { acknowledged = rolled_back(&ctl, to, stood).await };
        deaths.was(story.dies(death, acts).await);
        // Nobody dies later, of a call that was not met.
        story.ground.controller.kill();
        story.ground.controller.start().await;
        story.whole(death).await;
        let rollouts = story.ground.rollouts().await;
        assert_eq!(rollouts.len(), stood + 1, "{death}: one rollback, once");
        stood = rollouts.len();
        if let Some(id) = acknowledged {
            assert_eq!(rollouts[0]["id"], id.as_str(), "{death}: acknowledged");
        }
        let order = &rollouts[0]["waves"][0]["orders"][0];
        assert_eq!(order["outcome"], "restored", "{death}: {order:#}");
        let id = order["order_id"].as_str().expect("an id").to_owned();
        let subject = format!("order:{id}");
        for action in [
            "order.created",
            "order.accepted",
            "evidence.seen",
            "order.finished",
        ] {
            let found = story.ground.recorded(action, &subject).await;
            assert_eq!(found, 1, "{death}: {action}");
        }
        let carried_out = agent.carried_out();
        assert_eq!(
            carried_out.len(),
            stood,
            "{death}: each is carried out once"
        );
        assert_eq!(carried_out.last(), Some(&id), "{death}");
        assert_eq!(agent.running(), to, "{death}");
        until("the host to tell what runs", WAIT, async || {
            let known = story.ground.known("web-1").await;
            let told = known["current_revision"] == revision_id(to);
            told.then_some(()).ok_or(known)
        })
        .await;
    }
    deaths
}

/// The head of the log, and of a frame the header and the page.
const WRITES: [&str; 3] = [
    "controller.db-wal 16 of 32",
    "controller.db-wal 12 of 24",
    "controller.db-wal 2048 of 4096",
];
const SYNC: &str = "controller.db-wal sync";
const PAGE: &str = "controller.db 2048 of 4096";

#[tokio::test]
async fn never_lost_a_rollback_happens_once_however_its_controller_is_killed_in_a_write() {
    let deaths = Deaths::every(5, Where::Log, How::Kill);
    each_happens_once(deaths).await.ended(12, &WRITES);
}

#[tokio::test]
async fn never_lost_a_rollback_happens_once_however_power_fails_in_a_write_of_its_controller() {
    let deaths = Deaths::every(7, Where::Log, How::Power);
    each_happens_once(deaths).await.ended(8, &WRITES);
}

#[tokio::test]
async fn never_lost_a_rollback_happens_once_however_power_fails_before_a_sync_of_its_controller() {
    let deaths = Deaths::every(1, Where::Sync, How::Power);
    each_happens_once(deaths).await.ended(6, &[SYNC]);
}

/// A controller that stops checkpoints, in that way.
async fn each_stop_loses_nothing(mut deaths: Deaths) -> Deaths {
    let mut story = Story::new().await;
    let mut acknowledged = Vec::new();
    while let Some(death) = deaths.next() {
        story.arm(death).await;
        story.ground.controller.serves().await;
        story.tokens(10, &mut acknowledged).await;
        let ended = story.ground.controller.stop().await;
        let died_in = (!ended.success()).then(|| story.died(death, ended));
        deaths.was(died_in);
        story.ground.controller.start().await;
        story.whole(death).await;
        story.stand(&acknowledged, death).await;
    }
    deaths
}

#[tokio::test]
async fn never_lost_a_controller_killed_in_the_checkpoint_of_its_stop_has_lost_nothing() {
    let deaths = Deaths::every(1, Where::Checkpoint, How::Kill);
    each_stop_loses_nothing(deaths).await.ended(5, &[PAGE]);
}

#[tokio::test]
async fn never_lost_a_controller_whose_power_fails_in_the_checkpoint_of_its_stop_has_lost_nothing()
{
    let deaths = Deaths::every(1, Where::Checkpoint, How::Power);
    each_stop_loses_nothing(deaths).await.ended(5, &[PAGE]);
}

/// SQLite checkpoints by itself once its log has a thousand frames.
#[tokio::test]
async fn never_lost_a_controller_killed_in_a_checkpoint_while_it_serves_has_lost_nothing() {
    let mut story = Story::new().await;
    let mut acknowledged = Vec::new();
    let mut met = BTreeSet::new();
    let checkpoint = (1..40).step_by(8).map(|call| (Where::Checkpoint, call));
    let restart = (1..=4).map(|call| (Where::Restart, call));
    for (place, call) in checkpoint.chain(restart) {
        for how in [How::Kill, How::Power] {
            let death = Death { place, call, how };
            story.arm(death).await;
            story.ground.controller.serves().await;
            story.tokens(5000, &mut acknowledged).await;
            let ended = until("its death", WAIT, async || {
                story.ground.controller.process().status().ok_or("it lives")
            })
            .await;
            met.insert(story.died(death, ended));
            story.ground.controller.start().await;
            story.whole(death).await;
            story.stand(&acknowledged, death).await;
        }
    }
    for one in WRITES.iter().chain(&[SYNC, PAGE]) {
        assert!(met.contains(*one), "{one} in {met:?}");
    }
}
