//! The executor: everything with rights on the host. It talks to the link through
//! [`crate::boundary`] only, and needs neither network nor controller to finish what it began.
//!
//! - [`ledger`]: which orders came, and the fence.
//! - `office`: takes requests in, and begins what they ask for.
//! - `run`: one order, from its journal to the kind and back; `hold`: while that journal cannot be written.
//! - `stranded`: open orders that cannot be gone on with.
//! - `lost`: orders whose journal is gone.
//! - `inventory`: what is deployed, whether it is well, whether it could be undone.
//! - [`outbox`]: what is to be told.

mod care;
mod core;
mod facts;
#[cfg(test)]
mod faults;
mod hold;
mod inventory;
mod last_resort;
pub mod ledger;
mod lost;
mod office;
pub mod outbox;
mod plan;
#[cfg(test)]
mod planning;
mod run;
#[cfg(test)]
mod scripted;
pub mod settings;
mod stranded;
mod words;

use std::sync::Arc;

use prost::Message as _;
use sternway_proto::{limits, v1};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    core::{Core, now_ms},
    inventory::Inventory,
    ledger::{Ledger, LedgerError},
    office::Office,
    outbox::Next,
    settings::Settings,
};
use crate::{
    boundary::{Report, Request},
    store::{
        artifacts::Artifacts,
        revisions::{RevisionError, Revisions},
    },
    targets::Registry,
};

/// Why the executor could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the revision store cannot be opened")]
    Revisions(#[from] RevisionError),
    #[error("the order ledger cannot be opened")]
    Ledger(#[from] LedgerError),
}

/// The running executor.
#[derive(Debug)]
pub struct Executor {
    task: JoinHandle<()>,
}

impl Executor {
    /// Starts it: what was left unfinished is gone on with at once.
    ///
    /// # Errors
    /// The state folder cannot be used.
    pub fn start(
        settings: Settings,
        artifacts: Artifacts,
        registry: Registry,
        requests: mpsc::Receiver<Request>,
        reports: mpsc::Sender<Report>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let revisions = Revisions::with(&settings.state_dir, artifacts)?;
        let (ledger, found) = Ledger::open(
            &settings.state_dir.join("orders"),
            settings.host_id,
            now_ms(),
        )?;
        let core = Arc::new(Core::new(settings, registry, revisions, ledger, shutdown));
        core.outbox.epoch(core.ledger().highest_epoch());
        let (inventory, changes, left) = Inventory::new(core.clone());
        let office = Office::open(core.clone(), changes.clone(), left, found);
        let task = tokio::spawn(async move {
            let mut office = office;
            let mut helpers = JoinSet::new();
            helpers.spawn(tell(core.clone(), reports));
            helpers.spawn(inventory.follow(changes));
            tokio::select! {
                biased;
                () = office.work(requests) => {}
                // Without either the executor is blind or dumb: the agent ends, and is started again.
                Some(ended) = helpers.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("a part of the executor failed: {error}");
                    }
                    if core.shutdown.is_cancelled() {
                        office.close().await;
                    }
                }
            }
        });
        Ok(Self { task })
    }

    /// Waits until it ends, which before its shutdown it only does by a bug. Cancel safe. Not to be waited
    /// for again.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::error!("the executor failed: {error}");
        }
    }

    /// Waits until it has stopped after its shutdown was asked for.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!("the executor failed: {error}");
        }
    }
}

/// Every target. Where that would be too long for one message, the fields follow target by target.
fn inventory_of(core: &Core) -> v1::Inventory {
    let targets = core.targets();
    let mut inventory = v1::Inventory {
        targets: targets
            .iter()
            .filter_map(|target| core.describe(target))
            .collect(),
    };
    if inventory.encoded_len() > limits::MESSAGE_BYTES / 2 {
        for revision in inventory
            .targets
            .iter_mut()
            .flat_map(|target| &mut target.revisions)
        {
            revision.fields.clear();
        }
        for target in &targets {
            core.outbox.target(target);
        }
    }
    inventory
}

/// Tells the link, which alone may be slow.
async fn tell(core: Arc<Core>, reports: mpsc::Sender<Report>) {
    loop {
        let report = match core.outbox.next().await {
            Next::Facts(facts) => Report::Facts(facts),
            Next::HighestEpoch(epoch) => Report::HighestEpoch(epoch),
            Next::Reply(reply) => Report::PlanReply(reply),
            Next::Event(event) => Report::OrderEvent(*event),
            Next::Inventory => Report::Inventory(inventory_of(&core)),
            Next::Target(target) => match core.describe(&target) {
                Some(target) => Report::Target(target),
                None => Report::TargetRemoved(target.to_string()),
            },
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}
