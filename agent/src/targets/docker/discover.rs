//! Which containers are targets, and what one is right now. Reads only.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sternway_proto::{
    name::{TargetName, clean_text},
    v1::{Problem, TargetState},
};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    DockerKind,
    client::EngineError,
    fields, labels,
    normalise::{Surroundings, list, normalise, object, text},
    record::{ContainerRecord, Hints},
    steps::ended_well,
};
use crate::targets::{Content, Discovered, KindError, Made, Observed};

/// Inspections under way at once: enough to hide latency, few enough not to slow the engine's own work.
const AT_ONCE: usize = 4;

/// How long the engine may take to tell of one container, and of what belongs to it, while others wait.
const LOOK: Duration = Duration::from_secs(5);

/// A container as it is, in our words: the record, what helps to restore it, and what the engine said.
pub struct Inspected {
    pub record: ContainerRecord,
    pub hints: Hints,
    pub inspect: Value,
}

impl DockerKind {
    /// All plain containers of this host that are looked after. One that the engine cannot inspect (it is known to
    /// lose a container's layer, and to hang with one) is left out and named.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn discover(&self) -> Result<Discovered, KindError> {
        let listed = self.engine.containers(&[]).await?;
        let targets: Vec<TargetName> = listed
            .iter()
            .filter_map(|container| self.target_of_listed(container))
            .collect();
        let mut all = Discovered {
            made: listed.iter().filter_map(|one| self.made(one)).collect(),
            ..Discovered::default()
        };
        let mut looks = stream::iter(targets)
            .map(|target| async move {
                let looked = timeout(LOOK, self.observe(&target)).await;
                (target, looked.unwrap_or_else(|_| Err(too_late())))
            })
            .buffer_unordered(AT_ONCE);
        let mut silent = false;
        while let Some((target, looked)) = looks.next().await {
            match looked {
                // Removed since the list was made.
                Ok(one) if one.state == TargetState::Gone => {}
                Ok(one) => all.seen.push(one),
                Err(error) => {
                    silent |= matches!(error, KindError::Unreachable { .. });
                    warn!(%target, "{target} cannot be read and is left as it was known: {error}");
                    all.unread.insert(target);
                }
            }
        }
        // Is it that container, or the engine?
        if silent {
            self.engine.containers(&[]).await?;
        }
        all.seen.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(all)
    }

    /// One target as it is.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        let name = target.local();
        let inspect = match self.engine.container(name).await {
            Ok(inspect) => inspect,
            Err(error) if error.is_not_found() => return Ok(Observed::gone(target)),
            Err(error) => return Err(error.into()),
        };
        // The engine also finds a container by the beginning of its id, and what others look after has
        // no business here even if it took the name.
        if name_of(&inspect) != name || labels::not_ours(name, &labels_of(&inspect)).is_some() {
            return Ok(Observed::gone(target));
        }
        self.observed(target, inspect).await
    }

    /// The record of a container, by id or name, whatever it is called.
    ///
    /// # Errors
    /// `NotFound`: the container, or the image it was made from, is gone.
    pub async fn inspected(&self, id: &str) -> Result<Inspected, EngineError> {
        let inspect = self.engine.container(id).await?;
        self.normalised(inspect).await
    }

    async fn observed(&self, target: &TargetName, inspect: Value) -> Result<Observed, KindError> {
        let mut observed = Observed {
            state: state_of(&inspect),
            instance: text(&inspect, "Id").to_owned(),
            unsupported: None,
            ended_well: ran_once(&inspect),
            content: None,
            settled: false,
            made: made(
                target,
                text(&inspect, "Id"),
                &labels_of(&inspect),
                text(&inspect["State"], "Status"),
            ),
            target: target.clone(),
        };
        match self.normalised(inspect).await {
            Ok(inspected) => observed.content = Some(content(target, &inspected)?),
            Err(error) if error.is_not_found() => {
                observed.unsupported = Some(image_lost(target, &error));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(observed)
    }

    pub(super) async fn normalised(&self, inspect: Value) -> Result<Inspected, EngineError> {
        let image = self
            .images
            .of(&self.engine, text(&inspect, "Image"))
            .await?;
        let host = &inspect["HostConfig"];
        let modes = ["NetworkMode", "IpcMode", "PidMode", "UTSMode"].map(|key| text(host, key));
        let mut names = BTreeMap::new();
        for id in modes
            .iter()
            .filter_map(|mode| mode.strip_prefix("container:"))
        {
            match self.engine.container(id).await {
                Ok(other) => {
                    // It was bound to the target, which is another one by now.
                    let name = name_of(&other);
                    let name = labels::put_aside(name).unwrap_or(name);
                    names.insert(id.to_owned(), name.to_owned());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let machine = if modes.contains(&"host") {
            text(&self.engine.info().await?, "Name").to_owned()
        } else {
            String::new()
        };
        let around = Surroundings {
            image: &image,
            names: &names,
            machine: &machine,
        };
        let (record, hints) = normalise(&inspect, around);
        Ok(Inspected {
            record,
            hints,
            inspect,
        })
    }

    /// The target that a line of the engine's list is, if it is one of ours.
    fn target_of_listed(&self, container: &Value) -> Option<TargetName> {
        let name = listed_name(container)?;
        let labels = strings(&object(container, "Labels"));
        if !self.names.cover(name) {
            return None;
        }
        if let Some(reason) = labels::not_ours(name, &labels) {
            let shown = clean_text(name);
            if !name.starts_with(labels::NAME_PREFIX) && self.tell_once(shown.clone()) {
                info!("container {shown} is left alone: {reason}");
            }
            return None;
        }
        match format!("{}/{name}", Self::LABEL).parse() {
            Ok(target) => Some(target),
            Err(error) => {
                if self.tell_once(clean_text(name)) {
                    warn!("a container is left alone because of its name: {error}");
                }
                None
            }
        }
    }

    /// What an order made, in a line of the engine's list.
    fn made(&self, container: &Value) -> Option<Made> {
        // What was taken back makes nothing any more.
        if listed_name(container).is_some_and(labels::is_failed) {
            return None;
        }
        let labels = strings(&object(container, "Labels"));
        let target: TargetName = labels.get(labels::TARGET)?.parse().ok()?;
        let ours = target.kind() == Self::LABEL && self.names.cover(target.local());
        let of = ours.then_some(&target)?;
        made(of, text(container, "Id"), &labels, text(container, "State"))
    }

    /// The target of that container name, if such a name can be one and is looked after.
    pub(super) fn target_named(&self, name: &str) -> Option<TargetName> {
        let looked_after = self.names.cover(name) && !name.starts_with(labels::NAME_PREFIX);
        let target = format!("{}/{name}", Self::LABEL).parse().ok();
        target.filter(|_| looked_after)
    }
}

/// The container's own name: among the names a list shows, those of legacy links have a second slash.
pub(super) fn listed_name(container: &Value) -> Option<&str> {
    list(&container["Names"])
        .iter()
        .filter_map(|name| name.as_str()?.strip_prefix('/'))
        .find(|name| !name.contains('/'))
}

/// The name in an inspect answer, without its slash.
pub fn name_of(inspect: &Value) -> &str {
    text(inspect, "Name").trim_start_matches('/')
}

/// All labels in an inspect answer, those of the image and our own among them.
pub fn labels_of(inspect: &Value) -> BTreeMap<String, String> {
    strings(&object(&inspect["Config"], "Labels"))
}

fn strings(map: &serde_json::Map<String, Value>) -> BTreeMap<String, String> {
    map.iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The state in an inspect answer. A paused container counts as running: it holds its ports.
pub fn state_of(inspect: &Value) -> TargetState {
    match text(&inspect["State"], "Status") {
        "running" | "paused" => TargetState::Running,
        "restarting" => TargetState::Restarting,
        _ => TargetState::Stopped,
    }
}

/// The order that made a container as its target's new one, or as the standby of that; `status` in the engine's words.
fn made(
    target: &TargetName,
    id: &str,
    labels: &BTreeMap<String, String>,
    status: &str,
) -> Option<Made> {
    let role = labels.get(labels::ROLE)?;
    let makes = [labels::Role::Replacement, labels::Role::Standby];
    let order = labels
        .get(labels::ORDER)
        .filter(|_| makes.iter().any(|one| one.as_str() == role))?;
    Some(Made {
        target: target.clone(),
        order: order.parse().ok()?,
        instance: id.to_owned(),
        begun: status != "created",
    })
}

fn too_late() -> KindError {
    KindError::Unreachable {
        what: "inspect the container".to_owned(),
        reason: format!("the engine did not answer within {} s", LOOK.as_secs()),
    }
}

/// Whether it was to run once, and did.
fn ran_once(inspect: &Value) -> bool {
    let policy = text(&inspect["HostConfig"]["RestartPolicy"], "Name");
    matches!(policy, "" | "no") && ended_well(inspect)
}

fn image_lost(target: &TargetName, error: &EngineError) -> Problem {
    Problem::new(
        "image-lost",
        format!(
            "the image of {target} was removed while the container exists: {}",
            error.message
        ),
        "deploy it again from an image that is there",
    )
}

fn content(target: &TargetName, inspected: &Inspected) -> Result<Content, KindError> {
    let record = &inspected.record;
    let failed = |reason: String| KindError::Record {
        target: target.to_string(),
        reason,
    };
    let bytes = record
        .to_bytes()
        .map_err(|error| failed(error.to_string()))?;
    let hints =
        serde_json::to_value(&inspected.hints).map_err(|error| failed(error.to_string()))?;
    let raw = inspected.inspect.to_string().into_bytes();
    Ok(Content {
        record: bytes,
        attachments: BTreeMap::from([("inspect.json".to_owned(), raw)]),
        artifacts: Vec::new(),
        fields: fields::of(record),
        hints,
        image: clean_text(&record.image.reference),
        image_id: record.image.id.clone(),
        image_digest: inspected.hints.digests.first().cloned().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind() -> DockerKind {
        DockerKind::new(super::super::DockerSettings {
            socket: "/nonexistent".into(),
            exclude: vec!["*-tmp".to_owned()],
            ..Default::default()
        })
        .expect("valid")
    }

    #[test]
    fn hostile_names_and_labels_are_skipped_and_break_nothing() {
        let kind = kind();
        let target = |name: &str, label: &str| {
            let listed =
                json!({"Names": [format!("/{name}")], "Labels": {label: "x".repeat(10_000)}});
            kind.target_of_listed(&listed).map(String::from)
        };
        assert_eq!(
            target("web", "a\u{1b}[2J/../b").as_deref(),
            Some("docker/web")
        );
        for hostile in ["a\nb", "..", "é", "x/y", "-x", &"n".repeat(10_000), "a-tmp"] {
            assert_eq!(target(hostile, "app"), None, "{hostile:?}");
        }
        assert_eq!(kind.target_of_listed(&json!({"Names": null})), None);
        assert_eq!(kind.target_of_listed(&json!(null)), None);
    }

    /// An engine that has containers `good`, `broken` and `hanging`, and can inspect the first only.
    async fn half_broken(listener: tokio::net::UnixListener) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut unanswered = Vec::new();
        while let Ok((mut call, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && call.read_buf(&mut head).await.unwrap_or(0) > 0 {}
            let head = String::from_utf8_lossy(&head);
            let path = head.split(' ').nth(1).unwrap_or_default();
            if path.ends_with("/hanging/json") {
                unanswered.push(call);
                continue;
            }
            let (status, body) = match path.rsplit_once("/containers/") {
                _ if path.ends_with("/version") => {
                    (200, json!({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}))
                }
                Some((_, "good/json")) => (200, json!({"Id": "g", "Name": "/good"})),
                Some((_, "broken/json")) => {
                    (500, json!({"message": "RWLayer is unexpectedly nil"}))
                }
                Some(_) => {
                    let names = ["/broken", "/hanging", "/good"];
                    (200, json!(names.map(|name| json!({"Names": [name]}))))
                }
                None => (200, json!({})),
            };
            let body = body.to_string();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = call.write_all(answer.as_bytes()).await;
        }
    }

    #[tokio::test]
    async fn a_container_that_cannot_be_inspected_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
        let engine = tokio::spawn(half_broken(listener));
        let kind = DockerKind::new(super::super::DockerSettings {
            socket,
            ..Default::default()
        })
        .expect("valid");
        let found = kind.discover().await.expect("the engine answers");
        let seen: Vec<&str> = found.seen.iter().map(|one| one.target.as_str()).collect();
        let unread: Vec<&str> = found.unread.iter().map(TargetName::as_str).collect();
        assert_eq!(seen, ["docker/good"]);
        assert_eq!(unread, ["docker/broken", "docker/hanging"]);
        engine.abort();
        let _ = engine.await;
        let gone = kind.discover().await.expect_err("nobody listens");
        assert!(matches!(gone, KindError::Unreachable { .. }), "{gone}");
    }

    #[test]
    fn a_strange_container_is_told_of_once() {
        let kind = kind();
        assert!(kind.tell_once("x".to_owned()));
        assert!(!kind.tell_once("x".to_owned()));
    }
}
