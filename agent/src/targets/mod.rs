//! What can be restored: one module a kind, all behind [`Kind`]. Nothing outside this folder knows a
//! kind; adding one is one folder and one line in [`Registry::new`]'s caller.

pub mod docker;
mod probe;
pub mod systemd;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    engine::step::{Done, EvidenceSink, Step, StepContext, StepError},
    store::artifacts::Held,
};

/// What a kind saw of a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub target: TargetName,
    pub state: v1::TargetState,
    /// What runs (or last ran): none when nothing bears the name.
    pub content: Option<Content>,
    /// Changes with each deployment *and* each replacement of the instance (for docker the
    /// container's id): tells "deployed again" from "restarted". What stands behind an `@` tells that the same one took up
    /// what is there now. Empty: it never began.
    pub instance: String,
    /// Why it cannot be restored at all, if so.
    pub unsupported: Option<v1::Problem>,
    /// It ended, says that all is well, and is not to be restarted: a job.
    pub ended_well: bool,
    /// The order that made this instance, where one did.
    pub made: Option<Made>,
    /// What runs is what its instance began with: of one that is known its recorded revision counts, and not `content`,
    /// which is what stands there now.
    pub settled: bool,
}

impl Observed {
    /// Nothing bears the name.
    #[must_use]
    pub fn gone(target: &TargetName) -> Self {
        Self {
            target: target.clone(),
            state: v1::TargetState::Gone,
            content: None,
            instance: String::new(),
            unsupported: None,
            ended_well: false,
            made: None,
            settled: false,
        }
    }
}

/// An instance that an order made, or was making when it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub target: TargetName,
    pub order: Uuid,
    pub instance: String,
    /// It ran at least once.
    pub begun: bool,
}

/// What a kind saw of all its targets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Discovered {
    pub seen: Vec<Observed>,
    /// There, but what they are could not be read. Not gone.
    pub unread: BTreeSet<TargetName>,
    /// What orders made, whether it bears its target's name or not (yet).
    pub made: Vec<Made>,
}

/// What this host knows of a target, for an order that has no journal to tell.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The instance that was recorded last, and its revision.
    pub before: Option<(String, Recorded)>,
    /// Every revision of it.
    pub revisions: Vec<Recorded>,
}

/// The content of a revision: what is hashed, stored and restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Canonical JSON of the kind's own record. Its SHA-256 is the revision's id. Holds secrets:
    /// never leaves the host, never logged.
    pub record: Vec<u8>,
    /// Raw material kept beside it for a person and for fidelity checks (for docker: the engine's
    /// own inspect answers), by name. Not part of the id.
    pub attachments: BTreeMap<String, Vec<u8>>,
    /// Artifacts in the host's store that a restore of it needs: held there until it is recorded.
    pub artifacts: Vec<Held>,
    /// Everything comparable. Private values are still in plain here; the executor replaces them by
    /// keyed hashes before anything leaves the host.
    pub fields: Vec<FieldValue>,
    /// What helps a restore but is no part of the identity: for docker, where the image can be pulled
    /// from. Stored beside the record, replaced with each observation of the same revision. Never
    /// leaves the host.
    pub hints: serde_json::Value,
    pub image: String,
    pub image_id: String,
    pub image_digest: String,
}

impl Content {
    /// The revision's id.
    #[must_use]
    pub fn id(&self) -> RevisionId {
        RevisionId::of(&self.record)
    }
}

/// One comparable field of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldValue {
    pub path: String,
    pub value: String,
    /// The value must not leave the host.
    pub private: bool,
}

/// A revision as it stands in the host's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub id: RevisionId,
    pub number: u32,
    pub record: Vec<u8>,
    /// The newest [`Content::hints`] of that revision. `Null`: none.
    pub hints: serde_json::Value,
}

/// What a kind is asked to plan.
#[derive(Debug, Clone)]
pub struct PlanInput {
    pub target: TargetName,
    /// What runs now, as recorded. None: nothing bears the name.
    pub from: Option<Recorded>,
    /// The instance that `from` was read from ([`Observed::instance`]): no other may be replaced.
    pub instance: String,
    pub to: Recorded,
    pub scope: v1::RestoreScope,
    /// As the operator wishes; `Unspecified`: by label, else by what the target allows.
    pub swap: v1::Swap,
}

/// What a kind would do. The executor turns it into a [`v1::Plan`] and, when ordered, journals the
/// steps and carries them out.
#[derive(Debug, Clone)]
pub struct Draft {
    pub steps: Vec<Step>,
    /// The content that will run: differs from `to` where the scope is image or config only.
    pub result: Content,
    /// Other targets that are taken down and brought back as they are with it: busy meanwhile.
    pub with: Vec<TargetName>,
    pub swap: v1::Swap,
    pub swap_reason: String,
    pub checks: Vec<String>,
    pub soak: std::time::Duration,
    /// How long it may wait by wish: for the checks of all steps together, soak and all, for what is given long to stop,
    /// and for an image that has to come from a registry. Not the restore's own time.
    pub waiting: std::time::Duration,
    pub warnings: Vec<v1::Problem>,
    /// Non-empty: the restore must be refused, nothing changed.
    pub blockers: Vec<v1::Problem>,
    pub expected_outage: String,
}

/// Why a kind could not say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KindError {
    /// The engine (or bus) behind the kind does not answer, or not in time.
    #[error("{what}: {reason}")]
    Unreachable { what: String, reason: String },
    #[error("{target} is not there")]
    NotFound { target: TargetName },
    /// The record cannot be read by this version.
    #[error("the record of {target} cannot be read: {reason}")]
    Record { target: String, reason: String },
    #[error("{what}: {reason}")]
    Failed { what: String, reason: String },
    /// What is there cannot be kept as it is, so that nobody could restore it.
    #[error("{}", problem.message)]
    Unkept { problem: v1::Problem },
}

/// Which targets may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Look at everything again: the stream of events was cut, or is new.
    All,
    Target(TargetName),
}

/// Command lines for a person on the host, of one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hands {
    /// Shows what runs of it.
    pub see: String,
    /// Shows why it ended.
    pub log: String,
    pub start: String,
    /// Shows whether what is behind the kind answers.
    pub engine: String,
    /// Shows what its disk is used for.
    pub disk: String,
}

/// The code of a last resort that could start nothing.
pub const NOTHING_RUNS: &str = "nothing-runs";

/// A kind of target: `docker`, `systemd`.
#[async_trait]
pub trait Kind: Send + Sync {
    /// What stands before the slash in the names of its targets.
    fn label(&self) -> &'static str;

    /// Command lines that help a person on the host with that target.
    fn hands(&self, target: &TargetName) -> Hands;

    /// What the host's facts should say of the engine behind the kind.
    async fn describe(&self, facts: &mut v1::HostFacts);

    /// All targets of this kind on this host, as they are. One that cannot be read hides no other.
    async fn discover(&self) -> Result<Discovered, KindError>;

    /// One target as it is. A name that nothing bears yields `state = Gone` and no content.
    async fn observe(&self, target: &TargetName) -> Result<Observed, KindError>;

    /// Follows the kind's own events for ever, across restarts of its engine (bounded back-off), and
    /// sends what may have changed. Begins, and goes on after every gap, with [`Changed::All`].
    async fn watch(&self, changed: tokio::sync::mpsc::Sender<Changed>);

    /// What a restore would do. Reads only.
    async fn plan(&self, input: &PlanInput) -> Result<Draft, KindError>;

    /// Carries a step out. Idempotent.
    async fn apply(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError>;

    /// Takes a step back, whether it succeeded, failed or was begun and never heard of again.
    /// Idempotent.
    async fn undo(&self, context: &StepContext<'_>, step: &Step) -> Result<Done, StepError>;

    /// The last resort: neither the restore nor its undo could be completed. Makes exactly one of the
    /// two instances run, whichever can, and says which. `steps` is the whole plan.
    async fn rescue(&self, context: &StepContext<'_>, steps: &[Step]) -> Result<Done, StepError>;

    /// Behind a [`Self::rescue`] that failed with [`NOTHING_RUNS`], once it is not asked for again: keeps what tells why,
    /// and leaves what is to be started by hand under the target's name. What runs is not touched.
    async fn lay_aside(&self, context: &StepContext<'_>, steps: &[Step]) -> Result<(), StepError>;

    /// The last resort for an order of which nobody has the journal: how far it came is read from what it left.
    /// Makes exactly one instance run, whichever can, takes the rest away, and says what runs. Idempotent.
    async fn mend(&self, context: &StepContext<'_>, known: &Known) -> Result<Done, StepError>;

    /// Runs the checks of the recorded revision against what runs now, through its soak. One piece
    /// of evidence a check is sent to the sink; the verdict is the worst of them.
    async fn check(
        &self,
        target: &TargetName,
        recorded: &Recorded,
        evidence: &EvidenceSink,
    ) -> Result<v1::Verdict, KindError>;

    /// What the recorded revision says of its own checks and cannot be read. While there is any, the revision is not
    /// verified as it was meant to be.
    fn unreadable(&self, _recorded: &Recorded) -> Vec<v1::Problem> {
        Vec::new()
    }

    /// Why this revision could not be restored now; empty: it could.
    async fn readiness(&self, target: &TargetName, recorded: &Recorded) -> Vec<v1::Problem>;

    /// What is wrong around the target whatever it would be restored to, such as a second instance of it that runs;
    /// empty: nothing. What belongs to one of the `open_orders` is not.
    async fn beside(&self, target: &TargetName, open_orders: &[Uuid]) -> Vec<v1::Problem>;

    /// Keeps the artifacts of exactly these revisions of the target (pins them against pruning,
    /// repairs a pin that somebody removed) and lets go of those it kept before for others. They come in the order in
    /// which they matter: first what a rollback would go to, then from the newest on.
    async fn keep(&self, target: &TargetName, kept: &[Recorded]) -> Result<(), KindError>;

    /// Removes what finished orders left for the post-mortem and is older than the kind's dwell.
    /// `open_orders` are never touched.
    async fn collect(&self, open_orders: &[Uuid]) -> Result<(), KindError>;
}

/// The kinds this agent looks after, by label.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
}

impl Registry {
    /// A registry of these kinds.
    pub fn new(kinds: impl IntoIterator<Item = Arc<dyn Kind>>) -> Self {
        Self {
            kinds: kinds.into_iter().map(|kind| (kind.label(), kind)).collect(),
        }
    }

    /// The kind that looks after a target of that name.
    #[must_use]
    pub fn of(&self, target: &TargetName) -> Option<&Arc<dyn Kind>> {
        self.kinds.get(target.kind())
    }

    /// All kinds.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Kind>> {
        self.kinds.values()
    }
}
