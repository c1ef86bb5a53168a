//! The last resort for an order without a journal: who is who is read from names, labels and times.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Done, StepContext, StepError, is_up, name_of, refused, short};
use crate::targets::{
    Known,
    docker::{
        DockerKind,
        client::EngineError,
        discover::labels_of,
        labels::{self, Role, own_name},
        normalise::text,
        plan::{Old, policy_of},
        record::{ContainerRecord, differences},
        redirect,
        sharers::owners,
    },
};

/// The restart policy, which an order sets last, and takes away first.
const POLICY: &str = "host.RestartPolicy";

impl DockerKind {
    /// Puts right what an order left of which nobody has the journal. Nothing is started that the order may not have
    /// stopped.
    ///
    /// # Errors
    /// Nothing of it runs, and nothing could be started.
    pub async fn mend(&self, context: &StepContext<'_>, known: &Known) -> Result<Done, StepError> {
        let Some((new, made)) = self.of_order(context, Role::Replacement).await? else {
            return self.without_new(context).await;
        };
        let target = context.target;
        let own = own_name(Role::Replacement, context.order_id, target);
        if ![own.as_str(), target.local()].contains(&name_of(&made)) {
            // Its standby and its redirect are nobody's where somebody else serves.
            let holder = self.named(target.local()).await?;
            if let Some(holder) = holder.filter(|holder| is_up(holder) && !is_of(holder, context)) {
                let warm = self.may_redirect(context).await?;
                self.quiet(context, warm, Some(text(&holder, "Id"))).await?;
            }
            return Err(renamed(&made, context));
        }
        let aside = self
            .named(&own_name(Role::Previous, context.order_id, target))
            .await?;
        let holder = self
            .named(target.local())
            .await?
            .filter(|holder| !is_of(holder, context));
        let before = aside.or(holder);
        let old = before.clone().filter(|old| was_stopped_by_it(old, &made));
        if old.is_none() && !is_up(&made) {
            if let Some(before) = before.filter(|before| !is_up(before)) {
                let id = text(&before, "Id");
                // It does not run and is left so: a policy that stays `no` changes nothing.
                let _ = self.arm(id, None, Some(&as_it_was(&before, known))).await;
            }
            if self.vanished_before(known).await? {
                return Err(vanished(context, &new));
            }
            return self.without_old(context, &new, &made).await;
        }
        let record = self.revision_of(&new, known).await?;
        let disarmed = old.as_ref().is_some_and(|old| {
            recorded_policy(old, known).is_none()
                && text(&old["HostConfig"]["RestartPolicy"], "Name") == "no"
        });
        let old = old.map(|inspect| as_it_was(&inspect, known));
        let warm = self.may_redirect(context).await?;
        // What it shares may be started by the mend of another target.
        let waits = owners(&made).next().is_some();
        let mut done = self.rescue_of(context, old, record, warm).await.map_err(|error| {
            let order = context.order_id;
            StepError {
                transient: error.transient || waits,
                next_step: format!(
                    "see why on the host (`docker ps -a --filter label=sternway.order={order}`, `docker logs`), start \
                     what is to run, or deploy {} again",
                    target.local()
                ),
                ..error
            }
        })?;
        // It is taken away wherever another one runs and its redirect can be ended.
        if self.standby_runs(context).await? && !self.runs_besides(context).await? {
            return Err(refused(
                "only-standby",
                done.message,
                format!("start {0} again, or deploy {0} again", target.local()),
            ));
        }
        if disarmed {
            done.message = format!(
                "{}; its restart policy is `no`, and nobody knows whether the order did that: `docker update --restart \
                 POLICY {}` sets another",
                done.message,
                target.local()
            );
        }
        if self.tidied(context).await? {
            done.message = format!("{}; the half-made one is removed", done.message);
        }
        Ok(done)
    }

    /// Whether what ran before was started with `--rm` and is gone: by the order, or by itself, nobody can tell.
    async fn vanished_before(&self, known: &Known) -> Result<bool, EngineError> {
        let Some((instance, recorded)) = &known.before else {
            return Ok(false);
        };
        let record = ContainerRecord::from_bytes(&recorded.record);
        let vanishes = record.is_ok_and(|record| record.removes_itself());
        Ok(vanishes && self.found(instance).await?.is_none())
    }

    /// It came to a standby at most: what runs is as it was.
    async fn without_new(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        if !self.may_redirect(context).await? {
            return Ok(Done::said("nothing of it is left"));
        }
        let name = context.target.local();
        match self.named(name).await? {
            Some(holder) if is_up(&holder) => {
                let left = self.quiet(context, true, Some(text(&holder, "Id"))).await?;
                Ok(Done::said(if left.is_empty() {
                    format!("{name} runs as it did; the standby is removed")
                } else {
                    format!("{name} runs as it did{left}")
                }))
            }
            _ => Err(refused(
                "only-standby",
                format!("{name} does not run; its standby is left as it is"),
                format!("start {name} again, or deploy it again"),
            )),
        }
    }

    /// What it was to replace is not there, or was not running when the order came: nothing is started.
    async fn without_old(
        &self,
        context: &StepContext<'_>,
        new: &str,
        made: &Value,
    ) -> Result<Done, StepError> {
        let name = context.target.local();
        let holder = self.named(name).await?;
        if name_of(made) == name {
            return Err(refused(
                "nothing-runs",
                format!(
                    "nothing runs: container {}, which it made, never proved itself, and what was there before is gone or \
                     had stopped before the order",
                    short(new)
                ),
                format!(
                    "restore a revision that is kept, or deploy {name} again; `docker rm {name}` on the host takes the \
                     half-made container away"
                ),
            ));
        }
        self.tidied(context).await?;
        let left = self
            .quiet(context, self.may_redirect(context).await?, None)
            .await?;
        let mut said = match holder {
            Some(holder) if is_up(&holder) => {
                format!(
                    "{name} runs as it did; the half-made container {} is removed",
                    short(new)
                )
            }
            Some(_) => format!(
                "{name} had stopped before it and is left so; the half-made container {} is removed",
                short(new)
            ),
            None => format!(
                "there was no {name} and there is none; the half-made container {} is removed",
                short(new)
            ),
        };
        said.push_str(&left);
        Ok(Done::said(said))
    }

    /// Takes the half-made container away, unless it runs or bears a name that matters.
    async fn tidied(&self, context: &StepContext<'_>) -> Result<bool, StepError> {
        let own = own_name(Role::Replacement, context.order_id, context.target);
        match self.of_order(context, Role::Replacement).await? {
            Some((id, inspect)) if !is_up(&inspect) && name_of(&inspect) == own => {
                self.engine.remove_container(&id, true).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn named(&self, name: &str) -> Result<Option<Value>, EngineError> {
        let found = self.found(name).await?;
        Ok(found.filter(|found| name_of(found) == name))
    }

    async fn standby_runs(&self, context: &StepContext<'_>) -> Result<bool, StepError> {
        let standby = self.of_order(context, Role::Standby).await?;
        Ok(standby.is_some_and(|(_, inspect)| is_up(&inspect)))
    }

    /// Whether what bears the target's name runs.
    async fn runs_besides(&self, context: &StepContext<'_>) -> Result<bool, StepError> {
        let holder = self.named(context.target.local()).await?;
        Ok(holder.is_some_and(|holder| is_up(&holder)))
    }

    /// Whether there is a standby of it, or a redirect to one.
    async fn may_redirect(&self, context: &StepContext<'_>) -> Result<bool, StepError> {
        let standby = self.of_order(context, Role::Standby).await?;
        let redirected = redirect::phase(context.order_id).await;
        Ok(standby.is_some() || redirected.is_ok_and(|phase| phase.is_some()))
    }

    /// The recorded revision that a container is of, but for its restart policy.
    async fn revision_of(
        &self,
        id: &str,
        known: &Known,
    ) -> Result<Option<ContainerRecord>, StepError> {
        let found = match self.inspected(id).await {
            Ok(inspected) => inspected.record,
            // Its image is gone: whose it was does not matter for whether it runs.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(known
            .revisions
            .iter()
            .filter_map(|recorded| ContainerRecord::from_bytes(&recorded.record).ok())
            .find(|recorded| {
                let different = differences(recorded, &found);
                different.iter().all(|path| path == POLICY)
            }))
    }
}

fn recorded_policy(inspect: &Value, known: &Known) -> Option<Value> {
    let (instance, recorded) = known.before.as_ref()?;
    let record = ContainerRecord::from_bytes(&recorded.record).ok()?;
    (instance == text(inspect, "Id")).then(|| policy_of(&record))
}

/// The container from before with the policy that it was recorded with. Where that is not known it keeps the one it
/// has.
fn as_it_was(inspect: &Value, known: &Known) -> Old {
    let present = &inspect["HostConfig"]["RestartPolicy"];
    let policy = match recorded_policy(inspect, known) {
        Some(policy) => policy,
        None if text(present, "Name").is_empty() => json!({"Name": "no"}),
        None => present.clone(),
    };
    Old {
        id: text(inspect, "Id").to_owned(),
        ran: true,
        paused: false,
        policy,
        again: None,
    }
}

/// The half-made one is all that is left: it stays for whoever decides.
fn vanished(context: &StepContext<'_>, new: &str) -> StepError {
    let name = context.target.local();
    refused(
        "nothing-runs",
        format!(
            "nothing runs: what ran before was started with --rm and is gone, and container {}, which it made, never \
             proved itself",
            short(new)
        ),
        format!(
            "deploy {name} again, or see whether what it made does its work: `docker rename {0} {name}`, `docker start \
             {name}`",
            short(new)
        ),
    )
}

/// Somebody has it under a name of their own: it is theirs now.
fn renamed(made: &Value, context: &StepContext<'_>) -> StepError {
    let name = name_of(made);
    refused(
        "renamed",
        format!("the container that it made was renamed to {name}: nothing is touched"),
        format!(
            "see what runs, and deploy {} again where that is not what is wanted; {name} is left to you",
            context.target.local()
        ),
    )
}

fn is_of(inspect: &Value, context: &StepContext<'_>) -> bool {
    labels_of(inspect)
        .get(labels::ORDER)
        .is_some_and(|order| *order == context.order_id.to_string())
}

/// Whether what bears the name still runs, or is from before the order and stopped only when that was under way: it
/// makes the new one first.
fn was_stopped_by_it(holder: &Value, made: &Value) -> bool {
    let time = |value: &Value, key: &str| text(value, key).parse::<Timestamp>().ok();
    is_up(holder)
        || matches!(
            (time(holder, "Created"), time(&holder["State"], "FinishedAt"), time(made, "Created")),
            (Some(deployed), Some(stopped), Some(made)) if deployed < made && made < stopped
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_stopped_before_the_order_is_not_started() {
        let made = json!({"Created": "2026-01-02T00:00:00.5Z"});
        let holder = |running: bool, created: &str, finished: &str| json!({"Created": created, "State": {"Running": running, "FinishedAt": finished}});
        let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:01Z");
        let stopped = |holder: &Value| was_stopped_by_it(holder, &made);
        assert!(stopped(&holder(true, before, "0001-01-01T00:00:00Z")));
        assert!(stopped(&holder(false, before, after)));
        assert!(!stopped(&holder(false, before, "2026-01-01T23:59:59Z")));
        // Deployed after the order, and stopped by whoever did that.
        assert!(!stopped(&holder(false, after, "2026-01-03T00:00:00Z")));
        assert!(!stopped(&holder(false, before, "")));
    }
}
