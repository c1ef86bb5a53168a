//! The kind under test, and its steps as the tests need them.

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use serde_json::Value;
use sternway_agent::targets::{
    Recorded,
    docker::{
        DockerKind, DockerSettings,
        discover::Inspected,
        recreate::{self, CreateOptions, Created},
    },
};
use sternway_proto::name::RevisionId;
use sternway_tests::engine::Scope;

/// The kind, looking after the containers of this scope alone.
pub(crate) fn kind(scope: &Scope) -> DockerKind {
    DockerKind::new(settings(scope)).expect("the settings are valid")
}

/// Settings that look after the scope's containers.
pub(crate) fn settings(scope: &Scope) -> DockerSettings {
    DockerSettings {
        include: vec![format!("{}-*", scope.name())],
        ..DockerSettings::default()
    }
}

/// A revision as a host's store would hand it back.
pub(crate) fn recorded(inspected: &Inspected) -> Recorded {
    let record = inspected.record.to_bytes().expect("a record is written");
    Recorded {
        id: RevisionId::of(&record),
        number: 1,
        record,
        hints: serde_json::to_value(&inspected.hints).expect("hints are written"),
    }
}

/// Anonymous volumes that a scope cannot find, because they bear no label: removed behind it. Declare it
/// before the scope, so that it is dropped after.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Vec<String>>);

impl Leftovers {
    /// Takes note of the volumes in an inspect answer.
    pub(crate) fn note(&self, inspect: &Value) {
        let mounts = inspect["Mounts"].as_array().into_iter().flatten();
        let names = mounts.filter_map(|mount| mount["Name"].as_str().map(str::to_owned));
        self.0.lock().expect("not poisoned").extend(names);
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let names = self.0.lock().map(|names| names.clone()).unwrap_or_default();
        if !names.is_empty() {
            let mut command = Command::new("docker");
            let _ = command.args(["volume", "rm", "-f"]).args(names).output();
        }
    }
}

/// Creates the recorded container again under that name and starts it.
pub(crate) async fn recreate(kind: &DockerKind, inspected: &Inspected, name: &str) -> Created {
    let options = CreateOptions {
        name: name.to_owned(),
        labels: BTreeMap::from([("sternway.order".to_owned(), "test".to_owned())]),
        restarts: true,
        publish: true,
        volumes: inspected.hints.volumes.clone(),
    };
    let engine = kind.engine();
    let created = recreate::create(engine, &inspected.record, &options)
        .await
        .expect("it is created again");
    engine
        .start_container(&created.id)
        .await
        .expect("it starts again");
    created
}

/// An inspect answer less what must differ between two creations: ids, times, names and what is derived
/// from them. Empty and absent say the same, but for the two lists where they do not.
pub(crate) fn comparable(inspect: &Value) -> BTreeMap<String, Value> {
    let id = inspect["Id"].as_str().expect("an id");
    let short: String = id.chars().take(12).collect();
    let mut all = BTreeMap::new();
    for part in ["Config", "HostConfig"] {
        for (key, value) in inspect[part].as_object().expect("an object") {
            let mut value = value.clone();
            if key == "Hostname" && value == short.as_str() {
                continue;
            }
            if key == "Labels" {
                let labels = value.as_object_mut().expect("labels");
                labels.retain(|key, _| key != "sternway.order");
            }
            if key == "Mounts" {
                unname(&mut value);
            }
            if key == "Links" {
                unname_links(&mut value, inspect["Name"].as_str().expect("a name"));
            }
            let counts = matches!(key.as_str(), "MaskedPaths" | "ReadonlyPaths");
            if counts || !is_empty(&value) {
                all.insert(format!("{part}.{key}"), value);
            }
        }
    }
    binds(inspect, &mut all);
    let mounts = inspect["Mounts"].as_array().expect("mounts");
    for mount in mounts {
        let place = mount["Destination"].as_str().expect("a destination");
        let mut mount = mount.clone();
        let entries = mount.as_object_mut().expect("a mount");
        // `z` is what the engine says of a volume that was attached by name.
        if entries
            .get("Name")
            .and_then(Value::as_str)
            .is_some_and(generated)
        {
            entries.remove("Mode");
        }
        all.insert(format!("Mounts.{place}"), mount);
    }
    let networks = inspect["NetworkSettings"]["Networks"].as_object();
    for (name, endpoint) in networks.into_iter().flatten() {
        for key in ["IPAMConfig", "Links", "Aliases", "DriverOpts"] {
            let mut value = endpoint[key].clone();
            if let Value::Array(items) = &mut value {
                items.retain(|item| *item != short.as_str());
            }
            if !is_empty(&value) {
                all.insert(format!("Networks.{name}.{key}"), value);
            }
        }
        all.insert(format!("Networks.{name}"), Value::Bool(true));
    }
    all
}

/// Binds in any order. An anonymous volume that is attached by name stands among them as well: for it, what is
/// mounted decides.
fn binds(inspect: &Value, all: &mut BTreeMap<String, Value>) {
    let said = inspect["HostConfig"]["Binds"].as_array();
    let mut said: Vec<&str> = said
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    said.retain(|bind| !bind.split(':').next().is_some_and(generated));
    said.sort_unstable();
    all.remove("HostConfig.Binds");
    if !said.is_empty() {
        all.insert("HostConfig.Binds".to_owned(), said.into());
    }
}

/// Links name the container that has them.
fn unname_links(value: &mut Value, own: &str) {
    for link in value.as_array_mut().into_iter().flatten() {
        let text = link
            .as_str()
            .expect("a link")
            .replace(&format!(":{own}/"), ":/self/");
        *link = text.into();
    }
}

fn generated(source: &str) -> bool {
    source.len() == 64 && !source.contains('/')
}

/// Takes the names the engine gave to volumes out of mounts: what is mounted stands below.
fn unname(mounts: &mut Value) {
    for mount in mounts.as_array_mut().into_iter().flatten() {
        let mount = mount.as_object_mut().expect("a mount");
        if mount
            .get("Source")
            .and_then(Value::as_str)
            .is_some_and(generated)
        {
            mount.remove("Source");
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}
