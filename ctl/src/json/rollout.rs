//! Plans, rollouts and their events as documents.

use serde::Serialize;
use sternway_proto::v1;

use super::{
    target::{Change, Evidence, Problem},
    text, time,
};

/// `ctl rollout ls`.
#[derive(Debug, Serialize)]
pub(crate) struct Rollouts {
    pub(crate) rollouts: Vec<Rollout>,
    /// The controller left parts out, for the whole would have been too long.
    pub(crate) thinned: bool,
}

/// `ctl rollout show`.
#[derive(Debug, Serialize)]
pub(crate) struct RolloutDetail {
    pub(crate) rollout: Rollout,
    pub(crate) events: Vec<OrderEvent>,
}

/// A line of `ctl rollback -o json` and of `ctl rollout watch -o json`.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    Plan(Box<PlannedRollback>),
    Rollout { rollout: Box<Rollout> },
    OrderEvent { event: Box<OrderEvent> },
}

/// What a rollback would do.
#[derive(Debug, Serialize)]
pub(crate) struct PlannedRollback {
    pub(crate) plan_id: String,
    pub(crate) host: String,
    pub(crate) host_offline: bool,
    pub(crate) chosen_because: String,
    pub(crate) nothing_to_do: bool,
    pub(crate) plan: Option<Plan>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) target: String,
    pub(crate) from_revision: Option<String>,
    pub(crate) from_number: u32,
    pub(crate) to_revision: String,
    pub(crate) to_number: u32,
    /// `both`, `image`, `config` or `unknown`.
    pub(crate) scope: &'static str,
    /// `warm`, `cold` or `undecided`.
    pub(crate) swap: &'static str,
    pub(crate) swap_reason: String,
    pub(crate) expected_outage: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) changes: Vec<Change>,
    pub(crate) checks: Vec<String>,
    pub(crate) soak_ms: i64,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) blockers: Vec<Problem>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) description: String,
}

impl From<&v1::Plan> for Plan {
    fn from(plan: &v1::Plan) -> Self {
        let step = |info: &v1::StepInfo| Step {
            step: info.step.clone(),
            description: info.description.clone(),
        };
        Self {
            target: plan.target.clone(),
            from_revision: text(&plan.from_revision),
            from_number: plan.from_number,
            to_revision: plan.to_revision.clone(),
            to_number: plan.to_number,
            scope: scope(plan.scope()),
            swap: swap(plan.swap()),
            swap_reason: plan.swap_reason.clone(),
            expected_outage: plan.expected_outage.clone(),
            steps: plan.steps.iter().map(step).collect(),
            changes: plan.changes.iter().map(Into::into).collect(),
            checks: plan.checks.clone(),
            soak_ms: plan.soak_ms,
            warnings: plan.warnings.iter().map(Into::into).collect(),
            blockers: plan.blockers.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Rollout {
    pub(crate) id: String,
    /// `running`, `succeeded`, `undone`, `refused`, `expired`, `needs-human` or `unknown`.
    pub(crate) state: &'static str,
    pub(crate) operator: String,
    pub(crate) reason: Option<String>,
    pub(crate) created: Option<String>,
    /// Null while it runs.
    pub(crate) finished: Option<String>,
    pub(crate) waves: Vec<Wave>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Wave {
    pub(crate) orders: Vec<Order>,
}

impl From<&v1::Rollout> for Rollout {
    fn from(rollout: &v1::Rollout) -> Self {
        let wave = |wave: &v1::Wave| Wave {
            orders: wave.orders.iter().map(Into::into).collect(),
        };
        Self {
            id: rollout.id.clone(),
            state: rollout_state(rollout.state()),
            operator: rollout.operator.clone(),
            reason: text(&rollout.reason),
            created: time(rollout.created_ms),
            finished: time(rollout.finished_ms),
            waves: rollout.waves.iter().map(wave).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "names are the documents' own")]
pub(crate) struct Order {
    pub(crate) order_id: String,
    pub(crate) host_id: String,
    pub(crate) host: String,
    pub(crate) host_online: bool,
    pub(crate) target: String,
    /// `queued`, `sent`, `accepted`, `finished` or `unknown`.
    pub(crate) state: &'static str,
    /// `restored`, `unchanged`, `undone`, `refused`, `expired`, `needs-human`; null: not finished.
    pub(crate) outcome: Option<&'static str>,
    pub(crate) problem: Option<Problem>,
    pub(crate) not_after: Option<String>,
    pub(crate) running_revision: Option<String>,
    pub(crate) plan: Option<Plan>,
}

impl From<&v1::RolloutOrder> for Order {
    fn from(order: &v1::RolloutOrder) -> Self {
        Self {
            order_id: order.order_id.clone(),
            host_id: order.host_id.clone(),
            host: order.host_name.clone(),
            host_online: order.host_online,
            target: order.target.clone(),
            state: order_state(order.state()),
            outcome: outcome(order.outcome()),
            problem: order.problem.as_ref().map(Into::into),
            not_after: time(order.not_after_ms),
            running_revision: text(&order.running_revision),
            plan: order.plan.as_ref().map(Into::into),
        }
    }
}

/// One line of an order's journal.
#[derive(Debug, Serialize)]
pub(crate) struct OrderEvent {
    pub(crate) order_id: String,
    pub(crate) number: u64,
    pub(crate) at: Option<String>,
    #[serde(flatten)]
    pub(crate) event: Event,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Accepted,
    Planned {
        plan: Box<Plan>,
    },
    Step {
        index: u32,
        step: String,
        /// `started`, `succeeded`, `failed`, `undo-started`, `undone`, `undo-failed` or `unknown`.
        state: &'static str,
        message: Option<String>,
    },
    Evidence {
        evidence: Evidence,
    },
    Recovered {
        attempt: u32,
        decision: String,
    },
    Finished {
        outcome: Option<&'static str>,
        problem: Option<Problem>,
        running_revision: Option<String>,
    },
    /// A turn in the course: `turned-back`, `confirmed`, `rescued`.
    Note {
        code: String,
        message: Option<String>,
        problem: Option<Problem>,
    },
    /// An event of a newer agent.
    Unknown,
}

impl From<&v1::OrderEvent> for OrderEvent {
    fn from(event: &v1::OrderEvent) -> Self {
        use v1::order_event::Event as Wire;
        let detail = match &event.event {
            None => Event::Unknown,
            Some(Wire::Accepted(_)) => Event::Accepted,
            Some(Wire::Planned(plan)) => Event::Planned {
                plan: Box::new(plan.into()),
            },
            Some(Wire::Step(step)) => Event::Step {
                index: step.index,
                step: step.step.clone(),
                state: step_state(step.state()),
                message: text(&step.message),
            },
            Some(Wire::Evidence(evidence)) => Event::Evidence {
                evidence: evidence.into(),
            },
            Some(Wire::Recovered(recovered)) => Event::Recovered {
                attempt: recovered.attempt,
                decision: recovered.decision.clone(),
            },
            Some(Wire::Note(note)) => Event::Note {
                code: note.code.clone(),
                message: text(&note.message),
                problem: note.problem.as_ref().map(Into::into),
            },
            Some(Wire::Finished(finished)) => Event::Finished {
                outcome: outcome(finished.outcome()),
                problem: finished.problem.as_ref().map(Into::into),
                running_revision: text(&finished.running_revision),
            },
        };
        Self {
            order_id: event.order_id.clone(),
            number: event.number,
            at: time(event.at_ms),
            event: detail,
        }
    }
}

/// The word for a rollout's state.
pub(crate) fn rollout_state(state: v1::RolloutState) -> &'static str {
    match state {
        v1::RolloutState::Unspecified => "unknown",
        v1::RolloutState::Running => "running",
        v1::RolloutState::Succeeded => "succeeded",
        v1::RolloutState::Undone => "undone",
        v1::RolloutState::Refused => "refused",
        v1::RolloutState::Expired => "expired",
        v1::RolloutState::NeedsHuman => "needs-human",
    }
}

/// The word for an order's state.
pub(crate) fn order_state(state: v1::OrderState) -> &'static str {
    match state {
        v1::OrderState::Unspecified => "unknown",
        v1::OrderState::Queued => "queued",
        v1::OrderState::Sent => "sent",
        v1::OrderState::Accepted => "accepted",
        v1::OrderState::Finished => "finished",
    }
}

/// The word for how an order ended, none while it has not.
pub(crate) fn outcome(outcome: v1::Outcome) -> Option<&'static str> {
    outcome.word()
}

/// The word for a step's state.
pub(crate) fn step_state(state: v1::StepState) -> &'static str {
    match state {
        v1::StepState::Unspecified => "unknown",
        v1::StepState::Started => "started",
        v1::StepState::Succeeded => "succeeded",
        v1::StepState::Failed => "failed",
        v1::StepState::UndoStarted => "undo-started",
        v1::StepState::Undone => "undone",
        v1::StepState::UndoFailed => "undo-failed",
    }
}

/// The word for a scope.
pub(crate) fn scope(scope: v1::RestoreScope) -> &'static str {
    match scope {
        v1::RestoreScope::Unspecified => "unknown",
        v1::RestoreScope::Both => "both",
        v1::RestoreScope::Image => "image",
        v1::RestoreScope::Config => "config",
    }
}

/// The word for a swap.
pub(crate) fn swap(swap: v1::Swap) -> &'static str {
    match swap {
        v1::Swap::Unspecified => "undecided",
        v1::Swap::Warm => "warm",
        v1::Swap::Cold => "cold",
    }
}
