//! Carries one order out: asks the machine, writes the journal, calls the kind. Everything it does can be
//! cut off at any instant and gone on with by the next agent on the same folder.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sternway_proto::{
    name::{RevisionId, TargetName},
    order::VerifiedOrder,
    v1,
};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    core::{Core, now_ms},
    hold::Hold,
    plan::{self, Wanted, is_running},
    words::{mismatch, took_too_long, unwell},
};
use crate::{
    engine::{
        event::{self, Event, Finish, Line},
        journal::{Journal, JournalError},
        machine::{Action, Illegal, Run},
        step::{Done, EvidenceSink, Step, StepContext, StepError},
    },
    store::history::Origin,
    targets::{Kind, Observed},
};

/// Between attempts: doubled each time, so that three attempts ride out an engine's restart.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_LIMIT: Duration = Duration::from_secs(8);

/// How long the look at what runs after an undo may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(90);

/// Looks at what runs after an undo, until the engine answers.
const CONFIRM_LOOKS: u32 = 6;

/// How long one look may take.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last resort may take.
const RESCUE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long the checks of an order that changes nothing may take: the longest deadline and soak that labels may
/// ask for, with room. They end by themselves; this is for a hang.
const UNCHANGED_TIMEOUT: Duration = Duration::from_mins(30);

/// What happened and is remembered while the journal cannot be written: the evidence of one step, and its end.
const UNWRITTEN: usize = 256;

/// Why an order does not go on.
#[derive(Debug, Error)]
pub(super) enum Stalled {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the course of the order is impossible")]
    Illegal(#[from] Illegal),
}

/// One order on its way.
pub(super) struct Course {
    pub(super) core: Arc<Core>,
    pub(super) kind: Arc<dyn Kind>,
    pub(super) order: VerifiedOrder,
    pub(super) journal: Journal,
    pub(super) run: Run,
    /// What happened and could not be written yet, in its order. Not empty only while the journal fails.
    pub(super) unwritten: VecDeque<Event>,
    /// The journal cannot be written at this moment.
    pub(super) held: Option<Hold>,
    /// The last resort was asked for during a hold.
    pub(super) rescued: bool,
}

impl Course {
    pub(super) fn new(
        core: Arc<Core>,
        kind: Arc<dyn Kind>,
        order: VerifiedOrder,
        journal: Journal,
    ) -> Result<Self, Illegal> {
        let run = Run::replay(journal.events())?;
        Ok(Self {
            core,
            kind,
            order,
            journal,
            run,
            unwritten: VecDeque::new(),
            held: None,
            rescued: false,
        })
    }

    pub(super) fn id(&self) -> Uuid {
        self.order.id()
    }

    pub(super) fn target(&self) -> &TargetName {
        self.order.target()
    }

    /// Writes an event to disk, then into the fold and the outbox. What happened is remembered where it cannot
    /// be written: the journal gets it when it can be written again.
    fn write(&mut self, event: Event) -> Result<(), Stalled> {
        let remembered = event.is_fact().then(|| event.clone());
        // Nothing gets before what happened first.
        let result = if self.unwritten.is_empty() {
            self.append(event)
        } else {
            Err(JournalError::Poisoned {
                path: self.journal.path().to_owned(),
            }
            .into())
        };
        if let (Err(Stalled::Journal(_)), Some(event)) = (&result, remembered)
            && self.unwritten.len() < UNWRITTEN
        {
            self.unwritten.push_back(event);
        }
        result
    }

    pub(super) fn append(&mut self, event: Event) -> Result<(), Stalled> {
        // Folded first on a copy: an impossible event never reaches the disk.
        let mut run = self.run.clone();
        run.record(&event)?;
        self.journal.append(Line {
            at_ms: now_ms(),
            event,
        })?;
        self.run = run;
        self.released();
        self.tell();
        Ok(())
    }

    /// Hands everything so far to the outbox.
    pub(super) fn tell(&self) {
        let id = self.id();
        self.core
            .outbox
            .under_way(id, event::wire(id, self.journal.lines()));
    }

    /// Carries the order on to its end. `recovered`: it was found open, which is noted first. While the
    /// journal cannot be written nothing is changed on the host; the order goes on when it can.
    ///
    /// # Errors
    /// The course of the order is impossible.
    pub(super) async fn finish(mut self, recovered: bool) -> Result<(), Illegal> {
        let mut noted = if recovered {
            self.write(Event::Recovered)
        } else {
            Ok(())
        };
        loop {
            match noted {
                Ok(()) => {}
                Err(Stalled::Illegal(illegal)) => return Err(illegal),
                Err(Stalled::Journal(error)) => {
                    if !self.hold(error).await? {
                        return Ok(());
                    }
                }
            }
            let action = match self.next_after_rescue().await {
                Some(action) => action,
                None => self.run.next(now_ms()),
            };
            let stops = action == Action::Rescue && self.core.shutdown.is_cancelled();
            if stops || action == Action::Nothing {
                return Ok(());
            }
            noted = self.act(action).await;
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Stalled> {
        match action {
            Action::Plan => self.plan().await,
            Action::Apply { index, attempt } => self.apply(index, attempt).await,
            Action::TurnBack { reason } => {
                tracing::warn!(order.id = %self.id(), "order {} turns back: {}", self.id(), reason.message);
                self.write(Event::TurnedBack { reason })
            }
            Action::Undo { index, attempt } => self.undo(index, attempt).await,
            Action::Confirm => {
                let (message, as_before) = self.confirm().await?;
                self.write(Event::Confirmed { message, as_before })
            }
            Action::Rescue => match self.last_resort().await {
                Some(result) => self.write(Event::Rescued { result }),
                None => Ok(()),
            },
            Action::Finish { outcome, problem } => {
                let running = self.running().await;
                self.write(Event::Finished {
                    outcome,
                    problem,
                    running,
                })?;
                tracing::info!(order.id = %self.id(), ?outcome, "order {} is over", self.id());
                if outcome == Finish::Restored {
                    self.core.forget_lost(self.target());
                }
                Ok(())
            }
            Action::Nothing => Ok(()),
        }
    }

    async fn plan(&mut self) -> Result<(), Stalled> {
        let target = self.target().clone();
        if let Err(problem) = self.core.join(self.id(), std::slice::from_ref(&target)) {
            return self.refuse(problem);
        }
        let revision = self.order.revision().clone();
        let wanted = Wanted {
            target: &target,
            revision: &revision,
            scope: self.order.order().scope(),
            swap: self.order.order().swap(),
        };
        let planned = match plan::plan(&self.core, &wanted).await {
            Ok(planned) => planned,
            Err(problem) => return self.refuse(problem),
        };
        if let Some(blocker) = planned.plan.blockers.first() {
            return self.refuse(blocker.clone());
        }
        // Compare before acting: what was approved was a change from *that* revision.
        let found = planned.plan.from_revision.as_str();
        let expected = self.order.expected().map_or("", RevisionId::as_str);
        if found != expected {
            return self.refuse(mismatch(&target, expected, found));
        }
        let result = planned.draft.result.id();
        if found == result.as_str() {
            return self.unchanged(result).await;
        }
        let instead_of = (result != planned.to.id)
            .then(|| self.order.expected().cloned())
            .flatten();
        if instead_of.is_some() {
            let recorded = self.core.revisions().record(
                &target,
                &planned.draft.result,
                Origin::Restore,
                instead_of,
                now_ms(),
            );
            if let Err(error) = recorded {
                return self.refuse(plan::store_problem(&error));
            }
        }
        if let Some(active) = self.core.active().get_mut(&target) {
            active.needs.insert(result.clone());
        }
        // A container that is to be watched for long must not be out of time for it.
        let limit = self
            .core
            .settings
            .order_timeout
            .saturating_add(planned.draft.waiting);
        let limit = i64::try_from(limit.as_millis());
        if let Err(problem) = self.core.join(self.id(), &planned.draft.with) {
            return self.refuse(problem);
        }
        let written = self.write(Event::Planned {
            plan: Box::new(planned.plan),
            steps: planned.steps,
            result,
            with: planned.draft.with,
            ran: planned.ran,
            until_ms: now_ms().saturating_add(limit.unwrap_or(i64::MAX)),
        });
        match written {
            // Also with all the room there is.
            Err(Stalled::Journal(error @ JournalError::TooLong { .. })) => {
                self.refuse(v1::Problem::new(
                    "plan-too-long",
                    format!("the plan cannot be written down: {error}"),
                    "choose another revision with `ctl history`, or restore it by hand",
                ))
            }
            written => written,
        }
    }

    fn refuse(&mut self, problem: v1::Problem) -> Result<(), Stalled> {
        let running = self
            .core
            .live()
            .get(self.target())
            .and_then(|live| live.current.clone());
        self.write(Event::Finished {
            outcome: Finish::Refused,
            problem: Some(problem),
            running,
        })
    }

    /// The wanted revision runs already: that is only worth reporting with evidence.
    async fn unchanged(&mut self, current: RevisionId) -> Result<(), Stalled> {
        let (kind, target) = (self.kind.clone(), self.target().clone());
        let recorded = self.core.revisions().recorded(&target, &current);
        let to = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return self.refuse(plan::store_problem(&error)),
        };
        let verdict = self
            .with_evidence(UNCHANGED_TIMEOUT, async move |sink| {
                kind.check(&target, &to, &sink).await
            })
            .await?;
        let found = self.look().await;
        let stopped = found.is_some_and(|found| !is_running(found.state) && !found.ended_well);
        let running = (!stopped).then_some(current);
        let hands = self.kind.hands(self.target());
        let (outcome, problem) = match unwell(self.target(), &hands, stopped, verdict.as_ref()) {
            None => (Finish::Unchanged, None),
            Some(problem) => (Finish::Refused, Some(problem)),
        };
        self.write(Event::Finished {
            outcome,
            problem,
            running,
        })
    }

    async fn apply(&mut self, index: usize, attempt: u32) -> Result<(), Stalled> {
        back_off(attempt).await;
        self.write(Event::StepStarted { index })?;
        let step = self.run.steps()[index].clone();
        match self.call(&step, Way::Forward).await? {
            Ok(done) => self.write(Event::StepSucceeded { index, done }),
            Err(error) => {
                tracing::warn!(order.id = %self.id(), step = step.id, "step {} failed: {}", step.id, error.message);
                self.write(Event::StepFailed { index, error })
            }
        }
    }

    async fn undo(&mut self, index: usize, attempt: u32) -> Result<(), Stalled> {
        back_off(attempt).await;
        self.write(Event::UndoStarted { index })?;
        let step = self.run.steps()[index].clone();
        match self.call(&step, Way::Back).await? {
            Ok(done) => self.write(Event::Undone { index, done }),
            Err(error) => {
                tracing::error!(order.id = %self.id(), step = step.id, "undo of {} failed: {}", step.id, error.message);
                self.write(Event::UndoFailed { index, error })
            }
        }
    }

    async fn call(&mut self, step: &Step, way: Way) -> Result<Result<Done, StepError>, Stalled> {
        let (kind, target) = (self.kind.clone(), self.target().clone());
        let order_id = self.id();
        let outputs = self.run.outputs().clone();
        let owned = step.clone();
        let result = self
            .with_evidence(step.timeout, async move |sink| {
                let context = StepContext {
                    order_id,
                    target: &target,
                    outputs: &outputs,
                    evidence: &sink,
                };
                match way {
                    Way::Forward => kind.apply(&context, &owned).await,
                    Way::Back => kind.undo(&context, &owned).await,
                }
            })
            .await?;
        let hands = self.kind.hands(self.target());
        Ok(result.unwrap_or_else(|| Err(took_too_long(step, &hands))))
    }

    /// After an undo: is what ran before back? Its checks are evidence and decide nothing: it may be as
    /// broken as it was.
    async fn confirm(&mut self) -> Result<(String, bool), Stalled> {
        let target = self.target().clone();
        let expected = self.order.expected().cloned();
        let found = self.looked().await;
        match found.map(|found| self.core.revision_of(&found)) {
            Some(found) if found == expected => {}
            Some(Some(found)) => {
                return Ok((
                    format!("revision {} runs, not the one from before", found.short()),
                    false,
                ));
            }
            Some(None) => return Ok(("what ran before is not there".to_owned(), false)),
            None => return Ok(("what runs now could not be looked at".to_owned(), false)),
        }
        let Some(from) = expected else {
            return Ok(("nothing ran before, nothing runs now".to_owned(), true));
        };
        let passes = self.checked_again(&target, &from).await?;
        // Behind its checks, so that one that ends soon after its start is not taken for one that runs.
        let Some(found) = self.looked().await else {
            return Ok(("what runs now could not be looked at".to_owned(), false));
        };
        if self.ran_before() && !is_running(found.state) && !found.ended_well {
            return Ok((
                "what ran before is back in its place and does not run".to_owned(),
                false,
            ));
        }
        if let Some(down) = self.down_beside().await {
            return Ok((
                format!("what ran before is back, and {down}, which was taken along, does not run"),
                false,
            ));
        }
        Ok((format!("what ran before is back; {passes}"), true))
    }

    /// What the checks of the revision from before say of it.
    async fn checked_again(
        &mut self,
        target: &TargetName,
        from: &RevisionId,
    ) -> Result<&'static str, Stalled> {
        let recorded = self.core.revisions().recorded(target, from);
        let Ok(recorded) = recorded else {
            return Ok("its record is not in the store");
        };
        let (kind, target) = (self.kind.clone(), target.clone());
        let verdict = self
            .with_evidence(CONFIRM_TIMEOUT, async move |sink| {
                kind.check(&target, &recorded, &sink).await
            })
            .await?;
        Ok(match verdict {
            Some(Ok(v1::Verdict::Passed)) => "it passes its checks",
            Some(Ok(_)) => "its checks do not pass",
            Some(Err(_)) | None => "its checks could not be run",
        })
    }

    /// Whether what stood there before the order ran.
    pub(super) fn ran_before(&self) -> bool {
        self.journal
            .events()
            .find_map(|event| match event {
                Event::Planned { ran, .. } => Some(*ran),
                _ => None,
            })
            .unwrap_or(true)
    }

    /// For what is done behind the steps.
    fn context<'a>(
        &'a self,
        target: &'a TargetName,
        evidence: &'a EvidenceSink,
    ) -> StepContext<'a> {
        StepContext {
            order_id: self.id(),
            target,
            outputs: self.run.outputs(),
            evidence,
        }
    }

    pub(super) async fn rescue(&mut self) -> Result<Done, StepError> {
        let (sink, _ignored) = EvidenceSink::channel();
        let target = self.target().clone();
        let context = self.context(&target, &sink);
        timeout(RESCUE_TIMEOUT, self.kind.rescue(&context, self.run.steps()))
            .await
            .unwrap_or_else(|_| {
                Err(StepError {
                    code: "timeout".to_owned(),
                    message: "the last resort took too long".to_owned(),
                    next_step: format!(
                        "see what runs of it on the host, and whether what is behind it answers: `{}`",
                        self.kind.hands(&target).see
                    ),
                    transient: true,
                })
            })
    }

    /// Keeps the log of what could not be started, as well as that goes.
    pub(super) async fn lay_aside(&mut self) {
        let (sink, _ignored) = EvidenceSink::channel();
        let target = self.target().clone();
        let context = self.context(&target, &sink);
        match timeout(
            RESCUE_TIMEOUT,
            self.kind.lay_aside(&context, self.run.steps()),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                "what failed of {target} is not put aside: {}",
                error.message
            ),
            Err(_) => tracing::warn!("what failed of {target} is not put aside: it took too long"),
        }
    }

    /// A target that was taken along and does not run; one that cannot be looked at may.
    pub(super) async fn down_beside(&self) -> Option<TargetName> {
        for target in taken_along(&self.journal) {
            let look = timeout(OBSERVE_TIMEOUT, self.kind.observe(target)).await;
            if let Ok(Ok(found)) = look
                && !is_running(found.state)
                && !found.ended_well
            {
                return Some(target.clone());
            }
        }
        None
    }

    /// The revision that runs: not one that only stands there.
    async fn running(&self) -> Option<RevisionId> {
        let found = self.look().await?;
        let runs = is_running(found.state) || found.ended_well;
        self.core.revision_of(&found).filter(|_| runs)
    }

    /// The revision that bears the target's name now.
    pub(super) async fn observed(&self) -> Result<Option<RevisionId>, ()> {
        let observed = self.look().await.ok_or(())?;
        Ok(self.core.revision_of(&observed))
    }

    /// The target as it is. None: nobody can say.
    pub(super) async fn look(&self) -> Option<Observed> {
        timeout(OBSERVE_TIMEOUT, self.kind.observe(self.order.target()))
            .await
            .ok()?
            .ok()
    }

    /// As [`Self::look`], again and again for an engine that is away for a moment.
    async fn looked(&self) -> Option<Observed> {
        let mut found = self.look().await;
        for attempt in 2..=CONFIRM_LOOKS {
            if found.is_some() {
                break;
            }
            back_off(attempt).await;
            found = self.look().await;
        }
        found
    }

    /// Runs something that yields evidence, which is journaled as it comes, and remembered where the journal
    /// fails: work is cut off by its deadline only. `None`: it took too long.
    async fn with_evidence<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(EvidenceSink) -> T,
    ) -> Result<Option<T>, Stalled> {
        let (sink, mut seen) = EvidenceSink::channel();
        let mut work = std::pin::pin!(timeout(limit, work(sink)));
        let result = loop {
            tokio::select! {
                biased;
                Some(evidence) = seen.recv() => self.evidence(evidence)?,
                result = &mut work => break result.ok(),
            }
        };
        while let Ok(evidence) = seen.try_recv() {
            self.evidence(evidence)?;
        }
        Ok(result)
    }

    fn evidence(&mut self, evidence: v1::Evidence) -> Result<(), Stalled> {
        match self.write(Event::Evidence { evidence }) {
            Err(Stalled::Journal(_)) => Ok(()),
            written => written,
        }
    }
}

/// The other targets that an order has planned to take along.
pub(super) fn taken_along(journal: &Journal) -> &[TargetName] {
    let mut events = journal.events();
    let planned = events.find_map(|event| match event {
        Event::Planned { with, .. } => Some(with.as_slice()),
        _ => None,
    });
    planned.unwrap_or_default()
}

/// The revision that will run, as an order has planned it.
pub(super) fn planned_result(journal: &Journal) -> Option<&RevisionId> {
    journal.events().find_map(|event| match event {
        Event::Planned { result, .. } => Some(result),
        _ => None,
    })
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Forward,
    Back,
}

async fn back_off(attempt: u32) {
    if attempt > 1 {
        let factor = 2u32.saturating_pow(attempt - 2);
        sleep(BACK_OFF.saturating_mul(factor).min(BACK_OFF_LIMIT)).await;
    }
}
