//! The steps of a restore on the engine. Each finds things by the label of its order and by the ids in its
//! payload, never by name alone, and may find its work done, half done or not begun.

mod again;
mod beside;
mod cold;
mod failed;
mod mend;
mod rescue;
mod warm;

pub(super) use beside::ended_well;
use beside::{nested, part};
pub(super) use cold::as_it_is;
pub(super) use warm::bridge_of;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use sternway_proto::name::TargetName;
use tokio::time::timeout;

use super::{
    DockerKind,
    checks::private::{LOOKED_AT, Private},
    client::{EngineError, NO_SPACE},
    discover::listed_name,
    labels::{self, Role},
    normalise::{self, text},
    plan::Job,
};
use crate::engine::step::{Done, Step, StepContext, StepError};

/// Somebody else was at the containers meanwhile.
const SEE_WHO: &str = "see who changes it (`docker events --since 1h` on the host), and roll back again if it is still \
                       wanted";
/// A plan that another version wrote.
const NEWER_AGENT: &str =
    "start the agent of the version that began this order, or a newer one; then the order goes on";

/// How long the look at the containers of a failed step may take.
const SEEN_AGAIN: Duration = Duration::from_secs(10);

impl DockerKind {
    /// Carries a step out.
    ///
    /// # Errors
    /// As the step says.
    pub async fn apply(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        let (target, job) = part(context.target, job(step)?);
        let beside = target != *context.target;
        let context = &context.at(&target);
        match job {
            Job::Commit { policy, .. }
                if beside && self.has_ended_well(context, &policy).await? =>
            {
                Ok(Done::said(format!("{target} has done its work and ended")))
            }
            Job::Commit { policy, old } if beside => {
                self.started_once_more(context, &policy).await?;
                self.commit(context, &policy, old.as_ref()).await
            }
            Job::FetchImage { image, hints } => self.fetch_image(&image, &hints).await,
            Job::StartStandby { record } => self.start_standby(context, &record).await,
            Job::VerifyStandby { record } => self.verify_standby(context, &record).await,
            Job::Redirect { ports, old } => self.redirect(context, &ports, old.as_ref()).await,
            Job::DrainOld { wait, old, ports } => {
                Ok(self.drain_old(old.as_ref(), &ports, wait).await)
            }
            Job::CreateNew { record, volumes } => self.create_new(context, &record, &volumes).await,
            Job::DisarmOld { old, with } => self.disarm_old(context, &old, with.as_ref()).await,
            Job::StopOld { old } => self.stop_old(context, &old).await,
            Job::SwapNames { old } => self.swap_names(context, old.as_ref()).await,
            Job::StartNew => self.start_new(context).await,
            Job::Verify { record, revision } => self.verify(context, &record, &revision).await,
            Job::Commit { policy, old } => self.commit(context, &policy, old.as_ref()).await,
            Job::EndRedirect { ports, wait } => self.end_redirect(context, &ports, wait).await,
            Job::StopStandby => self.stop_standby(context).await,
            Job::Beside { target, .. } => Err(nested(&target)),
        }
    }

    /// Takes a step back.
    ///
    /// # Errors
    /// As the step says.
    pub async fn undo(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        let (target, job) = part(context.target, job(step)?);
        let beside = target != *context.target;
        let context = &context.at(&target);
        match job {
            Job::FetchImage { .. } => Ok(Done::said("the image stays")),
            Job::StartStandby { .. } => self.take_standby_back(context).await,
            Job::StopStandby => self.stop_standby(context).await,
            Job::VerifyStandby { .. } | Job::DrainOld { .. } | Job::Verify { .. } => {
                Ok(Done::said("nothing to undo"))
            }
            Job::Redirect { .. } => self.undo_redirect(context).await,
            // Back to where the redirect stood: the container that comes back needs a moment, too.
            Job::EndRedirect { ports, .. } => self.redirect_again(context, &ports).await,
            Job::CreateNew { .. } if beside => self.remove_new(context).await,
            Job::CreateNew { .. } => self.take_new_back(context).await,
            Job::DisarmOld { old, .. } => self.rearm_old(context, &old).await,
            Job::StopOld { old } => self.start_old(context, &old, beside).await,
            Job::SwapNames { old } => self.swap_names_back(context, old.as_ref()).await,
            Job::StartNew => self.stop_new(context).await,
            Job::Commit { .. } => self.uncommit(context).await,
            Job::Beside { target, .. } => Err(nested(&target)),
        }
    }

    /// What came of a step as it may be told: an engine may quote what it could not create or start, so the private
    /// values of all containers it has to do with are blanked in a failure.
    pub(super) async fn told(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
        done: Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        let Err(error) = done else {
            return done;
        };
        // An engine that does not answer quotes nothing, and is not waited for once more.
        let answered = !error.transient || error.code == NO_SPACE;
        let private = self.private_of(context, steps, answered).await;
        Err(StepError {
            message: private.blank(error.message.as_bytes(), LOOKED_AT),
            ..error
        })
    }

    /// As [`Self::told`], of what also quotes the engine where it succeeds: it says what it could not do beside.
    pub(super) async fn told_whole(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
        done: Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        match done {
            Ok(done) => {
                let private = self.private_of(context, steps, true).await;
                let message = private.blank(done.message.as_bytes(), LOOKED_AT);
                Ok(Done { message, ..done })
            }
            failed => self.told(context, steps, failed).await,
        }
    }

    /// What is private of the containers that steps have to do with: by their records, and as the engine has them where
    /// it is asked.
    async fn private_of(&self, context: &StepContext<'_>, steps: &[Step], asks: bool) -> Private {
        let mut containers: Vec<Value> = steps
            .iter()
            .flat_map(|step| records(&step.payload))
            .map(|record| json!({"Config": record["config"], "HostConfig": record["host"]}))
            .collect();
        if asks {
            let look = async {
                let parts = steps.iter().filter_map(|step| {
                    let (target, _) = part(context.target, job(step).ok()?);
                    Some(target)
                });
                let targets: BTreeSet<TargetName> = parts.chain([context.target.clone()]).collect();
                for target in &targets {
                    let context = context.at(target);
                    for role in [Role::Replacement, Role::Standby, Role::Again] {
                        let found = self.of_order(&context, role).await.ok().flatten();
                        containers.extend(found.map(|(_, inspect)| inspect));
                    }
                }
                let old = steps.iter().filter_map(|step| {
                    let payload = &step.payload;
                    let old = payload.get("old").unwrap_or(&payload["job"]["old"]);
                    old["id"].as_str()
                });
                let locals = targets.iter().map(TargetName::local);
                let named: BTreeSet<&str> = old.chain(locals).collect();
                for name in named {
                    let found = self.found(name).await.ok().flatten();
                    containers.extend(found);
                }
            };
            let _ = timeout(SEEN_AGAIN, look).await;
        }
        Private::of_all(&containers)
    }

    /// The container of this order and target with that role. None: there is none (any more). One that was taken back
    /// and is only kept for the post-mortem is none.
    async fn of_order(
        &self,
        context: &StepContext<'_>,
        role: Role,
    ) -> Result<Option<(String, Value)>, EngineError> {
        let wanted = [
            format!("{}={}", labels::ORDER, context.order_id),
            format!("{}={}", labels::ROLE, role.as_str()),
            format!("{}={}", labels::TARGET, context.target),
        ];
        let listed = self.engine.containers(&wanted).await?;
        let Some(id) = listed
            .iter()
            .find(|one| !listed_name(one).is_some_and(labels::is_failed))
            .map(|container| text(container, "Id").to_owned())
        else {
            return Ok(None);
        };
        match self.engine.container(&id).await {
            Ok(inspect) => Ok(Some((id, inspect))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The replacement that this order made.
    async fn replacement(&self, context: &StepContext<'_>) -> Result<(String, Value), StepError> {
        self.of_order(context, Role::Replacement)
            .await?
            .ok_or_else(|| {
                refused(
                    "changed-by-another",
                    "the container that this order created is gone: it ended and was started with --rm, or somebody \
                     removed it"
                        .to_owned(),
                    SEE_WHO,
                )
            })
    }

    /// A container as it is; None: it is gone.
    async fn found(&self, id: &str) -> Result<Option<Value>, EngineError> {
        match self.engine.container(id).await {
            Ok(inspect) => Ok(Some(inspect)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a step is to do.
fn job(step: &Step) -> Result<Job, StepError> {
    serde_json::from_value(step.payload.clone()).map_err(|error| {
        refused(
            "step-unreadable",
            // The place only: a payload holds secrets.
            format!(
                "the payload of {} cannot be read by this version ({})",
                step.id,
                class(&error)
            ),
            NEWER_AGENT,
        )
    })
}

/// The records of containers in a payload.
fn records(payload: &Value) -> impl Iterator<Item = &Value> {
    [payload, &payload["job"]]
        .into_iter()
        .flat_map(|job| [&job["record"], &job["old"]["again"]["record"]])
}

/// A short word for what is wrong with JSON, without quoting any of it.
fn class(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Io => "io",
        serde_json::error::Category::Syntax => "syntax",
        serde_json::error::Category::Data => "data",
        serde_json::error::Category::Eof => "cut off",
    }
}

/// A failure that repeating does not mend. `next_step`: what a person can do.
fn refused(code: &str, message: String, next_step: impl Into<String>) -> StepError {
    StepError {
        code: code.to_owned(),
        message,
        next_step: next_step.into(),
        transient: false,
    }
}

/// Whether it does its work: a paused one does not, and one that is restarting is not there to do it.
pub(in crate::targets::docker) fn runs(inspect: &Value) -> bool {
    let is = |state: &str| inspect["State"][state].as_bool() == Some(true);
    is("Running") && !is("Paused") && !is("Restarting")
}

/// Whether the engine does not count it as stopped: also paused, or between two attempts.
pub(super) fn is_up(inspect: &Value) -> bool {
    inspect["State"]["Running"].as_bool() == Some(true)
        || inspect["State"]["Restarting"].as_bool() == Some(true)
}

fn name_of(inspect: &Value) -> &str {
    super::discover::name_of(inspect)
}

fn short(id: &str) -> &str {
    normalise::short(id)
}
