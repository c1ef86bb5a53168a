//! The life of one order, as a total function: QUEUED, SENT, ACCEPTED, FINISHED. Pure.

use sternway_proto::v1::{self, Outcome, Verdict, order_event::Event};

/// How an order ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub outcome: Outcome,
    pub problem: Option<v1::Problem>,
    /// The revision that runs on the host now, as far as its agent said. Empty: not said, or none.
    pub running_revision: String,
}

/// Where an order stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Stored; never handed to its host's session.
    Queued,
    /// Handed to a session at least once; no event of its journal has come back.
    Sent,
    /// In the agent's journal.
    Accepted,
    /// Terminal: nothing changes it any more, but the truth about an order that was lost.
    Finished(Ending),
}

/// Everything that decides about an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub phase: Phase,
    /// The number of the newest event that is stored; events are stored without gaps.
    pub last_event: u64,
    /// A check that looked at the change, and not at what stood before it, passed.
    pub proven: bool,
    /// It was finished here because its host was not heard of again. What its agent says later still counts.
    pub lost: bool,
}

impl Progress {
    /// A fresh order.
    pub const NEW: Self = Self {
        phase: Phase::Queued,
        last_event: 0,
        proven: false,
        lost: false,
    };

    /// Finished; unless it is lost, nothing changes it any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished(_))
    }

    /// The state as it travels.
    #[must_use]
    pub fn state(&self) -> v1::OrderState {
        match self.phase {
            Phase::Queued => v1::OrderState::Queued,
            Phase::Sent => v1::OrderState::Sent,
            Phase::Accepted => v1::OrderState::Accepted,
            Phase::Finished(_) => v1::OrderState::Finished,
        }
    }
}

/// Why an order that was sent is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Its deadline is long past, and its host has not been there since.
    HostAway,
    /// Its agent is there and not at it; what that says of it, where it says anything.
    NotAtIt(Option<v1::Problem>),
}

impl Lost {
    fn problem(&self) -> v1::Problem {
        let (message, next_step) = match self {
            Self::HostAway => (
                "the order was sent, its deadline is past, and its host was not heard of since: what became of it is \
                 not known"
                    .to_owned(),
                "look at the host itself; what its agent reports when it is back is stored".to_owned(),
            ),
            Self::NotAtIt(None) => (
                "the order was sent, and the host's agent is there but not at it, and tells nothing of it: what became \
                 of it is not known"
                    .to_owned(),
                "see the agent's log and what runs on the host, and set it right; then start the rollback again"
                    .to_owned(),
            ),
            Self::NotAtIt(Some(said)) => (
                format!("the host's agent does not go on with it: {}", said.message),
                format!("{}; then start the rollback again", said.next_step),
            ),
        };
        v1::Problem::new("outcome-unknown", message, next_step)
    }
}

/// Why an order whose deadline has passed was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// Its host has no session at that moment.
    HostAway,
    /// Its host is there: sending it failed.
    Failed,
}

impl Unsent {
    fn problem(self) -> v1::Problem {
        let (message, next_step) = match self {
            Self::HostAway => (
                "the order's deadline passed while its host was not connected, and before it was sent; nothing was \
                 changed",
                "see `ctl host ls`; start the rollback again when the host is online",
            ),
            Self::Failed => (
                "the order's deadline passed before it could be sent to its host, which is connected; nothing was \
                 changed",
                "see the controller's log for what kept it from being sent; then start the rollback again",
            ),
        };
        v1::Problem::new("order-expired", message, next_step)
    }
}

/// What can happen to an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// It is about to be handed to a session.
    Sending,
    /// A line of the agent's journal.
    Agent(&'a v1::OrderEvent),
    /// The controller's clock has passed `not_after`; why it was not sent until now, should it not have been.
    DeadlinePassed(Unsent),
    /// It was sent, and nothing more is to be expected of it.
    Lost(Lost),
    /// Its host was revoked: nothing will be heard of it again.
    HostRevoked,
    /// The operator who started it was revoked.
    OperatorRevoked,
    /// The revision it leads to was marked bad after it was made.
    RevisionBad { number: u32, reason: String },
    /// An earlier wave failed, so that this order's wave never begins.
    WaveStopped,
}

/// What became of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// Nothing new: a repetition, or something that no longer matters.
    Same,
    /// The new progress; where the input was an event, it is to be stored with it.
    Changed(Progress),
    /// The event is not the next one: those from `expected` on must come first.
    Gap { expected: u64 },
}

/// The next progress of an order.
#[must_use]
pub fn apply(progress: &Progress, input: &Input<'_>) -> Applied {
    if progress.is_finished() {
        // The agent was there after all and tells what became of it. Nobody else has a say.
        return match input {
            Input::Agent(event) if progress.lost => agent(progress, event),
            _ => Applied::Same,
        };
    }
    match input {
        Input::Sending => match progress.phase {
            Phase::Queued => changed(progress, Phase::Sent),
            _ => Applied::Same,
        },
        Input::Agent(event) => agent(progress, event),
        // Only an order that was never sent may be expired from here. One that was sent may be
        // running already: its agent alone knows, and refuses it by itself if it had not taken it.
        Input::DeadlinePassed(why) => match progress.phase {
            Phase::Queued => finished(progress, Outcome::Expired, why.problem()),
            _ => Applied::Same,
        },
        Input::Lost(why) => match progress.phase {
            Phase::Queued => Applied::Same,
            _ => lost(progress, why),
        },
        Input::HostRevoked => match progress.phase {
            Phase::Queued => finished(
                progress,
                Outcome::Refused,
                v1::Problem::new(
                    "host-revoked",
                    "the host was revoked before the order was sent; nothing was changed",
                    "",
                ),
            ),
            _ => finished(
                progress,
                Outcome::NeedsHuman,
                v1::Problem::new(
                    "host-revoked",
                    "the host was revoked while the order was on its way: what became of it is not known",
                    "look at the host itself",
                ),
            ),
        },
        // What was sent its host carries out, whoever asked for it.
        Input::OperatorRevoked => match progress.phase {
            Phase::Queued => finished(
                progress,
                Outcome::Refused,
                v1::Problem::new(
                    "operator-revoked",
                    "the operator who started it was revoked before the order was sent; nothing was changed",
                    "where it is wanted nevertheless, another operator can start it: `ctl rollback`",
                ),
            ),
            _ => Applied::Same,
        },
        Input::RevisionBad { number, reason } => match progress.phase {
            Phase::Queued => finished(progress, Outcome::Refused, bad(*number, reason)),
            _ => Applied::Same,
        },
        Input::WaveStopped => match progress.phase {
            Phase::Queued => finished(
                progress,
                Outcome::Refused,
                v1::Problem::new(
                    "wave-stopped",
                    "an earlier wave did not succeed, so this one was not begun; nothing was changed",
                    "",
                ),
            ),
            _ => Applied::Same,
        },
    }
}

fn bad(number: u32, reason: &str) -> v1::Problem {
    let reason = match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    v1::Problem::new(
        "revision-bad",
        format!("#{number} was marked bad before the order was sent{reason}; nothing was changed"),
        "choose another: `ctl history`; or take the mark away: `ctl revision mark`",
    )
}

fn changed(progress: &Progress, phase: Phase) -> Applied {
    Applied::Changed(Progress {
        phase,
        ..progress.clone()
    })
}

/// Never blind: an order of which nothing more is heard is nobody's success, nor known to have changed nothing.
fn lost(progress: &Progress, why: &Lost) -> Applied {
    let phase = Phase::Finished(Ending {
        outcome: Outcome::NeedsHuman,
        problem: Some(why.problem()),
        running_revision: String::new(),
    });
    Applied::Changed(Progress {
        phase,
        lost: true,
        ..progress.clone()
    })
}

fn finished(progress: &Progress, outcome: Outcome, problem: v1::Problem) -> Applied {
    let ending = Ending {
        outcome,
        problem: Some(problem),
        running_revision: String::new(),
    };
    changed(progress, Phase::Finished(ending))
}

fn agent(progress: &Progress, event: &v1::OrderEvent) -> Applied {
    let expected = progress.last_event + 1;
    if event.number < expected {
        return Applied::Same;
    }
    if event.number > expected {
        return Applied::Gap { expected };
    }
    let mut next = Progress {
        // A lost order stays one until its agent says how it ended: its target is not held again meanwhile.
        phase: if progress.lost {
            progress.phase.clone()
        } else {
            Phase::Accepted
        },
        last_event: expected,
        ..progress.clone()
    };
    match &event.event {
        Some(Event::Evidence(evidence)) => next.proven |= proves_change(evidence),
        Some(Event::Finished(end)) => {
            next.phase = Phase::Finished(ending(end, next.proven));
            next.lost = false;
        }
        Some(
            Event::Accepted(_)
            | Event::Planned(_)
            | Event::Step(_)
            | Event::Recovered(_)
            | Event::Note(_),
        )
        | None => {}
    }
    Applied::Changed(next)
}

/// A passed check of what runs after the change. The standby of a warm swap proves nothing about what runs in
/// the end.
fn proves_change(evidence: &v1::Evidence) -> bool {
    evidence.verdict() == Verdict::Passed && evidence.instance != "standby"
}

/// Never blind: an agent that claims a restore without evidence is not believed.
fn ending(end: &v1::OrderFinished, proven: bool) -> Ending {
    let claimed = end.outcome();
    let (outcome, problem) = match claimed {
        Outcome::Restored | Outcome::Unchanged if !proven => (
            Outcome::NeedsHuman,
            Some(v1::Problem::new(
                "no-evidence",
                "the agent reports success, but no passed check of what runs now",
                "look at the host itself; `ctl rollout show` lists what was seen",
            )),
        ),
        Outcome::Unspecified => (
            Outcome::NeedsHuman,
            Some(v1::Problem::new(
                "outcome-unknown",
                "the agent reports an end that this controller does not know",
                "look at the host itself; update the controller",
            )),
        ),
        _ => (claimed, end.problem.clone()),
    };
    Ending {
        outcome,
        problem,
        running_revision: end.running_revision.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(instance: &str, verdict: Verdict, claimed: Outcome) -> Outcome {
        let evidence = v1::Evidence {
            verdict: verdict.into(),
            instance: instance.into(),
            ..v1::Evidence::default()
        };
        let finished = v1::OrderFinished {
            outcome: claimed.into(),
            ..v1::OrderFinished::default()
        };
        let mut progress = Progress::NEW;
        for (event, number) in [Event::Evidence(evidence), Event::Finished(finished)]
            .into_iter()
            .zip(1..)
        {
            let event = v1::OrderEvent {
                number,
                event: Some(event),
                ..v1::OrderEvent::default()
            };
            let Applied::Changed(next) = apply(&progress, &Input::Agent(&event)) else {
                panic!("not the next event");
            };
            progress = next;
        }
        match progress.phase {
            Phase::Finished(ending) => ending.outcome,
            other => panic!("not finished: {other:?}"),
        }
    }

    fn told(progress: &Progress, number: u64, event: Event) -> Progress {
        let event = v1::OrderEvent {
            number,
            event: Some(event),
            ..v1::OrderEvent::default()
        };
        match apply(progress, &Input::Agent(&event)) {
            Applied::Changed(next) => next,
            other => panic!("not taken: {other:?}"),
        }
    }

    #[test]
    fn a_lost_order_is_no_success_and_its_agent_still_has_the_last_word() {
        assert_eq!(
            apply(&Progress::NEW, &Input::Lost(Lost::HostAway)),
            Applied::Same
        );
        let accepted = told(&Progress::NEW, 1, Event::Accepted(v1::OrderAccepted {}));
        let Applied::Changed(lost) = apply(&accepted, &Input::Lost(Lost::HostAway)) else {
            panic!("not lost");
        };
        let outcome = |progress: &Progress| match &progress.phase {
            Phase::Finished(ending) => ending.outcome,
            other => panic!("not finished: {other:?}"),
        };
        assert_eq!((outcome(&lost), lost.lost), (Outcome::NeedsHuman, true));
        for input in [
            Input::Lost(Lost::NotAtIt(None)),
            Input::HostRevoked,
            Input::DeadlinePassed(Unsent::HostAway),
            Input::Sending,
        ] {
            assert_eq!(apply(&lost, &input), Applied::Same, "{input:?}");
        }
        let seen = told(
            &lost,
            2,
            Event::Evidence(v1::Evidence {
                verdict: Verdict::Passed.into(),
                instance: "replacement".into(),
                ..v1::Evidence::default()
            }),
        );
        assert!(seen.is_finished() && seen.lost);
        let end = Event::Finished(v1::OrderFinished {
            outcome: Outcome::Restored.into(),
            ..v1::OrderFinished::default()
        });
        let known = told(&seen, 3, end.clone());
        assert_eq!((outcome(&known), known.lost), (Outcome::Restored, false));
        let again = v1::OrderEvent {
            number: 4,
            event: Some(end),
            ..v1::OrderEvent::default()
        };
        assert_eq!(apply(&known, &Input::Agent(&again)), Applied::Same);
    }

    #[test]
    fn never_blind_only_a_passed_check_of_what_runs_in_the_end_is_believed() {
        for (instance, verdict, claimed, believed) in [
            (
                "replacement",
                Verdict::Passed,
                Outcome::Restored,
                Outcome::Restored,
            ),
            (
                "current",
                Verdict::Passed,
                Outcome::Unchanged,
                Outcome::Unchanged,
            ),
            (
                "replacement",
                Verdict::Failed,
                Outcome::Restored,
                Outcome::NeedsHuman,
            ),
            (
                "replacement",
                Verdict::Inconclusive,
                Outcome::Restored,
                Outcome::NeedsHuman,
            ),
            (
                "standby",
                Verdict::Passed,
                Outcome::Restored,
                Outcome::NeedsHuman,
            ),
            ("current", Verdict::Passed, Outcome::Undone, Outcome::Undone),
            (
                "replacement",
                Verdict::Passed,
                Outcome::Unspecified,
                Outcome::NeedsHuman,
            ),
        ] {
            assert_eq!(
                ends(instance, verdict, claimed),
                believed,
                "{instance} {verdict:?}"
            );
        }
    }
}
