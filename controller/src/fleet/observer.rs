//! Writes what agents say about their hosts, many in one transaction: a thousand agents that come back
//! at once cost some dozen commits. None of it is acknowledged on the wire, so it may wait.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    metrics::OBSERVATIONS_BATCH,
    store::{SharedStore, types::Observation},
};

/// Observations that may wait. A session whose observation finds no place waits, and so does its agent.
pub(super) const QUEUE: usize = 1024;

/// Observations in one transaction, so that orders get their turn between.
const BATCH: usize = 64;

/// Attempts at one batch before it is given up; the next inventory says it all again.
const ATTEMPTS: u32 = 3;

/// Stores observations until the queue is closed and empty.
pub(super) async fn run(store: SharedStore, mut queue: mpsc::Receiver<Observation>) {
    let store = Arc::clone(&store);
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        #[expect(clippy::cast_precision_loss, reason = "at most BATCH")]
        metrics::histogram!(OBSERVATIONS_BATCH).record(batch.len() as f64);
        keep(&store, &batch).await;
        batch.clear();
    }
}

async fn keep(store: &SharedStore, batch: &[Observation]) {
    for attempt in 1..=ATTEMPTS {
        match store.observations_store(batch).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    attempt,
                    "failed to store {} observations",
                    batch.len()
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
