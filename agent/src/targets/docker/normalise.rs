//! From the engine's inspect answers to a record: takes away what the image gives, what the engine
//! filled in, and what changes with every creation, so that the same deployment yields the same bytes.

pub mod image;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    labels,
    record::{ContainerRecord, Hints, ImageRef, SCHEMA, Settings},
};

/// What surrounds an inspect answer.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The inspect answer of the image the container runs.
    pub image: &'a Value,
    /// The names of all containers, by id.
    pub names: &'a BTreeMap<String, String>,
    /// What the machine is called: a container in the host's network bears it.
    pub machine: &'a str,
}

/// Operational settings of `Config`: how the creating command was attached, and what stands elsewhere
/// in the record.
const CONFIG_DROPPED: [&str; 6] = [
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Image",
    "ArgsEscaped",
    "OnBuild",
];

/// Operational settings of `HostConfig`: a terminal's size, a file the CLI wrote. `VolumesFrom` is
/// recorded as the mounts it led to.
const HOST_DROPPED: [&str; 3] = ["ConsoleSize", "ContainerIDFile", "VolumesFrom"];

/// Settings whose zero says something else than their absence.
const ZERO_COUNTS: [&str; 8] = [
    "MaskedPaths",
    "ReadonlyPaths",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "Init",
    "StopTimeout",
    "Entrypoint",
];

/// What the engine adds to an endpoint.
const ENDPOINT_DROPPED: [&str; 11] = [
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "MacAddress",
    "DNSNames",
    "SecondaryIPAddresses",
];

/// The record of an inspected container, and what helps to restore it.
pub fn normalise(inspect: &Value, around: Surroundings<'_>) -> (ContainerRecord, Hints) {
    let id = text(inspect, "Id");
    let own_labels = object(&inspect["Config"], "Labels");
    let reference = own_labels
        .get(labels::IMAGE)
        .and_then(Value::as_str)
        .unwrap_or_else(|| text(&inspect["Config"], "Image"));
    let mut host = host_settings(inspect, around);
    let mut config = image::subtract(&object(inspect, "Config"), around.image);
    let anonymous = anonymous_volumes(inspect);
    keep_mounts(inspect, &mut host, &anonymous);
    tidy_config(&mut config, &host, id, around.machine);
    let record = ContainerRecord {
        schema: SCHEMA,
        image: ImageRef {
            reference: reference.to_owned(),
            id: text(inspect, "Image").to_owned(),
        },
        networks: networks(inspect, &host, id),
        config,
        host,
    };
    let hints = Hints {
        digests: digests(around.image, reference),
        volumes: anonymous,
        image_bytes: around.image["Size"].as_u64().unwrap_or(0),
        image_labels: around
            .image
            .is_object()
            .then(|| image::labels(around.image)),
    };
    (record, hints)
}

fn tidy_config(config: &mut Settings, host: &Settings, id: &str, machine: &str) {
    for key in CONFIG_DROPPED {
        config.remove(key);
    }
    if let Some(Value::Object(all)) = config.get_mut("Labels") {
        all.retain(|key, _| !labels::is_own(key));
    }
    let mode = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or("");
    let shared = mode("NetworkMode").starts_with("container:");
    let hosts = mode("NetworkMode") == "host" || mode("UTSMode") == "host";
    let name = config.get("Hostname").and_then(Value::as_str).unwrap_or("");
    // The engine fills the name in: from the id, from the machine, or from the container whose network
    // is shared.
    if shared || name == short(id) || (hosts && name == machine) {
        config.remove("Hostname");
    }
    if shared {
        config.remove("Domainname");
    }
    drop_zeros(config);
}

fn host_settings(inspect: &Value, around: Surroundings<'_>) -> Settings {
    let mut host: Settings = object(inspect, "HostConfig").into_iter().collect();
    for key in HOST_DROPPED {
        host.remove(key);
    }
    for key in ["NetworkMode", "IpcMode", "PidMode"] {
        if let Some(Value::String(mode)) = host.get_mut(key)
            && let Some(id) = mode.strip_prefix("container:")
            && let Some(name) = around.names.get(id)
        {
            *mode = format!("container:{name}");
        }
    }
    if let Some(Value::Array(links)) = host.get_mut("Links") {
        for link in links {
            if let Some(given) = link.as_str().and_then(given_link) {
                *link = Value::String(given);
            }
        }
    }
    drop_zeros(&mut host);
    host
}

/// The engine stores `--link db:alias` of container `web` as `/db:/web/alias`.
fn given_link(stored: &str) -> Option<String> {
    let (other, own) = stored.split_once(':')?;
    let alias = own.rsplit('/').next()?;
    Some(format!("{}:{alias}", other.trim_start_matches('/')))
}

fn drop_zeros(settings: &mut Settings) {
    settings.retain(|key, value| match value {
        Value::Null => false,
        _ if ZERO_COUNTS.contains(&key.as_str()) => true,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    });
}

/// Volumes nobody named, by where they are mounted: the engine made them for `-v /data`, for a mount
/// without a source, or for a `VOLUME` of the image. Their names change with every creation.
pub(super) fn anonymous_volumes(inspect: &Value) -> BTreeMap<String, String> {
    let declared = object(&inspect["Config"], "Volumes");
    let mounted_as: BTreeMap<&str, &str> = list(&inspect["HostConfig"]["Mounts"])
        .iter()
        .map(|mount| (text(mount, "Target"), text(mount, "Source")))
        .collect();
    list(&inspect["Mounts"])
        .iter()
        .filter(|mount| text(mount, "Type") == "volume" && is_generated(text(mount, "Name")))
        .filter(|mount| {
            let place = text(mount, "Destination");
            declared.contains_key(place) || mounted_as.contains_key(place)
        })
        .map(|mount| {
            (
                text(mount, "Destination").to_owned(),
                text(mount, "Name").to_owned(),
            )
        })
        .collect()
}

/// The engine's own names for volumes: 64 hexadecimal digits.
fn is_generated(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Takes the names of anonymous volumes out of binds and mounts, and adds the mounts that came from
/// elsewhere (`--volumes-from`) as binds.
fn keep_mounts(inspect: &Value, host: &mut Settings, anonymous: &BTreeMap<String, String>) {
    let mut covered: BTreeSet<String> = anonymous.keys().cloned().collect();
    if let Some(Value::Array(binds)) = host.get_mut("Binds") {
        binds.retain(|bind| {
            let (source, place) = bind_parts(bind.as_str().unwrap_or(""));
            covered.insert(place.to_owned());
            anonymous.get(place).map(String::as_str) != Some(source)
        });
    }
    if let Some(Value::Array(mounts)) = host.get_mut("Mounts") {
        for mount in mounts {
            let place = text(mount, "Target").to_owned();
            if anonymous.get(&place).map(String::as_str) == Some(text(mount, "Source"))
                && let Some(mount) = mount.as_object_mut()
            {
                mount.remove("Source");
            }
            covered.insert(place);
        }
    }
    let elsewhere: Vec<Value> = list(&inspect["Mounts"])
        .iter()
        .filter(|mount| matches!(text(mount, "Type"), "volume" | "bind"))
        .filter(|mount| !covered.contains(text(mount, "Destination")))
        .map(|mount| Value::String(as_bind(mount)))
        .collect();
    if !elsewhere.is_empty() {
        let binds = host.entry("Binds".to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(binds) = binds {
            binds.extend(elsewhere);
        }
    }
    drop_zeros(host);
}

fn as_bind(mount: &Value) -> String {
    let is_volume = text(mount, "Type") == "volume";
    let source = text(mount, if is_volume { "Name" } else { "Source" });
    let place = text(mount, "Destination");
    // On a volume `z` is the engine's own word; on a folder of the host somebody asked for it.
    let said = text(mount, "Mode").split(',').filter(|word| {
        if is_volume {
            *word == "nocopy"
        } else {
            matches!(*word, "z" | "Z")
        }
    });
    let spread = match text(mount, "Propagation") {
        "" | "rprivate" => None,
        other => Some(other),
    };
    let read_only = mount["RW"].as_bool() == Some(false);
    let options: Vec<&str> = read_only
        .then_some("ro")
        .into_iter()
        .chain(said)
        .chain(spread)
        .collect();
    if options.is_empty() {
        format!("{source}:{place}")
    } else {
        format!("{source}:{place}:{}", options.join(","))
    }
}

/// Source and destination of `source:destination[:options]`.
pub fn bind_parts(bind: &str) -> (&str, &str) {
    match bind.split_once(':') {
        Some((source, rest)) => (
            source,
            rest.split_once(':').map_or(rest, |(place, _)| place),
        ),
        None => ("", bind),
    }
}

fn networks(inspect: &Value, host: &Settings, id: &str) -> BTreeMap<String, Settings> {
    let mode = host
        .get("NetworkMode")
        .and_then(Value::as_str)
        .unwrap_or("");
    if mode.starts_with("container:") {
        return BTreeMap::new();
    }
    object(&inspect["NetworkSettings"], "Networks")
        .into_iter()
        .map(|(name, endpoint)| (name, endpoint_settings(endpoint, id)))
        .collect()
}

fn endpoint_settings(endpoint: Value, id: &str) -> Settings {
    let Value::Object(endpoint) = endpoint else {
        return Settings::new();
    };
    let mut settings: Settings = endpoint.into_iter().collect();
    for key in ENDPOINT_DROPPED {
        settings.remove(key);
    }
    if let Some(Value::Array(aliases)) = settings.get_mut("Aliases") {
        aliases.retain(|alias| alias.as_str() != Some(short(id)));
    }
    drop_zeros(&mut settings);
    settings
}

/// Where the image can be pulled from: first the repository that was asked for.
fn digests(image: &Value, reference: &str) -> Vec<String> {
    let repository = repository_of(reference);
    let mut digests: Vec<String> = list(&image["RepoDigests"])
        .iter()
        .filter_map(|digest| digest.as_str().map(str::to_owned))
        .filter(|digest| digest.contains("@sha256:") && !digest.starts_with('<'))
        .collect();
    digests.sort_by_key(|digest| (repository_of(digest) != repository, digest.clone()));
    digests
}

/// `registry:5000/shop` of `registry:5000/shop:2` and of `registry:5000/shop@sha256:…`.
fn repository_of(reference: &str) -> &str {
    let name = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// The first twelve digits of an id: what the engine makes host names and aliases of.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The first twelve digits of an image's id, as people see it.
pub fn short_image(id: &str) -> &str {
    short(id.strip_prefix("sha256:").unwrap_or(id))
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn object(value: &Value, key: &str) -> Map<String, Value> {
    value
        .get(key)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
