//! Tells those who watch a rollout that something about it changed. Carries no content: a watcher reads
//! the store again, so nothing is lost when several changes arrive as one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

/// Rollouts that one caller may watch at the same time.
pub const PER_WATCHER: usize = 100;

/// Who watches what.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rollouts: HashMap<Uuid, watch::Sender<()>>,
    by_watcher: HashMap<String, usize>,
}

/// One watching; forgotten when it is dropped.
#[derive(Debug)]
pub struct Watch {
    watchers: Arc<Watchers>,
    rollout: Uuid,
    watcher: String,
    changes: watch::Receiver<()>,
}

impl Watch {
    /// Waits for a change since the last one that was seen.
    pub async fn changed(&mut self) {
        // The sender lives as long as anybody watches.
        let _ = self.changes.changed().await;
    }

    /// What has happened so far is known.
    pub fn seen(&mut self) {
        self.changes.mark_unchanged();
    }
}

impl Watchers {
    /// Sees every change from now on. None: this watcher has [`PER_WATCHER`] open.
    pub(super) fn subscribe(self: &Arc<Self>, rollout: Uuid, watcher: &str) -> Option<Watch> {
        let mut state = self.state();
        let open = state.by_watcher.entry(watcher.to_owned()).or_default();
        if *open >= PER_WATCHER {
            return None;
        }
        *open += 1;
        let changes = state
            .rollouts
            .entry(rollout)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Some(Watch {
            watchers: Arc::clone(self),
            rollout,
            watcher: watcher.to_owned(),
            changes,
        })
    }

    /// Something about the rollout changed.
    pub(super) fn changed(&self, rollout: Uuid) {
        if let Some(sender) = self.state().rollouts.get(&rollout) {
            sender.send_replace(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.watchers.state();
        // This one is still counted among the receivers.
        let last = state
            .rollouts
            .get(&self.rollout)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if last {
            state.rollouts.remove(&self.rollout);
        }
        if let Some(open) = state.by_watcher.get_mut(&self.watcher) {
            *open -= 1;
            if *open == 0 {
                state.by_watcher.remove(&self.watcher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_watches_hears_and_who_is_gone_is_forgotten() {
        let watchers = Arc::new(Watchers::default());
        let rollout = Uuid::from_u128(1);
        let mut first = watchers.subscribe(rollout, "alice").expect("a place");
        let second = watchers.subscribe(rollout, "bob").expect("a place");
        drop(second);
        watchers.changed(rollout);
        first.changed().await;
        drop(first);
        watchers.changed(rollout);
        let state = watchers.state();
        assert!(state.rollouts.is_empty() && state.by_watcher.is_empty());
    }

    #[test]
    fn one_watcher_has_a_bounded_number_open_and_others_are_not_concerned() {
        let watchers = Arc::new(Watchers::default());
        let mut open: Vec<Watch> = (0..PER_WATCHER)
            .map(|number| Uuid::from_u128(u128::try_from(number).expect("small")))
            .map(|rollout| watchers.subscribe(rollout, "alice").expect("a place"))
            .collect();
        assert!(watchers.subscribe(Uuid::nil(), "alice").is_none());
        assert!(watchers.subscribe(Uuid::nil(), "bob").is_some());
        open.pop();
        assert!(watchers.subscribe(Uuid::nil(), "alice").is_some());
    }
}
