//! For log lines that strangers could cause without end.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Says a thing at most this often.
const EVERY: Duration = Duration::from_secs(10);

/// Counts what is not said.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// It happened. Some: say so now, with how often it happened since it was said last.
    pub(super) fn happened(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unsaid += 1;
        if state
            .said
            .is_some_and(|said| now.duration_since(said) < EVERY)
        {
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_all_the_time_is_said_now_and_then_with_its_count() {
        let seldom = Seldom::default();
        let now = Instant::now();
        assert_eq!(seldom.happened(now), Some(1));
        for _ in 0..100 {
            assert_eq!(seldom.happened(now), None);
        }
        assert_eq!(seldom.happened(now + EVERY), Some(101));
    }
}
