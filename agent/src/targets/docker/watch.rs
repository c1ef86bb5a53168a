//! Follows the engine's events across its restarts, and tells which targets may have changed: a burst
//! of events about one target is told once.

use std::{collections::BTreeSet, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bollard::models::EventMessage;
use futures_util::{Stream, StreamExt as _};
use rand::Rng as _;
use sternway_proto::name::TargetName;
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::{
    DockerKind,
    client::{EngineError, QUICK},
};
use crate::targets::Changed;

/// Quiet needed before a burst is told. A deploy's stop, remove, create and start take longer than
/// this each and are told as they come; the events within one of them are told once.
const QUIET: Duration = Duration::from_millis(200);
/// A burst without end is told at least this often.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the engine is asked whether it still answers.
const PULSE: Duration = Duration::from_secs(15);
/// The longest wait for an engine that is away.
const BACK_OFF: Duration = Duration::from_secs(10);

/// What is waiting to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pending {
    all: bool,
    targets: BTreeSet<TargetName>,
}

impl Pending {
    /// Past this many, looking at all is cheaper and the memory stays bounded.
    const TARGETS: usize = 64;

    fn add(&mut self, changed: Changed) {
        match changed {
            Changed::All => self.all = true,
            Changed::Target(target) => drop(self.targets.insert(target)),
        }
        if self.targets.len() > Self::TARGETS {
            self.all = true;
        }
        if self.all {
            self.targets.clear();
        }
    }

    fn take(&mut self) -> Vec<Changed> {
        let Self { all, targets } = std::mem::take(self);
        if all {
            return vec![Changed::All];
        }
        targets.into_iter().map(Changed::Target).collect()
    }
}

impl DockerKind {
    /// Follows the events for ever; ends when nobody listens any more. That the engine went away is told like any
    /// change: everything is to be looked at, and the looks say what is wrong.
    pub async fn watch(&self, changed: Sender<Changed>) {
        let mut pauses = back_off();
        let mut there = true;
        while !changed.is_closed() {
            let gone = match self.followed(&changed).await {
                Ok(()) => {
                    pauses = back_off();
                    there = true;
                    info!("the engine's events were cut");
                    None
                }
                Err(error) => Some(error),
            };
            if there && changed.send(Changed::All).await.is_err() {
                return;
            }
            if let Some(error) = gone
                && there
            {
                warn!("the engine's events cannot be followed: {error}");
                there = false;
            }
            let ceiling = pauses.next().unwrap_or(BACK_OFF).as_millis();
            let ceiling = u64::try_from(ceiling).unwrap_or(u64::MAX);
            // Full jitter.
            let pause = rand::rng().random_range(0..=ceiling);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One stream of events until it is cut, or until the engine does not answer any more.
    async fn followed(&self, changed: &Sender<Changed>) -> Result<(), EngineError> {
        self.engine.ping(QUICK).await?;
        let events = self
            .engine
            .events(&["container", "network", "image"])
            .await?;
        tokio::select! {
            () = self.follow(events, changed) => {}
            () = self.silence() => {}
        }
        Ok(())
    }

    /// Ends when the engine does not answer any more. A hung one cuts no connection: its events are just missing.
    async fn silence(&self) {
        loop {
            sleep(PULSE).await;
            if let Err(error) = self.engine.ping(QUICK).await {
                warn!("{error}");
                return;
            }
        }
    }

    /// Tells what one stream of events says, until it is cut.
    async fn follow(
        &self,
        events: impl Stream<Item = Result<EventMessage, EngineError>>,
        changed: &Sender<Changed>,
    ) {
        tokio::pin!(events);
        let mut pending = Pending::default();
        // Nothing is said until the engine has taken the request: what happens before is caught by
        // the look at everything that follows.
        let mut due = Some((Instant::now() + QUIET, Instant::now() + PATIENCE));
        pending.add(Changed::All);
        loop {
            let next = match due {
                Some((quiet, latest)) => timeout_at(quiet.min(latest), events.next()).await,
                None => Ok(events.next().await),
            };
            match next {
                Ok(Some(Ok(event))) => {
                    if let Some(what) = self.meaning(&event).await {
                        pending.add(what);
                        let latest = due.map_or_else(|| Instant::now() + PATIENCE, |(_, at)| at);
                        due = Some((Instant::now() + QUIET, latest));
                    }
                }
                Ok(Some(Err(_)) | None) => return,
                Err(_) => {
                    due = None;
                    for what in pending.take() {
                        if changed.send(what).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// What an event may have changed. None: nothing that we look after.
    async fn meaning(&self, event: &EventMessage) -> Option<Changed> {
        let kind = event.typ.as_ref()?.to_string();
        let action = event.action.as_deref()?;
        let attribute = |key: &str| {
            let attributes = event.actor.as_ref()?.attributes.as_ref()?;
            attributes.get(key).map(String::as_str)
        };
        match (kind.as_str(), action) {
            (
                "container",
                "create" | "start" | "die" | "destroy" | "update" | "pause" | "unpause" | "stop"
                | "kill" | "oom",
            ) => self.target_named(attribute("name")?).map(Changed::Target),
            ("container", health) if health.starts_with("health_status") => {
                self.target_named(attribute("name")?).map(Changed::Target)
            }
            ("network", "connect" | "disconnect") => {
                let inspect = self.engine.container(attribute("container")?).await.ok()?;
                self.target_named(super::discover::name_of(&inspect))
                    .map(Changed::Target)
            }
            // Both names of a renamed container changed their meaning; a network or an image may be
            // needed by any revision.
            ("container", "rename") | ("network", "destroy") | ("image", "delete" | "untag") => {
                Some(Changed::All)
            }
            _ => None,
        }
    }
}

fn back_off() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(BACK_OFF)
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn event(name: &str, action: &str) -> EventMessage {
        let event = serde_json::json!({
            "Type": "container",
            "Action": action,
            "Actor": {"ID": "1", "Attributes": {"name": name}},
        });
        serde_json::from_value(event).expect("an event")
    }

    fn kind() -> DockerKind {
        DockerKind::new(super::super::DockerSettings {
            socket: "/nonexistent".into(),
            ..Default::default()
        })
        .expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_about_one_target_is_told_once() {
        let (sender, mut told) = tokio::sync::mpsc::channel(16);
        let burst = stream::iter((0..500).map(|_| Ok(event("web", "die"))));
        let first = stream::once(async {
            sleep(QUIET * 2).await;
            Ok(event("web", "start"))
        });
        let events = first.chain(burst).chain(stream::pending());
        let watching = tokio::spawn(async move { kind().follow(events, &sender).await });
        assert_eq!(told.recv().await, Some(Changed::All));
        let web = "docker/web".parse().expect("valid");
        assert_eq!(told.recv().await, Some(Changed::Target(web)));
        sleep(PATIENCE * 2).await;
        assert!(told.is_empty());
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_without_end_is_told_all_the_same() {
        let (sender, mut told) = tokio::sync::mpsc::channel(16);
        let events = stream::unfold((), |()| async {
            sleep(QUIET / 2).await;
            Some((Ok(event("web", "die")), ()))
        });
        let watching = tokio::spawn(async move { kind().follow(events, &sender).await });
        let first = tokio::time::timeout(PATIENCE * 2, told.recv()).await;
        assert_eq!(first.expect("in time"), Some(Changed::All));
        watching.abort();
    }

    #[test]
    fn a_flood_of_names_becomes_one_look_at_everything() {
        let mut pending = Pending::default();
        for number in 0..10_000 {
            let target = format!("docker/c{number}").parse().expect("valid");
            pending.add(Changed::Target(target));
            assert!(pending.targets.len() <= Pending::TARGETS);
        }
        assert_eq!(pending.take(), [Changed::All]);
        assert!(pending.take().is_empty());
    }

    #[tokio::test]
    async fn own_and_foreign_names_mean_nothing() {
        let kind = kind();
        for name in ["sternway-keeper-1", "a/b", ""] {
            let event = event(name, "die");
            assert_eq!(kind.meaning(&event).await, None, "{name:?}");
        }
    }
}
