//! Waits until no connection is in flight any more to a container that will be stopped. Two places are looked
//! at: the container's own network namespace, and the host's, where the engine's proxy accepts what comes to a
//! published port from loopback and relays it: that stands in no table of the container.

use std::{collections::BTreeSet, io, time::Duration};

use serde_json::Value;
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};

use super::{
    DockerKind, connections,
    normalise::{list, text},
};

/// How long connections may take to end, where the container has no longer time to stop
/// (`--stop-timeout`).
pub(super) const BUDGET: Duration = Duration::from_secs(10);
/// However long it has.
const MOST: Duration = Duration::from_mins(1);
/// What is on its way through the kernel is in no table: it gets at least this long to arrive.
const LEAST: Duration = Duration::from_millis(500);
/// Between looks. Nothing must be in flight at so many of them in a row.
const PAUSE: Duration = Duration::from_millis(50);
const LOOKS: u32 = 3;

/// A table that is larger is not read: looking must not cost more than it gives.
const TABLE_BYTES: u64 = 16 * 1024 * 1024;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// Longer where the container has longer to stop.
    AtLeast(Duration),
    AtMost(Duration),
}

/// Through which TCP ports a container is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ways {
    /// In its own namespace.
    inside: BTreeSet<u16>,
    /// On the host.
    outside: BTreeSet<u16>,
}

/// How a container stands, as far as its connections go.
struct Subject {
    /// None: it does not run.
    pid: Option<u64>,
    ways: Ways,
}

impl DockerKind {
    /// Waits until no connection to the container is in flight, and says what it saw. `only`: the host's
    /// ports that matter; none: all that it publishes. `budget` grows with the container's own time to stop.
    pub(super) async fn drain(
        &self,
        id: &str,
        only: Option<&BTreeSet<u16>>,
        budget: Duration,
    ) -> String {
        self.drain_for(id, only, Wait::AtLeast(budget)).await
    }

    /// As [`Self::drain`] for what nobody waits for: never longer than [`BUDGET`].
    pub(super) async fn drain_left_over(&self, id: &str) -> String {
        self.drain_for(id, None, Wait::AtMost(BUDGET)).await
    }

    async fn drain_for(&self, id: &str, only: Option<&BTreeSet<u16>>, wait: Wait) -> String {
        let begun = Instant::now();
        let mut end = begun + wait.unseen();
        let mut quiet = 0;
        loop {
            // None: it could not be seen this time.
            let open;
            match self.engine.container(id).await {
                Ok(inspect) => {
                    end = end.max(begun + wait.of(&inspect));
                    open = look(id, &subject(&inspect, only)).await.ok();
                }
                Err(error) if error.is_not_found() => return "it is gone".to_owned(),
                Err(_) => open = None,
            }
            quiet = if open == Some(0) { quiet + 1 } else { 0 };
            let now = Instant::now();
            // Where looking takes long, the last look has to do.
            if quiet >= LOOKS && now >= begun + LEAST || quiet > 0 && now >= end {
                return format!("no connection was in flight after {}", seconds(begun));
            }
            if now >= end {
                let waited = seconds(begun);
                return match open {
                    Some(open) => format!(
                        "after {waited} {open} connection(s) were still open and will be cut: \
                         idle ones, or long requests"
                    ),
                    None => format!("its connections could not be seen: waited {waited}"),
                };
            }
            sleep(PAUSE).await;
        }
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

impl Wait {
    /// For a container of which nothing is known.
    fn unseen(self) -> Duration {
        match self {
            Self::AtLeast(budget) | Self::AtMost(budget) => budget,
        }
    }

    fn of(self, inspect: &Value) -> Duration {
        match self {
            Self::AtLeast(budget) => budget.max(budget_of(inspect)),
            Self::AtMost(budget) => budget,
        }
    }
}

/// What the container itself would get to stop.
fn budget_of(inspect: &Value) -> Duration {
    let own = inspect["Config"]["StopTimeout"].as_u64().unwrap_or(0);
    Duration::from_secs(own).min(MOST)
}

fn subject(inspect: &Value, only: Option<&BTreeSet<u16>>) -> Subject {
    let state = &inspect["State"];
    let runs = state["Running"].as_bool() == Some(true);
    Subject {
        pid: state["Pid"].as_u64().filter(|pid| runs && *pid > 0),
        ways: ways(inspect, only),
    }
}

fn ways(inspect: &Value, only: Option<&BTreeSet<u16>>) -> Ways {
    let mut ways = Ways::default();
    let ports = inspect["NetworkSettings"]["Ports"].as_object();
    for (port, bindings) in ports.into_iter().flatten() {
        let Some(Ok(inside)) = port.strip_suffix("/tcp").map(str::parse) else {
            continue;
        };
        for binding in list(bindings) {
            let Ok(outside) = text(binding, "HostPort").parse() else {
                continue;
            };
            if only.is_none_or(|only| only.contains(&outside)) {
                ways.inside.insert(inside);
                ways.outside.insert(outside);
            }
        }
    }
    ways
}

/// How many connections are in flight.
async fn look(id: &str, subject: &Subject) -> io::Result<usize> {
    let mut open = tables("/proc/net", &subject.ways.outside).await?;
    if let Some(pid) = subject.pid {
        // The engine may count processes in another namespace than ours: that one would be a stranger's.
        let groups = read(&format!("/proc/{pid}/cgroup")).await?;
        if !groups.contains(id) {
            return Err(io::Error::other("not the container's process"));
        }
        open += tables(&format!("/proc/{pid}/net"), &subject.ways.inside).await?;
    }
    Ok(open)
}

async fn tables(folder: &str, ports: &BTreeSet<u16>) -> io::Result<usize> {
    let mut open = connections::open(&read(&format!("{folder}/tcp")).await?, ports);
    match read(&format!("{folder}/tcp6")).await {
        Ok(table) => open += connections::open(&table, ports),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(open)
}

/// A table of the kernel, whole.
pub(super) async fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path).await?.take(TABLE_BYTES);
    file.read_to_string(&mut text).await?;
    if file.limit() == 0 {
        return Err(io::Error::other("too large"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_reached_through_the_tcp_ports_it_publishes() {
        let inspect = json!({
            "Config": {"StopTimeout": 30},
            "State": {"Running": true, "Pid": 7},
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [{"HostPort": "8080"}, {"HostPort": "8080"}, {"HostPort": "9090"}],
                    "53/udp": [{"HostPort": "53"}],
                    "22/tcp": null,
                },
                "Networks": {"bridge": {"IPAddress": "172.17.0.2"}},
            },
        });
        let all = ways(&inspect, None);
        assert_eq!(all.inside, BTreeSet::from([80]));
        assert_eq!(all.outside, BTreeSet::from([8080, 9090]));
        let some = ways(&inspect, Some(&BTreeSet::from([9090, 1])));
        assert_eq!(some.outside, BTreeSet::from([9090]));
        assert_eq!(subject(&inspect, None).pid, Some(7));
        assert_eq!(budget_of(&inspect), Duration::from_secs(30));
        assert_eq!(budget_of(&json!({"Config": {"StopTimeout": 6000}})), MOST);
        let slow = json!({"Config": {"StopTimeout": 60}});
        assert_eq!(Wait::AtLeast(BUDGET).of(&slow), MOST);
        assert_eq!(Wait::AtMost(BUDGET).of(&slow), BUDGET);
        let stopped = json!({"State": {"Running": false, "Pid": 0}});
        assert_eq!(subject(&stopped, None).pid, None);
        assert_eq!(ways(&stopped, None), Ways::default());
    }

    #[tokio::test]
    async fn what_cannot_be_seen_is_not_taken_for_nothing() {
        let stranger = Subject {
            pid: Some(u64::from(std::process::id())),
            ways: Ways::default(),
        };
        let id = "f".repeat(64);
        assert!(look(&id, &stranger).await.is_err(), "another process");
        let gone = Subject {
            pid: None,
            ways: Ways::default(),
        };
        assert_eq!(look(&id, &gone).await.ok(), Some(0));
    }
}
