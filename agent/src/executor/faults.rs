//! The executor against a scripted kind: one target, two revisions, faults where a test wants them.

use std::{
    fs,
    path::{Path, PathBuf},
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
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Executor, settings::Settings};
use crate::{
    boundary::{Report, Request},
    engine::{
        event::Event,
        journal::{Journal, file_name},
        step::{Done, EvidenceSink, Step, StepContext, StepError},
    },
    fault,
    store::revisions::Revisions,
    targets::{
        Changed, Content, Discovered, Draft, Kind, KindError, Observed, PlanInput, Recorded,
        Registry,
    },
};

const HOST: Uuid = Uuid::from_u128(7);
const SOON: Duration = Duration::from_mins(1);

/// What runs, and how it misbehaves.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a way to misbehave of its own"
)]
struct World {
    running: Option<&'static str>,
    instance: u32,
    switches: u32,
    apply_fails: bool,
    /// The undo answers with success and nothing runs.
    undo_loses: bool,
    /// What the undo starts ends at once, and so does what the last resort starts.
    undo_stops: bool,
    stopped: bool,
    /// The scope puts together what runs already.
    result_is_running: bool,
    /// As an exchange is: one step stops what runs, the next starts the other.
    in_two_steps: bool,
    rescues: u32,
    /// Steps that panic before one does not.
    panics: u32,
    checks_panic: bool,
    /// The last resort makes room on the disk of this state folder, and panics.
    rescue_panics: Option<PathBuf>,
    /// It ends, against its contract.
    watch_ends: bool,
    /// What the target is cannot be read.
    unread: bool,
    /// Looks at everything at which it could not.
    unread_looks: u32,
    /// How long its checks may take.
    checking: Duration,
    /// Its checks do not end, as through a long soak.
    checks_soak: bool,
    /// Revisions that were kept last.
    kept: Vec<RevisionId>,
    /// Looks at the host that began, and what the next ones wait for before they answer with something half-made.
    looks: u32,
    look_waits: Option<Arc<Semaphore>>,
    /// Orders whose things were spared at the last collection.
    spared: Vec<Uuid>,
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

    async fn discover(&self) -> Result<Discovered, KindError> {
        let mut all = Discovered::default();
        if self.world().unread {
            self.world().unread_looks += 1;
            all.unread.insert(shop());
            return Ok(all);
        }
        let mut seen = self.observe(&shop()).await?;
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
        })
    }

    async fn watch(&self, changed: mpsc::Sender<Changed>) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !self.world().watch_ends && changed.send(Changed::All).await.is_ok() {
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
            swap: v1::Swap::Cold,
            swap_reason: String::new(),
            checks: Vec::new(),
            soak: Duration::ZERO,
            checking: world.checking,
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

    async fn rescue(&self, _: &StepContext<'_>, _: &[Step]) -> Result<Done, StepError> {
        let mut world = self.world();
        if let Some(dir) = world.rescue_panics.take() {
            fault::full::no_longer(&dir);
            drop(world);
            panic!("on purpose");
        }
        world.rescues += 1;
        world.running.get_or_insert("v2");
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
        let world = self.world();
        assert!(!world.checks_panic, "on purpose");
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

    async fn keep(&self, _: &TargetName, all: &[Recorded]) -> Result<(), KindError> {
        self.world().kept = all.iter().map(|one| one.id.clone()).collect();
        Ok(())
    }

    async fn collect(&self, open: &[Uuid]) -> Result<(), KindError> {
        self.world().spared = open.to_vec();
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
            forget_after: Duration::from_hours(1),
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

    async fn sees_no_problem(&mut self, code: &str) {
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
    async fn stands_still(&mut self, order: Uuid, code: &str) -> bool {
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

    async fn stop(self) {
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
async fn never_none_what_was_put_back_and_does_not_run_is_not_called_undone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().apply_fails = true;
    kind.world().undo_stops = true;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::NeedsHuman, "{end:?}");
    assert_eq!(end.running_revision, "", "{end:?}");
    assert_eq!(kind.world().rescues, 1);
    agent.stop().await;
}

#[tokio::test]
async fn what_did_not_run_before_is_undone_when_it_is_back() {
    let (_dir, kind, mut agent) = deployed().await;
    {
        let mut world = kind.world();
        (world.apply_fails, world.undo_stops, world.stopped) = (true, true, true);
    }
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    assert_eq!(end.running_revision, "", "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_target_that_cannot_be_read_is_not_taken_for_gone() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().unread = true;
    timeout(SOON, async {
        while kind.world().unread_looks < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is looked at");
    kind.run("v3");
    kind.world().unread = false;
    timeout(SOON, async {
        loop {
            let found = match agent.reports.recv().await.expect("running") {
                Report::Inventory(all) => all.targets,
                Report::Target(one) => vec![one],
                _ => Vec::new(),
            };
            for one in found {
                assert_ne!(one.state(), v1::TargetState::Gone, "{one:?}");
                if one.current_revision == id("v3").as_str() {
                    return;
                }
            }
        }
    })
    .await
    .expect("it is seen again");
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

/// The disk is full from the N-th append on, for every N; then there is room again.
async fn full_in_mid_order(apply_fails: bool) {
    for spared in 1.. {
        assert!(spared < 30, "the search comes to an end");
        let (dir, kind, mut agent) = deployed().await;
        {
            let mut world = kind.world();
            world.in_two_steps = true;
            world.apply_fails = apply_fails;
        }
        fault::full::after(dir.path(), spared);
        let id = Uuid::from_u128(1);
        agent.send(Request::Order(seal(&order(1)))).await;
        let stood_still = agent.stands_still(id, "journal-failed").await;
        // Never none, also while nothing can be written down.
        timeout(SOON, async {
            while kind.world().running.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("nothing runs, full after {spared}"));
        fault::full::no_longer(dir.path());
        if !stood_still {
            agent.stop().await;
            return;
        }
        let end = agent.end(id).await.expect("told");
        let (rescues, running) = {
            let world = kind.world();
            (world.rescues, world.running)
        };
        let expected = if apply_fails || rescues > 0 {
            (v1::Outcome::Undone, Some("v2"))
        } else {
            (v1::Outcome::Restored, Some("v1"))
        };
        assert_eq!(
            (end.outcome(), running),
            expected,
            "after {spared}: {end:?}"
        );
        // The next order finds nothing in its way, and the journal tells one story.
        agent.stop().await;
        let mut agent = Agent::start(dir.path(), &kind).await;
        let again = agent.end(id).await.expect("told again");
        assert_eq!(again, end);
        agent.stop().await;
    }
}

#[tokio::test]
async fn never_none_an_order_goes_on_by_itself_when_its_journal_can_be_written_again() {
    full_in_mid_order(false).await;
}

#[tokio::test]
async fn never_none_an_undo_goes_on_by_itself_when_its_journal_can_be_written_again() {
    full_in_mid_order(true).await;
}

#[tokio::test]
async fn an_order_found_open_goes_on_by_itself_when_its_journal_can_be_written() {
    let (dir, kind, mut agent) = deployed().await;
    kind.world().in_two_steps = true;
    fault::full::after(dir.path(), 4);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    agent.stop().await;
    let mut agent = Agent::start(dir.path(), &kind).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    fault::full::no_longer(dir.path());
    let end = agent.end(id).await.expect("told");
    let running = match end.outcome() {
        v1::Outcome::Restored => "v1",
        v1::Outcome::Undone => "v2",
        other => panic!("{other:?}"),
    };
    assert_eq!(kind.world().running, Some(running));
    agent.stop().await;
}

#[tokio::test]
async fn an_order_whose_task_panics_is_gone_on_with_as_after_a_crash() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().panics = 2;
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(id).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    // One that panics again and again is undone, and the target is free.
    kind.run("v2");
    agent.sees("v2").await;
    kind.world().panics = u32::MAX;
    agent.send(Request::Order(seal(&order(2)))).await;
    let end = agent.end(Uuid::from_u128(2)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Undone, "{end:?}");
    kind.world().panics = 0;
    agent.send(Request::Order(seal(&order(3)))).await;
    let end = agent.end(Uuid::from_u128(3)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_order_whose_task_panics_while_it_stands_still_no_longer_stands_still() {
    for spared in 1.. {
        assert!(spared < 30, "the search comes to an end");
        let (dir, kind, mut agent) = deployed().await;
        {
            let mut world = kind.world();
            world.in_two_steps = true;
            world.rescue_panics = Some(dir.path().to_owned());
        }
        fault::full::after(dir.path(), spared);
        let id = Uuid::from_u128(1);
        agent.send(Request::Order(seal(&order(1)))).await;
        agent.stands_still(id, "journal-failed").await;
        fault::full::no_longer(dir.path());
        agent.end(id).await.expect("told");
        agent.sees_no_problem("journal-failed").await;
        let panicked = kind.world().rescue_panics.is_none();
        agent.stop().await;
        if panicked {
            return;
        }
    }
}

#[tokio::test]
async fn checks_that_panic_leave_the_agent_alive() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().checks_panic = true;
    kind.run("v3");
    agent.sees("v3").await;
    kind.run("v2");
    agent.sees("v2").await;
    agent.send(Request::Order(seal(&order(1)))).await;
    let end = agent.end(Uuid::from_u128(1)).await.expect("told");
    assert_eq!(end.outcome(), v1::Outcome::Restored, "{end:?}");
    agent.stop().await;
}

/// Waits until the scripted world is so.
async fn becomes(kind: &Scripted, what: &str, so: impl Fn(&World) -> bool) {
    let waited = timeout(SOON, async {
        while !so(&kind.world()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never {what}: {:?}", kind.world());
}

#[tokio::test]
async fn what_was_deployed_is_kept_while_checks_go_through_their_soak() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().checks_soak = true;
    for version in ["v3", "v4", "v5"] {
        kind.run(version);
        agent.sees(version).await;
        becomes(&kind, "kept", |world| world.kept.contains(&id(version))).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_look_that_began_before_an_orders_end_and_is_used_after_it_records_nothing() {
    let (dir, kind, mut agent) = deployed().await;
    let waits = Arc::new(Semaphore::new(0));
    let looks = {
        let mut world = kind.world();
        world.look_waits = Some(waits.clone());
        world.looks
    };
    becomes(&kind, "looked at", |world| world.looks > looks).await;
    let order = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&self::order(1)))).await;
    agent.end(order).await.expect("told");
    timeout(SOON, async {
        loop {
            if let Report::Target(target) = agent.reports.recv().await.expect("running")
                && target.active_order.is_empty()
            {
                return;
            }
        }
    })
    .await
    .expect("it is over");
    let looks = {
        let mut world = kind.world();
        world.look_waits = None;
        world.looks
    };
    waits.add_permits(1);
    // The look after the next one began: what the held one saw was used, or not.
    becomes(&kind, "looked at again", |world| world.looks > looks + 1).await;
    agent.stop().await;
    let revisions = Revisions::open(dir.path(), 1_000_000).expect("opened");
    let history = revisions.history(&shop()).expect("there");
    let known: Vec<_> = history
        .entries()
        .iter()
        .map(|entry| entry.id.clone())
        .collect();
    assert_eq!(known, [id("v1"), id("v2")]);
}

#[tokio::test]
async fn never_silent_without_its_watcher_the_executor_ends() {
    let (_dir, kind, mut agent) = deployed().await;
    kind.world().watch_ends = true;
    timeout(SOON, agent.executor.ended()).await.expect("ended");
}

#[tokio::test]
async fn the_time_of_checks_comes_on_top_of_the_limit() {
    let (dir, kind, mut agent) = deployed().await;
    kind.world().checking = Duration::from_hours(1);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.end(id).await.is_some());
    agent.stop().await;
    let journal = Journal::open(&dir.path().join("orders/open"), id).expect("there");
    let limit_ms = journal.lines().iter().find_map(|line| match &line.event {
        Event::Planned { until_ms, .. } => Some(until_ms - line.at_ms),
        _ => None,
    });
    // The minute of these settings, and the hour; the line was made a moment after the limit was.
    let limit_ms = limit_ms.expect("planned");
    assert!((3_600_000..=3_660_000).contains(&limit_ms), "{limit_ms}");
}

/// An agent that was stopped in the middle of an order, and whose journal is then changed.
async fn cannot_resume(change: impl FnOnce(&mut Vec<u8>)) -> (v1::OrderFinished, Vec<Uuid>) {
    let (dir, kind, mut agent) = deployed().await;
    fault::full::after(dir.path(), 4);
    let id = Uuid::from_u128(1);
    agent.send(Request::Order(seal(&order(1)))).await;
    assert!(agent.stands_still(id, "journal-failed").await);
    agent.stop().await;
    fault::full::no_longer(dir.path());
    let path = dir.path().join("orders/open").join(file_name(id));
    let mut bytes = fs::read(&path).expect("there");
    change(&mut bytes);
    fs::write(&path, &bytes).expect("changed");
    let mut agent = Agent::start(dir.path(), &kind).await;
    assert!(agent.stands_still(id, "cannot-resume").await);
    let mut next = order(2);
    next.expected_revision = id_of_running(&kind).to_string();
    agent.send(Request::Order(seal(&next))).await;
    let end = agent.end(Uuid::from_u128(2)).await.expect("told");
    let spared = timeout(SOON, async {
        while kind.world().spared.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kind.world().spared.clone()
    })
    .await
    .expect("collected");
    assert_eq!(fs::read(&path).expect("there"), bytes, "it is left alone");
    agent.stop().await;
    (end, spared)
}

fn id_of_running(kind: &Scripted) -> RevisionId {
    id(kind.world().running.expect("runs"))
}

#[tokio::test]
async fn an_open_order_that_cannot_be_read_blocks_its_target_and_is_spared() {
    let last = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    };
    let newer = |bytes: &mut Vec<u8>| bytes[7] = b'2';
    for (what, (end, spared)) in [
        ("damaged", cannot_resume(last).await),
        ("of a newer version", cannot_resume(newer).await),
    ] {
        assert_eq!(end.outcome(), v1::Outcome::Refused, "{what}: {end:?}");
        let problem = end.problem.unwrap_or_default();
        assert_eq!(problem.code, "cannot-resume", "{what}");
        let file = file_name(Uuid::from_u128(1));
        assert!(problem.next_step.contains(&file), "{what}: {problem:?}");
        assert_eq!(spared, [Uuid::from_u128(1)], "{what}");
    }
}
