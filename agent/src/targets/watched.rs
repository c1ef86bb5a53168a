//! Checks of what runs, of whatever kind it is: until they pass or their time is up, and then through the soak.

use std::time::{Duration, Instant};

use sternway_proto::{
    name::clean_text,
    v1::{Evidence, Verdict},
};
use tokio::time::sleep;

use super::probe::Seen;
use crate::{clock::now_ms, engine::step::EvidenceSink};

/// Between attempts: quick at first, because what is up at once should not be waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between looks during the soak.
const SOAK_PAUSE: Duration = Duration::from_millis(500);

/// Something that is up, as it was when it came up.
pub(super) trait Watched: Sync {
    type Check: Sync;
    type Error: Send;

    /// What its evidence calls it.
    fn subject(&self) -> String;

    /// Of a check: its kind, what it looks at, and what is expected there.
    fn words(&self, check: &Self::Check) -> (&'static str, String, String);

    /// Its verdict is only known at the end of the soak, as that of what is counted.
    fn is_known_late(check: &Self::Check) -> bool;

    /// One attempt.
    fn attempt(&self, check: &Self::Check) -> impl Future<Output = Seen> + Send;

    /// What is no longer as it was when it came up.
    fn broken(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    fn teller(&self) -> Teller<'_>;
}

/// Where evidence goes, and of which instance it is: `standby`, `replacement`, `previous`, `current`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller<'a> {
    pub(super) sink: &'a EvidenceSink,
    pub(super) instance: &'a str,
}

/// What was seen, to be told.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) check: &'a str,
    pub(super) subject: String,
    pub(super) expected: &'a str,
    pub(super) observed: &'a str,
    pub(super) attempts: u32,
    pub(super) begun: Instant,
    pub(super) verdict: Verdict,
}

impl Teller<'_> {
    pub(super) async fn tell(self, told: Told<'_>) {
        let took = told.begun.elapsed().as_millis();
        let evidence = Evidence {
            check: told.check.to_owned(),
            subject: clean_text(&told.subject),
            expected: told.expected.to_owned(),
            observed: clean_text(told.observed),
            attempts: told.attempts,
            duration_ms: i64::try_from(took).unwrap_or(i64::MAX),
            verdict: told.verdict.into(),
            at_ms: now_ms(),
            instance: self.instance.to_owned(),
        };
        self.sink.send(evidence).await;
    }
}

/// Good or not.
pub(super) fn verdict(good: bool) -> Verdict {
    if good {
        Verdict::Passed
    } else {
        Verdict::Failed
    }
}

/// Attempts until the time is up.
#[derive(Debug)]
pub(super) struct Attempts {
    begun: Instant,
    limit: Duration,
    pause: Duration,
    /// From 1.
    pub(super) number: u32,
}

impl Attempts {
    /// The first of those that are over so long after that.
    pub(super) fn since(begun: Instant, limit: Duration) -> Self {
        Self {
            begun,
            limit,
            pause: FIRST_PAUSE,
            number: 1,
        }
    }

    /// There is no time for another one.
    pub(super) fn are_over(&self) -> bool {
        self.begun.elapsed() >= self.limit
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let left = self.limit.saturating_sub(self.begun.elapsed());
        sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.number += 1;
    }
}

/// Runs the checks of what is up, which have until `limit` behind `begun` to pass, and then through the soak. Each piece
/// of evidence is told; the verdict is the worst.
///
/// # Errors
/// Nothing can be said.
pub(super) async fn check<W: Watched>(
    watched: &W,
    checks: &[W::Check],
    begun: Instant,
    limit: Duration,
    soak: Duration,
) -> Result<Verdict, W::Error> {
    for check in checks.iter().filter(|check| !W::is_known_late(check)) {
        if !passes(watched, check, Attempts::since(begun, limit)).await? {
            return Ok(Verdict::Failed);
        }
    }
    soaks(watched, checks, soak).await
}

async fn passes<W: Watched>(
    watched: &W,
    check: &W::Check,
    mut attempts: Attempts,
) -> Result<bool, W::Error> {
    let begun = Instant::now();
    loop {
        let mut seen = watched.attempt(check).await;
        let mut over = seen.good || attempts.are_over();
        if !over && let Some(observed) = watched.broken().await? {
            seen = Seen {
                good: false,
                observed,
            };
            over = true;
        }
        if over {
            tell(watched, check, &seen, attempts.number, begun).await;
            return Ok(seen.good);
        }
        attempts.next().await;
    }
}

/// Everything must hold, and it must not have restarted.
async fn soaks<W: Watched>(
    watched: &W,
    checks: &[W::Check],
    soak: Duration,
) -> Result<Verdict, W::Error> {
    let begun = Instant::now();
    let mut looks = 0;
    let steady = async |observed: &str, looks, verdict| {
        let told = Told {
            check: "restarts",
            subject: watched.subject(),
            expected: "steady",
            observed,
            attempts: looks,
            begun,
            verdict,
        };
        watched.teller().tell(told).await;
    };
    loop {
        looks += 1;
        if let Some(broken) = watched.broken().await? {
            steady(&broken, looks, Verdict::Failed).await;
            return Ok(Verdict::Failed);
        }
        if begun.elapsed() >= soak {
            break;
        }
        sleep(soak.saturating_sub(begun.elapsed()).min(SOAK_PAUSE)).await;
        for check in checks {
            let seen = watched.attempt(check).await;
            if !seen.good {
                tell(watched, check, &seen, looks, begun).await;
                return Ok(Verdict::Failed);
            }
        }
    }
    let held = format!("steady for {:.1} s", begun.elapsed().as_secs_f64());
    steady(&held, looks, Verdict::Passed).await;
    for check in checks.iter().filter(|check| W::is_known_late(check)) {
        let seen = watched.attempt(check).await;
        tell(watched, check, &seen, 1, begun).await;
        if !seen.good {
            return Ok(Verdict::Failed);
        }
    }
    Ok(Verdict::Passed)
}

async fn tell<W: Watched>(
    watched: &W,
    check: &W::Check,
    seen: &Seen,
    attempts: u32,
    begun: Instant,
) {
    let (kind, subject, expected) = watched.words(check);
    let told = Told {
        check: kind,
        subject,
        expected: &expected,
        observed: &seen.observed,
        attempts,
        begun,
        verdict: verdict(seen.good),
    };
    watched.teller().tell(told).await;
}
