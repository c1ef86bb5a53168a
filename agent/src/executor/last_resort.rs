//! The last resort, asked for again as long as the engine does not answer or has no room: nothing else would start
//! what can run.

use std::time::Duration;

use sternway_proto::v1;
use tokio::time::{Instant, sleep};

use super::run::Course;
use crate::{
    engine::step::{Done, StepError},
    targets::NOTHING_RUNS,
};

/// Between tries: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The code of what a kind has no room for.
pub(super) const NO_DISK_SPACE: &str = "no-disk-space";

/// How long an engine may be away, or its disk full, in the middle of an exchange: somebody is at it, or the host is given up.
const PATIENCE: Duration = Duration::from_hours(24);

impl Course {
    /// What came of it. None: the agent is stopping, and the next one goes on with the order.
    pub(super) async fn last_resort(&mut self) -> Option<Result<Done, StepError>> {
        let shutdown = self.core.shutdown.clone();
        let target = self.target().clone();
        let end = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let result = self.rescue().await;
            let waits = matches!(&result, Err(error) if error.transient);
            if !waits || Instant::now() >= end {
                if told {
                    self.core.set_stuck(&target, None);
                }
                if matches!(&result, Err(error) if error.code == NOTHING_RUNS) {
                    self.lay_aside().await;
                }
                return Some(result);
            }
            if let Err(error) = &result {
                told = true;
                self.tell_waiting(error);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn tell_waiting(&self, error: &StepError) {
        let (id, target) = (self.id(), self.target());
        let still = format!("order {id} stands still in the middle of an exchange");
        let problem = if error.code == NO_DISK_SPACE {
            v1::Problem::new(
                NO_DISK_SPACE,
                format!("{still}: {}", error.message),
                format!(
                    "free space on the host's disk (`{}`): the order goes on by itself once there is room",
                    self.kind.hands(target).disk
                ),
            )
        } else {
            v1::Problem::new(
                "engine-away",
                format!("{still}, and what serves is not known: {}", error.message),
                format!(
                    "look at what is behind it on the host (`{}`): the order goes on by itself once it answers",
                    self.kind.hands(target).engine
                ),
            )
        };
        if self.core.stuck(target).as_ref() != Some(&problem) {
            tracing::error!(order.id = %id, "{}", problem.message);
            self.core.set_stuck(target, Some(problem));
        }
    }
}
