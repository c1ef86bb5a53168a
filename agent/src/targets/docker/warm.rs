//! Whether two instances of a container may run at once: then a standby takes new connections while the
//! container is exchanged, and no request is lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sternway_proto::{
    name::clean_text,
    v1::{Problem, Swap},
};

use super::{
    labels,
    normalise::{bind_parts, list, text},
    plan::Facts,
    record::ContainerRecord,
};

/// A published TCP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Published {
    /// On the host.
    pub(super) port: u16,
    /// In the container.
    pub(super) inside: u16,
    /// The host's address it is bound to; none: all.
    pub(super) address: Option<std::net::Ipv4Addr>,
}

/// Warm or cold, and why. By the operator's wish, else by the label, else warm where it is possible.
///
/// # Errors
/// Warm is wished for and not possible.
pub(super) fn choose(facts: &Facts<'_>) -> Result<(Swap, String), Problem> {
    let label = facts
        .result
        .labels_over(&facts.known_labels())
        .remove(labels::SWAP);
    let hindrance = hindrance(facts);
    match (facts.swap, label.as_deref(), hindrance) {
        (Swap::Cold, _, _) => Ok((Swap::Cold, "it was asked for".to_owned())),
        (Swap::Warm, _, None) => Ok((Swap::Warm, "it was asked for".to_owned())),
        (Swap::Warm, _, Some(reason)) => Err(Problem::new(
            "warm-impossible",
            format!("a warm swap is not possible: {reason}"),
            "leave --swap away, or use --swap cold",
        )),
        (Swap::Unspecified, Some("cold"), _) => {
            Ok((Swap::Cold, format!("its label {} says so", labels::SWAP)))
        }
        (Swap::Unspecified, _, Some(reason)) => Ok((Swap::Cold, reason)),
        // Somebody wished for something: the way that suits every container is the safe one.
        (Swap::Unspecified, Some(other), None) if other != "warm" => Ok((
            Swap::Cold,
            format!(
                "its label {} says {:?}, which is neither warm nor cold",
                labels::SWAP,
                clean_text(other)
            ),
        )),
        (Swap::Unspecified, _, None) => Ok((
            Swap::Warm,
            "two instances may overlap: nothing of it is exclusive".to_owned(),
        )),
    }
}

/// Why two instances may not overlap, or a redirect would not help. None: warm it can be.
fn hindrance(facts: &Facts<'_>) -> Option<String> {
    let record = facts.result;
    match &facts.old {
        None => return Some("nothing runs that could be replaced".to_owned()),
        Some(old) if !old.ran => return Some("it does not run now".to_owned()),
        Some(old) if old.paused => return Some("it is paused now".to_owned()),
        Some(_) => {}
    }
    if let Some(sharer) = facts.sharers.first() {
        return Some(format!(
            "{} shares a namespace of it, and can share that of one container only",
            sharer.target
        ));
    }
    let vanishes = facts.old.as_ref().is_some_and(|old| old.again.is_some());
    if vanishes || record.removes_itself() {
        return Some("it was started with --rm, and is gone once it is stopped".to_owned());
    }
    if facts.image_labels.is_none() {
        return Some(
            "its image is not on this host, and nobody knows whether its labels say that there may be one only".to_owned(),
        );
    }
    // Either would run beside the other.
    let own = record.labels_over(&facts.known_labels());
    if [&own, &facts.from_labels].into_iter().any(is_exclusive) {
        let label = labels::EXCLUSIVE;
        return Some(format!("its label {label} says that there may be one only"));
    }
    let host = |key: &str| record.host.get(key).unwrap_or(&Value::Null);
    for (key, what) in [
        ("NetworkMode", "network"),
        ("PidMode", "process"),
        ("IpcMode", "IPC"),
    ] {
        let mode = host(key).as_str().unwrap_or_default();
        if mode == "host" || mode.starts_with("container:") {
            return Some(format!("it uses the {what} namespace of {mode}"));
        }
    }
    if host("Privileged").as_bool() == Some(true) {
        return Some("it is privileged".to_owned());
    }
    if !list(host("Devices")).is_empty() || !list(host("DeviceRequests")).is_empty() {
        return Some("it uses devices".to_owned());
    }
    if let Some(place) = writable(record, facts) {
        return Some(format!(
            "it writes to {place}, which two instances would share"
        ));
    }
    if record
        .networks
        .values()
        .any(|endpoint| !endpoint.get("IPAMConfig").is_none_or(Value::is_null))
    {
        return Some("it has a static address".to_owned());
    }
    if record.config.contains_key("MacAddress") {
        return Some("it has a static MAC address".to_owned());
    }
    let ports = published(record);
    if ports.is_empty() {
        return Some("it publishes no TCP port that could be redirected".to_owned());
    }
    if published_count(record) != ports.len() {
        return Some(
            "it publishes ports that cannot be redirected (UDP, IPv6 or dynamic)".to_owned(),
        );
    }
    facts.redirect.clone().err()
}

fn is_exclusive(all: &BTreeMap<String, String>) -> bool {
    let label = all.get(labels::EXCLUSIVE);
    // Whatever else was written there was meant to say so.
    label.is_some_and(|value| !matches!(value.as_str(), "" | "false" | "no" | "0"))
}

/// The first place where it may write to something that outlives it.
fn writable(record: &ContainerRecord, facts: &Facts<'_>) -> Option<String> {
    let null = Value::Null;
    let host = |key: &str| record.host.get(key).unwrap_or(&null);
    for bind in list(host("Binds")) {
        let bind = bind.as_str().unwrap_or_default();
        let (_, place) = bind_parts(bind);
        let read_only = bind
            .rsplit(':')
            .next()
            .is_some_and(|options| options.split(',').any(|option| option == "ro"));
        if !read_only {
            return Some(place.to_owned());
        }
    }
    for mount in list(host("Mounts")) {
        let shared = text(mount, "Type") != "tmpfs";
        if shared && mount["ReadOnly"].as_bool() != Some(true) {
            return Some(text(mount, "Target").to_owned());
        }
    }
    facts.volumes.keys().next().cloned()
}

impl Published {
    /// Whether clients of the one come to the other, too: the port of the host is the same, at an address that both
    /// take.
    pub(super) fn is_door_of(&self, other: &Self) -> bool {
        let any = self.address.is_none() || other.address.is_none();
        self.port == other.port && (any || self.address == other.address)
    }
}

fn bindings(bound: &Value) -> impl Iterator<Item = (&String, &Value)> {
    bound
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(port, bindings)| list(bindings).iter().map(move |binding| (port, binding)))
}

fn published_count(record: &ContainerRecord) -> usize {
    let all = record.host.get("PublishAllPorts").and_then(Value::as_bool) == Some(true);
    let bound = record.host.get("PortBindings").unwrap_or(&Value::Null);
    bindings(bound).count() + usize::from(all)
}

/// The published ports that can be redirected.
pub(super) fn published(record: &ContainerRecord) -> Vec<Published> {
    bound(record.host.get("PortBindings").unwrap_or(&Value::Null))
}

/// The same of `PortBindings`, as the engine writes them.
pub(super) fn bound(bindings: &Value) -> Vec<Published> {
    let mut ports: Vec<Published> = self::bindings(bindings)
        .filter_map(|(port, binding)| {
            let (inside, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let address = match text(binding, "HostIp") {
                "" | "0.0.0.0" => None,
                address => Some(address.parse().ok()?),
            };
            (protocol == "tcp").then_some(())?;
            Some(Published {
                port: text(binding, "HostPort")
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)?,
                inside: inside.parse().ok()?,
                address,
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The ports for a person.
pub(super) fn named(ports: &[Published]) -> String {
    let all: Vec<String> = ports
        .iter()
        .map(|port| format!("port {}", port.port))
        .collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sternway_proto::name::RevisionId;

    use super::*;
    use crate::targets::docker::{
        plan::{Old, Sharer},
        record::{Hints, ImageRef, SCHEMA},
    };

    fn record(host: &Value, labels: &Value) -> ContainerRecord {
        let map = |value: &Value| serde_json::from_value(value.clone()).expect("a map");
        ContainerRecord {
            schema: SCHEMA,
            image: ImageRef {
                reference: "shop:1".into(),
                id: "sha256:1".into(),
            },
            config: map(&json!({ "Labels": labels })),
            host: map(host),
            networks: BTreeMap::new(),
        }
    }

    fn chosen(record: &ContainerRecord, swap: Swap, redirect: Result<(), String>) -> String {
        chosen_over(record, record, swap, redirect, |_| ())
    }

    fn chosen_over(
        from: &ContainerRecord,
        record: &ContainerRecord,
        swap: Swap,
        redirect: Result<(), String>,
        change: impl FnOnce(&mut Facts<'_>),
    ) -> String {
        let target = "docker/shop".parse().expect("valid");
        let mut facts = Facts {
            target: &target,
            from_number: 2,
            to_number: 1,
            result: record,
            result_id: &RevisionId::of(b""),
            from: Some(from),
            image_labels: Some(&BTreeMap::new()),
            from_labels: from.labels(),
            hints: &Hints::default(),
            volumes: BTreeMap::new(),
            old: Some(Old {
                id: "old".into(),
                ran: true,
                paused: false,
                policy: json!({"Name": "no"}),
                again: None,
            }),
            sharers: Vec::new(),
            swap,
            redirect,
            has_health_check: false,
            pulls: false,
        };
        change(&mut facts);
        match choose(&facts) {
            Ok((Swap::Warm, _)) => "warm".to_owned(),
            Ok((_, reason)) => reason,
            Err(problem) => problem.code,
        }
    }

    fn sharer() -> Sharer {
        Sharer {
            target: "docker/side".parse().expect("valid"),
            record: record(&json!({"NetworkMode": "container:shop"}), &json!({})),
            volumes: BTreeMap::new(),
            old: Old {
                id: "side".into(),
                ran: true,
                paused: false,
                policy: json!({"Name": "always"}),
                again: None,
            },
        }
    }

    fn ports() -> Value {
        json!({"8080/tcp": [{"HostIp": "", "HostPort": "80"}]})
    }

    #[test]
    fn warm_wherever_two_instances_may_overlap_and_cold_with_the_reason_elsewhere() {
        let by_nature = |host: Value| chosen(&record(&host, &json!({})), Swap::Unspecified, Ok(()));
        assert_eq!(by_nature(json!({"PortBindings": ports()})), "warm");
        let read_only = json!(["/etc/x:/x:ro", "/etc/y:/y:ro,rslave"]);
        assert_eq!(
            by_nature(json!({"PortBindings": ports(), "Binds": read_only})),
            "warm"
        );
        for (host, reason) in [
            (json!({}), "no TCP port"),
            (json!({"NetworkMode": "host"}), "network namespace of host"),
            (
                json!({"PidMode": "container:db"}),
                "process namespace of container:db",
            ),
            (json!({"Privileged": true}), "privileged"),
            (json!({"Devices": [{}]}), "devices"),
            (
                json!({"PortBindings": ports(), "Binds": ["data:/data"]}),
                "writes to /data",
            ),
            (
                json!({"PortBindings": ports(), "Binds": ["data:/data:rw"]}),
                "writes to /data",
            ),
            (
                json!({"PortBindings": ports(), "Mounts": [{"Type": "volume", "Target": "/d"}]}),
                "writes to /d",
            ),
            (
                json!({"PortBindings": {"53/udp": [{"HostPort": "53"}]}}),
                "no TCP port",
            ),
            (
                json!({"PortBindings": {"80/tcp": [{"HostPort": "80"}], "53/udp": [{"HostPort": "53"}]}}),
                "cannot be redirected",
            ),
            (
                json!({"PortBindings": {"80/tcp": [{"HostPort": ""}]}}),
                "no TCP port",
            ),
        ] {
            let found = by_nature(host.clone());
            assert!(found.contains(reason), "{host}: {found}");
        }
    }

    #[test]
    fn wishes_and_labels_decide_where_both_are_possible() {
        let plain = record(&json!({"PortBindings": ports()}), &json!({}));
        assert_eq!(chosen(&plain, Swap::Cold, Ok(())), "it was asked for");
        assert_eq!(
            chosen(&plain, Swap::Warm, Err("no nft".into())),
            "warm-impossible"
        );
        assert_eq!(
            chosen(&plain, Swap::Unspecified, Err("no nft".into())),
            "no nft"
        );
        let cold = record(
            &json!({"PortBindings": ports()}),
            &json!({"sternway.swap": "cold"}),
        );
        assert!(chosen(&cold, Swap::Unspecified, Ok(())).contains("label"));
        assert_eq!(chosen(&cold, Swap::Warm, Ok(())), "warm");
        let paused = |swap| {
            chosen_over(&plain, &plain, swap, Ok(()), |facts| {
                facts.old.as_mut().expect("it runs").paused = true;
            })
        };
        assert!(paused(Swap::Unspecified).contains("paused"));
        assert_eq!(paused(Swap::Warm), "warm-impossible");
        let alone = record(
            &json!({"PortBindings": ports()}),
            &json!({labels::EXCLUSIVE: "true"}),
        );
        let beside = |change: fn(&mut Facts<'_>)| {
            chosen_over(&plain, &plain, Swap::Unspecified, Ok(()), change)
        };
        let replaced = chosen_over(&alone, &plain, Swap::Unspecified, Ok(()), |_| ());
        assert!(replaced.contains("exclusive"), "{replaced}");
        let shared = beside(|facts| facts.sharers.push(sharer()));
        assert!(shared.starts_with("docker/side shares"), "{shared}");
        let vanishes = record(
            &json!({"PortBindings": ports(), "AutoRemove": true}),
            &json!({}),
        );
        let vanishes = chosen(&vanishes, Swap::Unspecified, Ok(()));
        assert!(vanishes.contains("--rm"), "{vanishes}");
        for (label, value, reason) in [
            ("sternway.exclusive", "true", "exclusive"),
            ("sternway.exclusive", "Yes", "exclusive"),
            ("sternway.exclusive", "false", "warm"),
            ("sternway.swap", "warm", "warm"),
            ("sternway.swap", "hot", "neither warm nor cold"),
        ] {
            let labelled = record(&json!({"PortBindings": ports()}), &json!({label: value}));
            let chosen = chosen(&labelled, Swap::Unspecified, Ok(()));
            assert!(chosen.contains(reason), "{label}={value}: {chosen}");
        }
    }
}
