//! Removes what finished orders left: the replaced container after its dwell, and whatever an order of which
//! nothing is known any more left behind. Nothing that runs is ever removed here.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sternway_proto::name::clean_text;
use tracing::info;
use uuid::Uuid;

use super::{
    DockerKind,
    client::EngineError,
    discover::{labels_of, name_of},
    labels::{self, NAME_PREFIX, Role},
    normalise::{short, text},
};
use crate::targets::KindError;

/// What to do with a container of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

/// `now` and `dwell` decide about a container that was put aside.
fn fate(inspect: &Value, open: &[Uuid], now: Timestamp, dwell: Duration) -> Fate {
    let name = name_of(inspect);
    let state = &inspect["State"];
    if !name.starts_with(NAME_PREFIX) || state["Running"].as_bool() == Some(true) {
        return Fate::Stays;
    }
    let is = |role: Role| name.starts_with(&format!("{NAME_PREFIX}{}-", role.as_str()));
    if open.iter().any(|order| name.contains(&tail(*order))) {
        return Fate::Stays;
    }
    if is(Role::Previous) {
        let since: Option<Timestamp> = text(state, "FinishedAt").parse().ok();
        let old = since.is_some_and(|since| {
            let age = now.duration_since(since);
            age.unsigned_abs() > dwell && age.is_positive()
        });
        return if old { Fate::Goes } else { Fate::Stays };
    }
    let ours = labels_of(inspect).contains_key(labels::ORDER);
    if ours && (is(Role::Replacement) || is(Role::Standby)) {
        return Fate::Goes;
    }
    Fate::Stays
}

/// What the names of an order's containers have in common; as [`labels::own_name`] makes them.
fn tail(order: Uuid) -> String {
    order.simple().to_string().split_off(20)
}

impl DockerKind {
    /// Removes what is to be removed.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn collect(&self, open: &[Uuid]) -> Result<(), KindError> {
        let dwell = Duration::from_secs(self.settings.dwell_hours.saturating_mul(3600));
        let now = Timestamp::now();
        for listed in self.engine.containers(&[]).await? {
            let ours = listed["Names"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .any(|name| name.trim_start_matches('/').starts_with(NAME_PREFIX));
            if !ours {
                continue;
            }
            let id = text(&listed, "Id");
            let inspect = match self.engine.container(id).await {
                Ok(inspect) => inspect,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if fate(&inspect, open, now, dwell) == Fate::Goes
                && self.is_of_a_target_of_ours(&inspect)
            {
                self.remove(id, &inspect).await?;
            }
        }
        Ok(())
    }

    /// Other agents (in tests, or in containers of their own) may share the engine.
    fn is_of_a_target_of_ours(&self, inspect: &Value) -> bool {
        let name = name_of(inspect);
        let local = name
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.splitn(3, '-').nth(2));
        local.is_some_and(|local| self.names.cover(local))
    }

    async fn remove(&self, id: &str, inspect: &Value) -> Result<(), EngineError> {
        self.engine.remove_container(id, false).await?;
        info!("removed {} ({})", clean_text(name_of(inspect)), short(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_put_aside_long_ago_and_is_not_needed_goes() {
        let order = Uuid::now_v7();
        let target = "docker/my-shop".parse().expect("valid");
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("valid");
        let dwell = Duration::from_hours(1);
        let container = |role: Role, running: bool, finished: &str| {
            json!({
                "Name": format!("/{}", labels::own_name(role, order, &target)),
                "State": {"Running": running, "FinishedAt": finished},
                "Config": {"Labels": {labels::ORDER: order.to_string()}},
            })
        };
        let judge = |inspect: &Value, open: &[Uuid]| fate(inspect, open, now, dwell);
        let long_ago = container(Role::Previous, false, "2026-01-01T00:00:00Z");
        assert_eq!(judge(&long_ago, &[]), Fate::Goes);
        assert_eq!(judge(&long_ago, &[order]), Fate::Stays);
        let lately = container(Role::Previous, false, "2026-01-01T23:30:00Z");
        assert_eq!(judge(&lately, &[]), Fate::Stays);
        let running = container(Role::Previous, true, "2026-01-01T00:00:00Z");
        assert_eq!(judge(&running, &[]), Fate::Stays);
        let left = container(Role::Replacement, false, "0001-01-01T00:00:00Z");
        assert_eq!(judge(&left, &[]), Fate::Goes);
        assert_eq!(judge(&left, &[order]), Fate::Stays);
        let foreign = json!({"Name": "/web", "State": {}, "Config": {"Labels": {}}});
        assert_eq!(judge(&foreign, &[]), Fate::Stays);
    }
}
