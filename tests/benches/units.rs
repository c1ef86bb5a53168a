//! What a rollback of a unit costs its clients: Sternway against the runbook's own lines, `dpkg -i OLD.deb && systemctl
//! restart` and `cp OLD PROGRAM && systemctl restart`. Alternating, on a host of each generation, for an application that
//! is up at once and for one that takes 3 s to start. Prints both sides and their ratio: how long until the old version
//! serves, from Enter, and for how long requests of a prober were lost, all gaps together.
//!
//! `UNITS_ROUNDS` says how often (3).
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::time::{Duration, Instant};

use sternway_tests::{
    http,
    lab::{Deb, Fleet, Generation, Host, Lab, shop},
    prober::Prober,
    wait::until,
};
use tokio::time::sleep;

const PER_SECOND: u32 = 200;
const UP: Duration = Duration::from_mins(1);

const SECTIONS: &str = r#"
[[unit]]
unit = "billing.service"
soak = "0s"

[[unit]]
unit = "tool.service"
files = ["/opt/tool"]
soak = "0s"
"#;

/// What is deployed, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Package,
    Binary,
}

impl Kind {
    fn unit(self) -> &'static str {
        match self {
            Self::Package => "billing",
            Self::Binary => "tool",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Package => 8080,
            Self::Binary => 8081,
        }
    }
}

struct Measured {
    serving: Duration,
    outage: Duration,
}

struct Application<'a> {
    lab: &'a Lab,
    host: &'a Host,
    kind: Kind,
    /// Files of the old and the new version on the host.
    old: String,
    new: String,
}

impl Application<'_> {
    fn address(&self) -> String {
        format!("{}:{}", self.host.address(), self.kind.port())
    }

    async fn answers(&self, version: &str) {
        let address = self.address();
        until(version, UP, async || match http::get(&address, "/").await {
            Ok(answer) if answer.body == version => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The lines of the runbook.
    async fn by_hand(&self, file: &str) {
        let unit = self.kind.unit();
        let lines = match self.kind {
            Kind::Package => format!("dpkg -i {file} && systemctl restart {unit}"),
            Kind::Binary => format!("cp {file} /opt/tool/run && systemctl restart {unit}"),
        };
        self.host.run(&["sh", "-c", &lines]).await.ok();
    }

    /// Rounds come too quickly one after the other for the start limit, which the runbook's own starts run into.
    async fn rested(&self) {
        let reset = ["systemctl", "reset-failed", self.kind.unit()];
        self.host.run(&reset).await;
    }

    async fn rolls_back(&self, by_hand: bool) -> Measured {
        let target = format!("systemd/{}.service", self.kind.unit());
        self.rested().await;
        self.by_hand(&self.new).await;
        self.answers("2").await;
        self.lab.runs(self.host.name(), &target, 2).await;
        let folder = self.lab.scope.folder();
        let prober = Prober::start(self.kind.unit(), &self.address(), PER_SECOND, folder).await;
        self.rested().await;
        let began = Instant::now();
        let served = async {
            // Closer than a test waits: milliseconds count.
            let address = self.address();
            while began.elapsed() < UP {
                if http::get(&address, "/")
                    .await
                    .is_ok_and(|answer| answer.body == "1")
                {
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
            began.elapsed()
        };
        let rolls = async {
            if by_hand {
                self.by_hand(&self.old).await;
            } else {
                let name = self.host.name();
                let rollback = [
                    "rollback", "--host", name, "--target", &target, "--to", "1", "--yes",
                ];
                let said = self.lab.ctl.run(&rollback).await;
                assert_eq!(said.code, 0, "{}", said.stderr);
            }
        };
        let (serving, ()) = tokio::join!(served, rolls);
        let seen = prober.stop().await;
        self.lab.runs(self.host.name(), &target, 1).await;
        Measured {
            serving,
            outage: Duration::from_secs(seen.lost) / PER_SECOND,
        }
    }
}

/// Its old version runs and is revision #1.
async fn deployed<'a>(lab: &'a Lab, host: &'a Host, kind: Kind, startup: &str) -> Application<'a> {
    let (old, new) = match kind {
        Kind::Package => {
            let lines = format!("Environment=SHOP_STARTUP={startup}\n");
            let deb = |version| Deb::new("billing", version).with_lines(&lines);
            let debs = (deb("1").build(host).await, deb("2").build(host).await);
            // As if they came from a repository: what nobody has is made anew, which takes its time.
            let cache = "/var/cache/apt/archives/";
            host.run(&["cp", &debs.0, &debs.1, cache]).await.ok();
            debs
        }
        Kind::Binary => {
            let shop = shop(host).await;
            for version in ["1", "2"] {
                let port = kind.port();
                let run = format!(
                    "#!/bin/sh\nSHOP_STARTUP={startup} SHOP_VERSION={version} SHOP_PORT={port} exec {shop}\n"
                );
                host.write_program(&format!("/root/run-{version}"), run)
                    .await;
            }
            host.run(&["mkdir", "-p", "/opt/tool"]).await.ok();
            let unit = "[Service]\nExecStart=/opt/tool/run\n";
            host.write("/etc/systemd/system/tool.service", unit).await;
            host.run(&["systemctl", "daemon-reload"]).await.ok();
            ("/root/run-1".to_owned(), "/root/run-2".to_owned())
        }
    };
    let application = Application {
        lab,
        host,
        kind,
        old,
        new,
    };
    application.by_hand(&application.old).await;
    application.answers("1").await;
    let target = format!("systemd/{}.service", kind.unit());
    lab.known_good(host.name(), &target, 1).await;
    application
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("UNITS_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(3u32);
    println!("a prober at {PER_SECOND}/s; mean of {rounds} rounds, ms");
    println!(
        "{:<10}{:<10}{:<10}{:>18}{:>18}{:>8}{:>16}{:>16}{:>8}",
        "host",
        "what",
        "start-up",
        "serving, runbook",
        "sternway",
        "ratio",
        "outage, runbook",
        "sternway",
        "ratio"
    );
    for startup in ["", "3s"] {
        // A lab for each, so that revision #1 is the one that starts so.
        let fleet = Fleet::new()
            .vm("old", Generation::Bookworm)
            .vm("new", Generation::Trixie);
        let lab = fleet.raise().await;
        for host in lab.hosts() {
            host.looks_after(SECTIONS).await;
            for kind in [Kind::Package, Kind::Binary] {
                let application = deployed(&lab, host, kind, startup).await;
                let mut sums = [(Duration::ZERO, Duration::ZERO); 2];
                for _ in 0..rounds {
                    for (at, by_hand) in [true, false].into_iter().enumerate() {
                        let measured = application.rolls_back(by_hand).await;
                        sums[at].0 += measured.serving;
                        sums[at].1 += measured.outage;
                    }
                }
                let [hand, ours] = sums;
                let mean = |sum: Duration| (sum / rounds).as_millis();
                let ratio = |one: Duration, other: Duration| {
                    one.as_secs_f64() / other.as_secs_f64().max(0.001)
                };
                println!(
                    "{:<10}{:<10}{:<10}{:>18}{:>18}{:>8.2}{:>16}{:>16}{:>8.2}",
                    host.name(),
                    if kind == Kind::Package {
                        "package"
                    } else {
                        "binary"
                    },
                    if startup.is_empty() {
                        "at once"
                    } else {
                        startup
                    },
                    mean(hand.0),
                    mean(ours.0),
                    ratio(ours.0, hand.0),
                    mean(hand.1),
                    mean(ours.1),
                    ratio(ours.1, hand.1),
                );
            }
        }
    }
    println!("goals: serving at most 1.2 times the runbook, outage at most 0.7 times");
}
