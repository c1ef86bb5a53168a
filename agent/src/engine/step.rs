//! A restore is a list of steps, each with an undo. A step is plain data, journaled before it is
//! begun; the kind of target that planned it knows how to apply and undo it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sternway_proto::{name::TargetName, v1};
use thiserror::Error;
use uuid::Uuid;

/// One reversible action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Stable, `KIND.VERB-OBJECT`, for instance `docker.stop-old`; with the name of the target behind it where it is
    /// another one that is taken along: `docker.stop-old/sidecar`. Unique within a plan.
    pub id: String,
    /// For a person: `stop shop (revision #2)`.
    pub description: String,
    /// What the kind needs to apply and to undo it, also after a crash: journaled with the plan.
    pub payload: Value,
    /// How long one attempt at it may take.
    pub timeout: Duration,
    /// The point of no return: once this step has succeeded the restore is never undone, and the
    /// steps behind it only tidy up. At most one step of a plan commits.
    pub commits: bool,
}

/// What a step left behind: journaled with its success, readable by the steps and undos after it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Done {
    /// For a person, also when there was nothing to do: `already at sha256:…`.
    pub message: String,
    /// For later steps and for undo. `Null`: nothing.
    pub output: Value,
}

/// In the output of a last resort: somebody else deployed over the order, and what they deployed does its work.
pub const SERVED_BY_ANOTHER: &str = "served-by-another";

/// In the output of a step: what runs is not to the last setting what was ordered, and how it differs.
pub const DIFFERS: &str = "differs";

impl Done {
    /// Done, with nothing for later steps.
    pub fn said(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            output: Value::Null,
        }
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StepError {
    /// Stable, for programs: `check-failed`, `engine-unreachable`, `image-missing`, …
    pub code: String,
    pub message: String,
    /// What a person can do.
    pub next_step: String,
    /// The same attempt may succeed if it is repeated: the engine gives it a bounded number of
    /// further attempts before the restore is undone.
    pub transient: bool,
}

/// What surrounds a step while it is applied or undone.
///
/// Both must be idempotent: the host may have died after the effect and before the journal knew, so
/// either may find its work done, half done or not begun. Find things by the label of the order, never
/// by name alone.
pub struct StepContext<'a> {
    pub order_id: Uuid,
    pub target: &'a TargetName,
    /// The outputs of the steps that succeeded so far, by step id.
    pub outputs: &'a BTreeMap<String, Value>,
    /// Evidence goes into the journal, and from there to the controller, as soon as it is seen.
    pub evidence: &'a EvidenceSink,
}

impl<'a> StepContext<'a> {
    /// The same order, at another target that it takes along.
    #[must_use]
    pub fn at(&self, target: &'a TargetName) -> Self {
        Self { target, ..*self }
    }
}

/// Where a step sends what it saw. Bounded; sending waits for the journal.
#[derive(Debug, Clone)]
pub struct EvidenceSink(tokio::sync::mpsc::Sender<v1::Evidence>);

impl EvidenceSink {
    /// A sink, and where its evidence comes out.
    #[must_use]
    pub fn channel() -> (Self, tokio::sync::mpsc::Receiver<v1::Evidence>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        (Self(sender), receiver)
    }

    /// Hands evidence on. When nobody listens any more it is dropped: the order is being torn down.
    pub async fn send(&self, evidence: v1::Evidence) {
        let _ = self.0.send(evidence).await;
    }
}
