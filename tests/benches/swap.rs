//! What a rollback costs the clients of a published port: Sternway, warm and cold, against the runbook's
//! `docker stop; docker rm; docker run`. Same images, alternating, probers in three places, for an application
//! that is up at once and for one that takes 3 s to start. Prints both sides; and how long a cold rollback takes from
//! Enter to verified, as a ratio to the runbook, with the soak of 5 s and without one: the runbook verifies nothing.
//!
//! `SWAP_ROUNDS` says how often (3).
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::time::{Duration, Instant};

use sternway_tests::{
    http,
    netns::Netns,
    port::Port,
    prober::{Prober, Summary, host_address},
    shop::Image,
    stage::{HOST, Stage},
    wait::until,
};

const PER_SECOND: u32 = 200;
const UP: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Runbook,
    Cold,
    Warm,
}

impl Way {
    const ALL: [Self; 3] = [Self::Runbook, Self::Cold, Self::Warm];

    fn name(self) -> &'static str {
        match self {
            Self::Runbook => "runbook",
            Self::Cold => "sternway cold",
            Self::Warm => "sternway warm",
        }
    }
}

struct Measured {
    /// From Enter to: answers again (runbook), verified and recorded (Sternway).
    took: Duration,
    seen: Vec<Summary>,
}

struct Application {
    stage: Stage,
    netns: Netns,
    port: Port,
    soak: String,
    old: String,
    new: String,
}

impl Application {
    async fn new(startup: &'static str, soak: &str) -> Self {
        let stage = Stage::new().await;
        let image = |version| Image {
            version,
            startup,
            ..Image::default()
        };
        let (old, new) = (image("v1").shared().await, image("v2").shared().await);
        let application = Self {
            netns: Netns::new(&stage.scope),
            port: Port::lease(),
            soak: format!("sternway.soak={soak}"),
            stage,
            old,
            new,
        };
        let publish = application.publish();
        let flags = application.flags(&publish);
        application
            .stage
            .scope
            .run("shop", &flags, &application.old)
            .await;
        application.stage.known_good("shop", 1).await;
        application
    }

    fn publish(&self) -> String {
        format!("{}:8080", self.port)
    }

    fn flags<'a>(&'a self, publish: &'a str) -> [&'a str; 4] {
        ["-p", publish, "--label", &self.soak]
    }

    async fn answers(&self, version: &str) {
        let address = format!("127.0.0.1:{}", self.port);
        until(version, UP, async || match http::get(&address, "/").await {
            Ok(answer) if answer.body == version => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// v2 by the runbook, seen by the agent, answering.
    async fn deploy_new(&self) {
        let publish = self.publish();
        let flags = self.flags(&publish);
        self.stage.scope.redeploy("shop", &flags, &self.new).await;
        self.answers("v2").await;
        self.stage.current("shop", 2).await;
    }

    async fn probers(&self) -> [Prober; 3] {
        let folder = self.stage.scope.folder();
        let loopback = format!("127.0.0.1:{}", self.port);
        let outside = format!("{}:{}", host_address(), self.port);
        [
            Prober::start("prober-loopback", &loopback, PER_SECOND, folder).await,
            Prober::start("prober-host", &outside, PER_SECOND, folder).await,
            Prober::start_in(&self.netns, self.port.number(), PER_SECOND, folder).await,
        ]
    }

    async fn roll_back(&self, way: Way) -> Measured {
        self.deploy_new().await;
        let probers = self.probers().await;
        let began = Instant::now();
        if way == Way::Runbook {
            let publish = self.publish();
            let flags = self.flags(&publish);
            self.stage.scope.redeploy("shop", &flags, &self.old).await;
            self.answers("v1").await;
        } else {
            let swap = if way == Way::Warm { "warm" } else { "cold" };
            let _ = self
                .stage
                .ctl
                .run(&[
                    "rollback", "--host", HOST, "--to", "1", "--swap", swap, "--yes",
                ])
                .await
                .exits(0);
        }
        let took = began.elapsed();
        self.answers("v1").await;
        let mut seen = Vec::new();
        for prober in probers {
            seen.push(prober.stop().await);
        }
        // The runbook's v1 is the same revision: the next round begins as this one did.
        self.stage.current("shop", 1).await;
        Measured { took, seen }
    }
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("SWAP_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    println!(
        "lost requests at {PER_SECOND}/s each from loopback, the host's address, another network namespace"
    );
    for (startup, soak, name) in [
        ("", "5s", "up at once"),
        ("", "0s", "up at once, no soak"),
        ("3s", "5s", "takes 3 s to start"),
    ] {
        println!("\napplication: {name}");
        println!(
            "{:<16}{:>22}{:>24}{:>14}",
            "way", "lost of requests", "longest gap, ms", "took, ms"
        );
        let application = Application::new(startup, soak).await;
        let (mut runbook, mut cold) = (Duration::ZERO, Duration::ZERO);
        let (mut runbook_gap, mut cold_gap) = (Duration::ZERO, Duration::ZERO);
        let mut warm_lost = 0;
        for _ in 0..rounds.unwrap_or(3) {
            for way in Way::ALL {
                let measured = application.roll_back(way).await;
                let gap = measured.seen.iter().map(|seen| seen.longest_gap_ms).max();
                let gap = Duration::from_millis(gap.unwrap_or_default());
                match way {
                    Way::Runbook => {
                        runbook += measured.took;
                        runbook_gap += gap;
                    }
                    Way::Cold => {
                        cold += measured.took;
                        cold_gap += gap;
                    }
                    Way::Warm => {}
                }
                let lost: Vec<String> = measured
                    .seen
                    .iter()
                    .map(|seen| seen.lost.to_string())
                    .collect();
                let gaps: Vec<String> = measured
                    .seen
                    .iter()
                    .map(|seen| seen.longest_gap_ms.to_string())
                    .collect();
                let requests: u64 = measured.seen.iter().map(|seen| seen.requests).sum();
                println!(
                    "{:<16}{:>22}{:>24}{:>14}",
                    way.name(),
                    format!("{} of {requests}", lost.join("+")),
                    gaps.join(" / "),
                    measured.took.as_millis()
                );
                for seen in &measured.seen {
                    if way == Way::Warm && seen.lost > 0 {
                        warm_lost += seen.lost;
                        println!("  why: {:?}, sent at {:?}", seen.reasons, seen.lost_at_ms);
                    }
                }
            }
        }
        let ratio = cold.as_secs_f64() / runbook.as_secs_f64();
        let gaps = cold_gap.as_secs_f64() / runbook_gap.as_secs_f64();
        println!("cold, from Enter to verified: {ratio:.2} times the runbook");
        println!("goal, warm loses none: {}", met(warm_lost == 0));
        println!(
            "goal, cold is no longer an outage than the runbook ({gaps:.2} times; to 5 %): {}",
            met(gaps <= 1.05)
        );
        // A soak is a wait by choice, and an application that starts slowly is not what the goal is for.
        if soak == "0s" {
            println!("goal, at most 1.5 times the runbook: {}", met(ratio <= 1.5));
        }
    }
}

fn met(goal: bool) -> &'static str {
    if goal { "met" } else { "MISSED" }
}
