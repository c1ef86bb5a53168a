//! Containers that were started with `--rm`: the engine removes them once they have stopped, so that an undo has to
//! create such a one anew where it only starts others.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Done, StepContext, StepError, is_up, refused, short};
use crate::targets::docker::{
    DockerKind,
    labels::Role,
    plan::Old,
    recreate::{CreateOptions, create},
};

/// How long the engine may take to remove what was started with `--rm`, once that has stopped.
const VANISHES: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

impl DockerKind {
    /// Waits until a container that removes itself has: its name is free then.
    pub(super) async fn vanished(&self, id: &str) -> Result<Done, StepError> {
        let end = Instant::now() + VANISHES;
        while self.found(id).await?.is_some() {
            if Instant::now() >= end {
                return Err(StepError {
                    transient: true,
                    ..refused(
                        "still-there",
                        format!(
                            "container {} was started with --rm, is stopped, and is not removed",
                            short(id)
                        ),
                        format!(
                            "see what the engine says of it (`docker ps -a`, its log), and remove it: `docker rm {}`",
                            short(id)
                        ),
                    )
                });
            }
            sleep(PAUSE).await;
        }
        Ok(Done::said(format!(
            "container {} is stopped, and removed as --rm asks",
            short(id)
        )))
    }

    /// The container from before: itself, or, where it has removed itself, another one of the same record under its
    /// name.
    pub(super) async fn brought_back(
        &self,
        context: &StepContext<'_>,
        old: &Old,
    ) -> Result<String, StepError> {
        let Some(again) = &old.again else {
            return Ok(old.id.clone());
        };
        if self
            .found(&old.id)
            .await?
            .is_some_and(|found| is_up(&found))
        {
            return Ok(old.id.clone());
        }
        self.vanished(&old.id).await?;
        if let Some((id, inspect)) = self.of_order(context, Role::Again).await? {
            if inspect["State"]["Status"] != "created" {
                return Ok(id);
            }
            // An earlier attempt made it and was cut off: it may lack a network.
            self.engine.remove_container(&id, true).await?;
        }
        let options = CreateOptions {
            name: context.target.local().to_owned(),
            labels: Self::labels_for(context, Role::Again),
            restarts: true,
            publish: true,
            volumes: again.volumes.clone(),
        };
        Ok(create(&self.engine, &again.record, &options).await?.id)
    }
}

pub(super) fn removes_itself(inspect: &Value) -> bool {
    inspect["HostConfig"]["AutoRemove"].as_bool() == Some(true)
}
