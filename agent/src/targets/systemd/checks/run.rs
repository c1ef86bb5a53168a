//! Carries the checks of a unit out.

use std::time::{Duration, Instant};

use sternway_proto::v1::Verdict;

use super::{Check, attempt::attempt};
use crate::{
    clock::now_ms,
    engine::step::EvidenceSink,
    systemd::{Active, Bus, BusError, UnitName, UnitState},
    targets::{
        probe::Seen,
        systemd::state::{idles, why_not},
        watched::{self, Attempts, Teller, Told, Watched, verdict},
    },
};

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

/// A unit as it was when it came up.
struct Up<'a> {
    of: &'a Subject<'a>,
    state: UnitState,
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
        let Some(state) = self.comes_up(begun, checks.timeout).await? else {
            return Ok(Verdict::Failed);
        };
        let up = Up { of: self, state };
        watched::check(&up, &checks.declared, begun, checks.timeout, checks.soak).await
    }

    fn teller(&self) -> Teller<'_> {
        Teller {
            sink: self.sink,
            instance: self.instance,
        }
    }

    /// As it is when it is up; none: it does not come up in time.
    async fn comes_up(
        &self,
        begun: Instant,
        limit: Duration,
    ) -> Result<Option<UnitState>, BusError> {
        let mut attempts = Attempts::since(begun, limit);
        loop {
            let state = self.bus.state(self.unit).await?;
            let idle = idles(&state);
            let up = state.active == Active::Active || idle;
            // What has failed does not come up by itself.
            if !up && state.active != Active::Failed && !attempts.are_over() {
                attempts.next().await;
                continue;
            }
            let why_not = why_not(&state);
            let told = Told {
                check: "unit",
                subject: self.unit.to_string(),
                expected: if idle {
                    "done, or waits for its start"
                } else {
                    "active"
                },
                observed: if up { &state.sub } else { &why_not },
                attempts: attempts.number,
                begun,
                verdict: verdict(up),
            };
            self.teller().tell(told).await;
            return Ok(up.then_some(state));
        }
    }
}

impl Watched for Up<'_> {
    type Check = Check;
    type Error = BusError;

    fn subject(&self) -> String {
        self.of.unit.to_string()
    }

    fn words(&self, check: &Check) -> (&'static str, String, String) {
        check.words()
    }

    fn is_known_late(check: &Check) -> bool {
        matches!(check, Check::Log { .. })
    }

    async fn attempt(&self, check: &Check) -> Seen {
        let since = now_ms() / 1000 - MINUTE;
        attempt(self.of.bus, check, &self.state.invocation, since).await
    }

    async fn broken(&self) -> Result<Option<String>, BusError> {
        let now = self.of.bus.state(self.of.unit).await?;
        let same = now.invocation == self.state.invocation && now.restarts == self.state.restarts;
        // One that waits to be called may have been, and ended again.
        if idles(&self.state) {
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

    fn teller(&self) -> Teller<'_> {
        self.of.teller()
    }
}
