//! Who holds the ports that a revision publishes: another container, or a process of the host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::Value;
use sternway_proto::{name::TargetName, v1::Problem};

use super::{
    discover::listed_name,
    normalise::{list, text},
    record::ContainerRecord,
    steps::is_up,
};

/// A port of the host at one address, and its protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    number: u16,
    protocol: String,
    address: IpAddr,
}

impl Port {
    /// Whether both cannot be held at once. A socket at `::` may take IPv4 as well: whether it does cannot be
    /// seen, so it counts as if it did.
    fn clashes(&self, other: &Self) -> bool {
        let takes = |one: IpAddr, other: IpAddr| match one {
            IpAddr::V4(one) => one.is_unspecified() && other.is_ipv4(),
            IpAddr::V6(one) => one.is_unspecified(),
        };
        let (one, two) = (self.address, other.address);
        self.number == other.number
            && self.protocol == other.protocol
            && (one == two || takes(one, two) || takes(two, one))
    }

    /// For a person; the address only where it is one.
    fn named(&self) -> String {
        let (number, protocol) = (self.number, &self.protocol);
        if self.address.is_unspecified() {
            format!("port {number}/{protocol}")
        } else {
            format!("port {number}/{protocol} of {}", self.address)
        }
    }
}

/// Problems with ports that somebody else holds. `listed` is the engine's list of all containers, `standing` the
/// inspect answer of the target's own.
pub(super) async fn taken(
    target: &TargetName,
    record: &ContainerRecord,
    listed: &[Value],
    standing: Option<&Value>,
) -> Vec<Problem> {
    let wanted = published(record);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut listening = BTreeSet::new();
    // What listens on the host may be the target itself, which is stopped first: nobody can tell.
    if !standing.is_some_and(lives_on_the_host) {
        for protocol in ["tcp", "udp"] {
            for version in ["", "6"] {
                let path = format!("/proc/net/{protocol}{version}");
                let table = tokio::fs::read_to_string(path).await.unwrap_or_default();
                listening.extend(listeners(&table, protocol));
            }
        }
    }
    let own = standing.map(own).unwrap_or_default();
    // What clashes with a port of the target's own is its own: nobody else could have it beside.
    let is_own = |port: &Port| own.iter().any(|own| own.clashes(port));
    listening.retain(|port| !is_own(port));
    let mut others = held(target, listed);
    others.retain(|(port, _)| !is_own(port));
    problems(&wanted, &others, &listening)
}

fn problems(
    wanted: &BTreeSet<Port>,
    others: &[(Port, String)],
    listening: &BTreeSet<Port>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for port in wanted {
        let holder = others.iter().find(|(held, _)| held.clashes(port));
        let holder = match holder {
            Some((_, name)) => format!("container {name}"),
            None if listening.iter().any(|held| held.clashes(port)) => {
                "a process of this host".to_owned()
            }
            None => continue,
        };
        let problem = Problem::new(
            "port-taken",
            format!("{} is held by {holder}", port.named()),
            "free the port: `ss -lntup` shows who listens",
        );
        // The same of IPv4 and IPv6.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

/// Ports that the record binds. A port left to the engine to choose is never taken. In the network of the
/// host, of another container, or in none, nothing is published: the engine ignores what was asked for.
fn published(record: &ContainerRecord) -> BTreeSet<Port> {
    let mode = record.network_mode();
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        return BTreeSet::new();
    }
    record
        .host
        .get("PortBindings")
        .map(bindings)
        .unwrap_or_default()
}

/// The ports in a map as the engine writes it: `{"80/tcp": [{"HostIp": "", "HostPort": "80"}]}`.
fn bindings(map: &Value) -> BTreeSet<Port> {
    map.as_object()
        .into_iter()
        .flatten()
        .flat_map(|(port, hosts)| {
            let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
            list(hosts).iter().flat_map(move |host| {
                let number = text(host, "HostPort").parse().unwrap_or(0);
                at(number, protocol, text(host, "HostIp"))
            })
        })
        .collect()
}

/// That port wherever an address of the engine's means; 0 is none yet.
fn at(number: u16, protocol: &str, address: &str) -> Vec<Port> {
    let everywhere = [
        Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
    ];
    let addresses = match address.parse::<IpAddr>() {
        Ok(address) => vec![address.to_canonical()],
        Err(_) => everywhere.to_vec(),
    };
    let port = |address| Port {
        number,
        protocol: protocol.to_owned(),
        address,
    };
    let addresses = addresses.into_iter().filter(|_| number != 0);
    addresses.map(port).collect()
}

/// Whether the target's own container is up in the network of the host.
fn lives_on_the_host(standing: &Value) -> bool {
    is_up(standing) && text(&standing["HostConfig"], "NetworkMode") == "host"
}

/// What the target's own container holds, or will again in a moment: between two attempts the engine shows none.
fn own(standing: &Value) -> BTreeSet<Port> {
    if !is_up(standing) {
        return BTreeSet::new();
    }
    let mut own = bindings(&standing["HostConfig"]["PortBindings"]);
    own.extend(bindings(&standing["NetworkSettings"]["Ports"]));
    own
}

/// What other containers hold, and their names.
fn held(target: &TargetName, listed: &[Value]) -> Vec<(Port, String)> {
    let mut held = Vec::new();
    for container in listed {
        let name = listed_name(container).unwrap_or_default();
        let ended = matches!(
            text(container, "State"),
            "created" | "exited" | "dead" | "removing"
        );
        if ended || name == target.local() {
            continue;
        }
        for port in list(&container["Ports"]) {
            let number = port["PublicPort"].as_u64();
            let number = number.and_then(|number| u16::try_from(number).ok());
            let ports = at(number.unwrap_or(0), text(port, "Type"), text(port, "IP"));
            held.extend(ports.into_iter().map(|port| (port, name.to_owned())));
        }
    }
    held
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
            let (address, port) = columns.next()?.rsplit_once(':')?;
            let listens = columns.nth(1)? == state;
            let port = Port {
                number: u16::from_str_radix(port, 16).ok()?,
                protocol: protocol.to_owned(),
                address: kernels_address(address)?,
            };
            listens.then_some(port)
        })
        .collect()
}

/// The kernel writes an address as words of 32 bits, each as a number of its own byte order.
fn kernels_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = text.get(at..at + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{
        super::record::{ImageRef, SCHEMA},
        *,
    };

    /// `ADDRESS` and `PORT/PROTOCOL`.
    fn port(address: &str, port: &str) -> Port {
        let (number, protocol) = port.split_once('/').expect("a protocol");
        let mut ports = at(number.parse().expect("a number"), protocol, address);
        assert_eq!(ports.len(), 1);
        ports.remove(0)
    }

    #[test]
    fn listening_sockets_are_read_from_the_kernels_tables() {
        // As a machine writes them on which the lowest byte comes first, whatever this one is.
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let loopback = word([127, 0, 0, 1]);
        let table = format!(
            "  sl  local_address rem_address   st tx_queue\n\
             0: {loopback}:1F90 00000000:0000 0A 00000000:00000000\n\
             1: {loopback}:1F91 {loopback}:9999 01 00000000:00000000\n"
        );
        let found: Vec<Port> = listeners(&table, "tcp").into_iter().collect();
        assert_eq!(found, [port("127.0.0.1", "8080/tcp")]);
        let zero = "00000000";
        let mapped = format!("{zero}{zero}{}{loopback}", word([0, 0, 0xff, 0xff]));
        let table = format!(
            "  sl  local_address remote_address st\n\
             0: {zero}{zero}{zero}{zero}:0035 x 07\n\
             1: {zero}{zero}{zero}{}:0036 x 07\n\
             2: {mapped}:0037 x 07\n",
            word([0, 0, 0, 1]),
        );
        let found: Vec<Port> = listeners(&table, "udp").into_iter().collect();
        assert_eq!(
            found,
            [
                port("::", "53/udp"),
                port("::1", "54/udp"),
                port("127.0.0.1", "55/udp")
            ]
        );
        let nonsense = "nonsense\n:\n x y z w\n0: é00000000000000000000000000000:1 x 0A";
        assert!(listeners(nonsense, "tcp").is_empty());
    }

    #[test]
    fn ports_clash_at_one_address_or_where_one_of_them_takes_all() {
        for (one, two, clash) in [
            ("192.168.1.2", "127.0.0.53", false),
            ("192.168.1.2", "192.168.1.2", true),
            ("0.0.0.0", "127.0.0.53", true),
            ("::", "127.0.0.53", true),
            ("0.0.0.0", "::1", false),
            ("::", "::1", true),
            ("fd00::1", "::1", false),
        ] {
            let (one, two) = (port(one, "53/udp"), port(two, "53/udp"));
            assert_eq!(one.clashes(&two), clash, "{one:?} {two:?}");
            assert_eq!(two.clashes(&one), clash, "{two:?} {one:?}");
        }
        assert!(!port("::", "53/udp").clashes(&port("::", "53/tcp")));
        assert!(!port("::", "53/udp").clashes(&port("::", "54/udp")));
    }

    fn record(host: &Value) -> ContainerRecord {
        ContainerRecord {
            schema: SCHEMA,
            image: ImageRef {
                reference: String::new(),
                id: String::new(),
            },
            config: BTreeMap::new(),
            host: serde_json::from_value(host.clone()).expect("an object"),
            networks: BTreeMap::new(),
        }
    }

    #[test]
    fn a_container_in_the_network_of_the_host_publishes_nothing() {
        let publishes = |mode: &str| {
            let host = json!({
                "NetworkMode": mode,
                "PortBindings": {"80/tcp": [{"HostIp": "192.168.1.2", "HostPort": "80"}]},
            });
            published(&record(&host)).len()
        };
        for mode in ["host", "none", "container:db"] {
            assert_eq!(publishes(mode), 0, "{mode}");
        }
        assert_eq!((publishes("default"), publishes("shop-net")), (1, 1));
    }

    #[test]
    fn who_holds_a_port_is_said_once_and_by_its_own_name() {
        let target: TargetName = "docker/web".parse().expect("valid");
        let container = |names: &[&str], port: u16, address: &str| json!({"Names": names, "Ports": [{"IP": address, "PublicPort": port, "Type": "tcp"}]});
        let listed = [
            container(&["/web"], 80, "0.0.0.0"),
            container(&["/web2/alias", "/other"], 81, "0.0.0.0"),
            container(&["/third"], 443, "192.168.1.3"),
            // An engine that was killed may go on showing ports of one that it found dead.
            json!({"Names": ["/dead"], "State": "exited", "Ports": [{"IP": "0.0.0.0", "PublicPort": 82, "Type": "tcp"}]}),
        ];
        let others = held(&target, &listed);
        let said = |address: &str, port: &str| {
            let bindings = json!({"80/tcp": [{"HostIp": address, "HostPort": port}]});
            let wanted = published(&record(&json!({"PortBindings": bindings})));
            let problems = problems(&wanted, &others, &BTreeSet::new());
            let said = problems.iter().map(|one| one.message.clone());
            said.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said("", "80"), "");
        assert_eq!(said("", "82"), "");
        assert_eq!(said("", "81"), "port 81/tcp is held by container other");
        assert_eq!(
            said("127.0.0.1", "81"),
            "port 81/tcp of 127.0.0.1 is held by container other"
        );
        assert_eq!(said("192.168.1.2", "443"), "");
        assert_eq!(said("", "443"), "port 443/tcp is held by container third");
    }

    #[test]
    fn a_restarting_container_holds_the_ports_it_asked_for_and_an_exited_one_none() {
        let standing = |state: &str| {
            json!({
                "State": {state: true},
                "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}},
                "NetworkSettings": {"Ports": {"81/tcp": null}},
            })
        };
        let held = BTreeSet::from([port("127.0.0.1", "80/tcp")]);
        assert_eq!(own(&standing("Running")), held);
        assert_eq!(own(&standing("Restarting")), held);
        assert!(own(&standing("Dead")).is_empty());
    }
}
