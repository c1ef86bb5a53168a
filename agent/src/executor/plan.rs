//! What a restore would do: the kind's draft, and what the executor knows beside it.

use std::time::Duration;

use sternway_proto::{
    field,
    name::{RevisionId, TargetName},
    v1,
};
use tokio::time::timeout;

use super::core::Core;
use crate::{
    engine::step::Step,
    store::revisions::RevisionError,
    targets::{Draft, Hands, KindError, PlanInput, Recorded},
};

/// How long a kind may take to plan: a handful of looks at its engine.
const PLAN_TIMEOUT: Duration = Duration::from_secs(15);

/// A plan, and what it takes to carry it out.
pub(super) struct Planned {
    pub(super) plan: v1::Plan,
    pub(super) steps: Vec<Step>,
    pub(super) draft: Draft,
    pub(super) to: Recorded,
    /// Whether what stands there now runs.
    pub(super) ran: bool,
}

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) target: &'a TargetName,
    pub(super) revision: &'a RevisionId,
    pub(super) scope: v1::RestoreScope,
    pub(super) swap: v1::Swap,
}

/// Plans a restore from what runs at this moment.
pub(super) async fn plan(core: &Core, wanted: &Wanted<'_>) -> Result<Planned, v1::Problem> {
    let target = wanted.target;
    let kind = core.registry.of(target).ok_or_else(|| {
        v1::Problem::new(
            "target-unknown",
            format!("this agent looks after no {} targets", target.kind()),
            "see `ctl target ls`",
        )
    })?;
    let hands = kind.hands(target);
    let observed = late(
        target,
        &hands,
        timeout(PLAN_TIMEOUT, kind.observe(target)).await,
    )?;
    core.saw(&observed);
    if let Some(problem) = observed.unsupported {
        return Err(problem);
    }
    let (to, from) = {
        let revisions = core.revisions();
        let to = revisions
            .recorded(target, wanted.revision)
            .map_err(|error| store_problem(&error))?;
        let settled = revisions
            .history(target)
            .and_then(|history| history.settled(&observed));
        let from = match (&observed.content, settled) {
            (None, _) => None,
            (Some(_), Some(entry)) => Some(
                revisions
                    .recorded(target, &entry.id)
                    .map_err(|error| store_problem(&error))?,
            ),
            (Some(content), None) => {
                let id = content.id();
                let number = revisions.entry(target, &id).map_or(0, |entry| entry.number);
                Some(Recorded {
                    id,
                    number,
                    record: content.record.clone(),
                    hints: content.hints.clone(),
                })
            }
        };
        (to, from)
    };
    let input = PlanInput {
        target: target.clone(),
        from: from.clone(),
        instance: observed.instance,
        to: to.clone(),
        scope: wanted.scope,
        swap: wanted.swap,
    };
    let draft = late(
        target,
        &hands,
        timeout(PLAN_TIMEOUT, kind.plan(&input)).await,
    )?;
    let plan = assemble(core, wanted, from.as_ref(), &to, &draft);
    Ok(Planned {
        plan,
        steps: draft.steps.clone(),
        draft,
        to,
        ran: is_running(observed.state),
    })
}

/// Also one that restarts again and again does what it can.
pub(super) fn is_running(state: v1::TargetState) -> bool {
    matches!(
        state,
        v1::TargetState::Running | v1::TargetState::Restarting
    )
}

fn assemble(
    core: &Core,
    wanted: &Wanted<'_>,
    from: Option<&Recorded>,
    to: &Recorded,
    draft: &Draft,
) -> v1::Plan {
    let revisions = core.revisions();
    let target = wanted.target;
    let mut blockers = draft.blockers.clone();
    if revisions.is_bad(target, &to.id) {
        blockers.push(bad_revision(&revisions, target, to));
    }
    let before = from
        .and_then(|from| revisions.entry(target, &from.id).ok())
        .map(|entry| entry.fields.clone())
        .unwrap_or_default();
    let after = revisions.public_fields(&draft.result.fields);
    v1::Plan {
        target: target.to_string(),
        from_revision: from.map(|from| from.id.to_string()).unwrap_or_default(),
        from_number: from.map(|from| from.number).unwrap_or_default(),
        to_revision: to.id.to_string(),
        to_number: to.number,
        scope: wanted.scope.into(),
        swap: draft.swap.into(),
        swap_reason: draft.swap_reason.clone(),
        steps: draft
            .steps
            .iter()
            .map(|step| v1::StepInfo {
                step: step.id.clone(),
                description: step.description.clone(),
            })
            .collect(),
        changes: field::changes(&before, &after),
        checks: draft.checks.clone(),
        soak_ms: i64::try_from(draft.soak.as_millis()).unwrap_or(i64::MAX),
        warnings: draft.warnings.clone(),
        blockers,
        expected_outage: draft.expected_outage.clone(),
    }
}

fn bad_revision(
    revisions: &crate::store::revisions::Revisions,
    target: &TargetName,
    to: &Recorded,
) -> v1::Problem {
    let reason = revisions
        .mark(target, &to.id)
        .map(|mark| mark.reason.clone())
        .unwrap_or_default();
    v1::Problem::new(
        "revision-bad",
        format!(
            "revision #{} of {target} is marked DO_NOT_DEPLOY: {reason}",
            to.number
        ),
        "choose another with `ctl history`, or lift the mark with `ctl revision mark none`",
    )
}

fn late<T>(
    target: &TargetName,
    hands: &Hands,
    result: Result<Result<T, KindError>, tokio::time::error::Elapsed>,
) -> Result<T, v1::Problem> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(kind_problem(&error, hands)),
        Err(_) => Err(v1::Problem::new(
            "engine-unreachable",
            format!(
                "{target} could not be looked at within {} s",
                PLAN_TIMEOUT.as_secs()
            ),
            format!("look at the host: `{}`", hands.engine),
        )),
    }
}

fn kind_problem(error: &KindError, hands: &Hands) -> v1::Problem {
    let look = format!("look at the host: `{}`", hands.engine);
    let (code, next) = match error {
        KindError::Unreachable { .. } => ("engine-unreachable", look.as_str()),
        KindError::NotFound { .. } => ("target-gone", "see `ctl target ls`"),
        KindError::Record { .. } => ("record-unreadable", "choose another with `ctl history`"),
        KindError::Failed { .. } => ("engine-failed", look.as_str()),
        KindError::Unkept { problem } => return problem.clone(),
    };
    v1::Problem::new(code, error.to_string(), next)
}

pub(super) fn store_problem(error: &RevisionError) -> v1::Problem {
    if error.is_no_space() {
        return v1::Problem::new(
            "no-disk-space",
            error.to_string(),
            "make room on the host's disk, then start the rollback again",
        );
    }
    let code = match error {
        RevisionError::Unknown { .. } => "revision-unknown",
        RevisionError::Blocked { .. } | RevisionError::Damaged { .. } => "history-damaged",
        RevisionError::Artifact(_) => "artifact-damaged",
        RevisionError::File(_) => "state-folder",
    };
    v1::Problem::new(code, error.to_string(), "choose another with `ctl history`")
}
