//! What the parts of the executor share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ledger::Ledger, outbox::Outbox, settings::Settings};
use crate::{
    store::revisions::Revisions,
    targets::{Observed, Registry},
};

/// The shared state. Locks are held for the length of a look or a durable write, never across a call to
/// an engine.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) registry: Registry,
    pub(super) outbox: Outbox,
    pub(super) shutdown: CancellationToken,
    revisions: Mutex<Revisions>,
    ledger: Mutex<Ledger>,
    live: Mutex<BTreeMap<TargetName, Live>>,
    active: Mutex<BTreeMap<TargetName, Active>>,
    /// The controller's clock minus the host's, milliseconds.
    clock_offset_ms: AtomicI64,
    /// Orders whose journals cannot be read: what they did to which target is not known.
    pub(super) damaged: Mutex<BTreeSet<Uuid>>,
}

/// What is known of a target beside its revisions; found anew after a restart.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    pub(super) state: v1::TargetState,
    /// The revision that was seen last; none: nothing bears the name.
    pub(super) current: Option<RevisionId>,
    pub(super) unsupported: Option<v1::Problem>,
    pub(super) health: v1::Verdict,
    pub(super) evidence: Vec<v1::Evidence>,
    pub(super) readiness: Option<v1::Readiness>,
}

/// An order that is being carried out.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) order: Uuid,
    /// Revisions it needs: not to be let go meanwhile.
    pub(super) needs: BTreeSet<RevisionId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        registry: Registry,
        revisions: Revisions,
        ledger: Ledger,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            settings,
            registry,
            outbox: Outbox::default(),
            shutdown,
            revisions: Mutex::new(revisions),
            ledger: Mutex::new(ledger),
            live: Mutex::default(),
            active: Mutex::default(),
            clock_offset_ms: AtomicI64::new(0),
            damaged: Mutex::default(),
        }
    }

    pub(super) fn revisions(&self) -> MutexGuard<'_, Revisions> {
        lock(&self.revisions)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(super) fn live(&self) -> MutexGuard<'_, BTreeMap<TargetName, Live>> {
        lock(&self.live)
    }

    pub(super) fn active(&self) -> MutexGuard<'_, BTreeMap<TargetName, Active>> {
        lock(&self.active)
    }

    /// An order whose journal cannot be read, if there is one.
    pub(super) fn damaged_order(&self) -> Option<Uuid> {
        lock(&self.damaged).first().copied()
    }

    pub(super) fn set_clock_offset(&self, offset_ms: i64) {
        self.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// The controller's clock, as far as is known.
    pub(super) fn controller_now_ms(&self) -> i64 {
        now_ms().saturating_add(self.clock_offset_ms.load(Ordering::Relaxed))
    }

    /// Takes note of what was seen, without deciding anything.
    pub(super) fn saw(&self, observed: &Observed) {
        let mut live = self.live();
        let entry = live.entry(observed.target.clone()).or_default();
        entry.state = observed.state;
        entry.current = observed.content.as_ref().map(crate::targets::Content::id);
        entry.unsupported.clone_from(&observed.unsupported);
    }

    /// The target as the controller is told of it. None: nothing is known of it.
    pub(super) fn describe(&self, target: &TargetName) -> Option<v1::Target> {
        let live = self.live().get(target).cloned();
        let active = self.active().get(target).map(|active| active.order);
        let revisions = self.revisions();
        let history = revisions.history(target);
        let blocked = revisions.blocked(target);
        if live.is_none() && history.is_none() && blocked.is_none() {
            return None;
        }
        let live = live.unwrap_or_default();
        let mut entries: Vec<v1::Revision> = history
            .iter()
            .flat_map(|history| history.entries())
            .map(|entry| {
                let mark = revisions.mark(target, &entry.id);
                v1::Revision {
                    id: entry.id.to_string(),
                    number: entry.number,
                    first_seen_ms: entry.first_seen_ms,
                    last_active_ms: entry.last_active_ms,
                    known_good: entry.known_good,
                    mark: mark.map_or(0, |mark| mark.mark),
                    mark_reason: mark.map(|mark| mark.reason.clone()).unwrap_or_default(),
                    image: entry.image.clone(),
                    image_id: entry.image_id.clone(),
                    image_digest: entry.image_digest.clone(),
                    fields: entry.fields.clone(),
                    origin: match entry.origin {
                        crate::store::history::Origin::Deployment => "deployment",
                        crate::store::history::Origin::Restore => "restore",
                    }
                    .to_owned(),
                }
            })
            .collect();
        entries.reverse();
        let lineage = history.map(|history| history.lineage().iter().map(ToString::to_string));
        let unsupported = live.unsupported.or_else(|| {
            blocked.map(|reason| {
                v1::Problem::new(
                    "history-damaged",
                    format!("the record of {target} on this host cannot be read: {reason}"),
                    "see the agent's log; the damaged file is kept under its state folder",
                )
            })
        });
        Some(v1::Target {
            name: target.to_string(),
            state: live.state.into(),
            current_revision: live.current.map(String::from).unwrap_or_default(),
            revisions: entries,
            lineage: lineage.into_iter().flatten().collect(),
            readiness: live.readiness,
            health: live.health.into(),
            health_evidence: live.evidence,
            active_order: active.map(|order| order.to_string()).unwrap_or_default(),
            unsupported,
        })
    }

    /// Every target that anything is known of.
    pub(super) fn targets(&self) -> BTreeSet<TargetName> {
        let mut targets: BTreeSet<TargetName> = self.live().keys().cloned().collect();
        targets.extend(self.revisions().targets().cloned());
        targets
    }
}

/// The host's clock, Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}
