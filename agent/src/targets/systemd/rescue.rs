//! The last resort: neither the restore nor its undo could be completed. What ran before is put back once more, else what
//! was to run, and whatever can be started is.

use sternway_proto::name::TargetName;

use super::{
    SystemdKind, lock,
    note::{Before, Exchange, Payload},
    packages::Way,
    record::UnitRecord,
    state::{idles, why_not},
    steps::{CHANGES, FILES, FILES_AFTER, FILES_BACK, PACKAGES, PACKAGES_BACK, name_of},
};
use crate::{
    engine::step::{Done, SERVED_BY_ANOTHER, Step, StepContext, StepError},
    snapshot::Snapshot,
    targets::{Made, NOTHING_RUNS},
};

impl SystemdKind {
    pub(super) async fn rescue_steps(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
    ) -> Result<Done, StepError> {
        let Some(first) = steps.first() else {
            return Ok(Done::said("nothing was changed"));
        };
        let exchange = Payload::of(first)?.exchange;
        if self.begun(context, &CHANGES)? {
            return self.rescue_of(context, &exchange).await;
        }
        // Nothing of it was changed: what stands there is somebody else's, and no file of it is touched.
        let unit = name_of(&exchange.main.unit)?;
        let state = self.bus.state(&unit).await.map_err(StepError::from)?;
        if !state.runs() && exchange.main.before == Before::Ran {
            return self.bring_up(&exchange.main).await;
        }
        let message = format!("{unit} was not touched by it");
        if state.runs() || idles(&state) {
            return Ok(Done {
                message,
                output: serde_json::json!({ (SERVED_BY_ANOTHER): true }),
            });
        }
        let why_not = why_not(&state);
        Ok(Done::said(format!(
            "{message}, and does not run, as before: {why_not}"
        )))
    }

    pub(super) async fn mend_order(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        let Some(note) = self.noted(context.order_id)? else {
            self.works.let_go(context.order_id).await?;
            return Ok(Done::said("nothing of it is left"));
        };
        let done = if self.begun(context, &CHANGES)? {
            let done = self.rescue_of(context, &note.exchange).await?;
            let unit = name_of(&note.exchange.main.unit)?;
            let state = self.bus.state(&unit).await.map_err(StepError::from)?;
            let started = (state.instance(), context.order_id);
            lock(&self.mended).insert(note.target, started);
            done
        } else {
            Done::said(format!("{} was not touched by it", note.exchange.main.unit))
        };
        self.works.let_go(context.order_id).await?;
        Ok(done)
    }

    /// The order without a journal for which that instance was started, where one was: what is told of it is told on.
    pub(super) fn mended_as(&self, target: &TargetName, instance: &str) -> Option<Made> {
        let (started, order) = lock(&self.mended).get(target).cloned()?;
        (started == instance).then(|| Made {
            target: target.clone(),
            order,
            instance: started,
            begun: true,
        })
    }

    async fn rescue_of(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
    ) -> Result<Done, StepError> {
        // What was done before is no end of what is done now.
        let works = [PACKAGES, PACKAGES_BACK, FILES, FILES_BACK, FILES_AFTER];
        self.works.anew(context.order_id, &works)?;
        let mut said = Vec::new();
        let mut waits = None;
        for way in [Way::Back, Way::Forward] {
            if way == Way::Back && exchange.from.is_none() {
                continue;
            }
            match self.all_of(context, exchange, way).await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    said.push(error.message.clone());
                    // It may go well in a moment: the other way would be the one that failed before.
                    if error.transient {
                        waits = Some(error);
                        break;
                    }
                }
            }
        }
        // Mixed as it may be: what runs serves.
        for started in [&exchange.main].into_iter().chain(&exchange.beside) {
            let unit = name_of(&started.unit)?;
            let state = self.bus.state(&unit).await.map_err(StepError::from)?;
            if !state.runs() && started.before != Before::Waited {
                let up = self.bring_up(started).await;
                said.extend(up.err().map(|error| error.message));
            }
        }
        if let Some(error) = waits {
            return Err(error);
        }
        let unit = name_of(&exchange.main.unit)?;
        let state = self.bus.state(&unit).await.map_err(StepError::from)?;
        if state.runs() {
            return Ok(Done::said(format!(
                "{unit} runs, and not all of its files are of one revision: {}",
                said.join("; ")
            )));
        }
        Err(StepError {
            code: NOTHING_RUNS.to_owned(),
            message: format!("{unit} does not run: {}", said.join("; ")),
            next_step: format!(
                "see why on the host (`journalctl -u {unit}`), mend it, and `systemctl restart {unit}`"
            ),
            transient: false,
        })
    }

    async fn all_of(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
        way: Way,
    ) -> Result<Done, StepError> {
        let (record, then, name): (UnitRecord, Snapshot, _) = match way {
            Way::Back => (
                self.record_from(exchange)?,
                self.before(context, exchange)?,
                FILES_BACK,
            ),
            Way::Forward => {
                let to = self.record(&exchange.to)?;
                let files = to.files();
                (to, files, FILES)
            }
        };
        if self.begun(context, &[PACKAGES])? {
            self.install(context, exchange, way).await?;
        }
        self.put(context, exchange, name, &then).await?;
        self.bus.reload().await.map_err(StepError::from)?;
        self.enable_as(&exchange.main, &record).await?;
        for started in [&exchange.main].into_iter().chain(&exchange.beside) {
            match (way, started.before) {
                (_, Before::Waited) | (Way::Back, Before::Stopped) => {}
                (Way::Back, Before::Failed) => drop(self.bring_up(started).await),
                (Way::Back, Before::Ran) | (Way::Forward, _) => {
                    self.bring_up(started).await?;
                }
            }
        }
        let what = match way {
            Way::Back => "what ran before runs again",
            Way::Forward => "what was ordered runs",
        };
        Ok(Done::said(what))
    }
}
