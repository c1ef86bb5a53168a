//! A record as flat, comparable fields. What may be a secret is private: its value never leaves the
//! host. A setting that this code does not know is private too.

use serde_json::Value;
use sternway_proto::name::clean_text;

use super::{
    normalise::{list, text},
    record::{ContainerRecord, Settings},
};
use crate::targets::FieldValue;

/// Longer values are compared by hash: a label may hold 10 kB, and every field of every revision
/// travels.
const VALUE_BYTES: usize = 512;
/// Longer paths are cut: a label's name may be as long.
const PATH_CHARS: usize = 200;

/// Settings of `HostConfig` that are plain words and numbers.
const PLAIN_HOST: [&str; 45] = [
    "AutoRemove",
    "BlkioWeight",
    "CapAdd",
    "CapDrop",
    "CgroupParent",
    "CgroupnsMode",
    "CpuCount",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "DeviceCgroupRules",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Init",
    "IpcMode",
    "Links",
    "MaskedPaths",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "NanoCpus",
    "NetworkMode",
    "OomKillDisable",
    "OomScoreAdj",
    "PidMode",
    "PidsLimit",
    "Privileged",
    "PublishAllPorts",
    "ReadonlyPaths",
    "ReadonlyRootfs",
    "Runtime",
    "ShmSize",
    "Sysctls",
    "Ulimits",
    "UTSMode",
    "UsernsMode",
];

/// All fields, sorted by path.
pub fn of(record: &ContainerRecord) -> Vec<FieldValue> {
    let mut fields = vec![
        field("image", &record.image.reference, false),
        field("image.id", &record.image.id, false),
    ];
    config(&record.config, &mut fields);
    host(&record.host, &mut fields);
    for (name, endpoint) in &record.networks {
        network(name, endpoint, &mut fields);
    }
    fields.sort_by(|a, b| a.path.cmp(&b.path));
    fields
}

fn config(config: &Settings, fields: &mut Vec<FieldValue>) {
    for (key, value) in config {
        match key.as_str() {
            "Env" => fields.extend(list(value).iter().filter_map(variable)),
            "Labels" => each(value, "labels", fields, |name| {
                looks_secret(name) || is_check(name)
            }),
            "ExposedPorts" => each(value, "exposed", fields, |_| false),
            "Volumes" => each(value, "volumes", fields, |_| false),
            "Healthcheck" => each(value, "healthcheck", fields, |name| name == "test"),
            "Cmd" => fields.push(json_field("command", value, true)),
            "Entrypoint" => fields.push(json_field("entrypoint", value, true)),
            "User" | "WorkingDir" | "Hostname" | "Domainname" | "MacAddress" | "StopSignal"
            | "StopTimeout" | "Tty" | "OpenStdin" | "StdinOnce" | "NetworkDisabled" => {
                fields.push(json_field(&key.to_lowercase(), value, false));
            }
            other => fields.push(json_field(&format!("config.{other}"), value, true)),
        }
    }
}

fn host(host: &Settings, fields: &mut Vec<FieldValue>) {
    for (key, value) in host {
        match key.as_str() {
            "PortBindings" => ports(value, fields),
            "Binds" => fields.extend(list(value).iter().filter_map(bind)),
            "Mounts" => list(value).iter().for_each(|mount| mounted(mount, fields)),
            "Tmpfs" => each(value, "tmpfs", fields, |_| false),
            "RestartPolicy" => each(value, "restart", fields, |_| false),
            "LogConfig" => {
                fields.push(field("log.driver", text(value, "Type"), false));
                // Log drivers take tokens and passwords as options.
                each(&value["Config"], "log.options", fields, |_| true);
            }
            key => {
                let plain = PLAIN_HOST.contains(&key);
                fields.push(json_field(&format!("host.{key}"), value, !plain));
            }
        }
    }
}

fn network(name: &str, endpoint: &Settings, fields: &mut Vec<FieldValue>) {
    let path = format!("networks.{name}");
    fields.push(field(&path, "connected", false));
    for (key, value) in endpoint {
        let plain = matches!(key.as_str(), "Aliases" | "IPAMConfig" | "Links");
        let path = format!("{path}.{}", key.to_lowercase());
        fields.push(json_field(&path, value, !plain));
    }
}

fn variable(variable: &Value) -> Option<FieldValue> {
    let variable = variable.as_str()?;
    let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
    Some(field(&format!("env.{name}"), value, true))
}

fn bind(bind: &Value) -> Option<FieldValue> {
    let bind = bind.as_str()?;
    let (_, place) = super::normalise::bind_parts(bind);
    Some(field(&format!("mounts.{place}"), bind, false))
}

fn mounted(mount: &Value, fields: &mut Vec<FieldValue>) {
    let path = format!("mounts.{}", text(mount, "Target"));
    let read_only = mount["ReadOnly"].as_bool() == Some(true);
    let mode = if read_only { " read-only" } else { "" };
    let what = format!("{} {}{mode}", text(mount, "Type"), text(mount, "Source"));
    fields.push(field(&path, &what, false));
    for options in ["VolumeOptions", "BindOptions", "TmpfsOptions"] {
        if let Some(value) = mount.get(options) {
            // The options of a volume driver may hold a password.
            fields.push(json_field(&format!("{path}.{options}"), value, true));
        }
    }
}

fn ports(bindings: &Value, fields: &mut Vec<FieldValue>) {
    for (port, hosts) in bindings.as_object().into_iter().flatten() {
        let hosts: Vec<String> = list(hosts)
            .iter()
            .map(
                |host| match (text(host, "HostIp"), text(host, "HostPort")) {
                    ("", port) => port.to_owned(),
                    (address, port) => format!("{address}:{port}"),
                },
            )
            .collect();
        fields.push(field(&format!("ports.{port}"), &hosts.join(", "), false));
    }
}

fn each(value: &Value, prefix: &str, fields: &mut Vec<FieldValue>, private: impl Fn(&str) -> bool) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let private = private(&name.to_lowercase());
        let name = match prefix {
            "labels" | "log.options" => name.clone(),
            _ => name.to_lowercase(),
        };
        fields.push(json_field(&format!("{prefix}.{name}"), value, private));
    }
}

fn json_field(path: &str, value: &Value, private: bool) -> FieldValue {
    match value {
        Value::String(text) => field(path, text, private),
        value => field(path, &value.to_string(), private),
    }
}

fn field(path: &str, value: &str, private: bool) -> FieldValue {
    let private = private || value.len() > VALUE_BYTES;
    let mut path: String = clean_text(path);
    if let Some((cut, _)) = path.char_indices().nth(PATH_CHARS) {
        path.truncate(cut);
        path.push('…');
    }
    FieldValue {
        path,
        value: if private {
            value.to_owned()
        } else {
            clean_text(value)
        },
        private,
    }
}

/// Checks that are written as a command or an address are private as commands are: either may hold a password.
fn is_check(label: &str) -> bool {
    let check = label.strip_prefix("sternway.check.").unwrap_or_default();
    let kind = check.split('.').next().unwrap_or_default();
    matches!(kind, "http" | "command") && !check.ends_with(".status")
}

/// Names under which people put secrets into labels.
fn looks_secret(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "secret",
        "password",
        "passwd",
        "token",
        "credential",
        "auth",
        "apikey",
        "api_key",
        "private",
    ];
    WORDS.iter().any(|word| name.contains(word)) || name.ends_with("key")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::record::{ImageRef, SCHEMA},
        *,
    };

    fn fields() -> Vec<FieldValue> {
        let settings = |value| serde_json::from_value(value).expect("an object");
        of(&ContainerRecord {
            schema: SCHEMA,
            image: ImageRef {
                reference: "shop:1".to_owned(),
                id: "sha256:a".to_owned(),
            },
            config: settings(json!({
                "Env": ["DB=postgres://u:hunter2@db", "FLAG"],
                "Cmd": ["--password", "hunter2"],
                "Entrypoint": ["hunter2"],
                "Healthcheck": {"Test": ["CMD", "curl", "-u", "hunter2"], "Interval": 5},
                "Labels": {"app": "shop", "db.password": "hunter2", "\u{1b}[2J": "x", "big": "y".repeat(10_000),
                    "sternway.check.http.1": ":80/?token=hunter2", "sternway.check.http.1.status": "204",
                    "sternway.check.command": "[\"/check\",\"hunter2\"]"},
                "Unheard": "hunter2",
            })),
            host: settings(json!({
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
                "Binds": ["data:/data:ro"],
                "LogConfig": {"Type": "splunk", "Config": {"splunk-url": "hunter2"}},
                "Mounts": [{"Type": "volume", "Target": "/v", "Source": "v",
                    "VolumeOptions": {"DriverConfig": {"Options": {"o": "hunter2"}}}}],
                "Memory": 4096,
                "NewThing": {"x": "hunter2"},
            })),
            networks: [(
                "front".to_owned(),
                settings(json!({
                    "Aliases": ["web"], "DriverOpts": {"k": "hunter2"},
                })),
            )]
            .into(),
        })
    }

    #[test]
    fn no_secret_stands_in_a_plain_field() {
        for field in fields() {
            assert!(
                field.private || !field.value.contains("hunter2"),
                "{}",
                field.path
            );
            assert!(
                !field.path.chars().any(char::is_control),
                "{:?}",
                field.path
            );
        }
    }

    #[test]
    fn what_people_compare_is_plain_and_has_a_readable_path() {
        let fields = fields();
        let plain = |path: &str| {
            let found = fields.iter().find(|field| field.path == path);
            found
                .filter(|field| !field.private)
                .map(|field| field.value.as_str())
        };
        assert_eq!(plain("image"), Some("shop:1"));
        assert_eq!(plain("ports.80/tcp"), Some("127.0.0.1:8080"));
        assert_eq!(plain("mounts./data"), Some("data:/data:ro"));
        assert_eq!(plain("host.Memory"), Some("4096"));
        assert_eq!(plain("labels.app"), Some("shop"));
        assert_eq!(plain("labels.sternway.check.http.1.status"), Some("204"));
        assert_eq!(plain("networks.front.aliases"), Some("[\"web\"]"));
        assert_eq!(plain("healthcheck.interval"), Some("5"));
        assert!(
            fields
                .iter()
                .any(|field| field.path == "env.DB" && field.private)
        );
        assert!(fields.is_sorted_by_key(|field| field.path.clone()));
    }
}
