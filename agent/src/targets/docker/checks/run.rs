//! Carries the checks of a container out.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use sternway_proto::v1::Verdict;
use tokio::time::sleep;

use super::{
    Check, Checks,
    private::Private,
    probe::{self, Place},
    without_query,
};
use crate::{
    clock::now_ms,
    engine::step::EvidenceSink,
    targets::{
        docker::{
            client::{Engine, EngineError},
            normalise::text,
            steps::runs,
        },
        probe::Seen,
        watched::{self, Attempts, Teller, Told, Watched, verdict},
    },
};

/// A container that has run for longer than its start-up may take gets this long to answer.
const WELL_WORN: Duration = Duration::from_secs(3);

/// The engine may be away for a moment while it is looked at, and is asked again so often.
const ENGINE_PATIENCE: Duration = Duration::from_secs(20);
const ENGINE_PAUSE: Duration = Duration::from_secs(1);

/// What is checked, and for whom.
pub(in crate::targets::docker) struct Subject<'a> {
    pub(in crate::targets::docker) engine: &'a Engine,
    pub(in crate::targets::docker) id: &'a str,
    /// `standby`, `replacement`, `previous`, `current`.
    pub(in crate::targets::docker) instance: &'a str,
    pub(in crate::targets::docker) sink: &'a EvidenceSink,
}

/// How a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    /// And is not paused: who is does none of its work, and is not there to do it.
    running: bool,
    status: String,
    exit_code: i64,
    started_at: String,
    restarts: i64,
    /// None: it has no HEALTHCHECK.
    health: Option<String>,
    health_says: String,
    address: Option<IpAddr>,
    shares_network_with: Option<String>,
    pid: i64,
    health_patience: Duration,
    private: Private,
}

impl Subject<'_> {
    /// As [`Self::check`], for what stands there by itself: it does not pass while one of its checks cannot be read.
    ///
    /// # Errors
    /// The engine does not answer: nothing can be said.
    pub(in crate::targets::docker) async fn check_all(
        &self,
        checks: &Checks,
    ) -> Result<Verdict, EngineError> {
        for problem in &checks.problems {
            let told = Told {
                check: "label",
                subject: "the container's labels".to_owned(),
                expected: "can be read",
                observed: &problem.message,
                attempts: 1,
                begun: Instant::now(),
                verdict: Verdict::Inconclusive,
            };
            self.teller().tell(told).await;
        }
        let verdict = self.check(checks).await?;
        Ok(match verdict {
            Verdict::Passed if !checks.problems.is_empty() => Verdict::Inconclusive,
            verdict => verdict,
        })
    }

    /// Runs everything. The verdict is the worst of the evidence.
    ///
    /// # Errors
    /// The engine does not answer: nothing can be said.
    pub(in crate::targets::docker) async fn check(
        &self,
        checks: &Checks,
    ) -> Result<Verdict, EngineError> {
        let begun = Instant::now();
        let first = self.standing().await?;
        let limit = patience(checks.timeout, &first) + first.health_patience;
        let up = self.comes_up(begun, limit).await?;
        let Some(up) = up else {
            return Ok(Verdict::Failed);
        };
        let place = self.place(&up).await?;
        let up = Up {
            of: self,
            standing: up,
            place,
        };
        watched::check(&up, &checks.declared, begun, limit, checks.soak).await
    }

    fn teller(&self) -> Teller<'_> {
        Teller {
            sink: self.sink,
            instance: self.instance,
        }
    }

    /// Waits until it runs and, where it has a HEALTHCHECK, is healthy. None: it did not.
    async fn comes_up(
        &self,
        begun: Instant,
        limit: Duration,
    ) -> Result<Option<Standing>, EngineError> {
        let mut attempts = Attempts::since(begun, limit);
        loop {
            let standing = self.standing().await?;
            let alive = standing.running && alive(standing.pid);
            let (check, expected, done, failed) = match standing.health.as_deref() {
                None => ("running", "runs", alive, standing.status == "exited"),
                Some(health) => (
                    "health",
                    "healthy",
                    alive && health == "healthy",
                    health == "unhealthy" || standing.status == "exited",
                ),
            };
            if !done && !failed && !attempts.are_over() {
                attempts.next().await;
                continue;
            }
            let observed = describe(&standing);
            let told = Told {
                check,
                subject: self.id_short(),
                expected,
                observed: &observed,
                attempts: attempts.number,
                begun,
                verdict: verdict(done),
            };
            self.teller().tell(told).await;
            return Ok(done.then_some(standing));
        }
    }

    async fn standing(&self) -> Result<Standing, EngineError> {
        let begun = Instant::now();
        loop {
            match self.engine.container(self.id).await {
                Ok(inspect) => return Ok(read(&inspect)),
                Err(error) if error.is_transient() && begun.elapsed() < ENGINE_PATIENCE => {
                    sleep(ENGINE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn place(&self, up: &Standing) -> Result<Place, EngineError> {
        let address = match (&up.address, &up.shares_network_with) {
            (Some(address), _) => Some(*address),
            (None, Some(other)) => read(&self.engine.container(other).await?).address,
            (None, None) => None,
        };
        Ok(Place {
            id: self.id.to_owned(),
            address,
            started: unix_of(&up.started_at),
            private: up.private.clone(),
        })
    }

    fn id_short(&self) -> String {
        let id: String = self.id.chars().take(12).collect();
        format!("container {id}")
    }
}

/// A container as it was when it came up.
struct Up<'a> {
    of: &'a Subject<'a>,
    standing: Standing,
    place: Place,
}

impl Watched for Up<'_> {
    type Check = Check;
    type Error = EngineError;

    fn subject(&self) -> String {
        self.of.id_short()
    }

    fn words(&self, check: &Check) -> (&'static str, String, String) {
        let address = self
            .place
            .address
            .map_or("?".to_owned(), |address| address.to_string());
        match check {
            Check::Http { port, path, status } => (
                "http",
                format!("http://{address}:{port}{}", without_query(path)),
                status.map_or("2xx or 3xx".to_owned(), |status| status.to_string()),
            ),
            Check::Tcp { port } => ("tcp", format!("{address}:{port}"), "accepts".to_owned()),
            Check::Command { argv } => (
                "command",
                argv.first().cloned().unwrap_or_default(),
                "exits with 0".to_owned(),
            ),
            Check::Log { text, max } => (
                "log",
                format!("lines with {text:?}"),
                format!("at most {max} in the last minute"),
            ),
        }
    }

    fn is_known_late(check: &Check) -> bool {
        matches!(check, Check::Log { .. })
    }

    async fn attempt(&self, check: &Check) -> Seen {
        probe::attempt(self.of.engine, check, &self.place, unix_now()).await
    }

    async fn broken(&self) -> Result<Option<String>, EngineError> {
        let (now, up) = (self.of.standing().await?, &self.standing);
        let same = now.started_at == up.started_at && now.restarts == up.restarts;
        let well = now.running && alive(now.pid) && now.health.as_deref() != Some("unhealthy");
        Ok(match (same, well) {
            (true, true) => None,
            (false, true) => Some(format!("restarted ({} restarts)", now.restarts)),
            (_, false) => Some(describe(&now)),
        })
    }

    fn teller(&self) -> Teller<'_> {
        self.of.teller()
    }
}

/// A container that has been up for longer than checks may take is not starting: it gets a short time.
fn patience(timeout: Duration, standing: &Standing) -> Duration {
    let up = Duration::from_secs(
        u64::try_from(unix_now() - unix_of(&standing.started_at)).unwrap_or_default(),
    );
    timeout.saturating_sub(up).max(WELL_WORN.min(timeout))
}

fn describe(standing: &Standing) -> String {
    let mut said = match standing.status.as_str() {
        "running" if !alive(standing.pid) => "its process is gone".to_owned(),
        "exited" => format!("exited with {}", standing.exit_code),
        status => status.to_owned(),
    };
    if let Some(health) = &standing.health {
        said = format!("{said}, {health}");
        if health == "unhealthy" && !standing.health_says.is_empty() {
            said = format!("{said}: {}", standing.health_says);
        }
    }
    said
}

fn read(inspect: &Value) -> Standing {
    let private = Private::of(inspect);
    let state = &inspect["State"];
    let health = state["Health"]["Status"]
        .as_str()
        .filter(|status| !matches!(*status, "" | "none"))
        .map(str::to_owned);
    let mode = text(&inspect["HostConfig"], "NetworkMode");
    let networks = &inspect["NetworkSettings"]["Networks"];
    let address = if mode == "host" {
        Some(IpAddr::from([127, 0, 0, 1]))
    } else {
        networks
            .as_object()
            .into_iter()
            .flat_map(|networks| networks.values())
            .find_map(|network| text(network, "IPAddress").parse().ok())
    };
    Standing {
        running: runs(inspect),
        status: text(state, "Status").to_owned(),
        exit_code: state["ExitCode"].as_i64().unwrap_or_default(),
        started_at: text(state, "StartedAt").to_owned(),
        restarts: inspect["RestartCount"].as_i64().unwrap_or_default(),
        health_says: last_health_output(state, &private),
        health_patience: if health.is_some() {
            health_patience(&inspect["Config"]["Healthcheck"])
        } else {
            Duration::ZERO
        },
        health,
        address,
        shares_network_with: mode.strip_prefix("container:").map(str::to_owned),
        pid: state["Pid"].as_i64().unwrap_or_default(),
        private,
    }
}

/// The engine looks at a HEALTHCHECK for the first time after one interval.
fn health_patience(health: &Value) -> Duration {
    let nanos = |key: &str| health[key].as_u64().unwrap_or_default();
    let interval = match nanos("Interval") {
        0 => Duration::from_secs(30),
        nanos => Duration::from_nanos(nanos),
    };
    (interval + Duration::from_nanos(nanos("StartPeriod"))).min(Duration::from_mins(5))
}

fn last_health_output(state: &Value, private: &Private) -> String {
    let last = state["Health"]["Log"].as_array().and_then(|log| log.last());
    last.map(|entry| private.blank(text(entry, "Output").as_bytes(), 200))
        .unwrap_or_default()
}

/// The engine may say `running` of a process that is gone. Only where processes can be seen from here.
fn alive(pid: i64) -> bool {
    pid <= 0 || !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

fn unix_of(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_second)
}

fn unix_now() -> i64 {
    now_ms() / 1000
}
