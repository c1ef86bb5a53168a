//! Who holds the ports that a revision publishes: another container, or a process of the host.

use std::collections::BTreeSet;

use serde_json::Value;
use sternway_proto::{name::TargetName, v1::Problem};

use super::{
    normalise::{list, text},
    record::ContainerRecord,
};

/// A port of the host and its protocol.
type Port = (u16, String);

/// Problems with ports that somebody else holds. `listed` is the engine's list of all containers.
pub(super) async fn taken(
    target: &TargetName,
    record: &ContainerRecord,
    listed: &[Value],
) -> Vec<Problem> {
    let wanted = published(record);
    if wanted.is_empty() {
        return Vec::new();
    }
    let (own, others) = holders(target, listed);
    let mut listening = BTreeSet::new();
    for protocol in ["tcp", "udp"] {
        for version in ["", "6"] {
            let path = format!("/proc/net/{protocol}{version}");
            let table = tokio::fs::read_to_string(path).await.unwrap_or_default();
            listening.extend(listeners(&table, protocol));
        }
    }
    wanted
        .into_iter()
        .filter(|port| !own.contains(port))
        .filter_map(|port| {
            let holder = others.iter().find(|(held, _)| *held == port);
            let holder = match holder {
                Some((_, name)) => format!("container {name}"),
                None if listening.contains(&port) => "a process of this host".to_owned(),
                None => return None,
            };
            Some(Problem::new(
                "port-taken",
                format!("port {}/{} is held by {holder}", port.0, port.1),
                "free the port: `ss -lntup` shows who listens",
            ))
        })
        .collect()
}

/// Ports that the record binds. A port left to the engine to choose is never taken. In the network of the
/// host, of another container, or in none, nothing is published: the engine ignores what was asked for.
fn published(record: &ContainerRecord) -> BTreeSet<Port> {
    let mode = record.network_mode();
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        return BTreeSet::new();
    }
    let bindings = record.host.get("PortBindings").and_then(Value::as_object);
    bindings
        .into_iter()
        .flatten()
        .flat_map(|(port, hosts)| {
            let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
            list(hosts).iter().filter_map(move |host| {
                let number: u16 = text(host, "HostPort").parse().ok()?;
                (number != 0).then(|| (number, protocol.to_owned()))
            })
        })
        .collect()
}

/// What the target itself holds, and what other containers hold.
fn holders(target: &TargetName, listed: &[Value]) -> (BTreeSet<Port>, Vec<(Port, String)>) {
    let mut own = BTreeSet::new();
    let mut others = Vec::new();
    for container in listed {
        let name = list(&container["Names"])
            .first()
            .and_then(Value::as_str)
            .unwrap_or("")
            .trim_start_matches('/');
        for port in list(&container["Ports"]) {
            let Some(number) = port["PublicPort"]
                .as_u64()
                .and_then(|n| u16::try_from(n).ok())
            else {
                continue;
            };
            let port = (number, text(port, "Type").to_owned());
            if name == target.local() {
                own.insert(port);
            } else {
                others.push((port, name.to_owned()));
            }
        }
    }
    (own, others)
}

/// The listening sockets in a table of `/proc/net`.
fn listeners(table: &str, protocol: &str) -> BTreeSet<Port> {
    // TCP_LISTEN; for UDP an unconnected socket.
    let state = if protocol == "tcp" { "0A" } else { "07" };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let (_, port) = columns.next()?.rsplit_once(':')?;
            let listens = columns.nth(1)? == state;
            let port = u16::from_str_radix(port, 16).ok()?;
            listens.then(|| (port, protocol.to_owned()))
        })
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
    fn listening_sockets_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 0100007F:1F91 0100007F:9999 01 00000000:00000000\n";
        let found: Vec<Port> = listeners(table, "tcp").into_iter().collect();
        assert_eq!(found, [(8080, "tcp".to_owned())]);
        assert!(listeners("nonsense\n:\n x y z w", "tcp").is_empty());
    }

    #[test]
    fn a_container_in_the_network_of_the_host_publishes_nothing() {
        let publishes = |mode: &str| {
            let host = json!({
                "NetworkMode": mode,
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "80"}]},
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
            published(&record).len()
        };
        for mode in ["host", "none", "container:db"] {
            assert_eq!(publishes(mode), 0, "{mode}");
        }
        assert_eq!((publishes("default"), publishes("shop-net")), (1, 1));
    }

    #[test]
    fn a_port_of_the_target_itself_is_not_taken() {
        let target: TargetName = "docker/web".parse().expect("valid");
        let container = |name: &str, port: u16| json!({"Names": [format!("/{name}")], "Ports": [{"PublicPort": port, "Type": "tcp"}]});
        let listed = [container("web", 80), container("other", 81)];
        let (own, others) = holders(&target, &listed);
        assert!(own.contains(&(80, "tcp".to_owned())));
        assert_eq!(others, [((81, "tcp".to_owned()), "other".to_owned())]);
    }
}
