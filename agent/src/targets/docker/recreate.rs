//! From a record to a container that inspects the same: what to ask of the engine is a pure function
//! ([`creation`]); [`create`] asks it and compares what came of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    client::{ApiVersion, Engine, EngineError},
    labels,
    normalise::{bind_parts, list, text},
    record::{self, ContainerRecord, Settings},
};

/// How to create a container from a record.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    pub name: String,
    /// Labels of ours beside the recorded ones.
    pub labels: BTreeMap<String, String>,
    /// With the recorded restart policy; else with `no`, as long as a restore is under way, so that a
    /// reboot does not bring two instances up.
    pub restarts: bool,
    /// With the published ports, static addresses and MAC address of the record. A warm standby runs
    /// beside the container that holds them.
    pub publish: bool,
    /// Anonymous volumes to carry over, by where they are mounted.
    pub volumes: BTreeMap<String, String>,
}

/// What to ask of the engine: create, then connect before the start.
#[derive(Clone, PartialEq)]
pub struct Creation {
    pub name: String,
    pub body: Value,
    /// Further networks and their endpoint settings.
    pub connect: Vec<(String, Value)>,
    /// All networks it is to be in.
    pub networks: BTreeSet<String>,
}

/// What came of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: String,
    /// Settings the engine did not take over as recorded, as paths. Empty: a faithful copy.
    pub lost: Vec<String>,
}

/// What to ask of an engine of that version. `image` is what resolves to the recorded image: its
/// reference or its id.
pub fn creation(
    record: &ContainerRecord,
    image: &str,
    options: &CreateOptions,
    api: ApiVersion,
) -> Creation {
    let mut config: Settings = record.config.clone();
    let mut host = record.host.clone();
    let mut networks = record.networks.clone();
    let mac = config.remove("MacAddress");
    add_labels(&mut config, record, image, options);
    carry_volumes(&mut config, &mut host, &options.volumes);
    if !options.restarts {
        host.insert("RestartPolicy".to_owned(), json!({"Name": "no"}));
    }
    let primary = primary_network(record);
    if options.publish {
        place_mac(&mut config, &mut networks, mac, primary.as_deref(), api);
    } else {
        unpublish(&mut host, &mut networks);
    }
    let (given, connect) = split_endpoints(networks, primary.as_deref(), api);
    let mut body: Map<String, Value> = config.into_iter().collect();
    body.insert("Image".to_owned(), json!(image));
    body.insert("HostConfig".to_owned(), json!(host));
    body.insert(
        "NetworkingConfig".to_owned(),
        json!({"EndpointsConfig": given}),
    );
    Creation {
        networks: record.networks.keys().cloned().collect(),
        name: options.name.clone(),
        body: Value::Object(body),
        connect,
    }
}

/// Creates a container from the record, connected to all its networks, not started. When anything
/// fails behind the creation itself, the half-made container is removed again.
///
/// # Errors
/// `Conflict`: the name is taken. `NotFound`: image, network or a container to share with is gone.
pub async fn create(
    engine: &Engine,
    record: &ContainerRecord,
    options: &CreateOptions,
) -> Result<Created, EngineError> {
    let api = engine.api().await?;
    let (image, declared) = resolve(engine, record).await?;
    let mut options = options.clone();
    options
        .volumes
        .retain(|place, _| carries(record, &declared, place));
    let wanted = creation(record, &image, &options, api);
    let id = engine.create_container(&wanted.name, &wanted.body).await?;
    match finish(engine, &id, &wanted).await {
        Ok(inspect) => Ok(Created {
            lost: lost(&wanted, &inspect),
            id,
        }),
        Err(error) => {
            // Best effort: what stays behind bears the order's label and is adopted or collected.
            let _ = engine.remove_container(&id, true).await;
            Err(error)
        }
    }
}

async fn finish(engine: &Engine, id: &str, wanted: &Creation) -> Result<Value, EngineError> {
    for (network, endpoint) in &wanted.connect {
        engine.connect_network(network, id, endpoint).await?;
    }
    let inspect = engine.container(id).await?;
    let extra = unwanted(&wanted.networks, &inspect);
    if extra.is_empty() {
        return Ok(inspect);
    }
    for network in extra {
        engine.disconnect_network(&network, id).await?;
    }
    engine.container(id).await
}

/// The networks that the engine put a container into by its mode and that the recorded one had left: it was disconnected
/// from the network that it was created on. Where it had left them all, the engine puts it back with its next start, and
/// so it does here.
fn unwanted(wanted: &BTreeSet<String>, inspect: &Value) -> Vec<String> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let networks = inspect["NetworkSettings"]["Networks"].as_object();
    let names = networks.into_iter().flatten().map(|(name, _)| name);
    names
        .filter(|name| !wanted.contains(*name))
        .cloned()
        .collect()
}

/// Whether a network mode names a network that a person made.
pub(super) fn is_of_a_user(mode: &str) -> bool {
    !matches!(mode, "" | "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

/// What leads to the recorded image, and the volumes it declares: the reference while it does, so
/// that people see the name they know; the id once the tag has moved on.
async fn resolve(
    engine: &Engine,
    record: &ContainerRecord,
) -> Result<(String, Vec<String>), EngineError> {
    let image = engine.image(&record.image.id).await?;
    let declared = super::normalise::image::volumes(&image);
    let name = match engine.image(&record.image.reference).await {
        Ok(image) if text(&image, "Id") == record.image.id => &record.image.reference,
        Ok(_) => &record.image.id,
        Err(error) if error.is_not_found() => &record.image.id,
        Err(error) => return Err(error),
    };
    Ok((name.clone(), declared))
}

/// Whether the record itself leaves a volume at that place to the engine. A volume of another image
/// is not carried over to one that does not know it.
pub(super) fn declares(record: &ContainerRecord, place: &str) -> bool {
    let volumes = record.config.get("Volumes").and_then(Value::as_object);
    let mounts = record.host.get("Mounts").map_or(&[][..], list);
    volumes.is_some_and(|volumes| volumes.contains_key(place))
        || mounts
            .iter()
            .any(|mount| text(mount, "Target") == place && is_unnamed(mount))
}

fn is_unnamed(mount: &Value) -> bool {
    text(mount, "Type") == "volume" && text(mount, "Source").is_empty()
}

/// Whether a container of that record takes over the unnamed volume at that place. `declared`: the places of its
/// image's volumes.
pub(super) fn carries(record: &ContainerRecord, declared: &[String], place: &str) -> bool {
    let of = |key: &str| record.host.get(key).map_or(&[][..], list);
    let bound = of("Binds").iter().any(|bind| {
        bind.as_str()
            .is_some_and(|bind| bind_parts(bind).1 == place)
    });
    let mounted = of("Mounts")
        .iter()
        .any(|mount| text(mount, "Target") == place && !is_unnamed(mount));
    let leaves = declared.iter().any(|one| one == place) || declares(record, place);
    leaves && !bound && !mounted
}

/// What was asked for and is not there, as paths.
fn lost(wanted: &Creation, inspect: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, value) in wanted.body.as_object().into_iter().flatten() {
        match key.as_str() {
            "HostConfig" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if !holds(&inspect["HostConfig"][key], value) && !renamed(key) {
                        paths.push(format!("host.{key}"));
                    }
                }
            }
            "NetworkingConfig" | "MacAddress" | "Entrypoint" => {}
            _ if holds(&inspect["Config"][key], value) => {}
            _ => paths.push(format!("config.{key}")),
        }
    }
    let networks = inspect["NetworkSettings"]["Networks"].as_object();
    let connected = |name: &String| networks.is_some_and(|all| all.contains_key(name));
    let missing = wanted.connect.iter().filter(|(name, _)| !connected(name));
    paths.extend(missing.map(|(name, _)| format!("networks.{name}")));
    paths
}

/// Settings that the engine writes in its own way: names become ids, links become paths.
fn renamed(key: &str) -> bool {
    matches!(key, "NetworkMode" | "IpcMode" | "PidMode" | "Links")
}

/// Whether what was found holds all that was wanted; the engine and the image may add to it.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value))),
        (Value::Array(found), Value::Array(wanted)) => wanted
            .iter()
            .all(|item| found.iter().any(|f| holds(f, item))),
        _ => found == wanted,
    }
}

fn add_labels(
    config: &mut Settings,
    record: &ContainerRecord,
    image: &str,
    options: &CreateOptions,
) {
    let mut all: BTreeMap<String, String> = record.labels();
    all.extend(options.labels.clone());
    if image != record.image.reference {
        all.insert(labels::IMAGE.to_owned(), record.image.reference.clone());
    }
    config.insert("Labels".to_owned(), json!(all));
}

/// Attaches the volumes by name where the record leaves them to the engine.
fn carry_volumes(config: &mut Settings, host: &mut Settings, volumes: &BTreeMap<String, String>) {
    let mut left = volumes.clone();
    if let Some(Value::Array(mounts)) = host.get_mut("Mounts") {
        for mount in mounts {
            let name = left.remove(text(mount, "Target"));
            if let (Some(mount), Some(name)) = (mount.as_object_mut(), name)
                && !mount.contains_key("Source")
                && mount.get("Type") == Some(&json!("volume"))
            {
                mount.insert("Source".to_owned(), json!(name));
            }
        }
    }
    let taken: Vec<String> = host
        .get("Binds")
        .map_or(&[][..], list)
        .iter()
        .filter_map(|bind| Some(bind_parts(bind.as_str()?).1.to_owned()))
        .collect();
    left.retain(|place, _| !taken.contains(place));
    if left.is_empty() {
        return;
    }
    // Declared, so that they are told from named ones when this container is recorded in turn.
    let declared = config
        .entry("Volumes".to_owned())
        .or_insert_with(|| json!({}));
    if let Value::Object(declared) = declared {
        for place in left.keys() {
            declared.entry(place.clone()).or_insert_with(|| json!({}));
        }
    }
    let binds = host.entry("Binds".to_owned()).or_insert_with(|| json!([]));
    if let Value::Array(binds) = binds {
        binds.extend(
            left.iter()
                .map(|(place, name)| json!(format!("{name}:{place}"))),
        );
    }
}

/// The network that is given at creation. `default` is the engine's bridge.
fn primary_network(record: &ContainerRecord) -> Option<String> {
    let name = match record.network_mode() {
        "default" => "bridge",
        mode => mode,
    };
    record.networks.contains_key(name).then(|| name.to_owned())
}

/// Up to API 1.43 the MAC address is the container's, from 1.44 the endpoint's.
fn place_mac(
    config: &mut Settings,
    networks: &mut BTreeMap<String, Settings>,
    mac: Option<Value>,
    primary: Option<&str>,
    api: ApiVersion,
) {
    let Some(mac) = mac else { return };
    match primary.and_then(|name| networks.get_mut(name)) {
        Some(endpoint) if api.takes_many_endpoints() => {
            endpoint.insert("MacAddress".to_owned(), mac);
        }
        _ => {
            config.insert("MacAddress".to_owned(), mac);
        }
    }
}

/// Takes the ports and addresses that there can be one of away. What is published in TCP is published on
/// a loopback port of the engine's choice instead: that makes the engine's firewall forward connections
/// from elsewhere to it, which it refuses for a container without published ports.
fn unpublish(host: &mut Settings, networks: &mut BTreeMap<String, Settings>) {
    host.remove("PublishAllPorts");
    if let Some(Value::Object(ports)) = host.get_mut("PortBindings") {
        ports.retain(|port, _| !port.ends_with("/udp") && !port.ends_with("/sctp"));
        for bindings in ports.values_mut() {
            *bindings = json!([{"HostIp": "127.0.0.1", "HostPort": ""}]);
        }
    }
    // Without names nobody inside these networks is sent to it before it has proven itself.
    for endpoint in networks.values_mut() {
        endpoint.remove("IPAMConfig");
        endpoint.remove("Aliases");
    }
}

fn split_endpoints(
    mut networks: BTreeMap<String, Settings>,
    primary: Option<&str>,
    api: ApiVersion,
) -> (BTreeMap<String, Settings>, Vec<(String, Value)>) {
    if api.takes_many_endpoints() {
        return (networks, Vec::new());
    }
    let first = primary.and_then(|name| networks.remove_entry(name));
    let rest = networks
        .into_iter()
        .map(|(name, endpoint)| (name, json!(endpoint)))
        .collect();
    (first.into_iter().collect(), rest)
}

/// The anonymous volumes a restore carries over: those of the container that runs now, where its
/// data is; else those the revision had. Where these are gone, readiness says so before anything is done.
pub fn volumes_to_carry(
    now: Option<&record::Hints>,
    then: &record::Hints,
) -> BTreeMap<String, String> {
    let mut volumes = then.volumes.clone();
    if let Some(now) = now {
        volumes.extend(now.volumes.clone());
    }
    volumes
}

#[cfg(test)]
mod tests;
