//! The steps of a restore of a unit. Each may find its work done, half done or not begun. Files are put back while the
//! old program still runs; it is stopped for no longer than its own stop and start take.

use std::{path::PathBuf, time::Duration};

use sternway_proto::{name::RevisionId, v1::Verdict};
use tokio::task::spawn_blocking;

use super::{
    LIMITS, SystemdKind,
    checks::run::Subject,
    discover::unit_of,
    lock,
    note::{Before, Exchange, Job, Note, Payload, Started},
    packages::Way,
    record::{UnitRecord, roots},
    state::{idles, why_not},
};
use crate::{
    engine::step::{Done, Step, StepContext, StepError},
    snapshot::{self, Change, Snapshot},
    store::artifacts::ArtifactError,
    systemd::{Active, BusError, JobEnd, UnitName, Verb},
    targets::KindError,
    work::{Failure, Task, WorkError},
};

/// The works of an order that change files, there and back.
pub(super) const FILES: &str = "put-files";
pub(super) const FILES_BACK: &str = "put-files-back";
/// Behind packages that went back.
pub(super) const FILES_AFTER: &str = "put-files-after";
/// Those that install packages.
pub(super) const PACKAGES: &str = "install";
pub(super) const PACKAGES_BACK: &str = "install-back";

/// What is no work and noted as one: that units are about to be loaded anew and started.
const STARTS: &str = "start";

/// What changes something on the way forward.
pub(super) const CHANGES: [&str; 3] = [PACKAGES, FILES, STARTS];

/// How long putting files back may take.
pub(super) const BYTES: Duration = Duration::from_mins(5);

/// Somebody else was at the unit meanwhile.
const SEE_WHO: &str =
    "see who did it (`journalctl -e` on the host), and roll back again if it is still wanted";

impl SystemdKind {
    pub(super) async fn apply_step(
        &self,
        context: &StepContext<'_>,
        step: &Step,
    ) -> Result<Done, StepError> {
        let Payload { job, exchange } = Payload::of(step)?;
        match job {
            Job::Prepare => self.prepare(context, &exchange).await,
            Job::Packages => {
                self.is_undisturbed(context, &exchange).await?;
                let done = self.install(context, &exchange, Way::Forward).await?;
                Ok(Done::said(done))
            }
            Job::Files => {
                self.is_undisturbed(context, &exchange).await?;
                let to = self.record(&exchange.to)?.files();
                let done = self.put(context, &exchange, FILES, &to).await?;
                Ok(Done::said(done))
            }
            Job::Reload => {
                let noted = self.works.note_begun(context.order_id, STARTS);
                noted.map_err(WorkError::from)?;
                self.bus.reload().await.map_err(StepError::from)?;
                let to = self.record(&exchange.to)?;
                let enabled = self.enable_as(&exchange.main, &to).await?;
                Ok(Done::said(enabled.unwrap_or("loaded anew".to_owned())))
            }
            Job::Start { unit } => self.start(&exchange, &unit).await,
            Job::Check { unit } => self.verify(context, &unit).await,
        }
    }

    pub(super) async fn undo_step(
        &self,
        context: &StepContext<'_>,
        step: &Step,
    ) -> Result<Done, StepError> {
        let Payload { job, exchange } = Payload::of(step)?;
        match job {
            Job::Check { .. } => Ok(Done::said("nothing to undo")),
            // It would be the one that is to go.
            Job::Start { .. } | Job::Reload => {
                Ok(Done::said("nothing to undo before its files are back"))
            }
            Job::Packages => {
                if !self.begun(context, &[PACKAGES])? {
                    return Ok(Done::said("nothing was changed"));
                }
                let done = self.install(context, &exchange, Way::Back).await?;
                // A package brings its own of what was patched in place.
                let before = self.before(context, &exchange)?;
                let files = self.put(context, &exchange, FILES_AFTER, &before).await?;
                Ok(Done::said(format!("{done}; files: {files}")))
            }
            Job::Files => {
                // What a package brought with it may stand there without that work.
                if !self.begun(context, &CHANGES)? {
                    return Ok(Done::said("nothing was changed"));
                }
                let before = self.before(context, &exchange)?;
                let done = self.put(context, &exchange, FILES_BACK, &before).await?;
                Ok(Done::said(done))
            }
            Job::Prepare => self.start_what_ran(context, &exchange).await,
        }
    }

    /// Whether any of these works was begun.
    pub(super) fn begun(
        &self,
        context: &StepContext<'_>,
        works: &[&str],
    ) -> Result<bool, StepError> {
        let begun = self.works.has_begun(context.order_id, works);
        Ok(begun.map_err(WorkError::from)?)
    }

    /// Nothing is changed yet. What cannot be restored, or not be undone, ends here.
    async fn prepare(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
    ) -> Result<Done, StepError> {
        self.is_undisturbed(context, exchange).await?;
        let to = self.record(&exchange.to)?;
        let from = self.record_from(exchange)?;
        let mut needed: Vec<RevisionId> = to.files().artifacts().cloned().collect();
        needed.extend(from.files().artifacts().cloned());
        needed.sort();
        needed.dedup();
        self.whole(needed).await?;
        self.packages_whole(exchange).await?;
        let unit = unit_of(context.target)?;
        let seen = roots(&from.files());
        let unknown = roots(&to.files())
            .into_iter()
            .filter(|path| !seen.contains(path));
        let captured = self.capture(&unit, unknown.collect()).await?;
        lock(&self.asides).insert(context.order_id, captured.held);
        let note = Note {
            target: context.target.clone(),
            exchange: exchange.clone(),
            aside: captured.snapshot,
        };
        self.note(context.order_id, &note)?;
        Ok(Done::said("all is there"))
    }

    /// Reads artifacts against their hashes.
    async fn whole(&self, needed: Vec<RevisionId>) -> Result<(), StepError> {
        let store = self.artifacts.clone();
        let verified = spawn_blocking(move || {
            needed
                .iter()
                .try_for_each(|artifact| store.verify(artifact))
        });
        let verified = verified.await.map_err(|error| broken(&error.to_string()))?;
        verified.map_err(|error| lost(&error))
    }

    /// Whether what ran when the restore was planned runs still. Not asked once something was changed: then it may have
    /// been started by that.
    async fn is_undisturbed(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
    ) -> Result<(), StepError> {
        if self.begun(context, &CHANGES)? {
            return Ok(());
        }
        let unit = unit_of(context.target)?;
        let state = self.bus.state(&unit).await.map_err(StepError::from)?;
        if state.instance() == exchange.main.instance {
            return Ok(());
        }
        // One that crashes in a loop is started again and again, as what it was.
        let now = self.inspect(&unit, state).await?.record;
        if exchange.from.is_some() && self.record_from(exchange)? == now {
            return Ok(());
        }
        Err(StepError {
            code: "changed-meanwhile".to_owned(),
            message: format!(
                "{unit} was started or reloaded since the plan was made: by somebody else, or because the host was restarted"
            ),
            next_step: SEE_WHO.to_owned(),
            transient: false,
        })
    }

    /// Has files put to where that snapshot says. What stands there now is looked at by the paths of both revisions.
    pub(super) async fn put(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
        name: &'static str,
        then: &Snapshot,
    ) -> Result<String, StepError> {
        let changes = self.changes(exchange, then).await?;
        let tag: String = context
            .order_id
            .simple()
            .to_string()
            .chars()
            .take(12)
            .collect();
        let task = Task::Files {
            artifacts: self.artifacts_dir.clone(),
            tag,
            changes,
        };
        Ok(self
            .works
            .carry_out(context.order_id, name, &task, BYTES)
            .await?)
    }

    async fn changes(
        &self,
        exchange: &Exchange,
        then: &Snapshot,
    ) -> Result<Vec<Change>, StepError> {
        let mut paths = roots(&self.record(&exchange.to)?.files());
        paths.extend(roots(&self.record_from(exchange)?.files()));
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        // Nothing is kept of it: on a disk that is full there must be a way back.
        let now = spawn_blocking(move || snapshot::look(&paths, LIMITS));
        let now = now.await.map_err(|error| broken(&error.to_string()))?;
        Ok(now
            .map_err(|error| WorkError::from(Failure::from(error)))?
            .changes_to(then))
    }

    /// What stood there before: the revision from before, and what it does not know of.
    pub(super) fn before(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
    ) -> Result<Snapshot, StepError> {
        let mut before = self
            .noted(context.order_id)?
            .map_or_else(Snapshot::default, |note| note.aside);
        before.0.extend(self.record_from(exchange)?.files().0);
        Ok(before)
    }

    /// The unit starts with the system as the revision says. None: it did so already.
    pub(super) async fn enable_as(
        &self,
        started: &Started,
        record: &UnitRecord,
    ) -> Result<Option<String>, StepError> {
        let unit = name_of(&started.unit)?;
        let now = self
            .bus
            .state(&unit)
            .await
            .map_err(StepError::from)?
            .enablement;
        // Whatever else it is, `static` or `linked`, is so by its files.
        let settable = |word: &str| matches!(word, "enabled" | "disabled");
        if now == record.enablement || !settable(&now) || !settable(&record.enablement) {
            return Ok(None);
        }
        let enabled = record.enablement == "enabled";
        self.bus
            .enable(&unit, enabled)
            .await
            .map_err(StepError::from)?;
        self.bus.reload().await.map_err(StepError::from)?;
        Ok(Some(format!("loaded anew, and {}", record.enablement)))
    }

    async fn start(&self, exchange: &Exchange, unit: &str) -> Result<Done, StepError> {
        let all = [&exchange.main].into_iter().chain(&exchange.beside);
        let started = all.into_iter().find(|one| one.unit == unit);
        let started = started.ok_or_else(|| broken("a unit of it is not in its plan"))?;
        if started.before == Before::Waited {
            let state = self
                .bus
                .state(&name_of(unit)?)
                .await
                .map_err(StepError::from)?;
            // One that was called meanwhile may run some of the one and some of the other.
            if !state.runs() || state.instance() == started.instance {
                return Ok(Done::said("it waits for what starts it"));
            }
        }
        self.bring_up(started).await
    }

    /// Starts a unit (again), and waits until it is up.
    pub(super) async fn bring_up(&self, started: &Started) -> Result<Done, StepError> {
        let unit = name_of(&started.unit)?;
        // The start limit counts this start, too.
        self.bus
            .reset_failed(&unit)
            .await
            .map_err(StepError::from)?;
        let ended = self.bus.job(Verb::Restart, &unit, started.patience).await;
        let state = match ended {
            Ok(JobEnd::Done) => self.bus.state(&unit).await.map_err(StepError::from)?,
            // Whoever asked for that decides what runs: it is looked at, and started by the next attempt.
            Ok(JobEnd::Canceled) => return Err(replaced(&unit)),
            Ok(_) => {
                let state = self.bus.state(&unit).await.map_err(StepError::from)?;
                return Err(not_up(&unit, &why_not(&state)));
            }
            Err(error) => return Err(StepError::from(error)),
        };
        if state.runs() || idles(&state) {
            return Ok(Done::said(format!("{unit} is {}", state.sub)));
        }
        Err(not_up(&unit, &why_not(&state)))
    }

    async fn verify(&self, context: &StepContext<'_>, unit: &str) -> Result<Done, StepError> {
        let name = name_of(unit)?;
        let checks = self.checks_of(unit).map_err(|reason| broken(&reason))?;
        let subject = Subject {
            bus: &self.bus,
            unit: &name,
            instance: "replacement",
            sink: context.evidence,
        };
        match subject.check(&checks).await.map_err(StepError::from)? {
            Verdict::Passed => Ok(Done::said("every check passed")),
            _ => Err(StepError {
                code: "check-failed".to_owned(),
                message: format!("a check of {unit} failed"),
                next_step: format!(
                    "see the evidence of that check, and `journalctl -u {unit}` on the host"
                ),
                transient: false,
            }),
        }
    }

    /// What was stopped, or started as what is to go, is started again.
    async fn start_what_ran(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
    ) -> Result<Done, StepError> {
        // Also where it is another instance by now: that is somebody else's, and serves.
        if !self.begun(context, &CHANGES)? {
            return Ok(Done::said("nothing was changed"));
        }
        let unit = name_of(&exchange.main.unit)?;
        self.bus.reload().await.map_err(StepError::from)?;
        if exchange.from.is_none() {
            self.bus
                .job(Verb::Stop, &unit, exchange.main.patience)
                .await
                .map(drop)
                .or_else(|error| match error {
                    BusError::NoSuchUnit { .. } => Ok(()),
                    error => Err(StepError::from(error)),
                })?;
            return Ok(Done::said("there was no such unit, and there is none"));
        }
        let from = self.record_from(exchange)?;
        self.enable_as(&exchange.main, &from).await?;
        let mut said = Vec::new();
        for started in [&exchange.main].into_iter().chain(&exchange.beside) {
            let unit = name_of(&started.unit)?;
            let now = self.bus.state(&unit).await.map_err(StepError::from)?;
            let same = now.instance() == started.instance;
            said.push(match started.before {
                Before::Ran if !same || now.active != Active::Active => {
                    self.bring_up(started).await?.message
                }
                Before::Waited if !same && now.runs() => self.bring_up(started).await?.message,
                Before::Ran | Before::Waited => format!("{unit} was not touched"),
                // It need not come up: it did not before.
                Before::Failed => match self.bring_up(started).await {
                    Ok(done) => done.message,
                    Err(error) if error.transient => return Err(error),
                    Err(error) => format!("{}, as before", error.message),
                },
                Before::Stopped => {
                    let stop = self.bus.job(Verb::Stop, &unit, started.patience).await;
                    stop.map_err(StepError::from)?;
                    format!("{unit} is stopped, as it was")
                }
            });
        }
        Ok(Done::said(said.join("; ")))
    }

    /// The record of a revision of this host.
    pub(super) fn record(&self, id: &RevisionId) -> Result<UnitRecord, StepError> {
        let bytes = self.artifacts.get(id).map_err(|error| lost(&error))?;
        UnitRecord::from_bytes(&bytes).map_err(|reason| broken(&reason))
    }

    /// That of what ran before; of nothing where nothing did.
    pub(super) fn record_from(&self, exchange: &Exchange) -> Result<UnitRecord, StepError> {
        match &exchange.from {
            Some(from) => self.record(from),
            None => Ok(UnitRecord::nothing(&exchange.main.unit)),
        }
    }
}

pub(super) fn name_of(unit: &str) -> Result<UnitName, StepError> {
    unit.parse().map_err(|error| broken(&format!("{error}")))
}

pub(super) fn broken(reason: &str) -> StepError {
    StepError {
        code: "record-unreadable".to_owned(),
        message: format!("what is known of it cannot be used: {reason}"),
        next_step: "choose another revision with `ctl history`".to_owned(),
        transient: false,
    }
}

/// What was kept is not there any more, or is not what it was.
pub(super) fn lost(error: &ArtifactError) -> StepError {
    let code = match error {
        ArtifactError::Missing { .. } => "artifact-missing",
        ArtifactError::Damaged { .. } => "artifact-damaged",
        _ => "artifact-failed",
    };
    StepError {
        code: code.to_owned(),
        message: format!("what was kept of it cannot be used: {error}"),
        next_step: "choose another revision with `ctl history`, and see the disk of the host"
            .to_owned(),
        transient: false,
    }
}

fn not_up(unit: &UnitName, why: &str) -> StepError {
    StepError {
        code: "start-failed".to_owned(),
        message: format!("{unit} does not come up: {why}"),
        next_step: format!("see why on the host: `journalctl -u {unit} -n 50`"),
        transient: false,
    }
}

fn replaced(unit: &UnitName) -> StepError {
    StepError {
        code: "job-replaced".to_owned(),
        message: format!("somebody else started or stopped {unit} at the same moment"),
        next_step: SEE_WHO.to_owned(),
        transient: true,
    }
}

impl From<BusError> for StepError {
    fn from(error: BusError) -> Self {
        Self::from(&error)
    }
}

impl From<KindError> for StepError {
    fn from(error: KindError) -> Self {
        let transient = matches!(error, KindError::Unreachable { .. });
        Self {
            code: "look-failed".to_owned(),
            message: error.to_string(),
            next_step: "look at the host: `systemctl status`".to_owned(),
            transient,
        }
    }
}
