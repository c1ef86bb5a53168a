//! How refusals and failures become statuses.

use sternway_proto::{fault::to_status, v1::Problem};
use tonic::{Code, Status};

use crate::{
    select::revision_bad,
    store::{StartError, StoreError},
};

/// Nothing of that name.
pub(super) fn not_found(problem: Problem) -> Status {
    to_status(Code::NotFound, problem)
}

/// Not as things stand now.
pub(super) fn refused(problem: Problem) -> Status {
    to_status(Code::FailedPrecondition, problem)
}

/// Never, as it was asked.
pub(super) fn invalid(code: &str, message: impl AsRef<str>, next_step: &str) -> Status {
    to_status(
        Code::InvalidArgument,
        Problem::new(code, message, next_step),
    )
}

/// The store failed. The chain goes to the log, not over the wire.
#[expect(
    clippy::needless_pass_by_value,
    reason = "used as map_err(fault::store)"
)]
pub(super) fn store(error: StoreError) -> Status {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    let problem = store_problem(&error);
    to_status(Code::Unavailable, problem)
}

/// What failed of the store, where, and what to do next.
pub(crate) fn store_problem(error: &StoreError) -> Problem {
    let trouble = error.trouble();
    Problem::new(
        trouble.code(),
        format!(
            "the controller's database (controller.db in its data_dir) {}",
            trouble.what()
        ),
        trouble.next_step(),
    )
}

/// A rollout was not started.
pub(super) fn start(error: StartError) -> Status {
    let problem = match error {
        StartError::Store(error) => return store(error),
        StartError::PlanUnknown => Problem::new(
            "plan-unknown",
            "there is no such plan",
            "plan the rollback again",
        ),
        StartError::PlanExpired => Problem::new(
            "plan-expired",
            "the plan has expired: things may have changed since it was made",
            "plan the rollback again",
        ),
        StartError::PlanNotYours { operator } => Problem::new(
            "plan-not-yours",
            format!("the plan was made for {operator}: who starts it has not seen it"),
            "plan the rollback yourself, and look at the plan",
        ),
        StartError::PlanUsed { rollout } => Problem::new(
            "plan-used",
            format!("the plan was carried out already, by rollout {rollout}"),
            format!("`ctl rollout show {rollout}`"),
        ),
        StartError::RequestIdUsed { rollout } => Problem::new(
            "request-id-used",
            format!(
                "the request's id was used already, for rollout {rollout} of another plan or by somebody else; \
                 nothing was started"
            ),
            "make an id for each call, and use it again only to repeat that call",
        ),
        StartError::HostRevoked => host_revoked("the host"),
        StartError::RevisionBad {
            number,
            target,
            reason,
        } => revision_bad(number, &target, &reason),
        StartError::TargetBusy { rollout } => Problem::new(
            "target-busy",
            format!("rollout {rollout} is restoring this target"),
            format!("wait for it: `ctl rollout watch {rollout}`"),
        ),
    };
    refused(problem)
}

/// A revoked host takes no orders.
pub(super) fn host_revoked(name: &str) -> Problem {
    Problem::new(
        "host-revoked",
        format!("{name} was revoked"),
        "to look after it again, let it join anew: `ctl host token`",
    )
}
