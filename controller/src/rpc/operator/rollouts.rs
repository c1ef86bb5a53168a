//! Starting, listing and showing rollouts.

use sternway_proto::v1::{self, Problem};
use tonic::Status;
use uuid::Uuid;

use super::{Operators, fit, hosts, text, to_its_end};
use crate::{
    clock::{millis, now_ms},
    metrics::ORDERS_STARTED,
    rpc::{caller::Caller, convert, fault},
    store::types::{Effects, NewRollout, Rollout},
};

const LIST: u32 = 50;
const LIST_AT_MOST: u32 = 500;

/// The shortest deadline: less than a round trip helps nobody.
const DEADLINE_AT_LEAST_MS: i64 = 1000;

pub(super) async fn start(
    service: &Operators,
    caller: &Caller,
    request: &v1::StartRollbackRequest,
) -> Result<v1::StartRollbackResponse, Status> {
    let reason = text("the reason", &request.reason)?;
    let plan_id = Uuid::try_parse(&request.plan_id)
        .map_err(|_| fault::start(crate::store::StartError::PlanUnknown))?;
    let request_id = Uuid::try_parse(&request.request_id).map_err(|_| {
        fault::invalid(
            "request-id-not-valid",
            "the request's id is no UUID",
            "make one for each call, and use it again only to repeat that call",
        )
    })?;
    let most = millis(service.lifetimes.order_at_most);
    let deadline_ms = match request.deadline_ms {
        0 => millis(service.lifetimes.order),
        asked if (DEADLINE_AT_LEAST_MS..=most).contains(&asked) => asked,
        _ => {
            return Err(fault::invalid(
                "deadline-not-valid",
                format!(
                    "an order waits for at least 1 s and at most {} s",
                    most / 1000
                ),
                "give another deadline",
            ));
        }
    };
    let now = now_ms();
    let new = NewRollout {
        id: Uuid::now_v7(),
        order_id: Uuid::now_v7(),
        request_id,
        plan_id,
        operator: caller.name.clone(),
        reason,
        epoch: service.fleet.epoch(),
        now_ms: now,
        not_after_ms: now.saturating_add(deadline_ms),
    };
    let id = new.id;
    let rollout = stored_and_sent(service, new).await?;
    if rollout.id == id {
        metrics::counter!(ORDERS_STARTED).increment(1);
        tracing::info!(
            rollout.id = %rollout.id, "rollout {} started by {}", rollout.id, caller.name
        );
    }
    Ok(v1::StartRollbackResponse {
        rollout: Some(convert::rollout(&rollout, &service.fleet)),
    })
}

/// Stores the rollout, and sends its orders in the background.
async fn stored_and_sent(service: &Operators, new: NewRollout) -> Result<Rollout, Status> {
    let service = service.clone();
    to_its_end(async move {
        let started = service.store.rollout_start(&new).await;
        let rollout = started.map_err(fault::start)?;
        // It stands. Sending it is repeated, so a failure here is no failure.
        service.fleet.effects(Effects {
            hosts: rollout.orders.iter().map(|order| order.host_id).collect(),
            ..Effects::default()
        });
        Ok(rollout)
    })
    .await
}

/// The rollout of that id or unique prefix.
pub(super) async fn find(service: &Operators, prefix: &str) -> Result<Rollout, Status> {
    let known = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut found = if prefix.is_empty() || !prefix.chars().all(known) {
        Vec::new()
    } else {
        let prefix = prefix.to_ascii_lowercase();
        service
            .store
            .rollout_find(&prefix)
            .await
            .map_err(fault::store)?
    };
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(fault::not_found(Problem::new(
            "rollout-ambiguous",
            format!("several rollouts begin with {prefix:?}"),
            "give more of its id; `ctl rollout ls` lists them",
        ))),
        (None, _) => Err(fault::not_found(Problem::new(
            "rollout-unknown",
            format!("there is no rollout {prefix:?}"),
            "`ctl rollout ls` lists them",
        ))),
    }
}

pub(super) async fn list(
    service: &Operators,
    request: &v1::ListRolloutsRequest,
) -> Result<v1::ListRolloutsResponse, Status> {
    let host = match request.host.as_str() {
        "" => None,
        name => Some(hosts::find(service, name).await?.id),
    };
    let limit = match request.limit {
        0 => LIST,
        asked => asked.min(LIST_AT_MOST),
    };
    let rollouts = service
        .store
        .rollout_list(host, limit)
        .await
        .map_err(fault::store)?;
    let answer = v1::ListRolloutsResponse {
        rollouts: rollouts
            .iter()
            .map(|rollout| convert::rollout(rollout, &service.fleet))
            .collect(),
        thinned: false,
    };
    let reliefs: &[fn(&mut v1::ListRolloutsResponse)] =
        &[|answer| answer.rollouts.iter_mut().for_each(fit::without_details)];
    fit::fit(
        answer,
        reliefs,
        "ask for fewer: `ctl rollout ls --limit 50`",
    )
}

pub(super) async fn get(
    service: &Operators,
    request: &v1::GetRolloutRequest,
) -> Result<v1::GetRolloutResponse, Status> {
    let rollout = find(service, &request.rollout).await?;
    let mut events = Vec::new();
    for order in &rollout.orders {
        let mut after = 0;
        loop {
            let page = service
                .store
                .order_event_list(order.id, after)
                .await
                .map_err(fault::store)?;
            let Some(last) = page.last() else { break };
            after = last.number;
            events.extend(page);
        }
    }
    let answer = v1::GetRolloutResponse {
        rollout: Some(convert::rollout(&rollout, &service.fleet)),
        events,
    };
    let next = format!("`ctl rollout watch {}` shows it piece by piece", rollout.id);
    fit::whole(answer, &next)
}
