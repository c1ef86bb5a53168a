//! What happens next: a pure fold over the journal's events and a pure question to the result.
//!
//! ```text
//! Accepted ─▶ Forward ──last step──▶ Over(restored)
//!    │           │ a step failed for good, the time is up, or too many recoveries
//!    │           ▼ (not behind the committing step)
//!    │        Backward ──all undone──▶ Confirm ─▶ Over(undone)
//!    │           │ an undo failed for good, or did not bring back what ran
//!    ▼           ▼
//! Over(refused,  Rescue ─▶ Over(needs-human)
//!  expired, unchanged)
//! ```

use std::collections::BTreeMap;

use serde_json::Value;
use sternway_proto::{name::RevisionId, v1};
use thiserror::Error;

use super::{
    event::{Event, Finish},
    step::{DIFFERS, SERVED_BY_ANOTHER, Step, StepError},
};

/// Attempts at a step whose failures are transient. Three, with the driver's back-off between them, ride
/// out an engine that is being restarted; an engine that is gone for longer is a reason to turn back.
pub const APPLY_ATTEMPTS: u32 = 3;

/// Attempts at an undo, whatever its failures: there is no better way out, but there is a person.
pub const UNDO_ATTEMPTS: u32 = 5;

/// Recoveries after which a restore is no longer carried on with but undone.
pub const FORWARD_RECOVERIES: u32 = 3;

/// Recoveries after which an undo is no longer carried on with: the agent dies of this order.
pub const RECOVERIES: u32 = 8;

/// What a person can do about an agent that does not stay up.
const WHY_RESTARTED: &str =
    "see why the agent ends again and again: `journalctl -u sternway-agent` on the host";

/// What to do next. Everything but `Plan` and `Finish` is announced in the journal first, with the
/// event of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the kind for the steps, then record [`Event::Planned`], or [`Event::Finished`] with
    /// `Refused` or `Unchanged`.
    Plan,
    Apply {
        index: usize,
        /// From 1.
        attempt: u32,
    },
    /// Record [`Event::TurnedBack`].
    TurnBack { reason: StepError },
    Undo {
        index: usize,
        /// From 1.
        attempt: u32,
    },
    /// Everything is undone: look at what ran before, then record [`Event::Confirmed`].
    Confirm,
    /// Call the kind's last resort, then record [`Event::Rescued`].
    Rescue,
    /// Record [`Event::Finished`].
    Finish {
        outcome: Finish,
        problem: Option<v1::Problem>,
    },
    /// The order is finished.
    Nothing,
}

/// An event that cannot follow the ones before it: the journal is corrupt, or its driver is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a {event} cannot follow here: the order is {phase}")]
pub struct Illegal {
    pub event: String,
    pub phase: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Pending,
    Started,
    Succeeded,
    Failed,
    UndoStarted,
    Undone,
    UndoFailed,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Nothing was read yet.
    Empty,
    Accepted {
        not_after_ms: i64,
    },
    Forward,
    Backward {
        reason: StepError,
    },
    Confirmed {
        reason: StepError,
        as_before: bool,
    },
    Rescued {
        problem: v1::Problem,
    },
    Over {
        outcome: Finish,
    },
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Self::Empty => "not there yet",
            Self::Accepted { .. } => "accepted",
            Self::Forward => "going forward",
            Self::Backward { .. } => "being undone",
            Self::Confirmed { .. } => "undone",
            Self::Rescued { .. } => "rescued",
            Self::Over { .. } => "finished",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Progress {
    status: Status,
    attempts: u32,
    undo_attempts: u32,
    failure: Option<StepError>,
}

/// An order's journal, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    phase: Phase,
    steps: Vec<Step>,
    progress: Vec<Progress>,
    outputs: BTreeMap<String, Value>,
    plan: Option<v1::Plan>,
    result: Option<RevisionId>,
    until_ms: i64,
    recoveries: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            phase: Phase::Empty,
            steps: Vec::new(),
            progress: Vec::new(),
            outputs: BTreeMap::new(),
            plan: None,
            result: None,
            until_ms: i64::MAX,
            recoveries: 0,
        }
    }
}

impl Run {
    /// Folds a whole journal.
    ///
    /// # Errors
    /// An event cannot follow the ones before it.
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, Illegal> {
        let mut run = Self::default();
        for event in events {
            run.record(event)?;
        }
        Ok(run)
    }

    /// Folds one more event. On an error nothing has changed.
    ///
    /// # Errors
    /// The event cannot follow the ones before it.
    pub fn record(&mut self, event: &Event) -> Result<(), Illegal> {
        match event {
            Event::Accepted { not_after_ms, .. } if self.phase == Phase::Empty => {
                self.phase = Phase::Accepted {
                    not_after_ms: *not_after_ms,
                };
            }
            Event::Planned {
                plan,
                steps,
                result,
                until_ms,
                ..
            } if matches!(self.phase, Phase::Accepted { .. }) && well_formed(steps) => {
                self.progress = vec![
                    Progress {
                        status: Status::Pending,
                        attempts: 0,
                        undo_attempts: 0,
                        failure: None,
                    };
                    steps.len()
                ];
                self.steps.clone_from(steps);
                self.plan = Some((**plan).clone());
                self.result = Some(result.clone());
                self.until_ms = *until_ms;
                self.phase = Phase::Forward;
            }
            Event::StepStarted { .. } | Event::StepSucceeded { .. } | Event::StepFailed { .. } => {
                return self.record_forward(event);
            }
            Event::UndoStarted { .. } | Event::Undone { .. } | Event::UndoFailed { .. } => {
                return self.record_backward(event);
            }
            Event::TurnedBack { reason } if self.phase == Phase::Forward && !self.committed() => {
                self.phase = Phase::Backward {
                    reason: reason.clone(),
                };
            }
            Event::Confirmed { as_before, .. } => match &self.phase {
                Phase::Backward { reason } if self.next_undo().is_none() => {
                    self.phase = Phase::Confirmed {
                        reason: reason.clone(),
                        as_before: *as_before,
                    };
                }
                _ => return Err(self.illegal(event)),
            },
            Event::Rescued { result } => match &self.phase {
                Phase::Backward { reason }
                | Phase::Confirmed {
                    reason,
                    as_before: false,
                } => {
                    self.phase = Phase::Rescued {
                        problem: rescue_problem(reason, self.undo_failure(), result),
                    };
                }
                _ => return Err(self.illegal(event)),
            },
            Event::Evidence { .. } if !matches!(self.phase, Phase::Empty | Phase::Over { .. }) => {}
            Event::Recovered if !matches!(self.phase, Phase::Empty | Phase::Over { .. }) => {
                self.recoveries += 1;
            }
            Event::Finished { outcome, .. } if self.may_finish(*outcome) => {
                self.phase = Phase::Over { outcome: *outcome };
            }
            _ => return Err(self.illegal(event)),
        }
        Ok(())
    }

    fn record_forward(&mut self, event: &Event) -> Result<(), Illegal> {
        let due = self.next_step();
        let (Phase::Forward, Some(due)) = (&self.phase, due) else {
            return Err(self.illegal(event));
        };
        let illegal = self.illegal(event);
        let progress = &mut self.progress[due];
        match event {
            Event::StepStarted { index } if *index == due => {
                progress.status = Status::Started;
                progress.attempts += 1;
            }
            Event::StepSucceeded { index, done }
                if *index == due && progress.status == Status::Started =>
            {
                progress.status = Status::Succeeded;
                progress.failure = None;
                self.outputs
                    .insert(self.steps[due].id.clone(), done.output.clone());
            }
            Event::StepFailed { index, error }
                if *index == due && progress.status == Status::Started =>
            {
                progress.status = Status::Failed;
                progress.failure = Some(error.clone());
            }
            _ => return Err(illegal),
        }
        Ok(())
    }

    fn record_backward(&mut self, event: &Event) -> Result<(), Illegal> {
        let due = self.next_undo();
        let (Phase::Backward { .. }, Some(due)) = (&self.phase, due) else {
            return Err(self.illegal(event));
        };
        let illegal = self.illegal(event);
        let progress = &mut self.progress[due];
        match event {
            Event::UndoStarted { index } if *index == due => {
                progress.status = Status::UndoStarted;
                progress.undo_attempts += 1;
            }
            Event::Undone { index, .. }
                if *index == due && progress.status == Status::UndoStarted =>
            {
                progress.status = Status::Undone;
                progress.failure = None;
            }
            Event::UndoFailed { index, error }
                if *index == due && progress.status == Status::UndoStarted =>
            {
                progress.status = Status::UndoFailed;
                progress.failure = Some(error.clone());
            }
            _ => return Err(illegal),
        }
        Ok(())
    }

    /// What to do next. `now_ms`: Unix milliseconds on the clock of the journal's deadlines.
    #[must_use]
    pub fn next(&self, now_ms: i64) -> Action {
        match &self.phase {
            Phase::Empty | Phase::Over { .. } => Action::Nothing,
            Phase::Accepted { not_after_ms } if now_ms >= *not_after_ms => Action::Finish {
                outcome: Finish::Expired,
                problem: Some(v1::Problem::new(
                    "order-expired",
                    "the order's deadline passed before it was begun; nothing was changed",
                    "start the rollback again",
                )),
            },
            Phase::Accepted { .. } => Action::Plan,
            Phase::Forward => self.next_forward(now_ms),
            Phase::Backward { .. } => self.next_backward(),
            Phase::Confirmed {
                as_before: false, ..
            } => Action::Rescue,
            Phase::Confirmed { reason, .. } => Action::Finish {
                outcome: Finish::Undone,
                problem: Some(reason.into()),
            },
            Phase::Rescued { problem } => Action::Finish {
                outcome: Finish::NeedsHuman,
                problem: Some(problem.clone()),
            },
        }
    }

    fn next_forward(&self, now_ms: i64) -> Action {
        let committed = self.committed();
        let Some(index) = self.next_step() else {
            return Action::Finish {
                outcome: Finish::Restored,
                problem: self.differing(),
            };
        };
        let progress = &self.progress[index];
        if let Some(error) = &progress.failure {
            let again = error.transient && progress.attempts < APPLY_ATTEMPTS;
            if progress.status == Status::Failed && !again {
                return if committed {
                    self.untidy(error)
                } else {
                    Action::TurnBack {
                        reason: error.clone(),
                    }
                };
            }
        }
        if !committed && now_ms >= self.until_ms {
            return Action::TurnBack {
                reason: own_error(
                    "out-of-time",
                    "the restore took longer than it may",
                    "see which of its steps took long (`ctl rollout show`), mend that or raise `order_timeout` in the \
                     agent's settings, then roll back again",
                ),
            };
        }
        if !committed && self.recoveries > FORWARD_RECOVERIES {
            return Action::TurnBack {
                reason: own_error(
                    "interrupted-too-often",
                    "the agent was restarted too often during the restore",
                    WHY_RESTARTED,
                ),
            };
        }
        if committed && self.recoveries > RECOVERIES {
            return self.untidy(&own_error(
                "interrupted-too-often",
                "the agent was restarted too often while it tidied up",
                WHY_RESTARTED,
            ));
        }
        Action::Apply {
            index,
            attempt: progress.attempts + 1,
        }
    }

    /// What runs passed its checks, and is not to the last setting what was ordered.
    fn differing(&self) -> Option<v1::Problem> {
        let differs = self
            .outputs
            .values()
            .find_map(|done| done[DIFFERS].as_str());
        differs.map(|how| {
            v1::Problem::new(
                "restored-otherwise",
                format!("restored, and its checks passed, but it is not to the last setting what was ordered: {how}"),
                "see whether that matters: `ctl diff`",
            )
        })
    }

    /// The wanted revision runs and was verified; only the tidying behind the commit failed.
    fn untidy(&self, error: &StepError) -> Action {
        let index = self.next_step().unwrap_or_default();
        Action::Finish {
            outcome: Finish::Restored,
            problem: Some(v1::Problem::new(
                "left-untidy",
                format!(
                    "restored and verified, but `{}` failed: {}",
                    self.steps[index].description, error.message
                ),
                &error.next_step,
            )),
        }
    }

    fn next_backward(&self) -> Action {
        let Some(index) = self.next_undo() else {
            return Action::Confirm;
        };
        let progress = &self.progress[index];
        let spent = progress.undo_attempts >= UNDO_ATTEMPTS
            && matches!(progress.status, Status::UndoFailed | Status::UndoStarted);
        if spent || self.recoveries > RECOVERIES {
            return Action::Rescue;
        }
        Action::Undo {
            index,
            attempt: progress.undo_attempts + 1,
        }
    }

    fn next_step(&self) -> Option<usize> {
        self.progress
            .iter()
            .position(|progress| progress.status != Status::Succeeded)
    }

    fn next_undo(&self) -> Option<usize> {
        self.progress
            .iter()
            .rposition(|progress| !matches!(progress.status, Status::Pending | Status::Undone))
    }

    fn committed(&self) -> bool {
        self.steps
            .iter()
            .zip(&self.progress)
            .any(|(step, progress)| step.commits && progress.status == Status::Succeeded)
    }

    fn undo_failure(&self) -> Option<&StepError> {
        self.next_undo()
            .and_then(|index| self.progress[index].failure.as_ref())
    }

    fn may_finish(&self, outcome: Finish) -> bool {
        match (&self.phase, outcome) {
            (Phase::Accepted { .. }, Finish::Refused | Finish::Expired | Finish::Unchanged)
            // An order that was not acceptable has a journal of one line.
            | (Phase::Empty, Finish::Refused | Finish::Expired)
            | (Phase::Confirmed { as_before: true, .. }, Finish::Undone)
            | (Phase::Rescued { .. }, Finish::NeedsHuman) => true,
            (Phase::Forward, Finish::Restored) => self.next_step().is_none() || self.committed(),
            _ => false,
        }
    }

    fn illegal(&self, event: &Event) -> Illegal {
        let name = serde_json::to_value(event)
            .ok()
            .and_then(|value| value.get("event")?.as_str().map(str::to_owned));
        Illegal {
            event: name.unwrap_or_default(),
            phase: self.phase.name(),
        }
    }

    /// It goes forward and can still be undone.
    #[must_use]
    pub fn may_turn_back(&self) -> bool {
        self.phase == Phase::Forward && !self.committed()
    }

    /// A step was begun: the host may have been changed.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.progress
            .iter()
            .any(|progress| progress.status != Status::Pending)
    }

    /// It is being undone.
    #[must_use]
    pub fn is_undoing(&self) -> bool {
        matches!(self.phase, Phase::Backward { .. })
    }

    /// The steps; empty before the plan.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The outputs of the steps that succeeded, by step id.
    #[must_use]
    pub fn outputs(&self) -> &BTreeMap<String, Value> {
        &self.outputs
    }

    /// The plan as it is carried out.
    #[must_use]
    pub fn plan(&self) -> Option<&v1::Plan> {
        self.plan.as_ref()
    }

    /// The revision that runs when the restore succeeds.
    #[must_use]
    pub fn result(&self) -> Option<&RevisionId> {
        self.result.as_ref()
    }

    /// How the order ended, when it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Finish> {
        match self.phase {
            Phase::Over { outcome } => Some(outcome),
            _ => None,
        }
    }
}

/// Ids are unique, at least one step, at most one commits: what the fold relies on.
fn well_formed(steps: &[Step]) -> bool {
    let mut ids: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    !steps.is_empty()
        && ids.len() == steps.len()
        && steps.iter().filter(|step| step.commits).count() <= 1
}

fn own_error(code: &str, message: &str, next_step: &str) -> StepError {
    StepError {
        code: code.to_owned(),
        message: message.to_owned(),
        next_step: next_step.to_owned(),
        transient: false,
    }
}

fn rescue_problem(
    reason: &StepError,
    undo: Option<&StepError>,
    rescue: &Result<super::step::Done, StepError>,
) -> v1::Problem {
    if let Ok(done) = rescue
        && done.output[SERVED_BY_ANOTHER] == true
    {
        return v1::Problem::new(
            "changed-meanwhile",
            format!(
                "{}; nothing has to be done at once. The restore was given up, and what it had begun is taken back \
                 ({})",
                done.message, reason.message
            ),
            "see whether what was deployed is what is wanted (`ctl history`); if not, roll back again: `ctl rollback`",
        );
    }
    let undo = undo.map_or("it did not bring back what ran before", |error| {
        &error.message
    });
    let now = match rescue {
        Ok(done) => done.message.clone(),
        Err(error) => format!("nothing could be started either: {}", error.message),
    };
    v1::Problem::new(
        "undo-failed",
        format!(
            "the restore failed ({}), and so did its undo ({undo}); {now}",
            reason.message
        ),
        "look at what runs on the host, and at the events of this order here",
    )
}

#[cfg(test)]
mod tests;
