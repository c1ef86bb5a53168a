//! From what the store keeps and the fleet knows to what travels.

use sternway_proto::v1;

use crate::{
    fleet::Fleet,
    rollout::order::Phase,
    store::types::{Host, Order, Rollout},
};

/// A host; what its session knows goes before what is stored.
pub(super) fn host(host: &Host, fleet: &Fleet) -> v1::Host {
    let live = fleet.live(host.id);
    let state = match (host.revoked_ms, live) {
        (Some(_), _) => v1::HostState::Revoked,
        (None, Some(_)) => v1::HostState::Online,
        (None, None) => v1::HostState::Offline,
    };
    v1::Host {
        id: host.id.to_string(),
        name: host.name.clone(),
        labels: host.labels.clone().into_iter().collect(),
        state: state.into(),
        last_seen_ms: live.map_or(host.last_seen_ms, |live| live.heard_ms),
        joined_ms: host.joined_ms,
        facts: host.facts.clone(),
        agent_version: host.agent_version.clone(),
        clock_offset_ms: live.map_or(host.clock_offset_ms, |live| live.clock_offset_ms),
        certificate_not_after_ms: host.certificate_not_after_ms,
        target_count: host.target_count,
        targets_ready: host.targets_ready,
        targets_without_predecessor: host.targets_without_predecessor,
    }
}

fn order(order: &Order, fleet: &Fleet) -> v1::RolloutOrder {
    let ending = match &order.progress.phase {
        Phase::Finished(ending) => Some(ending),
        _ => None,
    };
    v1::RolloutOrder {
        order_id: order.id.to_string(),
        host_id: order.host_id.to_string(),
        host_name: order.host_name.clone(),
        target: order.target.clone(),
        state: order.progress.state().into(),
        outcome: ending.map_or(0, |e| e.outcome.into()),
        problem: ending.and_then(|e| e.problem.clone()),
        plan: Some(order.plan.clone()),
        not_after_ms: order.not_after_ms,
        host_online: fleet.live(order.host_id).is_some(),
        running_revision: ending
            .map(|e| e.running_revision.clone())
            .unwrap_or_default(),
    }
}

/// A rollout with its orders, wave by wave.
pub(super) fn rollout(rollout: &Rollout, fleet: &Fleet) -> v1::Rollout {
    let mut waves: Vec<v1::Wave> = Vec::new();
    for one in &rollout.orders {
        let at = usize::try_from(one.wave).unwrap_or_default();
        if waves.len() <= at {
            waves.resize_with(at + 1, v1::Wave::default);
        }
        if let Some(wave) = waves.get_mut(at) {
            wave.orders.push(order(one, fleet));
        }
    }
    v1::Rollout {
        id: rollout.id.to_string(),
        state: rollout.state.into(),
        operator: rollout.operator.clone(),
        reason: rollout.reason.clone(),
        created_ms: rollout.created_ms,
        finished_ms: rollout.finished_ms,
        waves,
    }
}
