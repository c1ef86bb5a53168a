//! Takes requests in: orders are begun, found open again or refused; plans are made beside them. Each order has a
//! task of its own, and what is left by one that panicked is gone on with as after a crash.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sternway_proto::{name::TargetName, order::VerifiedOrder, v1};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{self, JoinSet},
    time::timeout,
};
use uuid::Uuid;

use super::{
    care,
    core::{Active, Core, now_ms, target_busy},
    inventory::Changes,
    ledger::{Arrival, Found, LedgerError, ordered},
    lost::{Lost, Mend},
    plan::{self, Wanted},
    run::{Course, planned_result, taken_along},
    stranded::Stranded,
};
use crate::{
    boundary::Request,
    chain::chain,
    engine::{event, journal::Journal},
    targets::{Changed, Made},
};

/// How long orders on their way may go on after a request to stop; then they are cut off, and the next
/// agent goes on with them.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Refusals that are remembered in memory, because the disk takes nothing or because they are too many for it.
const NOT_TAKEN: usize = 1_000;

/// Panics of one order after which it is no longer gone on with. Its journal has a budget of its own.
const PANICS: u32 = 10;

/// Plans made at the same time.
const PLANS: usize = 8;

/// Plans that may wait for their turn: more than one controller asks for.
const PLANS_WAITING: usize = 32;

/// How long a plan may wait for its turn, so that who asked is still there when it is made.
const PLAN_TURN: Duration = Duration::from_secs(5);

/// The task of an order.
#[derive(Debug, Clone)]
struct Task {
    order: Uuid,
    target: TargetName,
    panics: u32,
    /// It has no journal: it only mends what the order left.
    mends: bool,
}

/// What became of an order that was found open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resumed {
    GoesOn,
    /// Its last line stands already.
    Ended,
    /// It cannot be gone on with, and keeps its target.
    Stranded,
}

/// Takes requests in.
pub(super) struct Office {
    core: Arc<Core>,
    changes: Changes,
    /// What orders left whose journal is gone.
    left: mpsc::Receiver<Made>,
    courses: JoinSet<()>,
    plans: JoinSet<()>,
    planning: Arc<Semaphore>,
    /// Whose task that is, and how often it panicked: one that panics cannot say so any more.
    tasks: HashMap<task::Id, Task>,
    /// Looks at the readiness of all targets after marks have changed: one at a time.
    marking: JoinSet<()>,
    /// The marks changed again meanwhile.
    marked_again: bool,
    /// Orders that were refused without a journal: what was said of them stands.
    not_taken: BTreeMap<Uuid, Vec<v1::OrderEvent>>,
}

impl Office {
    /// Goes on with the orders that were found open.
    pub(super) fn open(
        core: Arc<Core>,
        changes: Changes,
        left: mpsc::Receiver<Made>,
        found: Vec<Found>,
    ) -> Self {
        let mut office = Self {
            core,
            changes,
            left,
            courses: JoinSet::new(),
            plans: JoinSet::new(),
            planning: Arc::new(Semaphore::new(PLANS)),
            tasks: HashMap::new(),
            marking: JoinSet::new(),
            marked_again: false,
            not_taken: BTreeMap::new(),
        };
        for found in found {
            office.resume(found, 0);
        }
        office
    }

    /// Works until the shutdown, or until nobody asks any more.
    pub(super) async fn work(&mut self, mut requests: mpsc::Receiver<Request>) {
        let shutdown = self.core.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.courses.join_next_with_id() => self.ended(ended).await,
                Some(ended) = self.plans.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("planning failed: {error}");
                    }
                }
                Some(ended) = self.marking.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("looking at what the marks mean failed: {error}");
                    }
                    if std::mem::take(&mut self.marked_again) {
                        self.marked();
                    }
                }
                Some(made) = self.left.recv() => self.mend(made),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
            }
        }
        self.close().await;
    }

    /// Lets the orders that are on their way get to their next line, at most.
    pub(super) async fn close(&mut self) {
        let _ = timeout(STOP_TIMEOUT, async {
            while self.courses.join_next().await.is_some() {}
        })
        .await;
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Connected { clock_offset_ms } => {
                self.core.set_clock_offset(clock_offset_ms);
                self.core.outbox.connected();
            }
            Request::ClockOffset { clock_offset_ms } => self.core.set_clock_offset(clock_offset_ms),
            Request::Disconnected => self.core.outbox.disconnected(),
            Request::Order(sealed) => self.order(&sealed),
            Request::EventsStored(stored) => self.stored(&stored),
            Request::Plan(request) => self.plan(request),
            Request::Marks(marks) => {
                if let Err(error) = self.core.revisions().set_marks(marks.marks) {
                    tracing::error!("the marks of revisions could not be stored: {error}");
                }
                self.marked();
            }
        }
    }

    /// A mark changes where a rollback would go. However many come: the newest ones count.
    fn marked(&mut self) {
        if !self.marking.is_empty() {
            self.marked_again = true;
            return;
        }
        let core = self.core.clone();
        self.marking.spawn(async move {
            for target in core.targets() {
                if let Some(kind) = core.registry.of(&target) {
                    care::readiness(&core, kind.as_ref(), &target).await;
                }
                core.outbox.target(&target);
            }
        });
    }

    fn order(&mut self, sealed: &v1::SealedOrder) {
        if let Ok(order) = sternway_proto::order::parse(sealed)
            && let Some(events) = self.not_taken.get(&order.id())
        {
            self.core.outbox.repeat(order.id(), events.clone());
            return;
        }
        let core = self.core.clone();
        let arrival = core
            .ledger()
            .arrive(sealed, now_ms(), core.controller_now_ms(), |order| {
                acceptable(&core, order)
            });
        match arrival {
            Ok(Arrival::Accepted(order, journal)) => {
                tracing::info!(order.id = %order.id(), target = %order.target(), "order {} accepted", order.id());
                self.core.outbox.epoch(self.core.ledger().highest_epoch());
                self.begin(*order, journal, None);
            }
            Ok(Arrival::Repeated(id)) => self.repeat(id),
            Ok(Arrival::Refused(id, lines)) => {
                tracing::warn!(order.id = %id, "order {id} refused");
                self.core.outbox.order(id, event::wire(id, &lines));
            }
            Ok(Arrival::RefusedUnkept(id, events)) => {
                tracing::warn!(order.id = %id, "order {id} refused, of too many to write down");
                self.refused_unkept(id, events);
            }
            Ok(Arrival::Unreadable(error)) => {
                tracing::error!("an order that cannot be read was dropped: {error}");
            }
            Err(error) => self.not_taken(sealed, &error),
        }
    }

    /// The disk failed before the order was in the journal: it was not accepted, and is told so.
    fn not_taken(&mut self, sealed: &v1::SealedOrder, error: &LedgerError) {
        tracing::error!("an order could not be taken: {error}");
        let Ok(order) = sternway_proto::order::parse(sealed) else {
            return;
        };
        let code = if error.is_no_space() {
            "no-disk-space"
        } else {
            "state-folder"
        };
        let refusal = event::Line {
            at_ms: now_ms(),
            event: event::Event::Finished {
                outcome: event::Finish::Refused,
                problem: Some(v1::Problem::new(
                    code,
                    format!("the agent cannot write its journal: {error}"),
                    "make room on the host's disk, then start the rollback again",
                )),
                running: None,
            },
        };
        let events = event::wire(order.id(), &[refusal]);
        self.refused_unkept(order.id(), events);
    }

    /// Tells a refusal that stands in memory alone. Bounded: a full disk is mended or the host is lost, and beyond it
    /// the oldest ones (the ids of orders begin with their time) were told or are of no interest to anyone.
    fn refused_unkept(&mut self, id: Uuid, events: Vec<v1::OrderEvent>) {
        if self.not_taken.len() >= NOT_TAKEN
            && let Some((oldest, _)) = self.not_taken.pop_first()
        {
            self.core.outbox.forget(oldest);
        }
        self.not_taken.insert(id, events.clone());
        self.core.outbox.order(id, events);
    }

    fn repeat(&self, id: Uuid) {
        // The journal of an order that is on its way is being written: it is never opened a second time.
        if self.core.outbox.again(id) {
            return;
        }
        let lines = self.core.ledger().lines(id);
        match lines {
            Ok(lines) => self.core.outbox.repeat(id, event::wire(id, &lines)),
            Err(error) => {
                tracing::error!(order.id = %id, "the journal of order {id} cannot be read: {error}");
            }
        }
    }

    /// `recovered`: it was found open, after so many panics of it in this process.
    fn begin(&mut self, order: VerifiedOrder, journal: Journal, recovered: Option<u32>) {
        let (id, target) = (order.id(), order.target().clone());
        let Some(kind) = self.core.registry.of(&target).cloned() else {
            let reason = format!("no kind looks after {target} any more");
            self.strand(id, Some(target), &reason);
            return;
        };
        let mut needs: BTreeSet<_> = order.expected().cloned().into_iter().collect();
        needs.insert(order.revision().clone());
        needs.extend(planned_result(&journal).cloned());
        // Where another has the target it is refused when it is to plan.
        self.core.begun(&target, Active { order: id, needs });
        if let Err(problem) = self.core.join(id, taken_along(&journal)) {
            tracing::error!(order.id = %id, "order {id} goes on beside another: {}", problem.message);
        }
        // The controller gives up what an agent that is there is not at.
        self.core.outbox.target(&target);
        let course = Course::new(self.core.clone(), kind, order, journal);
        let core = self.core.clone();
        let of = target.clone();
        let task = self.courses.spawn(async move {
            let end = match course {
                Err(illegal) => Err(illegal),
                Ok(course) => {
                    course.tell();
                    course.finish(recovered.is_some()).await
                }
            };
            if let Err(illegal) = end {
                let reason = format!("its course is impossible: {illegal}");
                core.strand(id, Stranded::new(&core, id, Some(of), &reason));
                // Busy until then: nobody may begin another restore over a half-done one.
                std::future::pending::<()>().await;
            }
        });
        self.tasks.insert(
            task.id(),
            Task {
                order: id,
                target,
                panics: recovered.unwrap_or_default(),
                mends: false,
            },
        );
    }

    fn resume(&mut self, found: Found, panics: u32) -> Resumed {
        let id = found.order;
        let journal = match found.journal {
            Ok(journal) => journal,
            Err(error) => {
                self.strand(id, found.target, &chain(&error));
                return Resumed::Stranded;
            }
        };
        let finished = journal
            .events()
            .any(|event| matches!(event, event::Event::Finished { .. }));
        if finished {
            self.core.outbox.order(id, event::wire(id, journal.lines()));
            return Resumed::Ended;
        }
        let Some(order) = ordered(journal.lines()) else {
            self.strand(id, None, "it holds no order that this version can read");
            return Resumed::Stranded;
        };
        tracing::warn!(order.id = %id, "order {id} was interrupted; going on with it");
        self.begin(order, journal, Some(panics));
        Resumed::GoesOn
    }

    /// Here, where orders are begun, so that none is begun beside it.
    fn mend(&mut self, made: Made) {
        let (order, target) = (made.order, made.target.clone());
        let Some(mend) = Mend::begin(&self.core, made) else {
            return;
        };
        let task = self.courses.spawn(mend.work());
        self.tasks.insert(
            task.id(),
            Task {
                order,
                target,
                panics: 0,
                mends: true,
            },
        );
    }

    fn strand(&self, order: Uuid, target: Option<TargetName>, reason: &str) {
        self.core
            .strand(order, Stranded::new(&self.core, order, target, reason));
    }

    async fn ended(&mut self, ended: Result<(task::Id, ()), task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        if let Err(error) = ended {
            if !task.mends {
                self.panicked(task, &error).await;
                return;
            }
            tracing::error!(order.id = %task.order, "what order {} left could not be looked after: {error}", task.order);
            if let Some(lost) = self.core.lost(&task.target) {
                let tried = true;
                self.core.set_lost(&task.target, Lost { tried, ..lost });
            }
        }
        if !task.mends {
            self.refused_by_plan(task.order);
        }
        // Others may be at what it left of its other targets.
        let only = task.mends.then_some(&task.target);
        self.over(task.order, only).await;
    }

    /// Nothing is done for an order any more, at all its targets or only there.
    async fn over(&self, order: Uuid, only: Option<&TargetName>) {
        let targets = self.core.over(order, only);
        if only.is_none() {
            self.core.outbox.over(order, targets.iter().cloned());
        }
        for target in targets {
            self.core.outbox.target(&target);
            // The inventory only ends with the executor.
            let _ = self.changes.send(Changed::Target(target)).await;
        }
    }

    /// A refusal by the plan is one like those at the arrival: too many of them are not written down for long.
    fn refused_by_plan(&mut self, id: Uuid) {
        let controller_now_ms = self.core.controller_now_ms();
        let ended = self.core.ledger().ended(id, now_ms(), controller_now_ms);
        match ended {
            Ok(None) => {}
            Ok(Some(lines)) => {
                tracing::warn!(order.id = %id, "the journal of order {id}, which changed nothing, is not kept: of too many");
                self.refused_unkept(id, event::wire(id, &lines));
            }
            // Nothing hangs on it: the journal stays, as that of any order.
            Err(error) => {
                tracing::warn!(order.id = %id, "the journal of order {id} cannot be looked at: {error}");
            }
        }
    }

    /// A bug. What it left is what a crash leaves, and is gone on with in the same way: the journal says where.
    async fn panicked(&mut self, task: Task, error: &task::JoinError) {
        let id = task.order;
        tracing::error!(order.id = %id, "the task of order {id} failed: {error}");
        // What it said of a hold was its own; the next one finds out for itself.
        self.core.set_stuck(&task.target, None);
        if task.panics >= PANICS {
            self.strand(
                id,
                Some(task.target),
                "it made the agent fail again and again",
            );
            return;
        }
        let found = self.core.ledger().find(id);
        if self.resume(found, task.panics + 1) == Resumed::Ended {
            self.over(id, None).await;
        }
    }

    fn stored(&self, stored: &v1::EventsStored) {
        let Ok(id) = Uuid::try_parse(&stored.order_id) else {
            return;
        };
        if self.core.outbox.stored(id, stored.up_to)
            && let Err(error) = self.core.ledger().settle(id)
        {
            tracing::warn!(order.id = %id, "the journal of order {id} could not be put away: {error}");
        }
    }

    fn plan(&mut self, request: v1::PlanRequest) {
        let core = self.core.clone();
        let reply = move |result: Result<v1::Plan, v1::Problem>| {
            core.outbox.reply(v1::PlanReply {
                request_id: request.request_id,
                result: Some(match result {
                    Ok(plan) => v1::plan_reply::Result::Plan(plan),
                    Err(problem) => v1::plan_reply::Result::Problem(problem),
                }),
            });
        };
        if self.plans.len() >= PLANS + PLANS_WAITING {
            reply(Err(too_many_plans()));
            return;
        }
        let (core, planning) = (self.core.clone(), self.planning.clone());
        self.plans.spawn(async move {
            let result = match timeout(PLAN_TURN, planning.acquire()).await {
                Ok(_turn) => make_plan(&core, &request).await,
                Err(_) => Err(too_many_plans()),
            };
            reply(result);
        });
    }
}

fn too_many_plans() -> v1::Problem {
    v1::Problem::new(
        "too-many-plans",
        format!(
            "the agent makes {PLANS} plans at this moment, and more wait than it can make within {} s",
            PLAN_TURN.as_secs()
        ),
        "try again when they are made",
    )
}

async fn make_plan(core: &Core, request: &v1::PlanRequest) -> Result<v1::Plan, v1::Problem> {
    let malformed = |reason: String| v1::Problem::new("request-malformed", reason, "");
    let target = request
        .target
        .parse()
        .map_err(|error| malformed(format!("{error}")))?;
    let revision = request
        .revision
        .parse()
        .map_err(|error| malformed(format!("{error}")))?;
    let wanted = Wanted {
        target: &target,
        revision: &revision,
        scope: request.scope(),
        swap: request.swap(),
    };
    plan::plan(core, &wanted).await.map(|planned| planned.plan)
}

/// What stands in an order's way on this host, now, beside what is wrong with the order itself.
fn acceptable(core: &Core, order: &VerifiedOrder) -> Result<(), v1::Problem> {
    let target = order.target();
    if core.registry.of(target).is_none() {
        return Err(v1::Problem::new(
            "target-unknown",
            format!("this agent looks after no {} targets", target.kind()),
            "see `ctl target ls`",
        ));
    }
    if let Some(problem) = core.stranded(target) {
        return Err(problem);
    }
    if let Some(active) = core.active().get(target) {
        return Err(target_busy(target, active.order));
    }
    let revisions = core.revisions();
    revisions
        .entry(target, order.revision())
        .map_err(|error| plan::store_problem(&error))?;
    if revisions.is_bad(target, order.revision()) {
        return Err(v1::Problem::new(
            "revision-bad",
            format!(
                "revision {} of {target} is marked DO_NOT_DEPLOY",
                order.revision().short()
            ),
            "choose another with `ctl history`",
        ));
    }
    Ok(())
}
