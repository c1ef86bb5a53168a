//! Steps about the containers that share a namespace of the one that is replaced: the same jobs, at another target.

use serde_json::json;
use sternway_proto::name::TargetName;

use super::{StepContext, StepError, refused};
use crate::targets::docker::{
    DockerKind,
    client::EngineError,
    labels::Role,
    plan::Job,
    record::{ContainerRecord, SHARED},
};

impl DockerKind {
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
    )
}
