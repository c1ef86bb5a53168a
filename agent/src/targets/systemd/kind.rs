//! The kind `systemd` behind the trait that everyone else sees.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use sternway_proto::{
    name::TargetName,
    v1::{self, Problem, Verdict},
};
use tokio::{sync::mpsc::Sender, task::spawn_blocking};
use uuid::Uuid;

use super::{
    SystemdKind,
    checks::run::{Checks, Subject},
    discover::{Inspected, content, unit_of},
    lock,
    note::{Before, Exchange, PackageChange, Started},
    plan::{self, Facts},
    record::UnitRecord,
    state::{self, idles, masked},
};
use crate::{
    chain::chain,
    dpkg::PackageId,
    engine::step::{Done, EvidenceSink, Step, StepContext, StepError},
    snapshot::{Captured, Thing},
    systemd::{Active, UnitName, UnitState},
    targets::{
        Changed, Discovered, Draft, Hands, Kind, KindError, Known, Observed, PlanInput, Recorded,
    },
};

/// What a unit is given that has no limit of its own to its stop, or to its start.
const NO_LIMIT: Duration = Duration::from_mins(5);
/// No unit is waited for longer.
const LONGEST: Duration = Duration::from_mins(15);
/// What a stop and a start are given beyond their own limits: the service manager ends them first.
const MARGIN: Duration = Duration::from_secs(15);

#[async_trait]
impl Kind for SystemdKind {
    fn label(&self) -> &'static str {
        Self::LABEL
    }

    fn hands(&self, target: &TargetName) -> Hands {
        let unit = target.local();
        Hands {
            see: format!("systemctl status {unit}"),
            log: format!("journalctl -u {unit}"),
            start: format!("systemctl restart {unit}"),
            engine: "systemctl is-system-running".to_owned(),
            disk: "df -h".to_owned(),
        }
    }

    async fn describe(&self, _facts: &mut v1::HostFacts) {}

    async fn discover(&self) -> Result<Discovered, KindError> {
        self.discover().await
    }

    async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        self.observe(target).await
    }

    async fn watch(&self, changed: Sender<Changed>) {
        self.follow(changed).await;
    }

    async fn plan(&self, input: &PlanInput) -> Result<Draft, KindError> {
        let target = &input.target;
        let unit = unit_of(target)?;
        let to = record_of(target, &input.to)?;
        let from = match &input.from {
            None => None,
            Some(from) => Some(record_of(target, from)?),
        };
        let result = UnitRecord::compose(from.as_ref(), &to, input.scope);
        let files = result.files();
        let held = files.artifacts().filter_map(|id| self.artifacts.held(id));
        let content = content(
            target,
            &result,
            Captured {
                snapshot: files.clone(),
                held: held.collect(),
            },
        )?;
        let recorded = Recorded {
            id: content.id(),
            number: input.to.number,
            record: content.record.clone(),
            hints: serde_json::Value::Null,
        };
        let state = self.bus.state(&unit).await?;
        let mut blockers = self.readiness_of(&unit, &state, &recorded).await;
        let now = match state::of(&state) {
            v1::TargetState::Gone => None,
            _ => Some(self.inspect(&unit, state.clone()).await?),
        };
        let now_record = now.as_ref().map(|now: &Inspected| &now.record);
        let changed = changed(now_record, &result);
        let packages = self.package_changes(now_record, &result).await?;
        let sharers = self.sharers(&unit, &changed, &packages).await?;
        let mut beside: Vec<Started> = Vec::new();
        let mut checks = vec![
            self.checks_of(unit.as_str())
                .map_err(|reason| record_error(target, reason))?,
        ];
        for (sharer, state) in &sharers {
            beside.push(started(sharer, state));
            let of = self.checks_of(sharer.as_str());
            checks.push(of.map_err(|reason| record_error(target, reason))?);
        }
        let exchange = Exchange {
            from: input.from.as_ref().map(|from| from.id.clone()),
            to: recorded.id.clone(),
            main: Started {
                instance: input.instance.clone(),
                ..started(&unit, &state)
            },
            packages,
            beside,
        };
        let sockets: Vec<String> = state
            .triggered_by
            .iter()
            .filter(|name| name.ends_with(".socket"))
            .cloned()
            .collect();
        let decision = plan::decide(&Facts {
            exchange: &exchange,
            to_number: input.to.number,
            from: from.as_ref(),
            now: now_record,
            result: &result,
            checks: &checks,
            sockets: &sockets,
            swap: input.swap,
        });
        blockers.extend(decision.blockers);
        Ok(Draft {
            steps: decision.steps,
            result: content,
            with: sharers
                .iter()
                .filter_map(|(unit, _)| self.target_of(unit))
                .collect(),
            swap: v1::Swap::Cold,
            swap_reason: decision.swap_reason,
            checks: checks.iter().flat_map(Checks::describe).collect(),
            soak: decision.soak,
            waiting: decision.waiting,
            warnings: decision.warnings,
            blockers,
            expected_outage: decision.expected_outage,
        })
    }

    async fn apply(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        self.apply_step(context, step).await
    }

    async fn undo(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        self.undo_step(context, step).await
    }

    async fn rescue(&self, context: &StepContext<'_>, steps: &[Step]) -> Result<Done, StepError> {
        self.rescue_steps(context, steps).await
    }

    /// What tells why is in the journal of the host, which keeps it.
    async fn lay_aside(&self, _: &StepContext<'_>, _: &[Step]) -> Result<(), StepError> {
        Ok(())
    }

    async fn mend(&self, context: &StepContext<'_>, _: &Known) -> Result<Done, StepError> {
        self.mend_order(context).await
    }

    async fn check(
        &self,
        target: &TargetName,
        _recorded: &Recorded,
        evidence: &EvidenceSink,
    ) -> Result<Verdict, KindError> {
        let unit = unit_of(target)?;
        let checks = self.checks_of(unit.as_str());
        let subject = Subject {
            bus: &self.bus,
            unit: &unit,
            instance: "current",
            sink: evidence,
        };
        let checks = checks.map_err(|reason| record_error(target, reason))?;
        Ok(subject.check(&checks).await?)
    }

    async fn readiness(&self, target: &TargetName, recorded: &Recorded) -> Vec<Problem> {
        let Ok(unit) = unit_of(target) else {
            return Vec::new();
        };
        match self.bus.state(&unit).await {
            Ok(state) => self.readiness_of(&unit, &state, recorded).await,
            Err(error) => vec![Problem::new(
                "service-manager-unreachable",
                error.to_string(),
                "look at the service manager of the host: `systemctl is-system-running`",
            )],
        }
    }

    async fn beside(&self, _target: &TargetName, _open_orders: &[Uuid]) -> Vec<Problem> {
        Vec::new()
    }

    /// Its packages. The artifacts of a revision are named by its entry in the store.
    async fn keep(&self, target: &TargetName, kept: &[Recorded]) -> Result<(), KindError> {
        self.keep_packages(target, kept).await
    }

    async fn collect(&self, open_orders: &[Uuid]) -> Result<(), KindError> {
        let failed = |reason: String| KindError::Failed {
            what: "failed to let go of what orders noted".to_owned(),
            reason,
        };
        let orders = self
            .works
            .settled_orders()
            .map_err(|error| failed(chain(&error)))?;
        for order in orders
            .into_iter()
            .filter(|order| !open_orders.contains(order) && !lock(&self.errands).contains(order))
        {
            self.works
                .let_go(order)
                .await
                .map_err(|error| failed(chain(&error)))?;
            lock(&self.asides).remove(&order);
        }
        Ok(())
    }
}

impl SystemdKind {
    /// The checks of a unit, as the agent's configuration declares them now.
    pub(super) fn checks_of(&self, unit: &str) -> Result<Checks, String> {
        let section = self.section(unit);
        let section = section.ok_or_else(|| format!("{unit} is not looked after any more"))?;
        let declared = section
            .settings
            .check
            .iter()
            .map(super::checks::CheckSettings::read);
        Ok(Checks {
            declared: declared.collect::<Result<_, _>>()?,
            timeout: section.settings.timeout,
            soak: section.settings.soak,
        })
    }

    /// Why a revision could not be restored now.
    async fn readiness_of(
        &self,
        unit: &UnitName,
        state: &UnitState,
        recorded: &Recorded,
    ) -> Vec<Problem> {
        let record = match UnitRecord::from_bytes(&recorded.record) {
            Ok(record) => record,
            Err(reason) => {
                let said = format!("its record cannot be read: {reason}");
                let next = "choose another with `ctl history`";
                return vec![Problem::new("record-unreadable", said, next)];
            }
        };
        let packages = self.packages_lost(&record).await;
        let store = self.artifacts.clone();
        let lost = spawn_blocking(move || {
            let files = record.files().0.into_iter();
            let lost = files.filter(|(_, thing)| match thing {
                Some(Thing::File { content, .. }) => !store.is_whole(content),
                _ => false,
            });
            lost.map(|(path, _)| path).collect::<Vec<PathBuf>>()
        });
        let lost = lost.await.unwrap_or_default();
        let lost = lost.first().map(|first| {
            let more = match lost.len() {
                1 => String::new(),
                many => format!(" (and of {} more)", many - 1),
            };
            Problem::new(
                "artifact-damaged",
                format!(
                    "what was kept of {}{more} is lost or damaged",
                    first.display()
                ),
                "choose another revision with `ctl history`, and see the disk of the host",
            )
        });
        let masked = masked(state, unit).into_iter();
        masked.chain(lost).chain(packages).collect()
    }

    /// Other units that are looked after, run, and share something that changes: they run it only when they are started
    /// again.
    async fn sharers(
        &self,
        unit: &UnitName,
        changed: &BTreeSet<PathBuf>,
        packages: &[PackageChange],
    ) -> Result<Vec<(UnitName, UnitState)>, KindError> {
        let mut sharers = Vec::new();
        if changed.is_empty() && packages.is_empty() {
            return Ok(sharers);
        }
        for target in self.targets().await? {
            let other = unit_of(&target)?;
            if other == *unit {
                continue;
            }
            let state = self.bus.state(&other).await?;
            if !state.runs() {
                continue;
            }
            let found = self.inspect(&other, state).await?;
            let record = &found.record;
            let ours = |one: &PackageId| packages.iter().any(|change| change.to.name == one.name);
            let same_file = record.files().0.keys().any(|path| changed.contains(path));
            if same_file || record.packages.iter().any(ours) {
                sharers.push((other, found.state));
            }
        }
        Ok(sharers)
    }
}

/// The paths that a restore changes.
fn changed(now: Option<&UnitRecord>, result: &UnitRecord) -> BTreeSet<PathBuf> {
    let now = now.map(UnitRecord::files).unwrap_or_default();
    let changes = now.changes_to(&result.files());
    changes.into_iter().map(|change| change.path).collect()
}

/// A unit as it is before it is started again.
fn started(unit: &UnitName, state: &UnitState) -> Started {
    let limit = |limit: Option<Duration>| limit.unwrap_or(NO_LIMIT);
    let patience = limit(state.stop_timeout) + limit(state.start_timeout) + MARGIN;
    Started {
        unit: unit.to_string(),
        instance: state.instance(),
        before: match state.active {
            _ if idles(state) => Before::Waited,
            Active::Failed => Before::Failed,
            _ if state.runs() => Before::Ran,
            _ => Before::Stopped,
        },
        patience: patience.min(LONGEST),
    }
}

fn record_of(target: &TargetName, recorded: &Recorded) -> Result<UnitRecord, KindError> {
    UnitRecord::from_bytes(&recorded.record).map_err(|reason| record_error(target, reason))
}

fn record_error(target: &TargetName, reason: String) -> KindError {
    KindError::Record {
        target: target.to_string(),
        reason,
    }
}
