//! Probes an HTTP server at a fixed rate and says what was lost. It runs in a process of its own (`bin/prober`),
//! so that neither the test's work nor its namespace distorts what it sees.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{binary, http, netns::Netns, process::Process, wait::until};

/// What a prober saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub requests: u64,
    /// No connection, no whole answer in time, or a status other than 200.
    pub lost: u64,
    /// The longest time between two good answers, milliseconds.
    pub longest_gap_ms: u64,
    /// Good answers by what they said.
    pub answers: BTreeMap<String, u64>,
    /// Lost requests by reason.
    pub reasons: BTreeMap<String, u64>,
    /// When the first lost requests were sent, milliseconds since the epoch.
    pub lost_at_ms: Vec<u64>,
}

/// One finished request.
#[derive(Debug)]
struct Seen {
    at: Instant,
    sent: SystemTime,
    outcome: Result<String, String>,
}

/// Of so many lost requests it is told when they were sent.
const LOST_KEPT: usize = 20;

/// Milliseconds since the epoch.
pub fn since_epoch(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

impl Summary {
    fn add(&mut self, seen: Seen, last_good: &mut Instant) {
        self.requests += 1;
        match seen.outcome {
            Ok(body) => {
                let gap = seen.at.saturating_duration_since(*last_good).as_millis();
                self.longest_gap_ms = self.longest_gap_ms.max(u64::try_from(gap).unwrap_or(0));
                *last_good = (*last_good).max(seen.at);
                *self.answers.entry(body).or_default() += 1;
            }
            Err(reason) => {
                self.lost += 1;
                *self.reasons.entry(reason).or_default() += 1;
                if self.lost_at_ms.len() < LOST_KEPT {
                    self.lost_at_ms.push(since_epoch(seen.sent));
                }
            }
        }
    }
}

/// How long a request may take before it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A connection must be there at once: measures how long an outage is.
    Short,
    /// As people have it: a machine that is slow at the moment loses nothing.
    Long,
}

impl Patience {
    /// The word on the command line of `bin/prober`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }

    /// From that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Short, Self::Long]
            .into_iter()
            .find(|patience| patience.word() == word)
    }

    async fn get(self, address: &str) -> std::io::Result<http::Answer> {
        /// Long enough for any machine, and shorter than a prober may take to end.
        const LONG: Duration = Duration::from_secs(20);
        match self {
            Self::Short => http::get(address, "/").await,
            Self::Long => http::get_within(address, "/", LONG, LONG).await,
        }
    }
}

/// Probes `http://ADDRESS/` so many times a second until `stop` rises: an open loop, so that a slow server gets
/// as many requests as a quick one.
pub async fn probe(
    address: &str,
    per_second: u32,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) -> Summary {
    let (sender, mut seen) = mpsc::channel(4096);
    let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let collect = tokio::spawn(async move {
        let mut summary = Summary::default();
        let mut last_good = Instant::now();
        while let Some(one) = seen.recv().await {
            summary.add(one, &mut last_good);
        }
        summary
    });
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {
                let (sender, address) = (sender.clone(), address.to_owned());
                tokio::spawn(async move {
                    let sent = SystemTime::now();
                    let outcome = match patience.get(&address).await {
                        Ok(answer) if answer.status == 200 => Ok(answer.body),
                        Ok(answer) => Err(format!("status {}", answer.status)),
                        Err(error) => Err(format!("{}: {error}", error.kind())),
                    };
                    let _ = sender.send(Seen { at: Instant::now(), sent, outcome }).await;
                });
            }
        }
    }
    drop(sender);
    collect.await.unwrap_or_default()
}

/// A prober at work in its own process.
#[derive(Debug)]
pub struct Prober {
    process: Process,
    result: PathBuf,
}

impl Prober {
    /// Probes from this machine, for instance `127.0.0.1:8080` or this machine's own address.
    pub async fn start(name: &str, address: &str, per_second: u32, folder: &Path) -> Self {
        let command = Command::new(binary::find("prober"));
        Self::launch(name, command, address, per_second, Patience::Short, folder).await
    }

    /// As [`Prober::start`], with long patience.
    pub async fn start_patient(name: &str, address: &str, per_second: u32, folder: &Path) -> Self {
        let command = Command::new(binary::find("prober"));
        Self::launch(name, command, address, per_second, Patience::Long, folder).await
    }

    /// As [`Prober::start_in`], with long patience.
    pub async fn start_patient_in(
        netns: &Netns,
        port: u16,
        per_second: u32,
        folder: &Path,
    ) -> Self {
        let address = format!("{}:{port}", netns.host_address());
        let command = netns.command(&binary::find("prober"));
        let name = "prober-netns";
        Self::launch(name, command, &address, per_second, Patience::Long, folder).await
    }

    /// Probes this machine's port from another network namespace.
    pub async fn start_in(netns: &Netns, port: u16, per_second: u32, folder: &Path) -> Self {
        let address = format!("{}:{port}", netns.host_address());
        let command = netns.command(&binary::find("prober"));
        let name = "prober-netns";
        Self::launch(name, command, &address, per_second, Patience::Short, folder).await
    }

    async fn launch(
        name: &str,
        mut command: Command,
        address: &str,
        per_second: u32,
        patience: Patience,
        folder: &Path,
    ) -> Self {
        let result = folder.join(format!("{name}.json"));
        command
            .arg(address)
            .arg(per_second.to_string())
            .arg(patience.word())
            .arg(&result);
        let process = Process::spawn(name, &mut command, folder);
        until(name, Duration::from_mins(1), async || {
            let log = process.log();
            log.contains("probing").then_some(()).ok_or(log)
        })
        .await;
        Self { process, result }
    }

    /// Ends it and answers with what it saw.
    ///
    /// # Panics
    /// It does not end, or has no result.
    pub async fn stop(mut self) -> Summary {
        self.process.signal(Signal::TERM);
        self.process.ended(Duration::from_mins(1)).await;
        let text = fs::read(&self.result).expect("the prober wrote its result");
        serde_json::from_slice(&text).expect("the prober's result is readable")
    }
}

/// This machine's own address towards other machines, where it has one; else the engine's bridge.
pub fn host_address() -> String {
    let routed = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Sends nothing: it only asks the kernel for the route. The address is one for documentation.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match routed {
        Ok(address) if !address.ip().is_loopback() => address.ip().to_string(),
        _ => "172.17.0.1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_runs_from_one_good_answer_to_the_next() {
        let start = Instant::now();
        let mut last = start;
        let mut summary = Summary::default();
        for (ms, good) in [
            (10, true),
            (20, false),
            (150, false),
            (210, true),
            (220, true),
        ] {
            let outcome = if good {
                Ok("v1".to_owned())
            } else {
                Err("refused".to_owned())
            };
            let at = start + Duration::from_millis(ms);
            let sent = SystemTime::UNIX_EPOCH;
            summary.add(Seen { at, sent, outcome }, &mut last);
        }
        assert_eq!((summary.requests, summary.lost), (5, 2));
        assert_eq!(summary.longest_gap_ms, 200);
        assert_eq!(summary.answers["v1"], 3);
    }
}
