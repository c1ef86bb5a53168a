//! What a rollback would do: asked of the agent, or, where its host is offline, made from what is stored.

use std::time::{Duration, Instant};

use sternway_proto::{
    field,
    v1::{self, Problem, RestoreScope, Swap},
};
use tokio::time::sleep;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    Operators,
    earlier::{self, Earlier},
    hosts, migrations,
    targets::{self, Found},
};
use crate::{
    clock::{millis, now_ms},
    fleet::PlanError,
    rpc::{caller::Caller, convert, fault},
    select::Chosen,
    store::{
        StoreError,
        types::{LastOrder, StoredPlan},
    },
};

/// How long after an order's end a host may take to tell what runs since. Some tenths of a second, where it is well.
const TOLD: Duration = Duration::from_secs(5);
/// Between looks at whether it has: at first, and at most.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_MOST: Duration = Duration::from_millis(400);
/// A host that has spoken of the target for so long after the end has nothing more to tell of it. Milliseconds.
const SPOKEN_MS: i64 = 2000;

pub(super) async fn plan(
    service: &Operators,
    caller: &Caller,
    request: &v1::PlanRollbackRequest,
) -> Result<v1::PlanRollbackResponse, Status> {
    let scope = match RestoreScope::try_from(request.scope) {
        Ok(RestoreScope::Unspecified) => RestoreScope::Both,
        Ok(scope) => scope,
        Err(_) => {
            return Err(fault::invalid(
                "scope-not-valid",
                "there is no such scope",
                "",
            ));
        }
    };
    let swap = Swap::try_from(request.swap)
        .map_err(|_| fault::invalid("swap-not-valid", "there is no such swap", ""))?;
    hosts::living(service, &request.host).await?;
    let found = told(service, &request.host, &request.target).await?;
    let chosen = found
        .history()
        .restorable(&request.to)
        // Of one that cannot be restored at all that is the reason.
        .map_err(|problem| not_restorable(found.target.unsupported.clone().unwrap_or(problem)))?;
    let asked = v1::PlanRequest {
        request_id: 0,
        target: found.target.name.clone(),
        revision: chosen.revision.id.clone(),
        scope: scope.into(),
        swap: swap.into(),
    };
    let (mut plan, host_offline) = match service.fleet.plan(found.host.id, asked).await {
        Ok(plan) => (plan, false),
        Err(PlanError::Offline) => (stored(&found, chosen.revision, scope, swap), true),
        Err(PlanError::Late) => return Err(late(&found)),
        Err(PlanError::TooMany) => return Err(too_many(&found)),
        Err(PlanError::Refused(problem)) => return Err(fault::refused(problem)),
    };
    let meant = plan.target == found.target.name && plan.to_revision == chosen.revision.id;
    if !meant {
        return Err(fault::refused(Problem::new(
            "plan-of-another",
            format!(
                "the agent of {} planned something else than was asked",
                found.host.name
            ),
            "see the agent's log; the agent and the controller may be of different versions",
        )));
    }
    // The image stays: so does what it expects of its data.
    if scope != RestoreScope::Config {
        let deployments = service
            .store
            .deployment_list(found.host.id, &found.target.name);
        let deployments = deployments.await.map_err(fault::store)?;
        plan.warnings.extend(migrations::crossed(
            &found.target.revisions,
            &deployments,
            chosen.revision,
        ));
    }
    let now = now_ms();
    let host = convert::host(&found.host, &service.fleet);
    plan.warnings.extend(
        earlier(service, &found, &request.to, &chosen, &host, now)
            .await
            .map_err(fault::store)?,
    );
    let keep = StoredPlan {
        id: Uuid::new_v4(),
        host_id: found.host.id,
        made_for: caller.name.clone(),
        scope,
        swap,
        created_ms: now,
        expires_ms: now.saturating_add(millis(service.lifetimes.plan)),
        plan,
    };
    // A plan with blockers is shown, but cannot be carried out: it is not kept.
    let mut plan_id = String::new();
    if keep.plan.blockers.is_empty() {
        service
            .store
            .plan_insert(&keep)
            .await
            .map_err(fault::store)?;
        plan_id = keep.id.to_string();
    }
    Ok(v1::PlanRollbackResponse {
        plan_id,
        host: Some(host),
        plan: Some(keep.plan),
        chosen_because: chosen.because,
        host_offline,
    })
}

/// The target as its host tells it since its last order has ended. An end may be told before what runs since then is (by
/// an agent whose engine hangs), and who plans in between would count from what was replaced.
async fn told(service: &Operators, host: &str, target: &str) -> Result<Found, Status> {
    let (on, named) = targets::named(service, host, target).await?;
    let (begun, mut pause) = (Instant::now(), LOOK);
    while begun.elapsed() < TOLD {
        let last = service.store.order_last(on.id, &named.name).await;
        let last = last.map_err(fault::store)?;
        if !last.is_some_and(|last| is_untold(&last, now_ms())) {
            break;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_AT_MOST);
    }
    targets::find(service, host, &named.name).await
}

/// Whether a host is about to tell what runs: its last order has just ended with something else than it tells.
fn is_untold(last: &LastOrder, now_ms: i64) -> bool {
    !last.running_revision.is_empty()
        && last.running_revision != last.current_revision
        && now_ms.saturating_sub(last.finished_ms) < millis(TOLD)
        && last.told_ms.saturating_sub(last.finished_ms) <= SPOKEN_MS
}

/// What earlier rollbacks of the target say of this one.
async fn earlier(
    service: &Operators,
    found: &Found,
    asked: &str,
    chosen: &Chosen<'_>,
    host: &v1::Host,
    now_ms: i64,
) -> Result<Vec<Problem>, StoreError> {
    let (id, target) = (found.host.id, &found.target.name);
    let ended = service.store.order_ended_list(id, target).await?;
    let failed = service.store.order_failed_list(id, target).await?;
    let passed = service.store.order_passed_list(id, target).await?;
    let failed = earlier::not_outlived(failed, &passed);
    let earlier = Earlier {
        ended: &ended,
        failed: &failed,
        clock_offset_ms: host.clock_offset_ms,
        now_ms,
    };
    Ok(earlier::warnings(found.history(), asked, chosen, earlier))
}

/// That there is no such revision is no refusal: a host or a target that is not there is none either.
fn not_restorable(why: Problem) -> Status {
    match why.code.as_str() {
        "revision-unknown" | "revision-ambiguous" => fault::not_found(why),
        _ => fault::refused(why),
    }
}

fn late(found: &Found) -> Status {
    let host = &found.host.name;
    sternway_proto::fault::to_status(
        Code::DeadlineExceeded,
        Problem::new(
            "agent-late",
            format!("the agent of {host} did not answer in time"),
            format!("is its engine hanging? See `ctl host show {host}`"),
        ),
    )
}

fn too_many(found: &Found) -> Status {
    let host = &found.host.name;
    sternway_proto::fault::to_status(
        Code::ResourceExhausted,
        Problem::new(
            "too-many-plans",
            format!("the agent of {host} is asked for too many plans at once"),
            "wait until the others have theirs, then plan again",
        ),
    )
}

/// What can be said without the agent: which revisions, and what differs.
fn stored(found: &Found, to: &v1::Revision, scope: RestoreScope, swap: Swap) -> v1::Plan {
    let current = found.history().current();
    let host = &found.host.name;
    let mut warnings = vec![Problem::new(
        "host-offline",
        format!(
            "{host} is offline: this is what is known of it from before; the order waits until its \
             deadline, and the host's agent decides by what it finds then"
        ),
        format!("see `ctl host show {host}`"),
    )];
    if let Some(readiness) = &found.target.readiness
        && readiness.revision == to.id
    {
        // That what runs is bad is no warning of leaving it.
        let of_the_goal = |it: &&Problem| it.code != "runs-marked-bad";
        warnings.extend(readiness.problems.iter().filter(of_the_goal).cloned());
    }
    v1::Plan {
        target: found.target.name.clone(),
        from_revision: found.target.current_revision.clone(),
        from_number: current.map_or(0, |revision| revision.number),
        to_revision: to.id.clone(),
        to_number: to.number,
        scope: scope.into(),
        swap: swap.into(),
        changes: current.map_or_else(Vec::new, |from| field::changes(&from.fields, &to.fields)),
        warnings,
        blockers: found.target.unsupported.iter().cloned().collect(),
        expected_outage: "not known while the host is offline".to_owned(),
        ..v1::Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_order_left_is_waited_for_until_its_host_has_told_it_or_told_otherwise() {
        let last = LastOrder {
            running_revision: "b".into(),
            finished_ms: 10_000,
            current_revision: "a".into(),
            told_ms: 9_000,
        };
        assert!(is_untold(&last, 10_100));
        assert!(!is_untold(&last, 15_000), "for so long");
        for told in [
            LastOrder {
                current_revision: "b".into(),
                ..last.clone()
            },
            LastOrder {
                running_revision: String::new(),
                ..last.clone()
            },
            // Deployed anew meanwhile.
            LastOrder {
                told_ms: 12_001,
                ..last.clone()
            },
        ] {
            assert!(!is_untold(&told, 12_100), "{told:?}");
        }
        // It was told in the moment of the end, before what runs was known.
        let early = LastOrder {
            told_ms: 10_050,
            ..last
        };
        assert!(is_untold(&early, 10_100));
    }
}
