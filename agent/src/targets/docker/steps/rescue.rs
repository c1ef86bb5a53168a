//! The last resort: exactly one of the two runs, whichever can.

use super::{job, refused, runs, short};
use crate::{
    engine::step::{Done, Step, StepContext, StepError},
    targets::docker::{
        DockerKind,
        labels::Role,
        plan::{Job, Old},
        record::ContainerRecord,
    },
};

impl DockerKind {
    /// Makes exactly one instance run and says which. A redirect to a standby that runs stays.
    ///
    /// # Errors
    /// Nothing could be started.
    pub async fn rescue(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
    ) -> Result<Done, StepError> {
        let (old, record) = parties(steps);
        let new = self.of_order(context.order_id, Role::Replacement).await?;
        let new_runs = new.as_ref().is_some_and(|(_, inspect)| runs(inspect));
        if let Some(old) = &old
            && let Some(inspect) = self.found(&old.id).await?
        {
            if !runs(&inspect) && !new_runs {
                // If it does not start, the new one is tried below.
                let _ = self.engine.start_container(&old.id).await;
            }
            if self
                .found(&old.id)
                .await?
                .is_some_and(|inspect| runs(&inspect))
            {
                if new_runs && let Some((id, _)) = &new {
                    self.engine.stop_container(id, None).await?;
                }
                self.arm(&old.id, None, Some(old)).await;
                return Ok(Done::said(format!(
                    "container {}, the one from before, runs",
                    short(&old.id)
                )));
            }
        }
        if let Some((id, _)) = &new {
            self.engine.start_container(id).await?;
            self.arm(id, record.as_ref(), None).await;
            return Ok(Done::said(format!("container {id:.12}, the new one, runs")));
        }
        Err(refused(
            "nothing-runs",
            "neither the container from before nor the new one can be started".to_owned(),
        ))
    }
}

fn parties(steps: &[Step]) -> (Option<Old>, Option<ContainerRecord>) {
    let mut found = (None, None);
    for step in steps {
        match job(step) {
            Ok(Job::StopOld { old }) => found.0 = Some(old),
            Ok(Job::CreateNew { record, .. }) => found.1 = Some(*record),
            _ => {}
        }
    }
    found
}
