//! The record of a container: what a person asked for when it was created, and nothing that the engine
//! or its image added. Plain values and their canonical JSON; [`super::normalise`] makes one from an
//! inspect answer, [`super::recreate`] a container from one.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sternway_proto::v1::RestoreScope;
use thiserror::Error;

/// The version of the format that is written.
pub const SCHEMA: u32 = 1;

/// The settings that name a namespace, which may be that of another container: `container:NAME`.
pub const SHARED: [&str; 3] = ["NetworkMode", "IpcMode", "PidMode"];

/// Settings by the engine's own key, as the engine writes them. Unknown keys are kept.
pub type Settings = BTreeMap<String, Value>;

/// A container as it was asked for. Holds secrets: no `Debug` on purpose.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// Version of this format. An agent refuses one it does not know.
    pub schema: u32,
    pub image: ImageRef,
    /// The engine's `Config` less what the image gives. An absent key is the image's business, so
    /// that no default of one image is pinned on another.
    pub config: Settings,
    /// The engine's `HostConfig` less what is zero. Namespaces shared with another container name it
    /// by name.
    pub host: Settings,
    /// Endpoint settings by network name, less what the engine assigned.
    pub networks: BTreeMap<String, Settings>,
}

/// Which image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// As it was asked for: `registry.example/shop:2`.
    pub reference: String,
    /// `sha256:…`: what runs.
    pub id: String,
}

/// What helps to restore a record but is no part of it, so that it may change without a new
/// revision: where the image can be pulled from, which volumes held its data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// `name@sha256:…`, best first.
    pub digests: Vec<String>,
    /// Anonymous volumes, by where they are mounted.
    pub volumes: BTreeMap<String, String>,
    /// The image's size, bytes; 0: unknown.
    pub image_bytes: u64,
    /// What the image's own labels say to Sternway. None: nobody looked, an earlier version or one without the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_labels: Option<BTreeMap<String, String>>,
}

/// Why a stored record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("it is no container record: {0}")]
    Malformed(String),
    #[error("it has schema {0}; this agent knows {SCHEMA}")]
    Schema(u32),
}

impl ContainerRecord {
    /// Canonical JSON: sorted keys, no spaces. Equal records, equal bytes.
    ///
    /// # Errors
    /// Never for a record of this type; serialisation is fallible in general.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        // By way of `Value`, whose maps are sorted: also those nested in settings.
        serde_json::to_value(self)
            .and_then(|value| serde_json::to_vec(&value))
            .map_err(|error| RecordError::Malformed(error.to_string()))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is none, or of another schema.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        // serde's message may quote a value, and values are secret: only the place is told.
        let place = |error: serde_json::Error| {
            RecordError::Malformed(format!("line {} column {}", error.line(), error.column()))
        };
        let version: Version = serde_json::from_slice(bytes).map_err(place)?;
        if version.schema != SCHEMA {
            return Err(RecordError::Schema(version.schema));
        }
        serde_json::from_slice(bytes).map_err(place)
    }

    /// The user's labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.config.get("Labels").and_then(Value::as_object);
        labels
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// All labels that decide about a container of it: those of its image that speak to Sternway, and over them the
    /// user's own.
    pub fn labels_over(&self, image: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = image.clone();
        all.extend(self.labels());
        all
    }

    /// `HostConfig.NetworkMode`: `bridge`, `host`, a network's name, `container:NAME`, …
    pub fn network_mode(&self) -> &str {
        self.host
            .get("NetworkMode")
            .and_then(Value::as_str)
            .unwrap_or("default")
    }

    /// Whether a network that it is in knows its name: the engine's own do not.
    pub fn has_a_name(&self) -> bool {
        let nameless = |network: &String| matches!(network.as_str(), "bridge" | "host" | "none");
        !self.networks.keys().all(nameless)
    }

    /// How long it is given to stop by its own wish, before it is killed.
    pub fn grace(&self) -> Option<Duration> {
        let seconds = self.config.get("StopTimeout").and_then(Value::as_u64);
        seconds.map(Duration::from_secs)
    }

    /// Whether it was started with `--rm`: the engine removes it once it has stopped.
    pub fn removes_itself(&self) -> bool {
        self.host.get("AutoRemove").and_then(Value::as_bool) == Some(true)
    }

    /// The containers whose namespaces this one shares, by name (or id, where no name was known).
    pub fn shares_with(&self) -> Vec<&str> {
        SHARED
            .into_iter()
            .filter_map(|key| self.host.get(key)?.as_str()?.strip_prefix("container:"))
            .collect()
    }
}

impl Hints {
    /// Reads hints; whatever is missing or strange is left out.
    pub fn read(value: &Value) -> Self {
        Self::deserialize(value).unwrap_or_default()
    }
}

/// What a restore to `to` puts in place of `from`. The configuration of a record holds nothing of
/// its image's, so that either half can be exchanged.
pub fn compose(
    from: Option<&ContainerRecord>,
    to: &ContainerRecord,
    scope: RestoreScope,
) -> ContainerRecord {
    match (scope, from) {
        (RestoreScope::Image, Some(from)) => ContainerRecord {
            image: to.image.clone(),
            ..from.clone()
        },
        (RestoreScope::Config, Some(from)) => ContainerRecord {
            image: from.image.clone(),
            ..to.clone()
        },
        _ => to.clone(),
    }
}

/// The settings that differ, as paths: `host.Memory`, `config.Labels`. Empty: the same.
pub fn differences(wanted: &ContainerRecord, found: &ContainerRecord) -> Vec<String> {
    let mut paths = Vec::new();
    if wanted.image != found.image {
        paths.push("image".to_owned());
    }
    compare("config", &wanted.config, &found.config, &mut paths);
    compare("host", &wanted.host, &found.host, &mut paths);
    let names = wanted.networks.keys().chain(found.networks.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let path = format!("networks.{name}");
        match (wanted.networks.get(name), found.networks.get(name)) {
            (Some(wanted), Some(found)) => compare(&path, wanted, found, &mut paths),
            _ => paths.push(path),
        }
    }
    paths
}

fn compare(prefix: &str, wanted: &Settings, found: &Settings, paths: &mut Vec<String>) {
    let keys = wanted.keys().chain(found.keys());
    for key in keys.collect::<std::collections::BTreeSet<_>>() {
        if wanted.get(key) != found.get(key) {
            paths.push(format!("{prefix}.{key}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(image: &str, env: &str) -> ContainerRecord {
        ContainerRecord {
            schema: SCHEMA,
            image: ImageRef {
                reference: format!("{image}:1"),
                id: format!("sha256:{image}"),
            },
            config: BTreeMap::from([("Env".to_owned(), json!([env]))]),
            host: BTreeMap::from([("NetworkMode".to_owned(), json!("container:db"))]),
            networks: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_survives_its_bytes_and_a_strange_one_is_refused() {
        let one = record("a", "K=1");
        let bytes = one.to_bytes().expect("written");
        assert!(ContainerRecord::from_bytes(&bytes).expect("read") == one);
        let newer = br#"{"schema":2,"whatever":1}"#;
        assert_eq!(
            ContainerRecord::from_bytes(newer).err(),
            Some(RecordError::Schema(2))
        );
        let strange = br#"{"schema":1,"config":"s3cret"}"#;
        let error = ContainerRecord::from_bytes(strange).err().expect("refused");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn labels_of_the_image_count_where_the_containers_own_say_nothing() {
        let mut one = record("a", "K=1");
        one.config
            .insert("Labels".to_owned(), json!({"sternway.soak": "1s"}));
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let image = text(&[("sternway.soak", "9s"), ("sternway.check.tcp", ":80")]);
        assert_eq!(
            one.labels_over(&image),
            text(&[("sternway.soak", "1s"), ("sternway.check.tcp", ":80")])
        );
    }

    #[test]
    fn halves_are_exchanged_as_asked() {
        let (from, to) = (record("new", "K=2"), record("old", "K=1"));
        let image = compose(Some(&from), &to, RestoreScope::Image);
        assert!(image.image == to.image && image.config == from.config);
        let config = compose(Some(&from), &to, RestoreScope::Config);
        assert!(config.image == from.image && config.config == to.config);
        assert!(compose(Some(&from), &to, RestoreScope::Both) == to);
        assert!(compose(None, &to, RestoreScope::Config) == to);
    }

    #[test]
    fn differences_name_the_setting_and_not_its_value() {
        let (one, other) = (record("a", "K=1"), record("a", "K=2"));
        assert_eq!(differences(&one, &other), ["config.Env"]);
        assert!(differences(&one, &one).is_empty());
        assert_eq!(one.shares_with(), ["db"]);
    }
}
