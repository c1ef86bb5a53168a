//! What is done for one target: its artifacts are kept, its readiness is looked at, its checks are run, and it is
//! forgotten when it is gone for good.

use std::time::Duration;

use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};
use tokio::time::timeout;

use super::{
    core::{Core, now_ms},
    plan,
};
use crate::{engine::step::EvidenceSink, store::history::History, targets::Kind};

/// How long a look at the host may take.
pub(super) const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the checks of one target may take: the longest deadline and soak that labels may ask for, with room.
/// They end by themselves; this is for a hang.
const CHECK_TIMEOUT: Duration = Duration::from_mins(30);

/// How long keeping the artifacts of one target may take.
const KEEP_TIMEOUT: Duration = Duration::from_mins(2);

/// Keeps what a rollback needs, and looks whether it would work; or forgets the target.
pub(super) async fn keep_ready(core: &Core, kind: &dyn Kind, target: &TargetName) {
    if core.due().remove(target) && forget(core, kind, target).await {
        return;
    }
    keep(core, kind, target).await;
    readiness(core, kind, target).await;
}

pub(super) fn tell(core: &Core, target: &TargetName, before: Option<&v1::Target>) {
    let after = core.describe(target);
    if before.map(without_times) != after.as_ref().map(without_times) {
        core.outbox.target(target);
    }
}

/// When something was looked at is no news by itself.
fn without_times(target: &v1::Target) -> v1::Target {
    let mut target = target.clone();
    if let Some(readiness) = &mut target.readiness {
        readiness.checked_at_ms = 0;
    }
    for evidence in &mut target.health_evidence {
        evidence.at_ms = 0;
        evidence.duration_ms = 0;
        evidence.attempts = 0;
    }
    target
}

/// Forgets a target that is gone, with what is kept for it. Only ever from its own task, which is also the one
/// that keeps: nothing is kept again behind this. False: it is not gone, or cannot be forgotten now.
async fn forget(core: &Core, kind: &dyn Kind, target: &TargetName) -> bool {
    let gone = || {
        let gone = core
            .live()
            .get(target)
            .is_some_and(|live| live.state == v1::TargetState::Gone);
        gone && !core.active().contains_key(target) && core.stuck(target).is_none()
    };
    if !gone() {
        return false;
    }
    match timeout(KEEP_TIMEOUT, kind.keep(target, &[])).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%target, "cannot let go of what is kept for {target}: {error}");
            return false;
        }
        Err(_) => {
            tracing::warn!(%target, "letting go of what is kept for {target} took too long");
            return false;
        }
    }
    let mut revisions = core.revisions();
    // It may have come back meanwhile; then all is kept again.
    if !gone() {
        return false;
    }
    if let Err(error) = revisions.forget(target) {
        tracing::warn!(%target, "cannot forget {target}: {error}");
        return false;
    }
    core.live().remove(target);
    drop(revisions);
    tracing::info!(%target, "{target} was gone for long: it is forgotten, with its revisions");
    core.outbox.target(target);
    true
}

async fn keep(core: &Core, kind: &dyn Kind, target: &TargetName) {
    let needs = core
        .active()
        .get(target)
        .map(|active| active.needs.clone())
        .unwrap_or_default();
    let kept = {
        let mut revisions = core.revisions();
        if revisions.history(target).is_none() {
            return;
        }
        if let Err(error) = revisions.prune(target, core.settings.keep, &needs) {
            tracing::warn!(%target, "cannot let go of old revisions of {target}: {error}");
        }
        let runs = core
            .live()
            .get(target)
            .and_then(|live| live.current.clone());
        let history = revisions.history(target);
        let goal = history.and_then(|history| {
            history.default_goal(runs.as_ref(), |id| revisions.said(target, id))
        });
        let goal = goal.map(|entry| entry.id.clone());
        let newest_first = history.into_iter().flat_map(History::entries).rev();
        let mut ids: Vec<RevisionId> = newest_first.map(|entry| entry.id.clone()).collect();
        // Stable: the others keep their order.
        ids.sort_by_key(|id| Some(id) != goal.as_ref());
        let mut kept = Vec::new();
        for id in ids {
            match revisions.recorded(target, &id) {
                Ok(recorded) => kept.push(recorded),
                Err(error) => tracing::error!(%target, "a revision of {target} is lost: {error}"),
            }
        }
        kept
    };
    match timeout(KEEP_TIMEOUT, kind.keep(target, &kept)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%target, "cannot keep the artifacts of {target}: {error}"),
        Err(_) => tracing::warn!(%target, "keeping the artifacts of {target} took too long"),
    }
}

pub(super) async fn readiness(core: &Core, kind: &dyn Kind, target: &TargetName) {
    let goal = {
        let runs = core
            .live()
            .get(target)
            .and_then(|live| live.current.clone());
        let revisions = core.revisions();
        let Some(history) = revisions.history(target) else {
            return;
        };
        history
            .default_goal(runs.as_ref(), |id| revisions.said(target, id))
            .map(|entry| (entry.id.clone(), revisions.recorded(target, &entry.id)))
    };
    let open = core.open_orders();
    let mut beside = timeout(LOOK_TIMEOUT, kind.beside(target, &open)).await;
    let now = core.open_orders();
    // What an order makes that came meanwhile is no leftover.
    if now.iter().any(|order| !open.contains(order)) {
        beside = timeout(LOOK_TIMEOUT, kind.beside(target, &now)).await;
    }
    let (verdict, revision, mut problems) = match goal {
        None => (
            v1::ReadinessVerdict::NoPredecessor,
            String::new(),
            Vec::new(),
        ),
        Some((id, Err(error))) => (
            v1::ReadinessVerdict::NotReady,
            id.to_string(),
            vec![plan::store_problem(&error)],
        ),
        Some((id, Ok(recorded))) => {
            let looked = timeout(LOOK_TIMEOUT, kind.readiness(target, &recorded)).await;
            let problems = looked.unwrap_or_else(|_| {
                vec![v1::Problem::new(
                    "engine-unreachable",
                    "the engine does not answer",
                    "look at the engine on the host",
                )]
            });
            let verdict = if problems.is_empty() {
                v1::ReadinessVerdict::Ready
            } else {
                v1::ReadinessVerdict::NotReady
            };
            (verdict, id.to_string(), problems)
        }
    };
    let beside = beside.unwrap_or_default();
    let verdict = if beside.is_empty() {
        verdict
    } else {
        v1::ReadinessVerdict::NotReady
    };
    problems.extend(beside);
    problems.extend(unreadable(core, kind, target));
    if let Some(live) = core.live().get_mut(target) {
        live.readiness = Some(v1::Readiness {
            verdict: verdict.into(),
            revision,
            problems,
            checked_at_ms: now_ms(),
        });
    }
}

/// What runs now and cannot be checked as it was meant to be. It takes nothing from a rollback, and is a surprise on
/// the day of the next one.
fn unreadable(core: &Core, kind: &dyn Kind, target: &TargetName) -> Vec<v1::Problem> {
    let current = core
        .live()
        .get(target)
        .and_then(|live| live.current.clone());
    let recorded = current.and_then(|id| core.revisions().recorded(target, &id).ok());
    recorded.map_or_else(Vec::new, |recorded| kind.unreadable(&recorded))
}

pub(super) async fn check(core: &Core, kind: &dyn Kind, target: &TargetName) {
    let recorded = {
        let current = core
            .live()
            .get(target)
            .and_then(|live| live.current.clone());
        let Some(current) = current else {
            return;
        };
        match core.revisions().recorded(target, &current) {
            Ok(recorded) => recorded,
            Err(_) => return,
        }
    };
    if core.active().contains_key(target) {
        return;
    }
    let (sink, mut seen) = EvidenceSink::channel();
    let work = timeout(CHECK_TIMEOUT, kind.check(target, &recorded, &sink));
    let mut work = std::pin::pin!(work);
    let mut evidence = Vec::new();
    let verdict = loop {
        tokio::select! {
            biased;
            Some(one) = seen.recv() => evidence.push(one),
            result = &mut work => break result,
        }
    };
    while let Ok(one) = seen.try_recv() {
        evidence.push(one);
    }
    let verdict = match verdict {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) | Err(_) => v1::Verdict::Inconclusive,
    };
    // What was looked at may have been replaced meanwhile: then this says nothing.
    let same = core
        .live()
        .get(target)
        .is_some_and(|live| live.current.as_ref() == Some(&recorded.id));
    if !same || core.active().contains_key(target) {
        return;
    }
    if verdict == v1::Verdict::Passed {
        match core.revisions().known_good(target, &recorded.id) {
            Ok(true) => {
                tracing::info!(%target, revision = recorded.number, "revision #{} of {target} is known-good", recorded.number);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%target, "cannot note that {target} is known-good: {error}");
            }
        }
    }
    if let Some(live) = core.live().get_mut(target) {
        live.health = verdict;
        live.evidence = evidence;
    }
}
