//! Orders whose journal is gone: somebody removed it, or the disk lost it. What they left half-made is no
//! deployment, and brings nobody down: the kind's last resort makes one instance run. Told until it is of no
//! interest any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sternway_proto::{name::TargetName, v1};
use tokio::time::timeout;
use uuid::Uuid;

use super::core::{Active, Core, now_ms};
use crate::{
    engine::step::{Done, EvidenceSink, StepContext, StepError},
    store::history::History,
    targets::{Hands, Kind, Known, Made},
};

/// How long the last resort may take.
const MEND_TIMEOUT: Duration = Duration::from_mins(2);

/// A target of an order whose journal is gone.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) order: Uuid,
    /// One instance was made to run, and the rest taken away.
    pub(super) mended: bool,
    /// Nothing more is done about it here: a person may be at work on it.
    pub(super) tried: bool,
    pub(super) problem: v1::Problem,
}

impl Core {
    /// Whether an order that was accepted here made this, and its journal is gone. One that was recorded as what runs
    /// was over.
    pub(super) fn is_half_made(&self, made: &Made) -> bool {
        self.ledger().lost(made.order, now_ms())
            && self
                .revisions()
                .history(&made.target)
                .is_none_or(|history| history.instance != made.instance)
    }

    /// Whether an order made this that nobody here knows, and never got to start it.
    pub(super) fn never_ran(&self, made: &Made) -> bool {
        !made.begun && !self.ledger().knows(made.order)
    }

    /// What an order without a journal left was found: said at once, and nothing of it is recorded from here on.
    pub(super) fn found_lost(&self, made: &Made) {
        let (order, target) = (made.order, &made.target);
        // One after the other, where there are two.
        let another = self.lost(target).is_some_and(|lost| !lost.tried);
        if another || self.is_dealt_with(order) {
            return;
        }
        let path = self.ledger().path(order);
        tracing::error!(order.id = %order, %target, path = %path.display(), "the journal of order {order} is gone, and what it began on {target} is half made");
        self.set_lost(
            target,
            Lost {
                order,
                mended: false,
                tried: false,
                problem: problem(self, order, target, "it is being put right"),
            },
        );
    }

    fn known(&self, target: &TargetName) -> Known {
        let revisions = self.revisions();
        let history = revisions.history(target);
        let before = history.and_then(|history| {
            let current = history.current()?;
            let recorded = revisions.recorded(target, &current.id).ok()?;
            Some((history.instance.clone(), recorded))
        });
        let all = history.into_iter().flat_map(History::entries);
        let recorded = all.filter_map(|entry| revisions.recorded(target, &entry.id).ok());
        Known {
            before,
            revisions: recorded.collect(),
        }
    }
}

/// What stands at the target for the operator to see.
fn problem(core: &Core, order: Uuid, target: &TargetName, now: &str) -> v1::Problem {
    let host = &core.settings.host_name;
    let hands = core.hands(target);
    v1::Problem::new(
        "cannot-resume",
        format!(
            "order {order} began to restore {target} and its journal ({}) is gone, so that how far it came is not \
             known: {now} (told until {target} is deployed or restored again, or the agent is started again)",
            core.ledger().path(order).display()
        ),
        format!(
            "see what runs (`{}` on the host); where that is not what is wanted, deploy it again, or `ctl rollback \
             --host {host} --target {target}`",
            hands.see
        ),
    )
}

/// What a task that mends has begun with.
pub(super) struct Mend {
    core: Arc<Core>,
    kind: Arc<dyn Kind>,
    made: Made,
    known: Known,
}

impl Mend {
    /// Makes the target busy. None: it is, or there is nothing to mend (any more).
    pub(super) fn begin(core: &Arc<Core>, made: Made) -> Option<Self> {
        let target = &made.target;
        let busy = core.active().contains_key(target) || core.stranded(target).is_some();
        let waits = core
            .lost(target)
            .is_some_and(|lost| lost.order == made.order && !lost.tried);
        let kind = core.registry.of(target).cloned()?;
        if busy || !waits {
            return None;
        }
        let known = core.known(target);
        let active = Active {
            order: made.order,
            needs: known.revisions.iter().map(|one| one.id.clone()).collect(),
        };
        if !core.begun(target, active) {
            return None;
        }
        Some(Self {
            core: core.clone(),
            kind,
            made,
            known,
        })
    }

    /// Mends, and says what came of it.
    pub(super) async fn work(self) {
        let (order, target) = (self.made.order, &self.made.target);
        let (sink, _ignored) = EvidenceSink::channel();
        let outputs = BTreeMap::new();
        let context = StepContext {
            order_id: order,
            target,
            outputs: &outputs,
            evidence: &sink,
        };
        let result = timeout(MEND_TIMEOUT, self.kind.mend(&context, &self.known))
            .await
            .unwrap_or_else(|_| Err(late(&self.core.hands(target))));
        let lost = self.told(&result);
        match &result {
            Ok(done) => {
                tracing::warn!(order.id = %order, %target, "what order {order} left of {target} is put right: {}", done.message);
            }
            Err(error) => {
                tracing::error!(order.id = %order, %target, "what order {order} left of {target} cannot be put right: {}", error.message);
            }
        }
        self.core.set_lost(target, lost);
    }

    fn told(&self, result: &Result<Done, StepError>) -> Lost {
        let (order, target) = (self.made.order, &self.made.target);
        let now = match result {
            Ok(done) => done.message.clone(),
            Err(error) if error.transient => {
                format!(
                    "it could not be put right, and is tried again: {}",
                    error.message
                )
            }
            Err(error) => format!("it could not be put right: {}", error.message),
        };
        let mut problem = problem(&self.core, order, target, &now);
        if let Err(error) = result
            && !error.next_step.is_empty()
        {
            problem.next_step.clone_from(&error.next_step);
        }
        Lost {
            order,
            mended: result.is_ok(),
            tried: result.as_ref().err().is_none_or(|error| !error.transient),
            problem,
        }
    }
}

fn late(hands: &Hands) -> StepError {
    StepError {
        code: "timeout".to_owned(),
        message: "it took too long".to_owned(),
        next_step: format!(
            "see whether what is behind it on the host answers: `{}`",
            hands.engine
        ),
        transient: true,
    }
}

#[cfg(test)]
mod tests;
