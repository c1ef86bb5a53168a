//! Follows the units that are looked after, across restarts of the bus: a burst of changes is told once.

use std::{collections::BTreeSet, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::StreamExt as _;
use sternway_proto::name::TargetName;
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout_at},
};

use super::SystemdKind;
use crate::{systemd::BusError, targets::Changed};

/// From a change to when it is told, with all that changed meanwhile: a unit that crashes in a loop is looked at this often.
const TOGETHER: Duration = Duration::from_millis(500);

/// The longest wait for a bus that is away.
const BACK_OFF: Duration = Duration::from_secs(10);

impl SystemdKind {
    pub(super) async fn follow(&self, changed: Sender<Changed>) {
        if self.sections.is_empty() {
            // Nothing is looked after: nothing can change.
            let () = std::future::pending().await;
        }
        let pauses = || {
            ExponentialBuilder::default()
                .with_min_delay(TOGETHER)
                .with_max_delay(BACK_OFF)
                .with_jitter()
                .without_max_times()
                .build()
        };
        let mut pause = pauses();
        let mut told = String::new();
        loop {
            let error = match self.follow_connection(&changed).await {
                Ok(()) => {
                    pause = pauses();
                    told.clear();
                    "the connection was lost".to_owned()
                }
                Err(error) => error.to_string(),
            };
            if changed.is_closed() {
                return;
            }
            // A host without a bus says so once.
            if told != error {
                tracing::warn!("units cannot be followed: {error}");
                told = error;
            }
            sleep(pause.next().unwrap_or(BACK_OFF)).await;
        }
    }

    /// Until the connection is lost, or nobody listens.
    async fn follow_connection(&self, changed: &Sender<Changed>) -> Result<(), BusError> {
        let mut units = std::pin::pin!(self.bus.changes().await?);
        // What came before is not told.
        if changed.send(Changed::All).await.is_err() {
            return Ok(());
        }
        while let Some(unit) = units.next().await {
            let Some(target) = self.target_of(&unit) else {
                continue;
            };
            let mut all = BTreeSet::<TargetName>::from([target]);
            let end = Instant::now() + TOGETHER;
            while let Ok(Some(unit)) = timeout_at(end, units.next()).await {
                all.extend(self.target_of(&unit));
            }
            for target in all {
                if changed.send(Changed::Target(target)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
