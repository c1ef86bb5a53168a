//! Follows what happens on the host: takes up revisions, looks after each target (keeps its artifacts, runs
//! its checks, looks whether a rollback would work), and collects what orders left behind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{self, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    care::{self, LOOK_TIMEOUT},
    core::{Core, Turns, now_ms},
    facts,
    lost::Lost,
};
use crate::{
    store::history::{History, Origin},
    targets::{Changed, Discovered, Kind, Made, Observed},
};

/// Targets kept, and targets checked, at the same time. Apart, so that what was just deployed is kept while others are
/// watched through their soak, which is waiting for the most part.
const KEPT: usize = 4;
const CHECKED: usize = 16;

/// Changes that may wait. A full queue makes the watchers wait, who then say `All`.
const CHANGES: usize = 64;

/// How long collecting may take: each standby that was left gets some seconds to answer what it was asked, and some to
/// stop.
const COLLECT_TIMEOUT: Duration = Duration::from_mins(5);

/// What an observation means for the history of its target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    /// Nothing that concerns revisions: the same instance, stopped, started or restarted.
    Same,
    /// Another instance, or another content: it was deployed.
    Deployed(RevisionId),
    /// Nothing bears the name.
    Gone,
}

/// A revision a deployment, none for a restart.
fn meaning(history: Option<&History>, observed: &Observed) -> Meaning {
    let Some(content) = &observed.content else {
        return Meaning::Gone;
    };
    let never_began = observed.settled
        && observed.instance.is_empty()
        && observed.state == v1::TargetState::Stopped;
    if never_began {
        // What was put there is deployed when it begins.
        return match history.and_then(History::current) {
            Some(_) => Meaning::Same,
            None => Meaning::Gone,
        };
    }
    let id = content.id();
    let same = history.is_some_and(|history| {
        let current = history.current().is_some_and(|entry| entry.id == id);
        history.settled(observed).is_some() || current && history.instance == observed.instance
    });
    if same {
        Meaning::Same
    } else {
        Meaning::Deployed(id)
    }
}

/// What came of a look at everything.
#[derive(Default)]
struct Looked {
    /// The kinds that could be looked at.
    answered: Vec<&'static str>,
    /// Targets of those that are there and could not be read.
    unread: BTreeSet<TargetName>,
}

/// What is done for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Care {
    /// Its artifacts and its readiness.
    Keep,
    /// Its checks, through their soak.
    Check,
}

/// The inventory's task.
pub(super) struct Inventory {
    core: Arc<Core>,
    changes: mpsc::Receiver<Changed>,
    tending: JoinSet<()>,
    /// What is done for targets now; true: once more afterwards.
    tended: BTreeMap<(TargetName, Care), bool>,
    /// Whose task that is: one that panics cannot say so any more.
    tasks: HashMap<task::Id, (TargetName, Care)>,
    keeping: Arc<Semaphore>,
    checking: Arc<Semaphore>,
    /// Targets whose present revision could not be written down: looked at again until it is.
    unrecorded: BTreeSet<TargetName>,
    /// What orders left whose journal is gone: for the office, which begins what is done about it.
    left: mpsc::Sender<Made>,
    /// Collects what orders left: one at a time, and nothing waits for it.
    collecting: JoinSet<()>,
    /// The kinds that could not be looked at the last time, and why.
    blind: BTreeMap<&'static str, String>,
    /// When the upkeep was done last.
    upkept: Option<Instant>,
    /// How many orders had begun and ended on each target when it was looked at last by itself.
    turns: BTreeMap<TargetName, u64>,
}

/// Where to say that something may have changed.
pub(super) type Changes = mpsc::Sender<Changed>;

impl Inventory {
    pub(super) fn new(core: Arc<Core>) -> (Self, Changes, mpsc::Receiver<Made>) {
        let (sender, changes) = mpsc::channel(CHANGES);
        let (left, found) = mpsc::channel(CHANGES);
        let inventory = Self {
            core,
            changes,
            tending: JoinSet::new(),
            tended: BTreeMap::new(),
            tasks: HashMap::new(),
            keeping: Arc::new(Semaphore::new(KEPT)),
            checking: Arc::new(Semaphore::new(CHECKED)),
            unrecorded: BTreeSet::new(),
            left,
            collecting: JoinSet::new(),
            blind: BTreeMap::new(),
            upkept: None,
            turns: BTreeMap::new(),
        };
        (inventory, sender, found)
    }

    /// Follows the host until the shutdown.
    pub(super) async fn follow(mut self, changes: Changes) {
        let mut watchers = JoinSet::new();
        for kind in self.core.registry.all() {
            let (kind, changes) = (kind.clone(), changes.clone());
            watchers.spawn(async move { kind.watch(changes).await });
        }
        let mut checks = ticker(self.core.settings.check_interval);
        let mut upkeep = ticker(self.core.settings.readiness_interval);
        let shutdown = self.core.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(what) = self.changes.recv() => match what {
                    Changed::All => drop(self.look_at_all().await),
                    Changed::Target(target) => self.look_at(&target).await,
                },
                Some(ended) = watchers.join_next() => {
                    // By its contract it never ends: without it the agent would be blind.
                    match ended {
                        Ok(()) => tracing::error!("a watcher ended by itself"),
                        Err(error) => tracing::error!("a watcher failed: {error}"),
                    }
                    return;
                }
                Some(ended) = self.tending.join_next_with_id() => self.tended(ended),
                Some(ended) = self.collecting.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("collecting failed: {error}");
                    }
                }
                _ = checks.tick() => {
                    for target in std::mem::take(&mut self.unrecorded) {
                        self.look_at(&target).await;
                    }
                    self.all(Care::Check);
                }
                _ = upkeep.tick() => self.upkeep().await,
            }
        }
    }

    async fn look_at_all(&mut self) -> Looked {
        let mut looked = Looked::default();
        self.core
            .outbox
            .facts(facts::gather(&self.core.registry).await);
        let kinds: Vec<_> = self.core.registry.all().cloned().collect();
        for kind in kinds {
            let begun = self.core.turns();
            match timeout(LOOK_TIMEOUT, kind.discover()).await {
                Ok(Ok(all)) => {
                    self.blind.remove(kind.label());
                    self.discovered(&kind, &all, &begun);
                    looked.answered.push(kind.label());
                    looked.unread.extend(all.unread);
                }
                Ok(Err(error)) => self.cannot_look(kind.label(), error.to_string()),
                Err(_) => self.cannot_look(kind.label(), "it took too long".to_owned()),
            }
        }
        // Else an inventory would say that nothing runs.
        if !looked.answered.is_empty() {
            self.core.outbox.looked();
        }
        looked
    }

    /// Told once, until it can be looked at again or says something else: a host may have no engine at all.
    fn cannot_look(&mut self, kind: &'static str, why: String) {
        if self.blind.get(kind) != Some(&why) {
            tracing::warn!(kind, "cannot look at the {kind} targets: {why}");
            self.blind.insert(kind, why);
        }
    }

    fn discovered(&mut self, kind: &Arc<dyn Kind>, all: &Discovered, begun: &Turns) {
        for made in &all.made {
            if self.core.undisturbed(&made.target, begun) && self.core.is_half_made(made) {
                self.core.found_lost(made);
                // A full queue is as good: it is found again.
                let _ = self.left.try_send(made.clone());
            }
        }
        let seen: BTreeSet<&TargetName> = all.seen.iter().map(|one| &one.target).collect();
        for observed in &all.seen {
            self.observed(observed, begun);
        }
        for target in self.core.targets() {
            let there = seen.contains(&target) || all.unread.contains(&target);
            if target.kind() == kind.label() && !there {
                self.observed(&Observed::gone(&target), begun);
            }
        }
    }

    async fn look_at(&mut self, target: &TargetName) {
        let Some(kind) = self.core.registry.of(target) else {
            return;
        };
        let begun = self.core.turns();
        match timeout(LOOK_TIMEOUT, kind.observe(target)).await {
            Ok(Ok(observed)) => {
                let tended = self.observed(&observed, &begun);
                // What an order changed is known already; where a rollback would go is another one.
                if self.core.undisturbed(target, &begun) {
                    let turn = begun.of(target);
                    if turn != self.turns.get(target).copied().unwrap_or_default() {
                        self.turns.insert(target.clone(), turn);
                        if !tended {
                            self.tend(target);
                        }
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%target, "cannot look at {target}: {error}"),
            Err(_) => tracing::warn!(%target, "looking at {target} took too long"),
        }
        // An order that ended meanwhile asked for a look of its own.
        if self.core.undisturbed(target, &begun) {
            self.core.outbox.looked_at(target);
        }
    }

    /// Answers whether something changed, so that the target is tended.
    fn observed(&mut self, observed: &Observed, begun: &Turns) -> bool {
        let target = &observed.target;
        // What was seen while an order was on its way is its doing, also where it is used after its end. It is
        // looked at when it is over.
        if !self.core.undisturbed(target, begun) {
            return false;
        }
        let before = self.core.describe(target);
        let meaning = meaning(self.core.revisions().history(target), observed);
        match meaning {
            Meaning::Gone if before.is_none() && observed.unsupported.is_none() => return false,
            Meaning::Gone | Meaning::Same => {
                self.core.saw(observed);
                if meaning == Meaning::Gone
                    && self.core.lost(target).is_some_and(|lost| lost.mended)
                {
                    self.core.forget_lost(target);
                }
            }
            Meaning::Deployed(id) if self.is_left_over(observed, &id) => self.core.saw(observed),
            Meaning::Deployed(id) => {
                self.core.saw(observed);
                self.deployed(observed, &id);
            }
        }
        let changed = before != self.core.describe(target);
        if changed {
            self.core.outbox.target(target);
            self.tend(target);
        }
        changed
    }

    /// Whether what bears the name is the work of an order without a journal and no deployment: its new instance,
    /// unless that runs and is a known revision to the last setting; or the one before, as the order left it.
    fn is_left_over(&self, observed: &Observed, id: &RevisionId) -> bool {
        let target = &observed.target;
        if let Some(made) = &observed.made
            && self.core.never_ran(made)
        {
            return true;
        }
        let told = |order| {
            self.core
                .lost(target)
                .is_some_and(|lost| lost.order == order)
        };
        if let Some(made) = &observed.made
            && (self.core.is_half_made(made) || told(made.order))
        {
            let runs = observed.state == v1::TargetState::Running;
            return !runs || self.core.revisions().entry(target, id).is_err();
        }
        let mends = self.core.lost(target).is_some_and(|lost| !lost.mended);
        let revisions = self.core.revisions();
        let before = revisions.history(target).map(|history| &history.instance);
        mends && before == Some(&observed.instance)
    }

    fn deployed(&mut self, observed: &Observed, id: &RevisionId) {
        let (Some(content), target) = (&observed.content, &observed.target) else {
            return;
        };
        let now = now_ms();
        let mut revisions = self.core.revisions();
        let changed = revisions
            .record(target, content, Origin::Deployment, None, now)
            .and_then(|number| {
                let changed = revisions.activate(target, id, &observed.instance, now)?;
                Ok(changed.then_some(number))
            });
        drop(revisions);
        match changed {
            Ok(None) => {}
            Ok(Some(number)) => {
                tracing::info!(%target, revision = number, "{target} runs revision #{number} now");
                let another = |lost: Lost| {
                    let made = observed.made.as_ref().map(|made| made.order);
                    lost.tried && made != Some(lost.order)
                };
                if self.core.lost(target).is_some_and(another) {
                    self.core.forget_lost(target);
                }
                if let Some(live) = self.core.live().get_mut(target) {
                    live.health = v1::Verdict::Unspecified;
                    live.evidence.clear();
                }
            }
            Err(error) => {
                self.unrecorded.insert(target.clone());
                // Loud and without consequence for what runs: this deployment cannot be undone, and the
                // target's readiness says so.
                tracing::error!(%target, "the revision of {target} could not be taken up: {error}");
                if let Some(live) = self.core.live().get_mut(target) {
                    let code = if error.is_no_space() {
                        "no-disk-space"
                    } else {
                        "not-recorded"
                    };
                    live.readiness = Some(v1::Readiness {
                        verdict: v1::ReadinessVerdict::NotReady.into(),
                        revision: String::new(),
                        problems: vec![v1::Problem::new(
                            code,
                            format!("what runs now could not be recorded: {error}"),
                            "make room on the host's disk, or look at the agent's log",
                        )],
                        checked_at_ms: now,
                    });
                }
            }
        }
    }

    /// Of all targets, but for those of which it is done at this moment.
    fn all(&mut self, what: Care) {
        for target in self.core.targets() {
            if !self.tended.contains_key(&(target.clone(), what)) {
                self.care(&target, what);
            }
        }
    }

    /// Looks after a target.
    fn tend(&mut self, target: &TargetName) {
        self.care(target, Care::Keep);
        self.care(target, Care::Check);
    }

    /// One task a target and care, a few at the same time.
    fn care(&mut self, target: &TargetName, what: Care) {
        let of = (target.clone(), what);
        if let Some(again) = self.tended.get_mut(&of) {
            *again = true;
            return;
        }
        let Some(kind) = self.core.registry.of(target).cloned() else {
            return;
        };
        self.tended.insert(of.clone(), false);
        let (core, target) = (self.core.clone(), target.clone());
        let turns = match what {
            Care::Keep => self.keeping.clone(),
            Care::Check => self.checking.clone(),
        };
        let task = self.tending.spawn(async move {
            let turn = turns.acquire_owned().await;
            let before = core.describe(&target);
            match what {
                Care::Keep => care::keep_ready(&core, kind.as_ref(), &target).await,
                Care::Check => care::check(&core, kind.as_ref(), &target).await,
            }
            care::tell(&core, &target, before.as_ref());
            drop(turn);
        });
        self.tasks.insert(task.id(), of);
    }

    fn tended(&mut self, ended: Result<(task::Id, ()), task::JoinError>) {
        let (id, again) = match ended {
            Ok((id, ())) => (id, true),
            Err(error) => {
                // A bug in a kind. Tended again with all the others, not at once.
                tracing::error!("looking after a target failed: {error}");
                (error.id(), false)
            }
        };
        let Some(of) = self.tasks.remove(&id) else {
            return;
        };
        if self.tended.remove(&of) == Some(true) && again {
            self.care(&of.0, of.1);
        }
    }

    /// Counts for how long targets are gone, and has those forgotten that are for too long.
    fn gone(&mut self, looked: &Looked) {
        let since = self.upkept.replace(Instant::now());
        // Between two looks at which the target was gone it may have been anything; but not for long.
        let since = since
            .map_or(Duration::ZERO, |since| since.elapsed())
            .min(self.core.settings.readiness_interval * 2);
        let (mut gone, mut unseen) = (BTreeSet::new(), BTreeSet::new());
        for target in self.core.targets() {
            let state = self.core.live().get(&target).map(|live| live.state);
            if !looked.answered.contains(&target.kind()) || looked.unread.contains(&target) {
                unseen.insert(target);
            } else if state == Some(v1::TargetState::Gone) {
                gone.insert(target);
            }
        }
        let after = self.core.settings.forget_after;
        let due = self.core.gone().look(&gone, &unseen, since, after);
        match due {
            Ok(due) => {
                for target in due {
                    self.core.due().insert(target);
                }
            }
            Err(error) => tracing::warn!("cannot note which targets are gone: {error}"),
        }
    }

    async fn upkeep(&mut self) {
        let looked = self.look_at_all().await;
        self.gone(&looked);
        if let Err(error) = self.core.revisions().sweep() {
            tracing::warn!("cannot let go of what no revision needs: {error}");
        }
        self.all(Care::Keep);
        self.collect(&looked);
    }

    /// Begins to collect, unless the last time is not over yet.
    fn collect(&mut self, looked: &Looked) {
        if !self.collecting.is_empty() {
            return;
        }
        // Whether what is there is only a leftover is not known without that look.
        let all = self.core.registry.all();
        let kinds: Vec<_> = all
            .filter(|kind| looked.answered.contains(&kind.label()))
            .cloned()
            .collect();
        let core = self.core.clone();
        self.collecting.spawn(async move {
            for kind in kinds {
                let open = core.open_orders();
                match timeout(COLLECT_TIMEOUT, kind.collect(&open)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(kind = kind.label(), "cannot collect: {error}");
                    }
                    Err(_) => tracing::warn!(kind = kind.label(), "collecting took too long"),
                }
            }
        });
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period.max(Duration::from_millis(100)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::history::NewEntry, targets::Content};

    fn observed(record: &str, instance: &str) -> Observed {
        Observed {
            content: Some(Content {
                record: record.as_bytes().to_vec(),
                attachments: BTreeMap::new(),
                artifacts: Vec::new(),
                fields: Vec::new(),
                hints: serde_json::Value::Null,
                image: String::new(),
                image_id: String::new(),
                image_digest: String::new(),
            }),
            state: v1::TargetState::Running,
            instance: instance.to_owned(),
            ..Observed::gone(&"docker/shop".parse().expect("valid"))
        }
    }

    #[test]
    fn a_revision_a_deployment_none_for_a_restart() {
        let first = observed("v1", "container-1");
        let id = RevisionId::of(b"v1");
        assert_eq!(meaning(None, &first), Meaning::Deployed(id.clone()));

        let mut history = History::new(first.target.clone());
        history.record(
            NewEntry {
                id: id.clone(),
                origin: Origin::Deployment,
                instead_of: None,
                image: String::new(),
                image_id: String::new(),
                image_digest: String::new(),
                fields: Vec::new(),
                attachments: BTreeMap::new(),
                artifacts: BTreeSet::new(),
                hints: serde_json::Value::Null,
            },
            1,
        );
        history.activate(&id, 1);
        history.instance = "container-1".to_owned();
        assert_eq!(meaning(Some(&history), &first), Meaning::Same);
        let again = observed("v1", "container-2");
        assert_eq!(meaning(Some(&history), &again), Meaning::Deployed(id));
        let next = observed("v2", "container-3");
        let v2 = RevisionId::of(b"v2");
        assert_eq!(meaning(Some(&history), &next), Meaning::Deployed(v2));
        let edited = Observed {
            settled: true,
            ..observed("v2", "container-1")
        };
        assert_eq!(meaning(Some(&history), &edited), Meaning::Same);
        // Stopped while its files are exchanged: nothing began.
        let stopped = |instance: &str| Observed {
            settled: true,
            state: v1::TargetState::Stopped,
            ..observed("v2", instance)
        };
        history.instance = "run-1@reloaded".to_owned();
        for instance in ["run-1", "run-1@reloaded", ""] {
            assert_eq!(meaning(Some(&history), &stopped(instance)), Meaning::Same);
        }
        assert_eq!(meaning(None, &stopped("")), Meaning::Gone);
        let failed = meaning(Some(&history), &stopped("run-2"));
        assert_eq!(failed, Meaning::Deployed(RevisionId::of(b"v2")));
        history.instance = "container-1".to_owned();
        let restarted = Observed {
            instance: "container-4".to_owned(),
            ..edited
        };
        let v2 = RevisionId::of(b"v2");
        assert_eq!(meaning(Some(&history), &restarted), Meaning::Deployed(v2));
        assert_eq!(
            meaning(Some(&history), &Observed::gone(&next.target)),
            Meaning::Gone
        );
    }
}
