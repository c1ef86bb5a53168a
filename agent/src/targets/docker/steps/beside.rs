//! Steps about the containers that share a namespace of the one that is replaced: the same jobs, at another target.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use sternway_proto::name::TargetName;
use tokio::time::{Instant, sleep};

use super::{Done, NEWER_AGENT, StepContext, StepError, is_up, refused, runs, short};
use crate::targets::docker::{
    DockerKind,
    client::EngineError,
    labels::Role,
    normalise::text,
    plan::{Job, Old},
    record::{ContainerRecord, SHARED},
    sharers::owners,
};

/// How long a container that is restarted again and again is waited for.
const OWNER_RUNS: Duration = Duration::from_secs(15);
/// How long one that was started once more must run.
const STAYS_UP: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

impl DockerKind {
    /// Nothing is begun where something else shares a namespace by now than was planned.
    pub(super) async fn hangs_as_planned(
        &self,
        context: &StepContext<'_>,
        old: &Old,
        planned: &BTreeSet<String>,
    ) -> Result<(), StepError> {
        if self.found(&old.id).await?.is_none() {
            return Ok(());
        }
        let hang = self.that_hang(context.target, &old.id).await?;
        let now: BTreeSet<&str> = hang.iter().map(|inspect| text(inspect, "Id")).collect();
        if planned.iter().map(String::as_str).eq(now.iter().copied()) {
            return Ok(());
        }
        Err(StepError {
            // A probe that ends in a second is no reason to turn back.
            transient: true,
            ..refused(
                "changed-by-another",
                format!(
                    "other containers share a namespace of {} than when it was planned",
                    context.target
                ),
                "plan again: `ctl rollback --dry-run` shows what would happen now",
            )
        })
    }

    /// Whether it was to run once, and did: nobody wants it restarted, and it says that all is well.
    pub(super) async fn has_ended_well(
        &self,
        context: &StepContext<'_>,
        policy: &Value,
    ) -> Result<bool, StepError> {
        let (_, inspect) = self.replacement(context).await?;
        Ok(policy["Name"] == "no" && ended_well(&inspect))
    }

    /// Whether what bears the target's name ended and says that all is well.
    pub(super) async fn holder_ended_well(
        &self,
        context: &StepContext<'_>,
    ) -> Result<bool, EngineError> {
        let holder = self.found(context.target.local()).await?;
        Ok(holder.is_some_and(|holder| ended_well(&holder)))
    }

    /// What is said of a container that cannot be started, because the one whose namespace it shares does not run.
    pub(super) async fn ownerless(&self, id: &str) -> Result<Option<Done>, StepError> {
        let Some(inspect) = self.found(id).await? else {
            return Ok(None);
        };
        let end = Instant::now() + OWNER_RUNS;
        loop {
            let mut all = true;
            for owner in owners(&inspect) {
                let found = self.found(owner).await?;
                all = all && found.is_some_and(|owner| runs(&owner));
            }
            if all {
                return Ok(None);
            }
            if Instant::now() >= end {
                return Ok(Some(Done::said(format!(
                    "container {} is left stopped: the one whose namespace it shares does not run",
                    short(id)
                ))));
            }
            sleep(PAUSE).await;
        }
    }

    /// What shares a namespace may have ended because the target was not up yet: with its own policy it is started
    /// once more.
    pub(super) async fn started_once_more(
        &self,
        context: &StepContext<'_>,
        policy: &Value,
    ) -> Result<(), StepError> {
        let (id, inspect) = self.replacement(context).await?;
        if is_up(&inspect) || policy["Name"] == "no" {
            return Ok(());
        }
        self.engine.start_container(&id).await?;
        sleep(STAYS_UP).await;
        Ok(())
    }

    /// The record with the namespaces that it shares bound to what this order made of their containers: those do not
    /// bear their names yet.
    pub(super) async fn bound(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
    ) -> Result<ContainerRecord, EngineError> {
        let mut record = record.clone();
        for setting in SHARED {
            let Some(mode) = record.host.get_mut(setting) else {
                continue;
            };
            let name = mode
                .as_str()
                .and_then(|mode| mode.strip_prefix("container:"));
            let Some(other) = name.and_then(|name| self.target_named(name)) else {
                continue;
            };
            if let Some((id, _)) = self
                .of_order(&context.at(&other), Role::Replacement)
                .await?
            {
                *mode = json!(format!("container:{id}"));
            }
        }
        Ok(record)
    }
}

/// Whether it is over, and says itself that all is well.
pub(in crate::targets::docker) fn ended_well(inspect: &Value) -> bool {
    let state = &inspect["State"];
    state["Status"] == "exited" && state["ExitCode"] == 0
}

/// Which target a job is about, and the job itself.
pub(super) fn part(ordered: &TargetName, job: Job) -> (TargetName, Job) {
    match job {
        Job::Beside { target, job } => (target, *job),
        job => (ordered.clone(), job),
    }
}

pub(super) fn nested(target: &TargetName) -> StepError {
    refused(
        "step-unreadable",
        format!("a step about {target} lies within another such step"),
        NEWER_AGENT,
    )
}
