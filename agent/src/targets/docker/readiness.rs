//! Whether a revision could be restored now. Looks at everything its container needs, changes nothing.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;
use sternway_proto::{name::TargetName, v1::Problem};
use uuid::Uuid;

use super::{
    DockerKind,
    client::{EngineError, EngineErrorKind},
    discover::{listed_name, name_of},
    labels,
    localnet::Mark,
    normalise::{self, anonymous_volumes, bind_parts, list, short_image, text},
    ports,
    record::{ContainerRecord, Hints},
    recreate, redirect,
    registry::{self, InRegistry},
};
use crate::{store::files, targets::Recorded};

/// What a creation needs on the engine's disk even when the image is there.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

impl DockerKind {
    /// Why the revision could not be restored now; empty: it could.
    pub async fn readiness(&self, target: &TargetName, recorded: &Recorded) -> Vec<Problem> {
        let record = match ContainerRecord::from_bytes(&recorded.record) {
            Ok(record) => record,
            Err(error) => {
                let message = format!("the record of #{} cannot be read: {error}", recorded.number);
                let next = "deploy it again, so that it is recorded anew";
                return vec![Problem::new("record-unreadable", message, next)];
            }
        };
        let hints = Hints::read(&recorded.hints);
        match self.look(target, &record, &hints).await {
            Ok(problems) => problems,
            Err(error) => vec![Problem::new(
                error.code(),
                error.to_string(),
                error.next_step(),
            )],
        }
    }

    /// Containers of the target that run although a rollback put them aside, or although the order that they were a
    /// standby of is over. An engine that does not answer has its own problem told.
    pub async fn beside(&self, target: &TargetName, open_orders: &[Uuid]) -> Vec<Problem> {
        let listed = self.engine.containers(&[]).await.unwrap_or_default();
        let mut problems = running_aside(target, &listed);
        problems.extend(standing_by(target, &listed, open_orders));
        problems.extend(self.in_the_way(target, &listed).await);
        problems
    }

    /// What stands in the way of a restore, and what is only told, of the standby of another one that may still get the
    /// clients.
    pub(super) async fn led_elsewhere(
        &self,
        target: &TargetName,
        listed: &[Value],
        seen: &redirect::Seen,
    ) -> (Vec<Problem>, Vec<Problem>) {
        let standbys = standbys(target, listed, &[]);
        let own = |mark: &Mark| mark.owner.as_deref() == Some(target.local());
        let marks = seen.iter().flatten();
        let leads = marks.filter(|mark| own(mark)).any(|mark| !mark.over);
        if standbys.is_empty() && !leads {
            return (Vec::new(), Vec::new());
        }
        let hindrance = match seen {
            Ok(_) => redirect::available(seen).await.err(),
            Err(error) => Some(error.to_string()),
        };
        in_the_way_or_told(target, &standbys, hindrance)
    }

    async fn look(
        &self,
        target: &TargetName,
        record: &ContainerRecord,
        hints: &Hints,
    ) -> Result<Vec<Problem>, EngineError> {
        let mut problems = Vec::new();
        self.look_at_image(record, hints, &mut problems).await?;
        self.look_at_networks(record, &mut problems).await?;
        self.look_at_mounts(record, &mut problems).await?;
        self.look_at_shared(record, &mut problems).await?;
        let listed = self.engine.containers(&[]).await?;
        let standing = match self.engine.container(target.local()).await {
            // The engine also finds containers by the beginning of an id.
            Ok(found) => Some(found).filter(|found| name_of(found) == target.local()),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        self.look_at_data(record, hints, standing.as_ref(), &mut problems)
            .await?;
        problems.extend(ports::taken(target, record, &listed, standing.as_ref()).await);
        Ok(problems)
    }

    async fn look_at_image(
        &self,
        record: &ContainerRecord,
        hints: &Hints,
        problems: &mut Vec<Problem>,
    ) -> Result<(), EngineError> {
        let id = &record.image.id;
        let mut needed = SPARE_BYTES;
        if is_missing(self.engine.image(id).await)? {
            let image = format!("image {} ({})", record.image.reference, short_image(id));
            let found = if self.archived(id).await {
                InRegistry::Yes
            } else {
                let config = self.settings.registry_config.as_deref();
                registry::asked(&self.engine, config, &hints.digests).await
            };
            let missing = match found {
                InRegistry::Yes => None,
                InRegistry::No => Some((
                    format!("{image} is neither on this host nor in a registry"),
                    "push it to its registry again, or load it with `docker load`",
                )),
                InRegistry::Denied => Some((
                    format!(
                        "{image} is not on this host, and its registry does not let the agent in"
                    ),
                    "put a login that may read it into the file that `docker.registry_config` names, or load the image \
                     with `docker load`",
                )),
                InRegistry::Unknown(said) => Some((
                    format!(
                        "{image} is not on this host, and its registry could not be asked: {said}"
                    ),
                    "mend what the engine says of the registry, or load the image with `docker load`",
                )),
                InRegistry::Silent => Some((
                    format!(
                        "{image} is not on this host, and its registry did not answer within {} s",
                        registry::PATIENCE.as_secs()
                    ),
                    "see whether this host reaches its registry, or load it with `docker load`",
                )),
            };
            problems.extend(
                missing.map(|(message, next)| Problem::new("image-missing", message, next)),
            );
            // Compressed layers and their content lie side by side for a while.
            needed = needed.saturating_add(hints.image_bytes.saturating_mul(2));
        }
        let root = text(&self.engine.info().await?, "DockerRootDir").to_owned();
        let path = PathBuf::from(&root);
        let space = tokio::task::spawn_blocking(move || files::space(&path)).await;
        if let Ok(Some(space)) = space
            && space.free < needed
        {
            let (free, needed) = (space.free / 1_000_000, needed / 1_000_000);
            problems.push(Problem::new(
                "no-disk-space",
                format!("{root} has {free} MB free; {needed} MB are needed"),
                "free space: `docker system df` shows what takes it",
            ));
        }
        Ok(())
    }

    async fn look_at_networks(
        &self,
        record: &ContainerRecord,
        problems: &mut Vec<Problem>,
    ) -> Result<(), EngineError> {
        let joined = Some(record.network_mode()).filter(|mode| recreate::is_of_a_user(mode));
        let named: BTreeSet<&str> = record
            .networks
            .keys()
            .map(String::as_str)
            .chain(joined)
            .collect();
        for name in named {
            if is_missing(self.engine.network(name).await)? {
                let message = format!("network {name} is not there");
                let next = format!("create it again: `docker network create {name}`");
                problems.push(Problem::new("network-missing", message, next));
            }
        }
        Ok(())
    }

    async fn look_at_mounts(
        &self,
        record: &ContainerRecord,
        problems: &mut Vec<Problem>,
    ) -> Result<(), EngineError> {
        for source in sources(record) {
            if source.starts_with('/') {
                if !tokio::fs::try_exists(&source).await.unwrap_or(true) {
                    let message = format!("{source}, which is bound into it, is not there");
                    let next = "put it back: the engine would mount an empty folder or refuse";
                    problems.push(Problem::new("bind-source-missing", message, next));
                }
            } else if is_missing(self.engine.volume(&source).await)? {
                let message = format!("volume {source} is not there, and its data neither");
                let next = "restore the volume from its backup";
                problems.push(Problem::new("volume-missing", message, next));
            }
        }
        Ok(())
    }

    /// Anonymous volumes that the revision had. Where what runs now mounts one at the same place, that is carried
    /// over; else the engine would make a new one of the old name, empty, and nobody would be told.
    async fn look_at_data(
        &self,
        record: &ContainerRecord,
        hints: &Hints,
        standing: Option<&Value>,
        problems: &mut Vec<Problem>,
    ) -> Result<(), EngineError> {
        let present = standing.map(anonymous_volumes).unwrap_or_default();
        let mut missing = Vec::new();
        for (place, volume) in &hints.volumes {
            if !present.contains_key(place) && is_missing(self.engine.volume(volume).await)? {
                missing.push((place, volume));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        // Of an image that is still to be pulled it is not known: then the data counts.
        let image = match self.engine.image(&record.image.id).await {
            Ok(image) => Some(normalise::image::volumes(&image)),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        missing.retain(|(place, _)| {
            recreate::declares(record, place)
                || image
                    .as_ref()
                    .is_none_or(|declared| declared.contains(*place))
        });
        for (place, volume) in missing {
            problems.push(Problem::new(
                "volume-missing",
                format!(
                    "the unnamed volume that held {place} is not there, and its data neither: {volume}"
                ),
                format!(
                    "restore it from its backup under that name; or, if {place} may begin empty: \
                     `docker volume create {volume}`"
                ),
            ));
        }
        Ok(())
    }

    async fn look_at_shared(
        &self,
        record: &ContainerRecord,
        problems: &mut Vec<Problem>,
    ) -> Result<(), EngineError> {
        for name in record.shares_with().into_iter().collect::<BTreeSet<_>>() {
            let (code, what) = match self.engine.container(name).await {
                Ok(found) if matches!(text(&found["State"], "Status"), "running" | "paused") => {
                    continue;
                }
                // Nothing can be started in the namespace of one that does not run.
                Ok(_) => ("container-stopped", "does not run"),
                Err(error) if error.is_not_found() => ("container-missing", "is not there"),
                Err(error) => return Err(error),
            };
            let message = format!("container {name}, whose namespace it shares, {what}");
            let next = format!("start {name} first");
            problems.push(Problem::new(code, message, next));
        }
        Ok(())
    }
}

pub(super) fn running_aside(target: &TargetName, listed: &[Value]) -> Vec<Problem> {
    let aside = listed.iter().filter_map(|container| {
        let name = listed_name(container)?;
        let of = labels::put_aside(name)?;
        let runs = matches!(
            text(container, "State"),
            "running" | "paused" | "restarting"
        );
        (runs && of == target.local()).then_some(name)
    });
    aside
        .map(|name| {
            Problem::new(
                "previous-runs",
                format!(
                    "container {name}, which a rollback of {target} put aside, runs: somebody started it, and two may \
                     serve and write the same data"
                ),
                format!(
                    "`docker stop {name}` on the host; if its revision is what is wanted, roll back to it then \
                     (`ctl history`)"
                ),
            )
        })
        .collect()
}

/// The standbys of the target that run, but for those of the open orders.
fn standbys<'a>(target: &TargetName, listed: &'a [Value], open_orders: &[Uuid]) -> Vec<&'a str> {
    let standbys = listed.iter().filter_map(|container| {
        let name = listed_name(container)?;
        let (tail, of) = labels::of_role(name, labels::Role::Standby)?;
        let open = open_orders
            .iter()
            .any(|order| labels::order_tail(*order) == tail);
        let runs = text(container, "State") == "running";
        (runs && !open && of == target.local()).then_some(name)
    });
    standbys.collect()
}

/// Standbys that serve in place of the target, or beside it, and whose order is over.
fn standing_by(target: &TargetName, listed: &[Value], open_orders: &[Uuid]) -> Vec<Problem> {
    let local = target.local();
    let left = standbys(target, listed, open_orders).into_iter();
    left.map(|name| {
        Problem::new(
            "standby-serves",
            format!(
                "container {name}, the standby of a rollback of {target} that is over, runs, and new connections may go \
                 to it and not to {local}"
            ),
            format!(
                "make {local} run and take connections (`docker logs {local}` on the host), or deploy it again: the agent \
                 takes the standby away once {local} takes them wherever the standby does"
            ),
        )
    })
    .collect()
}

/// The same for a plan, which knows of no order. `hindrance`: why a redirect to one cannot be seen or ended.
fn in_the_way_or_told(
    target: &TargetName,
    standbys: &[&str],
    hindrance: Option<String>,
) -> (Vec<Problem>, Vec<Problem>) {
    let local = target.local();
    let told = standbys.iter().map(|name| {
        Problem::new(
            "standby-serves",
            format!("container {name}, the standby of another rollback of {target}, runs, and new connections may go to it"),
            format!("the agent takes it away once that one is over and {local} takes connections wherever it does"),
        )
    });
    let blocker = hindrance.map(|hindrance| {
        Problem::new(
            "redirect-left",
            format!(
                "new connections for {target} may still go to the standby of another rollback, and their redirect cannot \
                 be ended: {hindrance}"
            ),
            "let the agent change redirects again (`nft list ruleset` on the host): then it ends it by itself; or restart \
             the host, which ends all of them",
        )
    });
    (blocker.into_iter().collect(), told.collect())
}

fn is_missing(answer: Result<Value, EngineError>) -> Result<bool, EngineError> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.kind == EngineErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Folders and volumes that are mounted by name. An empty source is the engine's to make.
fn sources(record: &ContainerRecord) -> BTreeSet<String> {
    let setting = |key: &str| record.host.get(key).map_or(&[][..], list);
    let binds = setting("Binds")
        .iter()
        .filter_map(|bind| Some(bind_parts(bind.as_str()?).0));
    let mounts = setting("Mounts")
        .iter()
        .filter(|mount| matches!(text(mount, "Type"), "bind" | "volume"))
        .map(|mount| text(mount, "Source"));
    binds
        .chain(mounts)
        .filter(|source| !source.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{
        super::record::{ImageRef, SCHEMA},
        *,
    };

    #[test]
    fn what_was_put_aside_and_runs_is_a_problem_of_its_own_target() {
        let (shop, other) = ("docker/my-shop", "docker/shop");
        let parse = |name: &str| name.parse::<TargetName>().expect("valid");
        let aside = labels::own_name(labels::Role::Previous, Uuid::nil(), &parse(shop));
        let listed =
            |name: &str, state: &str| json!({"Names": [format!("/{name}")], "State": state});
        let found = |target: &str, name: &str, state: &str| {
            running_aside(
                &parse(target),
                &[listed("my-shop", "running"), listed(name, state)],
            )
        };
        let problems = found(shop, &aside, "running");
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].code, "previous-runs");
        assert!(
            problems[0]
                .next_step
                .contains(&format!("`docker stop {aside}`"))
        );
        assert_eq!(found(shop, &aside, "restarting").len(), 1);
        assert!(found(shop, &aside, "exited").is_empty());
        assert!(found(other, &aside, "running").is_empty());
        let standby = labels::own_name(labels::Role::Standby, Uuid::nil(), &parse(shop));
        assert!(found(shop, &standby, "running").is_empty());
    }

    #[test]
    fn a_standby_that_runs_is_a_problem_of_its_own_target_once_its_order_is_over() {
        let target: TargetName = "docker/my-shop".parse().expect("valid");
        let other: TargetName = "docker/shop".parse().expect("valid");
        let order = Uuid::from_u128(7);
        let name = labels::own_name(labels::Role::Standby, order, &target);
        let listed = |state: &str| [json!({"Names": [format!("/{name}")], "State": state})];
        let found = standing_by(&target, &listed("running"), &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].code, "standby-serves");
        assert!(found[0].message.contains(&name), "{found:?}");
        assert!(standing_by(&target, &listed("running"), &[order]).is_empty());
        assert!(standing_by(&target, &listed("exited"), &[]).is_empty());
        assert!(standing_by(&other, &listed("running"), &[]).is_empty());
    }

    #[test]
    fn a_redirect_of_another_rollback_is_in_the_way_only_where_it_cannot_be_ended() {
        let target: TargetName = "docker/shop".parse().expect("valid");
        let judged =
            |hindrance| in_the_way_or_told(&target, &["sternway-standby-1-shop"], hindrance);
        let codes = |problems: &[Problem]| -> Vec<String> {
            problems.iter().map(|one| one.code.clone()).collect()
        };
        let (blockers, told) = judged(None);
        assert_eq!(
            (blockers, codes(&told)),
            (vec![], vec!["standby-serves".to_owned()])
        );
        let (blockers, told) = judged(Some("Operation not permitted".to_owned()));
        assert_eq!(
            (codes(&blockers), told.len()),
            (vec!["redirect-left".to_owned()], 1)
        );
        assert!(blockers[0].message.contains("not permitted"));
        let (blockers, told) = in_the_way_or_told(&target, &[], Some("no nft".to_owned()));
        assert_eq!(
            (blockers.len(), told),
            (1, vec![]),
            "nobody answers behind it"
        );
    }

    #[test]
    fn named_sources_are_looked_for_and_anonymous_ones_are_not() {
        let host = json!({
            "Binds": ["data:/data", "/srv:/srv:ro"],
            "Mounts": [
                {"Type": "volume", "Target": "/a"},
                {"Type": "volume", "Target": "/b", "Source": "b"},
                {"Type": "tmpfs", "Target": "/t"},
            ],
        });
        let record = ContainerRecord {
            schema: SCHEMA,
            image: ImageRef {
                reference: String::new(),
                id: String::new(),
            },
            config: BTreeMap::new(),
            host: serde_json::from_value(host).expect("an object"),
            networks: BTreeMap::new(),
        };
        let found: Vec<String> = sources(&record).into_iter().collect();
        assert_eq!(found, ["/srv", "b", "data"]);
    }

    #[test]
    fn the_unit_hides_no_path_that_a_container_may_bind() {
        let unit = include_str!("../../../../deploy/systemd/sternway-agent.service");
        let hides = |line: &&str| {
            let (key, value) = line.split_once('=').unwrap_or((*line, ""));
            match key {
                "PrivateTmp" | "PrivateDevices" | "ProtectKernelModules" => value != "no",
                "ProtectHome" => value != "read-only",
                "ProtectProc"
                | "ProcSubset"
                | "InaccessiblePaths"
                | "TemporaryFileSystem"
                | "RootDirectory"
                | "RootImage" => true,
                _ => false,
            }
        };
        let found: Vec<&str> = unit.lines().filter(hides).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
