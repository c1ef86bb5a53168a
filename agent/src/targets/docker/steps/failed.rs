//! What an order made, what ran, and what its undo takes back: stopped, renamed and kept, because its log says why it
//! failed. What shares a namespace of the target, and what was started with `--rm`, is not kept.

use serde_json::{Value, json};

use super::{Done, StepContext, StepError, again::removes_itself, is_up, short};
use crate::targets::docker::{
    DockerKind,
    client::EngineError,
    discover::listed_name,
    labels::{self, Role, own_name},
    normalise::text,
    plan::redirected,
};

/// Those of one target that are kept at most, the newest.
const KEPT: usize = 3;

impl DockerKind {
    /// The undo of the creation.
    pub(super) async fn take_new_back(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context, Role::Replacement).await? {
            Some((id, inspect)) if says_why(&inspect) => {
                self.put_aside(context, &id, &inspect).await
            }
            _ => self.remove_new(context).await,
        }
    }

    /// The undo of a standby's start. One that clients were sent to was good, and has nothing to tell.
    pub(super) async fn take_standby_back(
        &self,
        context: &StepContext<'_>,
    ) -> Result<Done, StepError> {
        match self.of_order(context, Role::Standby).await? {
            Some((id, inspect)) if says_why(&inspect) && !redirected(context.outputs) => {
                self.put_aside(context, &id, &inspect).await
            }
            _ => self.stop_standby(context).await,
        }
    }

    /// From its new name on it is none of the order's any more: that comes last.
    async fn put_aside(
        &self,
        context: &StepContext<'_>,
        id: &str,
        inspect: &Value,
    ) -> Result<Done, StepError> {
        if is_up(inspect) {
            self.stop(id).await?;
        }
        let aside = own_name(Role::Failed, context.order_id, context.target);
        let kept = async {
            let never = json!({"RestartPolicy": {"Name": "no"}});
            self.engine.update_container(id, &never).await?;
            self.engine.rename_container(id, &aside).await
        };
        match kept.await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            // The target is what matters: under its old name it would be taken for half-made.
            Err(_) => {
                self.engine.remove_container(id, true).await?;
                return Ok(Done::said(format!("removed container {}", short(id))));
            }
        }
        // Those that are too many now go with the next one, or at the end of their time.
        let _ = self.let_older_go(context).await;
        Ok(Done::said(format!(
            "container {} is kept, stopped: `docker logs {aside}` on the host says why it failed",
            short(id)
        )))
    }

    async fn let_older_go(&self, context: &StepContext<'_>) -> Result<(), EngineError> {
        // By its name alone it could be somebody's who chose such a one.
        let listed = self.engine.containers(&[labels::ORDER.to_owned()]).await?;
        let local = context.target.local();
        let mut kept: Vec<(&str, &str)> = listed
            .iter()
            .filter_map(|one| {
                let (order, of) = labels::of_role(listed_name(one)?, Role::Failed)?;
                (of == local).then_some((order, text(one, "Id")))
            })
            .collect();
        // The id of an order begins with its time.
        kept.sort_unstable();
        let many = kept.len().saturating_sub(KEPT);
        for (_, id) in kept.into_iter().take(many) {
            self.engine.remove_container(id, false).await?;
        }
        Ok(())
    }
}

/// How a person reads the log of what this order made, which its undo keeps.
pub(super) fn see_log(context: &StepContext<'_>) -> String {
    let aside = own_name(Role::Failed, context.order_id, context.target);
    format!("see its log on the host, where it is kept (`docker logs {aside}`)")
}

/// Whether anything can be learnt from it: it ran, and it does not take its log with it.
fn says_why(inspect: &Value) -> bool {
    inspect["State"]["Status"] != "created" && !removes_itself(inspect)
}
