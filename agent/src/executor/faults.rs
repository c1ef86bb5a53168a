//! The executor against a scripted kind: one target, two revisions, faults where a test wants them.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use sternway_proto::{
    name::{RevisionId, TargetName},
    order::seal,
    v1,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Executor, settings::Settings};
use crate::{
    boundary::{Report, Request},
    engine::{
        journal::file_name,
        step::{Done, EvidenceSink, Step, StepContext, StepError},
    },
    targets::{Changed, Content, Draft, Kind, KindError, Observed, PlanInput, Recorded, Registry},
};

const HOST: Uuid = Uuid::from_u128(7);
const SOON: Duration = Duration::from_secs(10);

/// What runs, and how it misbehaves.
#[derive(Debug, Default)]
struct World {
    running: Option<&'static str>,
    instance: u32,
    switches: u32,
    apply_fails: bool,
    /// The undo answers with success and nothing runs.
    undo_loses: bool,
    /// The scope puts together what runs already.
    result_is_running: bool,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<World>>);

impl Scripted {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, what: &'static str) {
        let mut world = self.world();
        world.running = Some(what);
        world.instance += 1;
    }
}

fn shop() -> TargetName {
    "scripted/shop".parse().expect("valid")
}

fn content(record: &str) -> Content {
    Content {
        record: record.as_bytes().to_vec(),
        attachments: std::collections::BTreeMap::new(),
        fields: Vec::new(),
        hints: Value::Null,
        image: String::new(),
        image_id: String::new(),
        image_digest: String::new(),
    }
}

fn id(record: &str) -> RevisionId {
    RevisionId::of(record.as_bytes())
}

#[async_trait]
impl Kind for Scripted {
    fn label(&self) -> &'static str {
        "scripted"
    }

    async fn describe(&self, _facts: &mut v1::HostFacts) {}

    async fn discover(&self) -> Result<Vec<Observed>, KindError> {
        Ok(vec![self.observe(&shop()).await?])
    }

    async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        let world = self.world();
        Ok(Observed {
            target: target.clone(),
            state: match world.running {
                Some(_) => v1::TargetState::Running,
                None => v1::TargetState::Gone,
            },
            content: world.running.map(content),
            instance: world.instance.to_string(),
            made_by_order: None,
            unsupported: None,
        })
    }

    async fn watch(&self, changed: mpsc::Sender<Changed>) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while changed.send(Changed::All).await.is_ok() {
            tick.tick().await;
        }
    }

    async fn plan(&self, input: &PlanInput) -> Result<Draft, KindError> {
        let to = String::from_utf8_lossy(&input.to.record).into_owned();
        let world = self.world();
        let result = match world.running {
            Some(running) if world.result_is_running => running.to_owned(),
            _ => to,
        };
        Ok(Draft {
            steps: vec![Step {
                id: "scripted.switch".into(),
                description: "switch".into(),
                payload: Value::Null,
                timeout: Duration::from_secs(2),
                commits: false,
            }],
            result: content(&result),
            swap: v1::Swap::Cold,
            swap_reason: String::new(),
            checks: Vec::new(),
            soak: Duration::ZERO,
            warnings: Vec::new(),
            blockers: Vec::new(),
            expected_outage: String::new(),
        })
    }

    async fn apply(&self, _context: &StepContext<'_>, _step: &Step) -> Result<Done, StepError> {
        let mut world = self.world();
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
        Ok(Done::said("switched back"))
    }

    async fn rescue(&self, _: &StepContext<'_>, _: &[Step]) -> Result<Done, StepError> {
        Ok(Done::said("nothing to do"))
    }

    async fn check(
        &self,
        _target: &TargetName,
        recorded: &Recorded,
        _evidence: &EvidenceSink,
    ) -> Result<v1::Verdict, KindError> {
        let world = self.world();
        let runs = world.running.map(id) == Some(recorded.id.clone());
        Ok(if runs || world.result_is_running {
            v1::Verdict::Passed
        } else {
            v1::Verdict::Failed
        })
    }

    async fn readiness(&self, _: &TargetName, _: &Recorded) -> Vec<v1::Problem> {
        Vec::new()
    }

    async fn keep(&self, _: &TargetName, _: &[Recorded]) -> Result<(), KindError> {
        Ok(())
    }

    async fn collect(&self, _: &[Uuid]) -> Result<(), KindError> {
        Ok(())
    }
}

struct Agent {
    requests: mpsc::Sender<Request>,
    reports: mpsc::Receiver<Report>,
    shutdown: CancellationToken,
    executor: Executor,
}

impl Agent {
    async fn start(dir: &Path, kind: &Scripted) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let (sender, reports) = mpsc::channel(256);
        let shutdown = CancellationToken::new();
        let settings = Settings {
            state_dir: dir.to_owned(),
            host_id: HOST,
            keep: 10,
            disk_budget: 1_000_000,
            order_timeout: Duration::from_mins(1),
            check_interval: Duration::from_mins(10),
            readiness_interval: Duration::from_mins(10),
        };
        let kinds: [Arc<dyn Kind>; 1] = [Arc::new(kind.clone())];
        let executor = Executor::start(
            settings,
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

    async fn send(&self, request: Request) {
        self.requests.send(request).await.expect("taken");
    }

    /// Waits until the target is reported to run that revision.
    async fn sees(&mut self, record: &str) {
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
    async fn end(&mut self, order: Uuid) -> Option<v1::OrderFinished> {
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

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.executor.stopped())
            .await
            .expect("in time");
    }
}

fn order(number: u128) -> v1::Order {
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
async fn deployed() -> (TempDir, Scripted, Agent) {
    let dir = TempDir::new().expect("folder");
    let kind = Scripted::default();
    kind.run("v1");
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v1").await;
    kind.run("v2");
    agent.sees("v2").await;
    (dir, kind, agent)
}

#[tokio::test]
async fn an_order_restores_and_says_what_runs() {
    let (_dir, kind, mut agent) = deployed().await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    assert_eq!(end.running_revision, id("v1").as_str());
    assert_eq!(kind.world().switches, 1);
    agent.stop().await;
}

#[tokio::test]
async fn never_blind_an_undo_that_leaves_nothing_running_is_not_called_undone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().apply_fails = true;
    kind.world().undo_loses = true;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_ne!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_unchanged_target_is_reported_to_run_what_it_runs() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().result_is_running = true;
    let mut order = order(1);
    order.scope = v1::RestoreScope::Image.into();
    agent.send(Request::Order(seal(&order))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.running_revision, id("v2").as_str(), "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_killed_before_the_first_append_still_answers_for_the_order() {
    let (dir, kind, agent) = deployed().await;
    agent.stop().await;
    // What `Journal::create` leaves when it is killed before its first append.
    let path = dir
        .path()
        .join("orders/open")
        .join(file_name(Uuid::from_u128(1)));
    fs::write(path, b"STWJRNL1").expect("left");
    let mut agent = Agent::start(dir.path(), &kind).await;
    agent.sees("v2").await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await;
    assert!(
        end.is_some(),
        "the order was delivered again and nothing was ever said of it"
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_order_that_was_told_refused_is_not_carried_out_when_it_comes_again() {
    let (dir, kind, mut agent) = deployed().await;
    let open = dir.path().join("orders/open");
    let aside = dir.path().join("orders/aside");
    fs::rename(&open, &aside).expect("the folder fails");
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Refused);
    fs::rename(&aside, &open).expect("the folder is well again");
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told again");
    assert_eq!(
        (end.outcome(), kind.world().switches),
        (v1::Outcome::Refused, 0)
    );
    agent.stop().await;
}
