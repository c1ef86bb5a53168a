//! Carries the checks of a unit out: until they pass or their time is up, and then through the soak.

use std::time::{Duration, Instant};

use sternway_proto::{
    name::clean_text,
    v1::{Evidence, Verdict},
};
use tokio::time::sleep;

use super::{Check, attempt::attempt};
use crate::{
    clock::now_ms,
    engine::step::EvidenceSink,
    systemd::{Active, Bus, BusError, UnitName, UnitState},
    targets::{
        probe::Seen,
        systemd::state::{idles, why_not},
    },
};

/// Between attempts: quick at first, because what is up at once should not be waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between looks during the soak.
const SOAK_PAUSE: Duration = Duration::from_millis(500);

/// The minute before, of which a journal is read.
const MINUTE: i64 = 60;

/// What decides whether a unit is well, beside its nature: that it is active and does not restart.
#[derive(Debug, Clone)]
pub(in crate::targets::systemd) struct Checks {
    pub(in crate::targets::systemd) declared: Vec<Check>,
    pub(in crate::targets::systemd) timeout: Duration,
    pub(in crate::targets::systemd) soak: Duration,
}

/// What is checked, and for whom.
pub(in crate::targets::systemd) struct Subject<'a> {
    pub(in crate::targets::systemd) bus: &'a Bus,
    pub(in crate::targets::systemd) unit: &'a UnitName,
    /// `replacement`, `current`.
    pub(in crate::targets::systemd) instance: &'a str,
    pub(in crate::targets::systemd) sink: &'a EvidenceSink,
}

impl Checks {
    /// What decides, for a person.
    pub(in crate::targets::systemd) fn describe(&self) -> Vec<String> {
        let natural = "is active, and does not restart".to_owned();
        let declared = self.declared.iter().map(Check::describe);
        [natural].into_iter().chain(declared).collect()
    }
}

impl Subject<'_> {
    /// Runs them all. Each piece of evidence goes to the sink; the verdict is the worst.
    ///
    /// # Errors
    /// The service manager does not answer: nothing can be said.
    pub(in crate::targets::systemd) async fn check(
        &self,
        checks: &Checks,
    ) -> Result<Verdict, BusError> {
        let begun = Instant::now();
        let Some(up) = self.comes_up(begun, checks.timeout).await? else {
            return Ok(Verdict::Failed);
        };
        for check in &checks.declared {
            if !self.passes(check, begun, checks.timeout, &up).await? {
                return Ok(Verdict::Failed);
            }
        }
        self.soaks(checks, &up).await
    }

    /// As it is when it is up; none: it does not come up in time.
    async fn comes_up(
        &self,
        begun: Instant,
        limit: Duration,
    ) -> Result<Option<UnitState>, BusError> {
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
            let state = self.bus.state(self.unit).await?;
            let up = state.active == Active::Active || idles(&state);
            // What has failed does not come up by itself.
            let over = up || state.active == Active::Failed || begun.elapsed() >= limit;
            if over {
                let observed = if up {
                    state.sub.clone()
                } else {
                    why_not(&state)
                };
                self.tell(
                    "unit",
                    self.unit.to_string(),
                    "active",
                    &observed,
                    attempts,
                    begun,
                    up,
                )
                .await;
                return Ok(up.then_some(state));
            }
            sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn passes(
        &self,
        check: &Check,
        begun: Instant,
        limit: Duration,
        up: &UnitState,
    ) -> Result<bool, BusError> {
        let started = Instant::now();
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
            let mut seen = self.attempt(check, up).await;
            let mut over = seen.good || begun.elapsed() >= limit;
            if !over && let Some(broken) = self.broken(up).await? {
                seen = Seen {
                    good: false,
                    observed: broken,
                };
                over = true;
            }
            if over {
                self.tell_check(check, &seen, attempts, started).await;
                return Ok(seen.good);
            }
            sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Everything must hold through the soak, and the unit must not have restarted.
    async fn soaks(&self, checks: &Checks, up: &UnitState) -> Result<Verdict, BusError> {
        let begun = Instant::now();
        let mut looks = 0;
        loop {
            looks += 1;
            if let Some(broken) = self.broken(up).await? {
                self.tell(
                    "restarts",
                    self.unit.to_string(),
                    "steady",
                    &broken,
                    looks,
                    begun,
                    false,
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
                let seen = self.attempt(check, up).await;
                if !seen.good {
                    self.tell_check(check, &seen, looks, begun).await;
                    return Ok(Verdict::Failed);
                }
            }
        }
        let held = format!("steady for {:.1} s", begun.elapsed().as_secs_f64());
        self.tell(
            "restarts",
            self.unit.to_string(),
            "steady",
            &held,
            looks,
            begun,
            true,
        )
        .await;
        Ok(Verdict::Passed)
    }

    async fn attempt(&self, check: &Check, up: &UnitState) -> Seen {
        let since = now_ms() / 1000 - MINUTE;
        attempt(self.bus, check, &up.invocation, since).await
    }

    /// What is no longer as it was when it came up.
    async fn broken(&self, up: &UnitState) -> Result<Option<String>, BusError> {
        let now = self.bus.state(self.unit).await?;
        let same = now.invocation == up.invocation && now.restarts == up.restarts;
        // One that waits to be called may have been, and ended again.
        if idles(up) {
            return Ok((now.active == Active::Failed).then(|| why_not(&now)));
        }
        Ok(match now.active {
            Active::Active | Active::Reloading if same => None,
            Active::Active | Active::Activating | Active::Reloading => {
                Some(format!("restarted ({} restarts)", now.restarts))
            }
            _ => Some(why_not(&now)),
        })
    }

    async fn tell_check(&self, check: &Check, seen: &Seen, attempts: u32, begun: Instant) {
        let (kind, subject, expected) = check.words();
        self.tell(
            kind,
            subject,
            &expected,
            &seen.observed,
            attempts,
            begun,
            seen.good,
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
        good: bool,
    ) {
        let verdict = if good {
            Verdict::Passed
        } else {
            Verdict::Failed
        };
        self.sink
            .send(Evidence {
                check: check.to_owned(),
                subject: clean_text(&subject),
                expected: expected.to_owned(),
                observed: clean_text(observed),
                attempts,
                duration_ms: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
                verdict: verdict.into(),
                at_ms: now_ms(),
                instance: self.instance.to_owned(),
            })
            .await;
    }
}
