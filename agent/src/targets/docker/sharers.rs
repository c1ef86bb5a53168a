//! Containers that share a namespace of one that is replaced.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use sternway_proto::{
    name::{TargetName, clean_text},
    v1::Problem,
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    DockerKind,
    client::{EngineError, EngineErrorKind},
    discover::{labels_of, listed_name, name_of},
    labels,
    normalise::text,
    plan::Sharer,
    record::SHARED,
    steps::{as_it_is, is_up},
};

/// How long the engine may take to tell of one container.
const LOOK: Duration = Duration::from_secs(3);
/// How long looks may take that only lead to a word.
const WARNINGS: Duration = Duration::from_secs(3);
/// Stopped containers that are looked at for a warning: a plan must not wait for thousands.
const STOPPED_LOOKS: usize = 100;

/// What hangs on a container.
#[derive(Default)]
pub(super) struct Hanging {
    /// Each behind all those whose namespaces it shares.
    pub(super) sharers: Vec<Sharer>,
    /// Why some cannot be created anew with it.
    pub(super) problems: Vec<Problem>,
    /// What becomes of those that do not run.
    pub(super) warnings: Vec<Problem>,
}

impl DockerKind {
    /// What shares a namespace of this container, and of those in turn.
    pub(super) async fn hanging(
        &self,
        target: &TargetName,
        id: &str,
    ) -> Result<Hanging, EngineError> {
        let owner = self.engine.container(id).await?;
        let vanishes = owner["HostConfig"]["AutoRemove"].as_bool() == Some(true);
        let hindrance = if vanishes {
            Some(format!(
                "{target} was started with --rm, and an undo could not bring it back"
            ))
        } else if !is_up(&owner) {
            Some(format!(
                "{target} does not run, and an undo could not start it"
            ))
        } else {
            None
        };
        let mut hanging = Hanging::default();
        for inspect in self.that_hang(target, id).await? {
            match self.sharer(target, inspect, hindrance.as_deref()).await? {
                Ok(sharer) => hanging.sharers.push(sharer),
                Err(problem) => hanging.problems.push(problem),
            }
        }
        // A warning is not worth a plan that comes too late.
        let stopped = timeout(WARNINGS, self.stopped_ones(target, id)).await;
        hanging.warnings = stopped.ok().and_then(Result::ok).unwrap_or_default();
        Ok(hanging)
    }

    /// Those that run and share a namespace of this container, and of those in turn, as the engine tells of them: each
    /// behind all those whose namespaces it shares.
    pub(super) async fn that_hang(
        &self,
        target: &TargetName,
        id: &str,
    ) -> Result<Vec<Value>, EngineError> {
        let mut others = self.that_share(id).await?;
        // The engine writes ids; a tool may have given a name.
        let mut known = BTreeSet::from([id.to_owned(), target.local().to_owned()]);
        let mut left: Vec<Value> = Vec::new();
        loop {
            let (more, rest): (Vec<Value>, Vec<Value>) = others
                .into_iter()
                .partition(|inspect| shares(inspect, &known));
            if more.is_empty() {
                break;
            }
            others = rest;
            known.extend(more.iter().flat_map(names));
            left.extend(more);
        }
        let mut found = Vec::new();
        while !left.is_empty() {
            let waiting: BTreeSet<String> = left.iter().flat_map(names).collect();
            let (next, rest): (Vec<Value>, Vec<Value>) = left
                .into_iter()
                .partition(|inspect| !shares(inspect, &waiting));
            // The engine knows no circle of owners.
            if next.is_empty() {
                found.extend(rest);
                break;
            }
            left = rest;
            found.extend(next);
        }
        Ok(found)
    }

    /// Those that do not run need no namespace, and can never be started again once this container is another.
    async fn stopped_ones(
        &self,
        target: &TargetName,
        id: &str,
    ) -> Result<Vec<Problem>, EngineError> {
        let known = BTreeSet::from([id.to_owned(), target.local().to_owned()]);
        let mut found = Vec::new();
        let mut looked = 0;
        for listed in self.engine.containers(&[]).await? {
            let stopped = matches!(text(&listed, "State"), "exited" | "created" | "dead");
            let ours =
                listed_name(&listed).is_some_and(|name| name.starts_with(labels::NAME_PREFIX));
            if !stopped || ours {
                continue;
            }
            looked += 1;
            if looked > STOPPED_LOOKS {
                break;
            }
            // The engine may not even be able to inspect it.
            let Ok(inspect) = self.engine.container(text(&listed, "Id")).await else {
                continue;
            };
            let name = name_of(&inspect);
            if shares(&inspect, &known) {
                found.push(Problem::new(
                    "shared-namespace",
                    format!(
                        "{} shares a namespace of {target} and does not run: it cannot be started again behind this",
                        clean_text(name)
                    ),
                    "create it anew when it is needed again",
                ));
            }
        }
        Ok(found)
    }

    /// All others that run and share a namespace of some container. One that the engine cannot inspect, as it happens
    /// with broken layers, is in nobody's way, unless it is known to share this one's network.
    async fn that_share(&self, id: &str) -> Result<Vec<Value>, EngineError> {
        let mut found = Vec::new();
        let mut silent = false;
        for listed in self.engine.containers(&[]).await? {
            let other = text(&listed, "Id");
            // The engine may not even be able to inspect one that does not run.
            let runs = matches!(text(&listed, "State"), "running" | "paused" | "restarting");
            if other == id || !runs {
                continue;
            }
            let look = timeout(LOOK, self.engine.container(other)).await;
            let inspect = match look.unwrap_or_else(|_| Err(too_late(other))) {
                Ok(inspect) => inspect,
                Err(error) if error.is_not_found() => continue,
                Err(error) if error.kind == EngineErrorKind::Unreachable => return Err(error),
                Err(error) if network(&listed).strip_prefix("container:") == Some(id) => {
                    return Err(error);
                }
                Err(error) => {
                    warn!("container {other:.12} is taken for one that shares nothing: {error}");
                    silent |= error.kind == EngineErrorKind::Timeout;
                    continue;
                }
            };
            if inspect["State"]["Running"].as_bool() == Some(true) && owners(&inspect).count() > 0 {
                found.push(inspect);
            }
        }
        if silent {
            // It may be the engine itself that does not answer.
            self.engine.containers(&[]).await?;
        }
        Ok(found)
    }

    /// Why those that share the network of what bears the target's name stand in the way of every rollback of it. What
    /// shares another namespace is seen when a rollback is planned.
    pub(super) async fn in_the_way(&self, target: &TargetName, listed: &[Value]) -> Vec<Problem> {
        let named = listed
            .iter()
            .find(|one| listed_name(one) == Some(target.local()));
        let Some(id) = named.map(|one| text(one, "Id")) else {
            return Vec::new();
        };
        let shares = |one: &&Value| {
            text(one, "State") == "running" && network(one).strip_prefix("container:") == Some(id)
        };
        if listed.iter().find(shares).is_none() {
            return Vec::new();
        }
        let hanging = timeout(WARNINGS, self.hanging(target, id)).await;
        hanging
            .ok()
            .and_then(Result::ok)
            .map_or_else(Vec::new, |hanging| hanging.problems)
    }

    async fn sharer(
        &self,
        ordered: &TargetName,
        inspect: Value,
        hindrance: Option<&str>,
    ) -> Result<Result<Sharer, Problem>, EngineError> {
        let name = name_of(&inspect).to_owned();
        if let Some(reason) = labels::not_ours(&name, &labels_of(&inspect)) {
            return Ok(Err(cannot(ordered, &name, reason)));
        }
        let Some(target) = self.target_named(&name) else {
            return Ok(Err(cannot(ordered, &name, "it is not looked after here")));
        };
        if let Some(reason) = hindrance {
            return Ok(Err(cannot(ordered, &name, reason)));
        }
        if inspect["HostConfig"]["AutoRemove"].as_bool() == Some(true) {
            let reason =
                "it was started with --rm, as jobs are that must not be cut off and run again";
            return Ok(Err(cannot(ordered, &name, reason)));
        }
        let old = as_it_is(&inspect);
        let inspected = match self.normalised(inspect).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => {
                return Ok(Err(cannot(ordered, &name, "its image is gone")));
            }
            Err(error) => return Err(error),
        };
        let (record, volumes) = (inspected.record, inspected.hints.volumes);
        Ok(Ok(Sharer {
            target,
            record,
            volumes,
            old,
        }))
    }
}

/// The network mode in a line of the engine's list.
fn network(listed: &Value) -> &str {
    text(&listed["HostConfig"], "NetworkMode")
}

fn too_late(id: &str) -> EngineError {
    let message = format!("the engine said nothing of it within {} s", LOOK.as_secs());
    EngineError::new(format!("inspect {id}"), EngineErrorKind::Timeout, message)
}

/// What a container is called by others: its id and its name.
fn names(inspect: &Value) -> [String; 2] {
    [text(inspect, "Id").to_owned(), name_of(inspect).to_owned()]
}

/// The ids, or names, of the containers whose namespaces it shares.
pub(super) fn owners(inspect: &Value) -> impl Iterator<Item = &str> {
    SHARED
        .iter()
        .filter_map(|key| text(&inspect["HostConfig"], key).strip_prefix("container:"))
}

fn shares(inspect: &Value, known: &BTreeSet<String>) -> bool {
    owners(inspect).any(|owner| known.contains(owner))
}

fn cannot(ordered: &TargetName, name: &str, reason: &str) -> Problem {
    let name = clean_text(name);
    Problem::new(
        "shared-namespace",
        format!(
            "{name} shares a network, IPC or process namespace of {ordered}, would be left without it, and cannot be \
             created anew: {reason}"
        ),
        "wait for its end or remove it first, and create it again after the rollback: the engine binds it to the very \
         container that is replaced, not to its name",
    )
}
