//! The kind `docker` behind the trait that everyone else sees.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use sternway_proto::{
    name::TargetName,
    v1::{self, Verdict},
};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{
    DockerKind,
    checks::{Checks, run::Subject},
    client::EngineError,
    fields,
    normalise::image,
    plan::{self, Again, Facts},
    readiness::running_aside,
    record::{ContainerRecord, Hints, compose},
    recreate::volumes_to_carry,
    redirect,
    sharers::Hanging,
};
use crate::{
    engine::step::{Done, EvidenceSink, Step, StepContext, StepError},
    targets::{
        Changed, Content, Discovered, Draft, Hands, Kind, KindError, Known, Observed, PlanInput,
        Recorded,
    },
};

/// How long each attempt at a step waits for an engine that is away.
const PATIENCE: Duration = Duration::from_secs(45);
/// What the last resort is given at least.
const LAST_RESORT: Duration = Duration::from_mins(2);

#[async_trait]
impl Kind for DockerKind {
    fn label(&self) -> &'static str {
        Self::LABEL
    }

    fn hands(&self, target: &TargetName) -> Hands {
        let local = target.local();
        Hands {
            see: format!("docker ps -a --filter name={local}"),
            log: format!("docker logs {local}"),
            start: format!("docker start {local}"),
            engine: "docker info".to_owned(),
            disk: "docker system df".to_owned(),
        }
    }

    async fn describe(&self, facts: &mut v1::HostFacts) {
        self.describe(facts).await;
    }

    async fn discover(&self) -> Result<Discovered, KindError> {
        self.discover().await
    }

    async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        self.observe(target).await
    }

    async fn watch(&self, changed: Sender<Changed>) {
        self.watch(changed).await;
    }

    async fn plan(&self, input: &PlanInput) -> Result<Draft, KindError> {
        let target = &input.target;
        let to = record_of(target, &input.to)?;
        let from = match &input.from {
            None => None,
            Some(from) => Some(record_of(target, from)?),
        };
        let result = compose(from.as_ref(), &to, input.scope);
        let then = Hints::read(&input.to.hints);
        let now = input.from.as_ref().map(|from| Hints::read(&from.hints));
        let image_is_the_present_one = input.scope == v1::RestoreScope::Config && from.is_some();
        let hints = if image_is_the_present_one {
            now.clone().unwrap_or_default()
        } else {
            then.clone()
        };
        let content = content(target, &result, &hints)?;
        let result_id = content.id();
        let recorded = Recorded {
            id: result_id.clone(),
            number: input.to.number,
            record: content.record.clone(),
            hints: content.hints.clone(),
        };
        let problems = self.readiness(target, &recorded).await;
        let mut old = self.standing_container(target.local()).await?;
        let replaced = plan::replaced(target, &input.instance, old.as_ref());
        let hanging = match &old {
            None => Hanging::default(),
            Some(old) => self.hanging(target, &old.id).await?,
        };
        if let (Some(old), Some(from)) = (&mut old, &from) {
            let volumes = now.as_ref().map(|now| now.volumes.clone());
            old.again = Again::of(from, &volumes.unwrap_or_default());
        }
        let unshareable = plan::unshareable(target, &hanging.sharers, &result);
        let with = hanging.sharers.iter().map(|sharer| sharer.target.clone());
        let with = with.collect();
        let (declared, image_labels, pulls) = match self.engine.image(&result.image.id).await {
            Ok(image) => (image::volumes(&image), Some(image::labels(&image)), false),
            // It is pulled later: the container of then had a volume at each of these.
            Err(error) if error.is_not_found() => (
                then.volumes.keys().cloned().collect(),
                hints.image_labels.clone(),
                true,
            ),
            Err(error) => return Err(error.into()),
        };
        let from_labels = match (&from, &now) {
            (Some(from), Some(now)) => {
                from.labels_over(&now.image_labels.clone().unwrap_or_default())
            }
            _ => BTreeMap::new(),
        };
        let lost = plan::volumes_lost(target, old.as_ref(), &result, &declared);
        let seen = redirect::seen().await;
        // A cold swap asks for nothing of nft.
        let redirect = match input.swap {
            v1::Swap::Cold => Ok(()),
            _ => self.redirectable(&result, &seen).await?,
        };
        let decision = plan::decide(&Facts {
            target,
            from_number: input.from.as_ref().map_or(0, |from| from.number),
            to_number: input.to.number,
            from: from.as_ref(),
            result: &result,
            result_id: &result_id,
            image_labels: image_labels.as_ref(),
            from_labels,
            hints: &hints,
            volumes: volumes_to_carry(now.as_ref(), &then),
            sharers: hanging.sharers,
            old,
            swap: input.swap,
            redirect,
            has_health_check: self.has_health_check(&result).await,
            pulls,
        });
        let mut blockers: Vec<_> = replaced.into_iter().collect();
        blockers.extend(decision.blockers);
        blockers.extend(hanging.problems);
        blockers.extend(unshareable);
        blockers.extend(lost);
        blockers.extend(problems);
        // Never both: the replacement would be one more.
        let listed = self.engine.containers(&[]).await?;
        blockers.extend(running_aside(target, &listed));
        let (in_the_way, told) = self.led_elsewhere(target, &listed, &seen).await;
        blockers.extend(in_the_way);
        Ok(Draft {
            steps: decision.steps,
            result: content,
            with,
            swap: decision.swap,
            swap_reason: decision.swap_reason,
            checks: decision.checks,
            soak: decision.soak,
            waiting: decision.waiting,
            warnings: [decision.warnings, hanging.warnings, told].concat(),
            blockers,
            expected_outage: decision.expected_outage,
        })
    }

    async fn apply(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        self.awaited(step.timeout).await?;
        let done = self.apply(context, step).await;
        self.told(context, std::slice::from_ref(step), done).await
    }

    async fn undo(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        self.awaited(step.timeout).await?;
        let done = self.undo(context, step).await;
        self.told(context, std::slice::from_ref(step), done).await
    }

    async fn rescue(&self, context: &StepContext<'_>, steps: &[Step]) -> Result<Done, StepError> {
        self.awaited(LAST_RESORT).await?;
        let done = self.rescue(context, steps).await;
        self.told_whole(context, steps, done).await
    }

    async fn lay_aside(&self, context: &StepContext<'_>, steps: &[Step]) -> Result<(), StepError> {
        self.lay_aside(context, steps).await
    }

    async fn mend(&self, context: &StepContext<'_>, known: &Known) -> Result<Done, StepError> {
        self.awaited(LAST_RESORT).await?;
        let done = self.mend(context, known).await;
        self.told_whole(context, &[], done).await
    }

    async fn check(
        &self,
        target: &TargetName,
        recorded: &Recorded,
        evidence: &EvidenceSink,
    ) -> Result<Verdict, KindError> {
        let record = record_of(target, recorded)?;
        let Some(standing) = self.standing_container(target.local()).await? else {
            return Err(KindError::NotFound {
                target: target.clone(),
            });
        };
        let subject = Subject {
            engine: &self.engine,
            id: &standing.id,
            instance: "current",
            sink: evidence,
        };
        let labels = Hints::read(&recorded.hints)
            .image_labels
            .unwrap_or_default();
        let checks = Checks::of(&record, &labels);
        Ok(subject.check_all(&checks).await?)
    }

    fn unreadable(&self, recorded: &Recorded) -> Vec<v1::Problem> {
        let labels = Hints::read(&recorded.hints)
            .image_labels
            .unwrap_or_default();
        ContainerRecord::from_bytes(&recorded.record).map_or_else(
            |_| Vec::new(),
            |record| Checks::of(&record, &labels).problems,
        )
    }

    async fn readiness(&self, target: &TargetName, recorded: &Recorded) -> Vec<v1::Problem> {
        self.readiness(target, recorded).await
    }

    async fn beside(&self, target: &TargetName, open_orders: &[Uuid]) -> Vec<v1::Problem> {
        self.beside(target, open_orders).await
    }

    async fn keep(&self, target: &TargetName, kept: &[Recorded]) -> Result<(), KindError> {
        self.keep(target, kept).await
    }

    async fn collect(&self, open_orders: &[Uuid]) -> Result<(), KindError> {
        self.collect(open_orders).await
    }
}

fn record_of(target: &TargetName, recorded: &Recorded) -> Result<ContainerRecord, KindError> {
    ContainerRecord::from_bytes(&recorded.record).map_err(|error| KindError::Record {
        target: target.to_string(),
        reason: error.to_string(),
    })
}

fn content(
    target: &TargetName,
    record: &ContainerRecord,
    hints: &Hints,
) -> Result<Content, KindError> {
    let failed = |reason: String| KindError::Record {
        target: target.to_string(),
        reason,
    };
    Ok(Content {
        record: record
            .to_bytes()
            .map_err(|error| failed(error.to_string()))?,
        attachments: BTreeMap::new(),
        artifacts: Vec::new(),
        fields: fields::of(record),
        hints: serde_json::to_value(hints).map_err(|error| failed(error.to_string()))?,
        image: sternway_proto::name::clean_text(&record.image.reference),
        image_id: record.image.id.clone(),
        image_digest: hints.digests.first().cloned().unwrap_or_default(),
    })
}

impl DockerKind {
    /// Waits for an engine that is being restarted, for half of the time there is: what is asked of it meanwhile
    /// would use up the attempts there are in a second or two.
    async fn awaited(&self, time: Duration) -> Result<(), EngineError> {
        self.engine.awaited((time / 2).min(PATIENCE)).await
    }

    /// Whether the container will have a HEALTHCHECK: its own or its image's.
    async fn has_health_check(&self, record: &ContainerRecord) -> bool {
        let test = |health: &serde_json::Value| {
            let first = health["Test"].as_array().and_then(|test| test.first());
            first.map(|word| word.as_str() != Some("NONE"))
        };
        if let Some(own) = record.config.get("Healthcheck").and_then(test) {
            return own;
        }
        match self.engine.image(&record.image.id).await {
            Ok(image) => test(&image["Config"]["Healthcheck"]).unwrap_or(false),
            Err(_) => false,
        }
    }
}
