//! The ends of jobs, as they are told: kept for those who wait for one, also where it ended before they could say so.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Ends that are kept for somebody who has not asked yet: between the order for a job and the answer that names it
/// others end.
const REMEMBERED: usize = 256;

/// How a job ended (`JobRemoved` in `org.freedesktop.systemd1(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// The job is over and nothing went wrong with it. Not that the unit runs: a start whose condition is not met ends so,
    /// too, and one of `Type=simple` before its program is begun. Look at the unit.
    Done,
    /// The unit did not get there: it failed, or did not say in its time that it is ready.
    Failed,
    /// A later job took its place.
    Canceled,
    /// The job's own time was over.
    Timeout,
    /// A unit that it needs failed.
    Dependency,
    /// It did not apply to the unit as it is.
    Skipped,
    /// Something else, in systemd's word.
    Other(String),
}

impl JobEnd {
    pub(super) fn of(result: &str) -> Self {
        match result {
            "done" => Self::Done,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            "timeout" => Self::Timeout,
            "dependency" => Self::Dependency,
            "skipped" => Self::Skipped,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Who waits for which job, and what was told of late. Jobs by their number, which systemd gives once.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u32, Vec<oneshot::Sender<JobEnd>>>,
    ended: VecDeque<(u32, JobEnd)>,
    closed: bool,
}

impl Jobs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job ended.
    pub(super) fn ended(&self, job: u32, end: &JobEnd) {
        let mut state = self.state();
        for waiting in state.waiting.remove(&job).unwrap_or_default() {
            // Who no longer waits does not miss it.
            let _ = waiting.send(end.clone());
        }
        if state.ended.len() >= REMEMBERED {
            state.ended.pop_front();
        }
        state.ended.push_back((job, end.clone()));
    }

    /// Where the end of a job will be told, or was.
    pub(super) fn wait_for(&self, job: u32) -> oneshot::Receiver<JobEnd> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let known = state.ended.iter().find(|(number, _)| *number == job);
        if let Some((_, end)) = known {
            let _ = sender.send(end.clone());
        } else if !state.closed {
            let waiting = state.waiting.entry(job).or_default();
            waiting.retain(|one| !one.is_closed());
            waiting.push(sender);
        }
        receiver
    }

    /// Nothing more is told: who waits learns that, and who would.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_job_is_told_to_who_waits_and_to_who_asks_afterwards() {
        let jobs = Jobs::default();
        let waits = [jobs.wait_for(1), jobs.wait_for(1)];
        jobs.ended(1, &JobEnd::Failed);
        for wait in waits {
            assert_eq!(wait.await, Ok(JobEnd::Failed));
        }
        assert_eq!(jobs.wait_for(1).await, Ok(JobEnd::Failed));
        let other = jobs.wait_for(2);
        jobs.close();
        assert!(other.await.is_err(), "nobody will tell any more");
        assert!(jobs.wait_for(3).await.is_err(), "nor who asks since");
    }

    #[test]
    fn a_host_that_is_busy_is_not_remembered_without_end() {
        let jobs = Jobs::default();
        for job in 0..10_000 {
            jobs.ended(job, &JobEnd::Done);
            drop(jobs.wait_for(20_000));
        }
        let state = jobs.state();
        assert_eq!(state.ended.len(), REMEMBERED);
        assert_eq!(state.waiting.len(), 1);
        assert!(state.waiting.values().all(|waiting| waiting.len() <= 1));
    }
}
