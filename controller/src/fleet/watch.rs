//! Tells those who watch a rollout that something about it changed. Carries no content: a watcher reads
//! the store again, so nothing is lost when several changes arrive as one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

/// Who watches what.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<Uuid, watch::Sender<()>>>);

impl Watchers {
    /// A receiver that sees every change from now on.
    #[must_use]
    pub(super) fn subscribe(&self, rollout: Uuid) -> watch::Receiver<()> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(rollout)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe()
    }

    /// Something about the rollout changed.
    pub(super) fn changed(&self, rollout: Uuid) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.get(&rollout).is_some_and(|s| s.send(()).is_err()) {
            map.remove(&rollout);
        }
    }
}
