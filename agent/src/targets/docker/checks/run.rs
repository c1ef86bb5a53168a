//! Carries the checks of a container out: until they pass or their time is up, and then through the soak.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use sternway_proto::{
    name::clean_text,
    v1::{Evidence, Verdict},
};
use tokio::time::sleep;

use super::{
    Check, Checks,
    private::Private,
    probe::{self, Place},
    without_query,
};
use crate::{
    engine::step::EvidenceSink,
    targets::{
        docker::{
            client::{Engine, EngineError},
            normalise::text,
            steps::runs,
        },
        probe::Seen,
    },
};

/// Between attempts: quick at first, because an application that is up at once should not be waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between looks during the soak.
const SOAK_PAUSE: Duration = Duration::from_millis(500);

/// A container that has run for longer than its start-up may take gets this long to answer.
const WELL_WORN: Duration = Duration::from_secs(3);

/// The engine may be away for a moment while it is looked at.
const ENGINE_PATIENCE: Duration = Duration::from_secs(20);

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
            let (expected, said) = ("can be read", problem.message.as_str());
            let subject = "the container's labels".to_owned();
            self.tell(
                "label",
                subject,
                expected,
                said,
                1,
                Instant::now(),
                Verdict::Inconclusive,
            )
            .await;
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
        for check in &checks.declared {
            if matches!(check, Check::Log { .. }) {
                continue;
            }
            let passed = self.passes(check, &place, begun, limit, &up).await?;
            if !passed {
                return Ok(Verdict::Failed);
            }
        }
        self.soaks(checks, &place, &up).await
    }

    /// Waits until it runs and, where it has a HEALTHCHECK, is healthy. None: it did not.
    async fn comes_up(
        &self,
        begun: Instant,
        limit: Duration,
    ) -> Result<Option<Standing>, EngineError> {
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
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
            let late = begun.elapsed() >= limit;
            if done || failed || late {
                let observed = describe(&standing);
                let verdict = if done {
                    Verdict::Passed
                } else {
                    Verdict::Failed
                };
                self.tell(
                    check,
                    self.id_short(),
                    expected,
                    &observed,
                    attempts,
                    begun,
                    verdict,
                )
                .await;
                return Ok(done.then_some(standing));
            }
            sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn passes(
        &self,
        check: &Check,
        place: &Place,
        begun: Instant,
        limit: Duration,
        up: &Standing,
    ) -> Result<bool, EngineError> {
        let started = Instant::now();
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
            let mut seen = probe::attempt(self.engine, check, place, unix_now()).await;
            let mut over = seen.good || begun.elapsed() >= limit;
            if !over && let Some(broken) = self.broken(up).await? {
                seen = Seen {
                    good: false,
                    observed: broken,
                };
                over = true;
            }
            if over {
                self.tell_check(check, place, &seen, attempts, started)
                    .await;
                return Ok(seen.good);
            }
            sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Everything must hold through the soak, and the container must not have restarted.
    async fn soaks(
        &self,
        checks: &Checks,
        place: &Place,
        up: &Standing,
    ) -> Result<Verdict, EngineError> {
        let begun = Instant::now();
        let mut looks = 0;
        loop {
            looks += 1;
            if let Some(broken) = self.broken(up).await? {
                self.tell(
                    "restarts",
                    self.id_short(),
                    "steady",
                    &broken,
                    looks,
                    begun,
                    Verdict::Failed,
                )
                .await;
                return Ok(Verdict::Failed);
            }
            if begun.elapsed() >= checks.soak {
                break;
            }
            let left = checks.soak.saturating_sub(begun.elapsed());
            sleep(left.min(SOAK_PAUSE)).await;
            for check in &checks.declared {
                let seen = probe::attempt(self.engine, check, place, unix_now()).await;
                if !seen.good {
                    self.tell_check(check, place, &seen, looks, begun).await;
                    return Ok(Verdict::Failed);
                }
            }
        }
        let held = format!("steady for {:.1} s", begun.elapsed().as_secs_f64());
        self.tell(
            "restarts",
            self.id_short(),
            "steady",
            &held,
            looks,
            begun,
            Verdict::Passed,
        )
        .await;
        for check in &checks.declared {
            if matches!(check, Check::Log { .. }) {
                let seen = probe::attempt(self.engine, check, place, unix_now()).await;
                self.tell_check(check, place, &seen, 1, begun).await;
                if !seen.good {
                    return Ok(Verdict::Failed);
                }
            }
        }
        Ok(Verdict::Passed)
    }

    /// What is no longer as it was when it came up.
    async fn broken(&self, up: &Standing) -> Result<Option<String>, EngineError> {
        let now = self.standing().await?;
        let same = now.started_at == up.started_at && now.restarts == up.restarts;
        let well = now.running && alive(now.pid) && now.health.as_deref() != Some("unhealthy");
        Ok(match (same, well) {
            (true, true) => None,
            (false, true) => Some(format!("restarted ({} restarts)", now.restarts)),
            (_, false) => Some(describe(&now)),
        })
    }

    async fn standing(&self) -> Result<Standing, EngineError> {
        let begun = Instant::now();
        loop {
            match self.engine.container(self.id).await {
                Ok(inspect) => return Ok(read(&inspect)),
                Err(error) if error.is_transient() && begun.elapsed() < ENGINE_PATIENCE => {
                    sleep(LONGEST_PAUSE).await;
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

    async fn tell_check(
        &self,
        check: &Check,
        place: &Place,
        seen: &Seen,
        attempts: u32,
        begun: Instant,
    ) {
        let address = place
            .address
            .map_or("?".to_owned(), |address| address.to_string());
        let (kind, subject, expected) = match check {
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
        };
        let verdict = if seen.good {
            Verdict::Passed
        } else {
            Verdict::Failed
        };
        self.tell(
            kind,
            subject,
            &expected,
            &seen.observed,
            attempts,
            begun,
            verdict,
        )
        .await;
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one message, named at its making"
    )]
    async fn tell(
        &self,
        check: &str,
        subject: String,
        expected: &str,
        observed: &str,
        attempts: u32,
        begun: Instant,
        verdict: Verdict,
    ) {
        self.sink
            .send(Evidence {
                check: check.to_owned(),
                subject: clean_text(&subject),
                expected: expected.to_owned(),
                observed: clean_text(observed),
                attempts,
                duration_ms: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
                verdict: verdict.into(),
                at_ms: unix_now_ms(),
                instance: self.instance.to_owned(),
            })
            .await;
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
    unix_now_ms() / 1000
}

fn unix_now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}
