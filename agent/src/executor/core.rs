//! What the parts of the executor share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ledger::Ledger, lost::Lost, outbox::Outbox, settings::Settings, stranded::Stranded};
pub(super) use crate::clock::now_ms;
use crate::{
    store::{gone::Gone, revisions::Revisions},
    targets::{Hands, Observed, Registry},
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
    /// How often an order began or ended on a target.
    turned: Mutex<BTreeMap<TargetName, u64>>,
    /// The controller's clock minus the host's, milliseconds.
    clock_offset_ms: AtomicI64,
    /// Orders that are open and cannot be gone on with.
    stranded: Mutex<BTreeMap<Uuid, Stranded>>,
    /// Targets whose order cannot go on at this moment, and why: told as a problem of their readiness.
    stuck: Mutex<BTreeMap<TargetName, v1::Problem>>,
    /// Targets of orders whose journal is gone.
    lost: Mutex<BTreeMap<TargetName, Lost>>,
    /// Orders without a journal about which nothing more is done here.
    dealt_with: Mutex<BTreeSet<Uuid>>,
    /// How long targets were seen gone.
    gone: Mutex<Gone>,
    /// Targets to be forgotten when they are tended next.
    due: Mutex<BTreeSet<TargetName>>,
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

/// What stands in the way of an order while another is at its target.
pub(super) fn target_busy(target: &TargetName, order: Uuid) -> v1::Problem {
    v1::Problem::new(
        "target-busy",
        format!("order {order} is restoring {target} at this moment"),
        "wait for it: `ctl rollout watch`",
    )
}

/// How often orders had begun and ended when a look began.
#[derive(Debug, Clone)]
pub(super) struct Turns(BTreeMap<TargetName, u64>);

impl Turns {
    /// How often they had on that target.
    pub(super) fn of(&self, target: &TargetName) -> u64 {
        self.0.get(target).copied().unwrap_or_default()
    }
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
        let gone = Gone::open(&settings.state_dir);
        Self {
            settings,
            registry,
            outbox: Outbox::default(),
            shutdown,
            revisions: Mutex::new(revisions),
            ledger: Mutex::new(ledger),
            live: Mutex::default(),
            active: Mutex::default(),
            turned: Mutex::default(),
            clock_offset_ms: AtomicI64::new(0),
            stranded: Mutex::default(),
            lost: Mutex::default(),
            dealt_with: Mutex::default(),
            due: Mutex::default(),
            gone: Mutex::new(gone),
            stuck: Mutex::default(),
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

    /// An order begins to be carried out: what was seen of its target before is not what is there now. False: another
    /// has taken the target along meanwhile.
    pub(super) fn begun(&self, target: &TargetName, active: Active) -> bool {
        let mut all = self.active();
        if all.get(target).is_some_and(|one| one.order != active.order) {
            return false;
        }
        all.insert(target.clone(), active);
        *lock(&self.turned).entry(target.clone()).or_default() += 1;
        true
    }

    /// An order takes other targets along.
    ///
    /// # Errors
    /// One of them is busy: none is taken.
    pub(super) fn join(&self, order: Uuid, targets: &[TargetName]) -> Result<(), v1::Problem> {
        let mut active = self.active();
        for target in targets {
            if let Some(busy) = active.get(target).filter(|active| active.order != order) {
                return Err(target_busy(target, busy.order));
            }
            if let Some(problem) = self.stranded(target) {
                return Err(problem);
            }
        }
        for target in targets {
            if active.contains_key(target) {
                continue;
            }
            let needs = BTreeSet::new();
            active.insert(target.clone(), Active { order, needs });
            *lock(&self.turned).entry(target.clone()).or_default() += 1;
        }
        drop(active);
        for target in targets {
            self.outbox.target(target);
        }
        Ok(())
    }

    /// It is over, at all its targets or only there; what was seen of them meanwhile was its doing.
    pub(super) fn over(&self, order: Uuid, only: Option<&TargetName>) -> Vec<TargetName> {
        let mut active = self.active();
        let of = active.extract_if(.., |target, active| {
            active.order == order && only.is_none_or(|only| only == target)
        });
        let targets: Vec<TargetName> = of.map(|(target, _)| target).collect();
        for target in &targets {
            *lock(&self.turned).entry(target.clone()).or_default() += 1;
        }
        targets
    }

    /// What tells whether a look at the host is still of use when it is done.
    pub(super) fn turns(&self) -> Turns {
        Turns(lock(&self.turned).clone())
    }

    /// Whether no order began, ended or is on its way on that target since then.
    pub(super) fn undisturbed(&self, target: &TargetName, since: &Turns) -> bool {
        let idle = !self.active().contains_key(target);
        idle && lock(&self.turned).get(target) == since.0.get(target)
    }

    pub(super) fn gone(&self) -> MutexGuard<'_, Gone> {
        lock(&self.gone)
    }

    pub(super) fn due(&self) -> MutexGuard<'_, BTreeSet<TargetName>> {
        lock(&self.due)
    }

    /// An open order cannot be gone on with: its target is blocked, and so is every target where it is not known.
    pub(super) fn strand(&self, order: Uuid, stranded: Stranded) {
        let target = stranded.target.clone();
        lock(&self.stranded).insert(order, stranded);
        match target {
            Some(target) => self.outbox.target(&target),
            None => self.outbox.all(),
        }
    }

    /// What stands in the way of every order for that target.
    pub(super) fn stranded(&self, target: &TargetName) -> Option<v1::Problem> {
        lock(&self.stranded)
            .values()
            .find(|stranded| stranded.target.as_ref().is_none_or(|one| one == target))
            .map(|stranded| stranded.problem.clone())
    }

    /// Orders whose things on the host are not to be touched.
    pub(super) fn open_orders(&self) -> Vec<Uuid> {
        let mut open: Vec<Uuid> = lock(&self.stranded).keys().copied().collect();
        let lost = lock(&self.lost);
        open.extend(lost.values().filter(|one| !one.mended).map(|one| one.order));
        drop(lost);
        let all = self.ledger().all_lost(now_ms());
        open.extend(all.into_iter().filter(|order| !self.is_dealt_with(*order)));
        open.extend(self.active().values().map(|active| active.order));
        open
    }

    /// The target's order cannot go on, and why; `None`: it goes on.
    pub(super) fn set_stuck(&self, target: &TargetName, problem: Option<v1::Problem>) {
        let mut stuck = lock(&self.stuck);
        match problem {
            Some(problem) => stuck.insert(target.clone(), problem),
            None => stuck.remove(target),
        };
        drop(stuck);
        self.outbox.target(target);
    }

    /// Why the target's order cannot go on, if it cannot.
    pub(super) fn stuck(&self, target: &TargetName) -> Option<v1::Problem> {
        let stuck = lock(&self.stuck).get(target).cloned();
        stuck
            .or_else(|| self.stranded(target))
            .or_else(|| self.lost(target).map(|lost| lost.problem))
    }

    /// What is known of an order of that target whose journal is gone.
    pub(super) fn lost(&self, target: &TargetName) -> Option<Lost> {
        lock(&self.lost).get(target).cloned()
    }

    /// What is known of an order of that target whose journal is gone, from now on.
    pub(super) fn set_lost(&self, target: &TargetName, lost: Lost) {
        if lost.tried {
            lock(&self.dealt_with).insert(lost.order);
        }
        lock(&self.lost).insert(target.clone(), lost);
        self.outbox.target(target);
    }

    /// What it left is of no interest any more, also where it is found again.
    pub(super) fn forget_lost(&self, target: &TargetName) {
        if let Some(lost) = lock(&self.lost).remove(target) {
            lock(&self.dealt_with).insert(lost.order);
        }
        self.outbox.target(target);
    }

    pub(super) fn is_dealt_with(&self, order: Uuid) -> bool {
        lock(&self.dealt_with).contains(&order)
    }

    pub(super) fn set_clock_offset(&self, offset_ms: i64) {
        self.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// The controller's clock, as far as is known.
    pub(super) fn controller_now_ms(&self) -> i64 {
        now_ms().saturating_add(self.clock_offset_ms.load(Ordering::Relaxed))
    }

    /// The revision of what was seen. None: nothing bears the name.
    pub(super) fn revision_of(&self, observed: &Observed) -> Option<RevisionId> {
        let content = observed.content.as_ref()?;
        let revisions = self.revisions();
        let settled = revisions
            .history(&observed.target)
            .and_then(|history| history.settled(observed));
        Some(settled.map_or_else(|| content.id(), |entry| entry.id.clone()))
    }

    /// Command lines for a person who looks at that target on the host.
    pub(super) fn hands(&self, target: &TargetName) -> Hands {
        let kind = self.registry.of(target);
        kind.map_or_else(Hands::default, |kind| kind.hands(target))
    }

    /// Takes note of what was seen, without deciding anything.
    pub(super) fn saw(&self, observed: &Observed) {
        let current = self.revision_of(observed);
        let mut live = self.live();
        let entry = live.entry(observed.target.clone()).or_default();
        entry.state = observed.state;
        entry.current = current;
        entry.unsupported.clone_from(&observed.unsupported);
    }

    /// The target as the controller is told of it. None: nothing is known of it.
    pub(super) fn describe(&self, target: &TargetName) -> Option<v1::Target> {
        let live = self.live().get(target).cloned();
        // One that cannot be gone on with is nobody's work any more: its problem says so instead.
        let active = self.active().get(target).map(|active| active.order);
        let active = active.filter(|order| !lock(&self.stranded).contains_key(order));
        let revisions = self.revisions();
        let history = revisions.history(target);
        let blocked = revisions.blocked(target);
        if live.is_none() && history.is_none() && blocked.is_none() {
            return None;
        }
        let mut live = live.unwrap_or_default();
        if let Some(problem) = self.stuck(target) {
            let readiness = live.readiness.get_or_insert_default();
            readiness.verdict = v1::ReadinessVerdict::NotReady.into();
            readiness.problems.insert(0, problem);
        }
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
                    gone: false,
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
            active_rollout: String::new(),
        })
    }

    /// Every target that anything is known of.
    pub(super) fn targets(&self) -> BTreeSet<TargetName> {
        let mut targets: BTreeSet<TargetName> = self.live().keys().cloned().collect();
        targets.extend(self.revisions().targets().cloned());
        targets
    }
}
