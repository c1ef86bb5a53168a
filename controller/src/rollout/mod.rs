//! The rollout engine: which wave may run, and how a rollout ends. Pure: it is told how the orders of
//! each wave stand and answers with what to do. A rollout in this version has one wave, but nothing
//! here knows that.

pub mod order;
#[cfg(test)]
mod properties;

use sternway_proto::v1::{Outcome, RolloutState};

/// How the orders of one wave stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Orders that are not finished.
    pub open: u64,
    /// Restored or unchanged.
    pub restored: u64,
    pub undone: u64,
    pub refused: u64,
    pub expired: u64,
    pub needs_human: u64,
}

impl Tally {
    /// Counts one finished order.
    pub fn count(&mut self, outcome: Outcome, orders: u64) {
        match outcome {
            Outcome::Restored | Outcome::Unchanged => self.restored += orders,
            Outcome::Undone => self.undone += orders,
            Outcome::Refused => self.refused += orders,
            Outcome::Expired => self.expired += orders,
            Outcome::NeedsHuman | Outcome::Unspecified => self.needs_human += orders,
        }
    }

    fn failed(&self) -> bool {
        self.undone + self.refused + self.expired + self.needs_human > 0
    }
}

/// What to do with a rollout now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Orders are still on their way.
    Wait,
    /// This wave succeeded: begin the next one.
    StartWave(usize),
    /// A wave failed: finish the orders of every wave behind it as never begun.
    StopAfter(usize),
    /// It is over.
    Finish(RolloutState),
}

/// The next command for a rollout whose wave `current` runs.
#[must_use]
pub fn advance(waves: &[Tally], current: usize) -> Command {
    let running = waves.get(current).copied().unwrap_or_default();
    if running.open > 0 {
        return Command::Wait;
    }
    let behind = waves.iter().skip(current + 1);
    if behind.clone().any(|wave| wave.open > 0) {
        return if running.failed() {
            Command::StopAfter(current)
        } else {
            Command::StartWave(current + 1)
        };
    }
    Command::Finish(verdict(waves))
}

/// The worst of all outcomes names the rollout: what a person must look at comes first.
fn verdict(waves: &[Tally]) -> RolloutState {
    let any = |count: fn(&Tally) -> u64| waves.iter().any(|wave| count(wave) > 0);
    if any(|wave| wave.needs_human) {
        RolloutState::NeedsHuman
    } else if any(|wave| wave.undone) {
        RolloutState::Undone
    } else if any(|wave| wave.expired) {
        RolloutState::Expired
    } else if any(|wave| wave.refused) {
        RolloutState::Refused
    } else {
        RolloutState::Succeeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(outcomes: &[Outcome], open: u64) -> Tally {
        let mut tally = Tally {
            open,
            ..Tally::default()
        };
        for outcome in outcomes {
            tally.count(*outcome, 1);
        }
        tally
    }

    #[test]
    fn a_rollout_waits_for_its_running_wave() {
        assert_eq!(advance(&[wave(&[Outcome::Undone], 1)], 0), Command::Wait);
    }

    #[test]
    fn the_next_wave_begins_only_after_success() {
        let held = wave(&[], 2);
        let good = wave(&[Outcome::Restored, Outcome::Unchanged], 0);
        assert_eq!(advance(&[good, held], 0), Command::StartWave(1));
        let bad = wave(&[Outcome::Restored, Outcome::Expired], 0);
        assert_eq!(advance(&[bad, held], 0), Command::StopAfter(0));
        let stopped = wave(&[Outcome::Refused, Outcome::Refused], 0);
        assert_eq!(
            advance(&[bad, stopped], 0),
            Command::Finish(RolloutState::Expired)
        );
    }

    #[test]
    fn the_worst_outcome_names_the_rollout() {
        let end = |outcomes: &[Outcome]| advance(&[wave(outcomes, 0)], 0);
        for (outcomes, state) in [
            (&[Outcome::Restored][..], RolloutState::Succeeded),
            (&[Outcome::Unchanged], RolloutState::Succeeded),
            (&[Outcome::Refused], RolloutState::Refused),
            (&[Outcome::Expired], RolloutState::Expired),
            (&[Outcome::Undone, Outcome::Refused], RolloutState::Undone),
            (
                &[Outcome::Undone, Outcome::NeedsHuman],
                RolloutState::NeedsHuman,
            ),
        ] {
            assert_eq!(end(outcomes), Command::Finish(state), "{outcomes:?}");
        }
    }
}
