//! Removes what finished orders left: the replaced container after its dwell, and whatever an order of which
//! nothing is known any more left behind: a standby with its redirect, too, once its target runs. Nothing
//! else that runs is ever removed here. Tags of ours that keep nothing go, too.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sternway_proto::name::{TargetName, clean_text};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    DockerKind,
    client::EngineError,
    discover::{labels_of, name_of},
    labels::{self, NAME_PREFIX, Role, order_tail},
    localnet::Mark,
    normalise::{short, text},
    redirect::{self, RedirectError},
    serving,
    steps::runs,
};
use crate::targets::KindError;

/// How long a target may take until it takes connections, where nothing says at which of its ports it ever does.
const STARTS: Duration = Duration::from_mins(1);

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
    if open.iter().any(|order| name.contains(&order_tail(*order))) {
        return Fate::Stays;
    }
    let ours = labels_of(inspect).contains_key(labels::ORDER);
    // One that was put aside may be a person's own; one that failed was made by an order.
    if is(Role::Previous) || is(Role::Failed) && ours {
        let old = kept_since(inspect).is_some_and(|since| {
            let age = now.duration_since(since);
            age.unsigned_abs() > dwell && age.is_positive()
        });
        return if old { Fate::Goes } else { Fate::Stays };
    }
    if ours && (is(Role::Replacement) || is(Role::Standby)) {
        return Fate::Goes;
    }
    Fate::Stays
}

/// Since when it is kept for the post-mortem. It may have crashed long before the order that put it aside; an
/// earlier version did not write down which order that was.
fn kept_since(inspect: &Value) -> Option<Timestamp> {
    let finished = text(&inspect["State"], "FinishedAt").parse().ok();
    let order = name_of(inspect).split('-').nth(2);
    let ordered = order
        .and_then(|order| Uuid::try_parse(order).ok()?.get_timestamp())
        .and_then(|time| Timestamp::from_second(time.to_unix().0.try_into().ok()?).ok());
    finished.max(ordered)
}

/// Whether it has run for longer than a start takes.
fn is_well_worn(inspect: &Value, now: Timestamp) -> bool {
    let started = text(&inspect["State"], "StartedAt").parse::<Timestamp>();
    started.is_ok_and(|started| {
        let age = now.duration_since(started);
        age.is_positive() && age.unsigned_abs() > STARTS
    })
}

/// Whether the target takes connections wherever its standby does. Where the standby takes none, nobody knows at which
/// of its ports the target is to, and it has had its time to begin.
async fn serves_in_place_of(standby: &Value, inspect: &Value, now: Timestamp) -> bool {
    let taken = serving::Taken::by_standby(standby).await;
    if !taken.is_nothing() {
        return serving::serves_instead(inspect, &taken).await;
    }
    let worn = runs(inspect) && is_well_worn(inspect, now);
    worn || serving::takes(inspect, &taken).await
}

/// Whether it is a standby of an order that is over, and still runs.
fn forgotten(inspect: &Value, open: &[Uuid]) -> bool {
    let standby = format!("{NAME_PREFIX}{}-", Role::Standby.as_str());
    let name = name_of(inspect);
    name.starts_with(&standby)
        && labels_of(inspect).contains_key(labels::ORDER)
        && inspect["State"]["Running"].as_bool() == Some(true)
        && !open.iter().any(|order| name.contains(&order_tail(*order)))
}

impl DockerKind {
    /// Removes what is to be removed.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn collect(&self, open: &[Uuid]) -> Result<(), KindError> {
        let dwell = Duration::from_secs(self.settings.dwell_hours.saturating_mul(3600));
        let now = Timestamp::now();
        let all = self.engine.containers(&[]).await?;
        // At once, also because the orders that are open are only known of now.
        let ended = self.end_redirects(open).await;
        for listed in all {
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
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    warn!("a container of ours cannot be read and stays: {error}");
                    continue;
                }
            };
            let Some(target) = self.target_of(&inspect) else {
                continue;
            };
            let goes = fate(&inspect, open, now, dwell) == Fate::Goes
                || forgotten(&inspect, open)
                    && self.serves_now(target, &inspect).await?
                    && self.retire(id, &inspect).await?;
            if goes {
                self.remove(id, &inspect).await?;
            }
        }
        self.sweep().await?;
        ended
    }

    /// Stops a standby, once nothing leads to it and what it was asked is answered. False: nobody can say whether
    /// something leads to it, so it stays.
    async fn retire(&self, id: &str, inspect: &Value) -> Result<bool, KindError> {
        let order = text(&inspect["Config"]["Labels"], labels::ORDER);
        if let Ok(order) = order.parse::<Uuid>() {
            let ended = async {
                redirect::release(order).await?;
                let said = self.drain_left_over(id).await;
                redirect::end(order).await.map(|()| said)
            };
            match ended.await {
                Ok(said) => info!("ended the redirect that order {order} left: {said}"),
                Err(error) => {
                    self.cannot_end(&error);
                    return Ok(false);
                }
            }
        }
        self.engine.stop_container(id, None).await?;
        Ok(true)
    }

    /// Ends the redirects of orders that are over, unless the standby they lead to is all that serves. An agent that
    /// may not see redirects goes on with the rest.
    async fn end_redirects(&self, open: &[Uuid]) -> Result<(), KindError> {
        let marks = match redirect::present().await {
            Ok(marks) => marks,
            Err(error) => {
                self.cannot_end(&error);
                return Ok(());
            }
        };
        for mark in marks {
            let order = mark.order;
            if open.contains(&order) || !self.is_over(&mark).await? {
                continue;
            }
            match redirect::end(order).await {
                Ok(()) => info!("ended the redirect that order {order} left"),
                Err(error) => self.cannot_end(&error),
            }
        }
        Ok(())
    }

    fn cannot_end(&self, error: &RedirectError) {
        if self.tell_once(error.to_string()) {
            warn!("what orders left of redirects stays: {error}; see `nft list ruleset`");
        }
    }

    /// Whether the redirect tells that it is one of ours, or what its order made does, and no standby of
    /// it runs.
    async fn is_over(&self, mark: &Mark) -> Result<bool, EngineError> {
        let owner = mark.owner.as_deref();
        let mut ours = owner.is_some_and(|owner| self.names.cover(owner));
        let label = format!("{}={}", labels::ORDER, mark.order);
        for listed in self.engine.containers(&[label]).await? {
            let labels = &listed["Labels"];
            let serves = text(labels, labels::ROLE) == Role::Standby.as_str()
                && text(&listed, "State") == "running";
            if serves {
                return Ok(false);
            }
            let target = text(labels, labels::TARGET).parse::<TargetName>();
            ours |= target.is_ok_and(|target| self.names.cover(target.local()));
        }
        Ok(ours)
    }

    /// Whether the target is there and serves in place of its standby.
    async fn serves_now(&self, name: &str, standby: &Value) -> Result<bool, EngineError> {
        match self.engine.container(name).await {
            Ok(inspect) if name_of(&inspect) == name => {
                Ok(serves_in_place_of(standby, &inspect, Timestamp::now()).await)
            }
            Ok(_) => Ok(false),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The local name of the target it belongs to, where that is looked after here: other agents (in
    /// tests, or in containers of their own) may share the engine.
    fn target_of<'a>(&self, inspect: &'a Value) -> Option<&'a str> {
        name_of(inspect)
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.splitn(3, '-').nth(2))
            .filter(|local| self.names.cover(local))
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

    fn ordered_at(time: &str) -> Uuid {
        let time: Timestamp = time.parse().expect("valid");
        let seconds = time.as_second().try_into().expect("after 1970");
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
    }

    #[test]
    fn what_crashed_long_before_it_was_put_aside_is_kept_from_then() {
        let since = |name: &str| {
            let finished = "2026-01-02T00:00:00Z";
            let inspect = json!({"Name": name, "State": {"FinishedAt": finished}});
            kept_since(&inspect).map(|since| since.to_string())
        };
        let target = "docker/my-shop".parse().expect("valid");
        let put_aside = |time| labels::own_name(Role::Previous, ordered_at(time), &target);
        for (name, from) in [
            (put_aside("2026-01-05T00:00:00Z"), "2026-01-05T00:00:00Z"),
            (put_aside("2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z"),
            // As earlier versions named it.
            (
                "sternway-previous-0123456789ab-my-shop".to_owned(),
                "2026-01-02T00:00:00Z",
            ),
        ] {
            assert_eq!(since(&format!("/{name}")).as_deref(), Some(from), "{name}");
        }
    }

    #[test]
    fn what_never_took_connections_is_waited_for_as_long_as_a_start_takes() {
        let now: Timestamp = "2026-01-02T00:10:00Z".parse().expect("valid");
        for (started, worn) in [
            ("2026-01-02T00:08:59Z", true),
            ("2026-01-02T00:09:30Z", false),
            ("2026-01-02T00:30:00Z", false),
            ("", false),
        ] {
            let inspect = json!({"State": {"StartedAt": started}});
            assert_eq!(is_well_worn(&inspect, now), worn, "{started:?}");
        }
    }

    #[tokio::test]
    async fn never_none_a_standby_that_serves_goes_only_where_its_target_does() {
        let bind = || tokio::net::TcpListener::bind(("127.0.0.1", 0));
        let listener = bind().await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        let unused = bind().await.expect("a port");
        let closed = unused.local_addr().expect("bound").port();
        drop(unused);
        let container = |inside: u16, host: &str| {
            json!({
                "State": {"Running": true, "StartedAt": "2026-01-01T00:00:00Z"},
                "HostConfig": {"PortBindings": {format!("{inside}/tcp"): [{"HostPort": host}]}},
                "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
            })
        };
        let standby = |inside: u16| {
            let doors = format!(r#"[{{"port":80,"inside":{inside},"address":null}}]"#);
            let mut standby = container(inside, "");
            standby["Config"]["Labels"] = json!({labels::DOORS: doors});
            standby
        };
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("valid");
        let judge =
            async |standby: &Value, target: &Value| serves_in_place_of(standby, target, now).await;
        let serving = standby(open);
        // However long the target runs, where it takes none behind that port of the host.
        assert!(!judge(&serving, &container(closed, "80")).await);
        assert!(judge(&serving, &container(open, "80")).await);
        let mut without = container(open, "80");
        without["HostConfig"]["PortBindings"] = json!({});
        assert!(!judge(&serving, &without).await);
        // An earlier version's: all that the target publishes counts.
        let mut unlabelled = serving.clone();
        unlabelled["Config"] = json!({});
        assert!(!judge(&unlabelled, &container(closed, "80")).await);
        // One that serves nobody waits for nobody.
        assert!(judge(&standby(closed), &container(closed, "80")).await);
    }

    #[test]
    fn only_what_was_put_aside_long_ago_and_is_not_needed_goes() {
        let order = ordered_at("2026-01-01T00:00:00Z");
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
        let failed = container(Role::Failed, false, "2026-01-01T00:00:00Z");
        assert_eq!(judge(&failed, &[]), Fate::Goes);
        let failed = container(Role::Failed, false, "2026-01-01T23:30:00Z");
        assert_eq!(judge(&failed, &[]), Fate::Stays);
        let mut named = container(Role::Failed, false, "2026-01-01T00:00:00Z");
        named["Config"]["Labels"] = json!({});
        assert_eq!(judge(&named, &[]), Fate::Stays, "a person named it so");
        let running = container(Role::Previous, true, "2026-01-01T00:00:00Z");
        assert_eq!(judge(&running, &[]), Fate::Stays);
        let left = container(Role::Replacement, false, "0001-01-01T00:00:00Z");
        assert_eq!(judge(&left, &[]), Fate::Goes);
        assert_eq!(judge(&left, &[order]), Fate::Stays);
        let standby = container(Role::Standby, true, "0001-01-01T00:00:00Z");
        assert_eq!(judge(&standby, &[]), Fate::Stays);
        assert!(forgotten(&standby, &[]) && !forgotten(&standby, &[order]));
        assert!(!forgotten(&running, &[]));
        let foreign = json!({"Name": "/web", "State": {}, "Config": {"Labels": {}}});
        assert_eq!(judge(&foreign, &[]), Fate::Stays);
    }
}
