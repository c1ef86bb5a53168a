//! The lines of an order's journal, and what each says on the wire.

use serde::{Deserialize, Serialize};
use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use uuid::Uuid;

use super::step::{Done, Step, StepError};

/// One line of an order's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The order, byte for byte as it came off the wire.
    Accepted {
        #[serde(with = "hex::serde")]
        order: Vec<u8>,
        /// Past this instant it is too late to begin, Unix milliseconds.
        not_after_ms: i64,
    },
    /// What will be done. Nothing on the host has been changed before this line.
    Planned {
        plan: Box<v1::Plan>,
        steps: Vec<Step>,
        /// The revision that will run: differs from the ordered one where only the image or only the
        /// configuration goes back.
        result: RevisionId,
        /// Other targets that are taken along, and busy meanwhile.
        #[serde(default)]
        with: Vec<TargetName>,
        /// Whether what stood there before ran. Journals of earlier versions do not say: then it counts as if.
        #[serde(default = "ran")]
        ran: bool,
        /// Past this instant the restore is undone rather than continued, Unix milliseconds.
        until_ms: i64,
    },
    StepStarted {
        index: usize,
    },
    StepSucceeded {
        index: usize,
        done: Done,
    },
    StepFailed {
        index: usize,
        error: StepError,
    },
    /// From here on the restore is undone.
    TurnedBack {
        reason: StepError,
    },
    UndoStarted {
        index: usize,
    },
    Undone {
        index: usize,
        done: Done,
    },
    UndoFailed {
        index: usize,
        error: StepError,
    },
    /// After the undo, what ran before was looked at.
    Confirmed {
        message: String,
        /// It is what ran before. If not, the undo has not brought it back, whatever its steps said.
        as_before: bool,
    },
    /// Neither way could be completed; what can run was started, or not even that.
    Rescued {
        result: Result<Done, StepError>,
    },
    Evidence {
        evidence: v1::Evidence,
    },
    /// The agent was started again and found the order unfinished.
    Recovered,
    Finished {
        outcome: Finish,
        problem: Option<v1::Problem>,
        running: Option<RevisionId>,
    },
}

fn ran() -> bool {
    true
}

impl Event {
    /// It tells what happened, and cannot be found out again. Everything else announces or decides, and is
    /// decided anew when it could not be written.
    #[must_use]
    pub fn is_fact(&self) -> bool {
        matches!(
            self,
            Self::StepSucceeded { .. }
                | Self::StepFailed { .. }
                | Self::Undone { .. }
                | Self::UndoFailed { .. }
                | Self::Evidence { .. }
                | Self::Recovered
        )
    }
}

/// How an order ends: [`v1::Outcome`] without the unset value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    Restored,
    Unchanged,
    Undone,
    Refused,
    Expired,
    NeedsHuman,
}

impl From<Finish> for v1::Outcome {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Restored => Self::Restored,
            Finish::Unchanged => Self::Unchanged,
            Finish::Undone => Self::Undone,
            Finish::Refused => Self::Refused,
            Finish::Expired => Self::Expired,
            Finish::NeedsHuman => Self::NeedsHuman,
        }
    }
}

impl From<&StepError> for v1::Problem {
    fn from(error: &StepError) -> Self {
        Self::new(&error.code, &error.message, &error.next_step)
    }
}

/// A line as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Unix milliseconds on the host's clock.
    pub at_ms: i64,
    #[serde(flatten)]
    pub event: Event,
}

/// What the controller is told of a journal so far: one message a line, numbered from 1.
#[must_use]
pub fn wire(order_id: Uuid, lines: &[Line]) -> Vec<v1::OrderEvent> {
    let mut names: Vec<String> = Vec::new();
    let mut recoveries = 0;
    let mut undoing = false;
    let mut out = Vec::with_capacity(lines.len());
    for (at, line) in lines.iter().enumerate() {
        match &line.event {
            Event::Planned { steps, .. } => {
                names = steps.iter().map(|step| step.id.clone()).collect();
            }
            Event::TurnedBack { .. } => undoing = true,
            Event::Recovered => recoveries += 1,
            _ => {}
        }
        out.push(v1::OrderEvent {
            order_id: order_id.to_string(),
            number: at as u64 + 1,
            at_ms: line.at_ms,
            event: Some(body(&line.event, &names, recoveries, undoing)),
        });
    }
    out
}

fn body(event: &Event, names: &[String], recoveries: u32, undoing: bool) -> v1::order_event::Event {
    use v1::{StepState as State, order_event::Event as Wire};
    let step = |index: &usize, state: State, message: &str| {
        Wire::Step(v1::StepChanged {
            index: u32::try_from(*index).unwrap_or(u32::MAX),
            step: names.get(*index).cloned().unwrap_or_default(),
            state: state.into(),
            message: message.to_owned(),
        })
    };
    let note = |code: &str, problem: Option<v1::Problem>, message: &str| {
        Wire::Note(v1::OrderNote {
            code: code.to_owned(),
            problem,
            message: message.to_owned(),
        })
    };
    match event {
        Event::Accepted { .. } => Wire::Accepted(v1::OrderAccepted {}),
        Event::Planned { plan, .. } => Wire::Planned((**plan).clone()),
        Event::StepStarted { index } => step(index, State::Started, ""),
        Event::StepSucceeded { index, done } => step(index, State::Succeeded, &done.message),
        Event::StepFailed { index, error } => step(index, State::Failed, &error.message),
        Event::UndoStarted { index } => step(index, State::UndoStarted, ""),
        Event::Undone { index, done } => step(index, State::Undone, &done.message),
        Event::UndoFailed { index, error } => step(index, State::UndoFailed, &error.message),
        Event::TurnedBack { reason } => note("turned-back", Some(reason.into()), &reason.message),
        Event::Confirmed { message, .. } => note("confirmed", None, message),
        Event::Rescued { result: Ok(done) } => note("rescued", None, &done.message),
        Event::Rescued { result: Err(error) } => {
            note("rescued", Some(error.into()), &error.message)
        }
        Event::Evidence { evidence } => Wire::Evidence(evidence.clone()),
        Event::Recovered => Wire::Recovered(v1::OrderRecovered {
            attempt: recoveries,
            decision: if undoing { "undo" } else { "carry on" }.to_owned(),
        }),
        Event::Finished {
            outcome,
            problem,
            running,
        } => Wire::Finished(v1::OrderFinished {
            outcome: v1::Outcome::from(*outcome).into(),
            problem: problem.clone(),
            running_revision: running
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }),
    }
}
