//! A scripted kind: one target, two revisions, faults where a test wants them; and an executor that looks after it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Executor, settings::Settings};
use crate::{
    boundary::{Report, Request},
    engine::step::{Done, EvidenceSink, Step, StepContext, StepError},
    fault,
    store::{artifacts::Artifacts, revisions::ARTIFACTS},
    targets::{
        Changed, Content, Discovered, Draft, Hands, Kind, KindError, Known, Made, Observed,
        PlanInput, Recorded, Registry,
    },
};

pub(super) const HOST: Uuid = Uuid::from_u128(7);
pub(super) const SOON: Duration = Duration::from_mins(1);

/// What runs, and how it misbehaves.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a way to misbehave of its own"
)]
pub(super) struct World {
    pub(super) running: Option<&'static str>,
    pub(super) instance: u32,
    pub(super) switches: u32,
    pub(super) apply_fails: bool,
    /// The undo answers with success and nothing runs.
    pub(super) undo_loses: bool,
    /// What the undo starts ends at once, and so does what the last resort starts.
    pub(super) undo_stops: bool,
    pub(super) stopped: bool,
    /// The scope puts together what runs already.
    pub(super) result_is_running: bool,
    /// As an exchange is: one step stops what runs, the next starts the other.
    pub(super) in_two_steps: bool,
    /// Targets that an order takes along.
    pub(super) with: Vec<TargetName>,
    pub(super) rescues: u32,
    /// Times that the last resort finds no engine.
    pub(super) rescues_away: u32,
    /// The order that made what runs.
    pub(super) made: Option<Made>,
    /// What is asked of the last resort for an order without a journal, and whether it fails.
    pub(super) mends: Vec<Uuid>,
    /// Fails, transiently or for good.
    pub(super) mend_fails: Option<bool>,
    /// Steps that panic before one does not.
    pub(super) panics: u32,
    pub(super) checks_panic: bool,
    /// The last resort makes room on the disk of this state folder, and panics.
    pub(super) rescue_panics: Option<PathBuf>,
    /// It ends, against its contract.
    pub(super) watch_ends: bool,
    /// What the target is cannot be read.
    pub(super) unread: bool,
    /// Looks at everything at which it could not.
    pub(super) unread_looks: u32,
    /// How long its checks may take.
    pub(super) waiting: Duration,
    /// Its checks do not end, as through a long soak.
    pub(super) checks_soak: bool,
    pub(super) checks: u32,
    pub(super) keeps: u32,
    /// Revisions that were kept last.
    pub(super) kept: Vec<RevisionId>,
    /// Looks at the host that began, and what the next ones wait for before they answer with something half-made.
    pub(super) looks: u32,
    pub(super) look_waits: Option<Arc<Semaphore>>,
    /// What plans wait for.
    pub(super) plan_waits: Option<Arc<Semaphore>>,
    /// Orders whose things were spared at the last collection.
    pub(super) spared: Vec<Uuid>,
    /// Collections do not end by themselves; how many began, and how many were cut off.
    pub(super) collect_hangs: bool,
    pub(super) readiness_hangs: bool,
    pub(super) collections: u32,
    pub(super) cut_off: u32,
}

#[derive(Clone, Default)]
pub(super) struct Scripted(Arc<Mutex<World>>);

impl Scripted {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn run(&self, what: &'static str) {
        let mut world = self.world();
        world.running = Some(what);
        world.instance += 1;
    }
}

pub(super) fn shop() -> TargetName {
    "scripted/shop".parse().expect("valid")
}

fn content(record: &str) -> Content {
    Content {
        record: record.as_bytes().to_vec(),
        attachments: std::collections::BTreeMap::new(),
        artifacts: Vec::new(),
        fields: Vec::new(),
        hints: Value::Null,
        image: String::new(),
        image_id: String::new(),
        image_digest: String::new(),
    }
}

pub(super) fn id(record: &str) -> RevisionId {
    RevisionId::of(record.as_bytes())
}

#[async_trait]
impl Kind for Scripted {
    fn label(&self) -> &'static str {
        "scripted"
    }

    fn hands(&self, target: &TargetName) -> Hands {
        let word = |verb: &str| format!("script {verb} {}", target.local());
        Hands {
            see: word("see"),
            log: word("log"),
            start: word("start"),
            engine: word("engine"),
            disk: word("disk"),
        }
    }

    async fn describe(&self, _facts: &mut v1::HostFacts) {}

    async fn discover(&self) -> Result<Discovered, KindError> {
        let mut all = Discovered::default();
        if self.world().unread {
            self.world().unread_looks += 1;
            all.unread.insert(shop());
            return Ok(all);
        }
        let mut seen = self.observe(&shop()).await?;
        all.made.extend(seen.made.clone());
        let waits = {
            let mut world = self.world();
            world.looks += 1;
            world.look_waits.clone()
        };
        if let Some(waits) = waits {
            seen.content = Some(content("half-made"));
            seen.instance = "half-made".to_owned();
            let _ = waits.acquire().await;
        }
        all.seen.push(seen);
        Ok(all)
    }

    async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        let world = self.world();
        Ok(Observed {
            target: target.clone(),
            state: match world.running {
                Some(_) if world.stopped => v1::TargetState::Stopped,
                Some(_) => v1::TargetState::Running,
                None => v1::TargetState::Gone,
            },
            content: world.running.map(content),
            instance: world.instance.to_string(),
            unsupported: None,
            ended_well: false,
            made: world.made.clone(),
            settled: false,
        })
    }

    async fn watch(&self, changed: mpsc::Sender<Changed>) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !self.world().watch_ends && changed.send(Changed::All).await.is_ok() {
            tick.tick().await;
        }
    }

    async fn plan(&self, input: &PlanInput) -> Result<Draft, KindError> {
        let waits = self.world().plan_waits.clone();
        if let Some(waits) = waits {
            waits.acquire().await.expect("open").forget();
        }
        let to = String::from_utf8_lossy(&input.to.record).into_owned();
        let world = self.world();
        let result = match world.running {
            Some(running) if world.result_is_running => running.to_owned(),
            _ => to,
        };
        let step = |id: &str| Step {
            id: format!("scripted.{id}"),
            description: id.into(),
            payload: Value::Null,
            timeout: Duration::from_secs(2),
            commits: false,
        };
        Ok(Draft {
            steps: if world.in_two_steps {
                vec![step("stop"), step("switch")]
            } else {
                vec![step("switch")]
            },
            result: content(&result),
            with: world.with.clone(),
            swap: v1::Swap::Cold,
            swap_reason: String::new(),
            checks: Vec::new(),
            soak: Duration::ZERO,
            waiting: world.waiting,
            warnings: Vec::new(),
            blockers: Vec::new(),
            expected_outage: String::new(),
        })
    }

    async fn apply(&self, _context: &StepContext<'_>, step: &Step) -> Result<Done, StepError> {
        let mut world = self.world();
        if world.panics > 0 {
            world.panics -= 1;
            drop(world);
            panic!("on purpose");
        }
        if step.id == "scripted.stop" {
            world.running = None;
            return Ok(Done::said("stopped"));
        }
        world.switches += 1;
        if world.apply_fails {
            return Err(StepError {
                code: "scripted".into(),
                message: "it fails".into(),
                next_step: String::new(),
                transient: false,
            });
        }
        world.running = Some("v1");
        world.instance += 1;
        Ok(Done::said("switched"))
    }

    async fn undo(&self, _context: &StepContext<'_>, _step: &Step) -> Result<Done, StepError> {
        let mut world = self.world();
        world.running = (!world.undo_loses).then_some("v2");
        world.stopped = world.undo_stops;
        Ok(Done::said("switched back"))
    }

    async fn lay_aside(&self, _: &StepContext<'_>, _: &[Step]) -> Result<(), StepError> {
        Ok(())
    }

    async fn rescue(&self, _: &StepContext<'_>, _: &[Step]) -> Result<Done, StepError> {
        let mut world = self.world();
        if let Some(dir) = world.rescue_panics.take() {
            fault::full::no_longer(&dir);
            drop(world);
            panic!("on purpose");
        }
        world.rescues += 1;
        if world.rescues_away > 0 {
            world.rescues_away -= 1;
            return Err(StepError {
                code: "engine-unreachable".into(),
                message: "nobody answers".into(),
                next_step: String::new(),
                transient: true,
            });
        }
        world.running.get_or_insert("v2");
        Ok(Done::said("what ran before runs"))
    }

    async fn mend(&self, context: &StepContext<'_>, known: &Known) -> Result<Done, StepError> {
        let mut world = self.world();
        world.mends.push(context.order_id);
        if let Some(transient) = world.mend_fails {
            return Err(StepError {
                code: "scripted".into(),
                message: "it cannot be mended".into(),
                next_step: "do it by hand".into(),
                transient,
            });
        }
        let before = known.before.as_ref().expect("it was recorded");
        world.running = ["v1", "v2"].into_iter().find(|one| id(one) == before.1.id);
        world.instance = before.0.parse().expect("a number");
        world.made = None;
        Ok(Done::said("what ran before runs"))
    }

    async fn check(
        &self,
        _target: &TargetName,
        recorded: &Recorded,
        _evidence: &EvidenceSink,
    ) -> Result<v1::Verdict, KindError> {
        if self.world().checks_soak {
            std::future::pending::<()>().await;
        }
        let mut world = self.world();
        world.checks += 1;
        assert!(!world.checks_panic, "on purpose");
        let runs = world.running.map(id) == Some(recorded.id.clone());
        Ok(if runs || world.result_is_running {
            v1::Verdict::Passed
        } else {
            v1::Verdict::Failed
        })
    }

    async fn readiness(&self, _: &TargetName, _: &Recorded) -> Vec<v1::Problem> {
        let hangs = self.world().readiness_hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        Vec::new()
    }

    async fn beside(&self, _: &TargetName, _: &[Uuid]) -> Vec<v1::Problem> {
        Vec::new()
    }

    async fn keep(&self, _: &TargetName, all: &[Recorded]) -> Result<(), KindError> {
        let mut world = self.world();
        world.keeps += 1;
        world.kept = all.iter().map(|one| one.id.clone()).collect();
        Ok(())
    }

    async fn collect(&self, open: &[Uuid]) -> Result<(), KindError> {
        let hangs = {
            let mut world = self.world();
            world.spared = open.to_vec();
            world.collections += 1;
            world.collect_hangs
        };
        if hangs {
            let _cut_off = CutOff(self);
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Counts a collection that does not come to its end.
struct CutOff<'a>(&'a Scripted);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        self.0.world().cut_off += 1;
    }
}

pub(super) struct Agent {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) shutdown: CancellationToken,
    pub(super) executor: Executor,
}

impl Agent {
    pub(super) async fn start(dir: &Path, kind: &Scripted) -> Self {
        Self::checking(dir, kind, Duration::from_mins(10)).await
    }

    /// As [`Self::start`], with checks that often.
    pub(super) async fn checking(dir: &Path, kind: &Scripted, check_interval: Duration) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let (sender, reports) = mpsc::channel(256);
        let shutdown = CancellationToken::new();
        let settings = Settings {
            state_dir: dir.to_owned(),
            host_id: HOST,
            host_name: "web-1".parse().expect("valid"),
            keep: 10,
            order_timeout: Duration::from_mins(1),
            check_interval,
            readiness_interval: Duration::from_mins(10),
            forget_after: Duration::from_hours(1),
        };
        let kinds: [Arc<dyn Kind>; 1] = [Arc::new(kind.clone())];
        let executor = Executor::start(
            settings,
            Artifacts::open(&dir.join(ARTIFACTS), 1_000_000).expect("opened"),
            Registry::new(kinds),
            receiver,
            sender,
            shutdown.clone(),
        )
        .expect("started");
        let agent = Self {
            requests,
            reports,
            shutdown,
            executor,
        };
        agent.send(Request::Connected { clock_offset_ms: 0 }).await;
        agent
    }

    pub(super) async fn send(&self, request: Request) {
        self.requests.send(request).await.expect("taken");
    }

    /// Waits until the target is reported to run that revision.
    pub(super) async fn sees(&mut self, record: &str) {
        timeout(SOON, async {
            loop {
                let found = match self.reports.recv().await.expect("running") {
                    Report::Inventory(all) => all.targets,
                    Report::Target(one) => vec![one],
                    _ => Vec::new(),
                };
                if found.iter().any(|one| {
                    one.current_revision == id(record).as_str()
                        && one
                            .revisions
                            .iter()
                            .any(|known| known.id == id(record).as_str())
                }) {
                    return;
                }
            }
        })
        .await
        .expect("seen in time");
    }

    /// The end of that order, if it is told within a while.
    pub(super) async fn end(&mut self, order: Uuid) -> Option<v1::OrderFinished> {
        timeout(SOON, async {
            loop {
                if let Report::OrderEvent(event) = self.reports.recv().await.expect("running")
                    && event.order_id == order.to_string()
                    && let Some(v1::order_event::Event::Finished(end)) = event.event
                {
                    return end;
                }
            }
        })
        .await
        .ok()
    }

    pub(super) async fn sees_no_problem(&mut self, code: &str) {
        timeout(SOON, async {
            loop {
                if let Report::Target(target) = self.reports.recv().await.expect("running")
                    && !has_problem(&target, code)
                {
                    return;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{code} is still told"));
    }

    /// Waits until the order stands still for that reason (true) or is over (false).
    pub(super) async fn stands_still(&mut self, order: Uuid, code: &str) -> bool {
        timeout(SOON, async {
            loop {
                match self.reports.recv().await.expect("running") {
                    Report::Target(target) if has_problem(&target, code) => return true,
                    Report::Inventory(all)
                        if all.targets.iter().any(|target| has_problem(target, code)) =>
                    {
                        return true;
                    }
                    Report::OrderEvent(event)
                        if event.order_id == order.to_string()
                            && matches!(event.event, Some(v1::order_event::Event::Finished(_))) =>
                    {
                        return false;
                    }
                    _ => {}
                }
            }
        })
        .await
        .expect("either in time")
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.executor.stopped())
            .await
            .expect("in time");
    }
}

fn has_problem(target: &v1::Target, code: &str) -> bool {
    target
        .readiness
        .iter()
        .flat_map(|readiness| &readiness.problems)
        .any(|problem| problem.code == code && !problem.next_step.is_empty())
}

pub(super) fn order(number: u128) -> v1::Order {
    let now = super::core::now_ms();
    v1::Order {
        order_id: Uuid::from_u128(number).to_string(),
        rollout_id: Uuid::from_u128(99).to_string(),
        host_id: HOST.to_string(),
        epoch: 1,
        sequence: u64::try_from(number).expect("small"),
        target: shop().to_string(),
        expected_revision: id("v2").to_string(),
        revision: id("v1").to_string(),
        scope: v1::RestoreScope::Both.into(),
        swap: v1::Swap::Unspecified.into(),
        issued_at_ms: now,
        not_after_ms: now + 60_000,
        operator: "alice".into(),
        reason: String::new(),
    }
}

/// v1, then v2 over it, on a fresh folder.
pub(super) async fn deployed() -> (TempDir, Scripted, Agent) {
    let dir = TempDir::new().expect("folder");
    let kind = Scripted::default();
    kind.run("v1");
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v1").await;
    kind.run("v2");
    agent.sees("v2").await;
    (dir, kind, agent)
}
