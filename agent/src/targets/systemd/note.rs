//! What an order is about, as its steps carry it and as it is noted beside its works: for a restore whose journal is gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sternway_proto::name::{RevisionId, TargetName};
use uuid::Uuid;

use super::{SystemdKind, lock};
use crate::{
    dpkg::PackageId,
    engine::step::{Step, StepError},
    snapshot::Snapshot,
    store::files::{self, FileError},
    targets::Made,
    work::WorkError,
};

/// The note in the folder of an order.
const NOTE: &str = "note.json";

/// From what to what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// What ran before; none: there was no such unit.
    pub(super) from: Option<RevisionId>,
    pub(super) to: RevisionId,
    /// What ran before, by its instance: what was started since is another one.
    pub(super) main: Started,
    /// Packages that are installed in another version.
    #[serde(default)]
    pub(super) packages: Vec<PackageChange>,
    /// Other units that are started again with it, because they share what changes.
    pub(super) beside: Vec<Started>,
}

/// A package that is installed in another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackageChange {
    pub(super) to: PackageId,
    /// It is left as it is by upgrades afterwards.
    pub(super) hold: bool,
    /// What is installed now; none: nothing of that name.
    pub(super) from: Option<PackageId>,
    /// Upgrades leave that as it is now.
    pub(super) held: bool,
}

/// How a unit stood before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Before {
    Ran,
    /// It did not come up, or did not stay up.
    Failed,
    /// Somebody stopped it.
    Stopped,
    /// It waits for what starts it: a socket, a timer. Or it was done.
    Waited,
}

/// A unit that is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) unit: String,
    /// Its instance before.
    pub(super) instance: String,
    pub(super) before: Before,
    /// How long its stop and its start may take together.
    pub(super) patience: Duration,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "job")]
pub(super) enum Job {
    /// Looks whether everything is there that both ways need. Its undo starts what was stopped.
    Prepare,
    Packages,
    Files,
    Reload,
    Start {
        unit: String,
    },
    Check {
        unit: String,
    },
}

/// What a step carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload {
    #[serde(flatten)]
    pub(super) job: Job,
    pub(super) exchange: Exchange,
}

/// What is noted of an order on the host, beside its journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) target: TargetName,
    pub(super) exchange: Exchange,
    /// What stood at paths of which the revision from before does not know.
    pub(super) aside: Snapshot,
}

impl Payload {
    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What a step carries, as it was planned.
    pub(super) fn of(step: &Step) -> Result<Self, StepError> {
        serde_json::from_value(step.payload.clone()).map_err(|error| StepError {
            code: "plan-unreadable".to_owned(),
            message: format!("step {} cannot be read: {error}", step.id),
            next_step: "start the agent of the version that began this order, or a newer one; then the order goes on"
                .to_owned(),
            transient: false,
        })
    }
}

impl SystemdKind {
    /// What was noted of an order; none: nothing was.
    pub(super) fn noted(&self, order: Uuid) -> Result<Option<Note>, WorkError> {
        let bytes = files::read(&self.works.folder_of(order).join(NOTE))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Notes it, durably.
    pub(super) fn note(&self, order: Uuid, note: &Note) -> Result<(), WorkError> {
        let path = self.works.folder(order)?.join(NOTE);
        let bytes = serde_json::to_vec(note).map_err(|error| FileError {
            action: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        Ok(files::replace(&path, &bytes)?)
    }

    /// What orders put aside is held as it was before the agent was started again.
    pub(super) fn hold_again(&self) {
        for order in self.works.orders().unwrap_or_default() {
            if let Ok(Some(note)) = self.noted(order) {
                let held = note.aside.artifacts();
                let held = held.filter_map(|id| self.artifacts.held(id)).collect();
                lock(&self.asides).insert(order, held);
            }
        }
    }

    /// What orders began and did not let go of.
    pub(super) fn half_made(&self) -> Vec<Made> {
        let orders = self.works.orders().unwrap_or_default();
        let made = |order: Uuid| {
            let note = self.noted(order).ok()??;
            Some(Made {
                target: note.target,
                order,
                // None that a unit has.
                instance: format!("order {order}"),
                begun: true,
            })
        };
        orders.into_iter().filter_map(made).collect()
    }
}
