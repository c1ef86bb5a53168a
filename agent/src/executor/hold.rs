//! An order whose journal cannot be written stands still: no step is begun. What serves goes on serving; where
//! nothing does, the kind's last resort starts what can. The journal is tried again and again, and the order
//! goes on by itself: from what the journal says, or back, where the last resort changed what stands there.

use std::time::Duration;

use sternway_proto::v1;
use tokio::time::sleep;

use super::{
    last_resort::NO_DISK_SPACE,
    plan::is_running,
    run::{Course, Stalled},
};
use crate::engine::{
    journal::JournalError,
    machine::{Action, Illegal},
    step::StepError,
};

/// Between tries: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Times that the last resort is asked for during one hold.
const RESCUES: u32 = 5;

/// What is known of a hold: from the first failed write to the first that succeeds.
#[derive(Debug, Default)]
pub(super) struct Hold {
    tries: u32,
    rescues: u32,
    /// Why nothing runs meanwhile, where the last resort could start nothing.
    nothing_runs: Option<String>,
}

impl Course {
    /// Waits until what happened is in the journal. Answers with whether the order goes on: it does not when the
    /// agent is stopping.
    pub(super) async fn hold(&mut self, mut error: JournalError) -> Result<bool, Illegal> {
        let shutdown = self.core.shutdown.clone();
        loop {
            let tries = self.held.get_or_insert_default().tries;
            // A failure that is over at once costs nothing.
            if tries > 0 {
                self.tell_stuck(&error);
                self.keep_serving().await;
                // Again where that found nothing to run.
                self.tell_stuck(&error);
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(false),
                    () = sleep(pause(tries)) => {}
                }
            }
            if let Some(held) = &mut self.held {
                held.tries = tries.saturating_add(1);
            }
            match self.catch_up() {
                Ok(()) => return Ok(true),
                Err(Stalled::Illegal(illegal)) => return Err(illegal),
                Err(Stalled::Journal(again)) => error = again,
            }
        }
    }

    /// Writes what happened while the journal could not be written.
    fn catch_up(&mut self) -> Result<(), Stalled> {
        self.journal.mend()?;
        while let Some(event) = self.unwritten.front().cloned() {
            self.append(event)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// A write succeeded: the hold is over.
    pub(super) fn released(&mut self) {
        if self.held.take().is_some_and(|held| held.tries > 1) {
            tracing::info!(order.id = %self.id(), "the journal of order {} can be written again: it goes on", self.id());
            self.core.set_stuck(&self.target().clone(), None);
        }
    }

    fn tell_stuck(&self, error: &JournalError) {
        let (id, target) = (self.id(), self.target());
        let reason = error.reason();
        if self.core.stuck(target).is_none() {
            tracing::error!(order.id = %id, "order {id} stands still: its journal cannot be written ({reason}); it is tried again until it can");
        }
        let next = if error.is_no_space() {
            "make room on the disk"
        } else {
            "mend the disk"
        };
        let nothing_runs = self
            .held
            .as_ref()
            .and_then(|held| held.nothing_runs.as_deref());
        let serves = nothing_runs.map_or("what runs goes on".to_owned(), |why| {
            format!("nothing runs meanwhile: {why}")
        });
        let problem = v1::Problem::new(
            "journal-failed",
            format!(
                "order {id} stands still: {} on the host cannot be written ({reason}); {serves}",
                self.journal.path().display()
            ),
            format!("{next}: the order then goes on by itself"),
        );
        if self.core.stuck(target).as_ref() != Some(&problem) {
            self.core.set_stuck(target, Some(problem));
        }
    }

    /// Never none: in the middle of an exchange nothing may run, and it may be long until the journal can be
    /// written.
    async fn keep_serving(&mut self) {
        let rescues = self.held.get_or_insert_default().rescues;
        let midway = self.run.may_turn_back() && self.run.has_begun() || self.run.is_undoing();
        if !midway || rescues >= RESCUES || !self.ran_before() {
            return;
        }
        if self.runs().await {
            self.held.get_or_insert_default().nothing_runs = None;
            return;
        }
        // Also where it fails: it may have changed something.
        self.rescued = true;
        let result = self.rescue().await;
        let held = self.held.get_or_insert_default();
        // What has no room for a start is asked again for as long as the hold lasts.
        let full = matches!(&result, Err(error) if error.code == NO_DISK_SPACE);
        held.rescues += u32::from(!full);
        held.nothing_runs = result.as_ref().err().map(|error| error.message.clone());
        match result {
            Ok(done) => {
                tracing::warn!(order.id = %self.id(), "nothing served while order {} stands still: {}", self.id(), done.message);
            }
            Err(error) => {
                tracing::error!(order.id = %self.id(), "nothing serves while order {} stands still, and nothing could be started: {}", self.id(), error.message);
            }
        }
    }

    /// An engine that does not answer cannot start anything either.
    async fn runs(&self) -> bool {
        let looked = self.look().await;
        looked.is_none_or(|observed| is_running(observed.state))
            && self.down_beside().await.is_none()
    }

    /// What comes next where the last resort was asked for behind the journal's back: what stands there is no
    /// longer what the journal says, and only the way back can cope with that.
    pub(super) async fn next_after_rescue(&mut self) -> Option<Action> {
        if !self.rescued {
            return None;
        }
        if self.run.may_turn_back() {
            return Some(Action::TurnBack {
                reason: StepError {
                    code: "journal-failed".to_owned(),
                    message: "the journal could not be written in the middle of the exchange"
                        .to_owned(),
                    next_step: "see the host's disk, then start the rollback again".to_owned(),
                    transient: false,
                },
            });
        }
        if self.run.is_undoing() {
            match self.observed().await {
                Err(()) => return None,
                Ok(found) if found.as_ref() == self.order.expected() => {}
                // What ran before could not be started then: undoing on could make both run.
                Ok(_) => return Some(Action::Rescue),
            }
        }
        self.rescued = false;
        None
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(tries.saturating_sub(1)))
        .min(LONGEST_PAUSE)
}
