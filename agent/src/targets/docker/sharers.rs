//! Containers that share a namespace of one that is replaced.

use std::collections::BTreeSet;

use serde_json::Value;
use sternway_proto::{
    name::{TargetName, clean_text},
    v1::Problem,
};

use super::{
    DockerKind,
    client::EngineError,
    discover::{labels_of, name_of},
    labels,
    normalise::text,
    plan::{Again, Sharer},
    record::SHARED,
    steps::as_it_is,
};

/// What hangs on a container.
#[derive(Default)]
pub(super) struct Hanging {
    /// Each behind the one whose namespace it shares.
    pub(super) sharers: Vec<Sharer>,
    /// Why some cannot be created anew with it.
    pub(super) problems: Vec<Problem>,
}

impl DockerKind {
    /// Those that run and share a namespace of this container, and of those in turn. One that does not run needs
    /// none.
    pub(super) async fn hanging(
        &self,
        target: &TargetName,
        id: &str,
    ) -> Result<Hanging, EngineError> {
        let mut left = self.that_share(id).await?;
        // The engine writes ids; a tool may have given a name.
        let mut known = BTreeSet::from([id.to_owned(), target.local().to_owned()]);
        let mut hanging = Hanging::default();
        loop {
            let (next, others): (Vec<Value>, Vec<Value>) = left
                .into_iter()
                .partition(|inspect| shares(inspect, &known));
            if next.is_empty() {
                return Ok(hanging);
            }
            left = others;
            for inspect in next {
                known.insert(text(&inspect, "Id").to_owned());
                known.insert(name_of(&inspect).to_owned());
                match self.sharer(target, inspect).await? {
                    Ok(sharer) => hanging.sharers.push(sharer),
                    Err(problem) => hanging.problems.push(problem),
                }
            }
        }
    }

    /// All others that run and share a namespace of some container.
    async fn that_share(&self, id: &str) -> Result<Vec<Value>, EngineError> {
        let mut found = Vec::new();
        for listed in self.engine.containers(&[]).await? {
            let other = text(&listed, "Id");
            // The engine may not even be able to inspect one that does not run.
            let runs = matches!(text(&listed, "State"), "running" | "paused" | "restarting");
            if other == id || !runs {
                continue;
            }
            let inspect = match self.engine.container(other).await {
                Ok(inspect) => inspect,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            if inspect["State"]["Running"].as_bool() == Some(true) && owners(&inspect).count() > 0 {
                found.push(inspect);
            }
        }
        Ok(found)
    }

    async fn sharer(
        &self,
        ordered: &TargetName,
        inspect: Value,
    ) -> Result<Result<Sharer, Problem>, EngineError> {
        let name = name_of(&inspect).to_owned();
        if let Some(reason) = labels::not_ours(&name, &labels_of(&inspect)) {
            return Ok(Err(cannot(ordered, &name, reason)));
        }
        let Some(target) = self.target_named(&name) else {
            return Ok(Err(cannot(ordered, &name, "it is not looked after here")));
        };
        let mut old = as_it_is(&inspect);
        let inspected = match self.normalised(inspect).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => {
                return Ok(Err(cannot(ordered, &name, "its image is gone")));
            }
            Err(error) => return Err(error),
        };
        let (record, volumes) = (inspected.record, inspected.hints.volumes);
        old.again = Again::of(&record, &volumes);
        Ok(Ok(Sharer {
            target,
            record,
            volumes,
            old,
        }))
    }
}

/// The ids of the containers whose namespaces it shares.
fn owners(inspect: &Value) -> impl Iterator<Item = &str> {
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
        "remove it first, and create it again after the rollback: the engine binds it to the very container that is \
         replaced, not to its name",
    )
}
