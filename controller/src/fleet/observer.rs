//! Writes what agents say about their hosts, many in one transaction: a thousand agents that come back
//! at once cost some dozen commits. None of it is acknowledged on the wire, so it may wait.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    metrics::OBSERVATIONS_BATCH,
    store::{SharedStore, types::Observation},
};

/// Observations that may wait. A session whose observation finds no place waits, and so does its agent.
pub(super) const QUEUE: usize = 1024;

/// Observations in one transaction, so that orders get their turn between.
const BATCH: usize = 64;

/// Attempts at one batch before its observations are tried one by one.
const ATTEMPTS: u32 = 3;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// What waits in the queue.
#[derive(Debug)]
pub(super) enum Queued {
    Seen(Box<Observation>),
    /// Somebody wants to know when what stands before it is stored.
    Until(oneshot::Sender<()>),
}

/// Stores observations until the queue is closed and empty. Whose cannot be stored is told to `lost`, by the host's
/// id: its agent must say it again.
pub(super) async fn run(
    store: SharedStore,
    mut queue: mpsc::Receiver<Queued>,
    lost: impl Fn(Uuid) + Send,
) {
    let mut queued = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut queued, BATCH).await > 0 {
        let (mut batch, mut waiting) = (Vec::with_capacity(BATCH), Vec::new());
        for one in queued.drain(..) {
            match one {
                Queued::Seen(observation) => batch.push(*observation),
                Queued::Until(stored) => waiting.push(stored),
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "at most BATCH")]
        metrics::histogram!(OBSERVATIONS_BATCH).record(batch.len() as f64);
        keep(&store, &batch, &lost).await;
        for stored in waiting {
            // Who waited for no longer than that goes on without.
            let _ = stored.send(());
        }
    }
}

async fn keep(store: &SharedStore, batch: &[Observation], lost: &(impl Fn(Uuid) + Send)) {
    if batch.is_empty() {
        return;
    }
    for _ in 0..ATTEMPTS {
        if stored(store, batch).await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    // One that the database does not take must not lose those of other hosts.
    for one in batch {
        if !stored(store, std::slice::from_ref(one)).await {
            lost(one.host_id);
        }
    }
}

async fn stored(store: &SharedStore, batch: &[Observation]) -> bool {
    match store.observations_store(batch).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to store {} observations",
                batch.len()
            );
            false
        }
    }
}
