//! Whether a container takes connections: at its own address, and at the ports it publishes while everybody
//! else's connections to them are still redirected.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    connections,
    discover::labels_of,
    drain, labels,
    normalise::text,
    steps::runs,
    warm::{self, Published},
};

/// On this machine; a listener that has no room in its queue for that long takes none.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a container is waited for of which nobody knows where it is to take connections: some publish ports at
/// which nothing ever listens.
pub(super) const UNKNOWN: Duration = Duration::from_secs(10);

/// The container's address and the network it has it in: that of the first network, which is the one that
/// the engine publishes through.
pub(super) fn place(inspect: &Value) -> Option<(Ipv4Addr, String)> {
    inspect["NetworkSettings"]["Networks"]
        .as_object()?
        .iter()
        .find_map(|(name, network)| Some((text(network, "IPAddress").parse().ok()?, name.clone())))
}

/// Those of the ports, inside, at which something takes connections.
pub(super) async fn taking(address: IpAddr, inside: &BTreeSet<u16>) -> BTreeSet<u16> {
    let tried = inside.iter().map(|port| async move {
        let connect = TcpStream::connect((address, *port));
        let taken = matches!(timeout(CONNECT, connect).await, Ok(Ok(_)));
        taken.then_some(*port)
    });
    join_all(tried).await.into_iter().flatten().collect()
}

/// The TCP ports, inside, that a container publishes.
pub(super) fn published(inspect: &Value) -> BTreeSet<u16> {
    let ports = inspect["HostConfig"]["PortBindings"].as_object();
    ports
        .into_iter()
        .flatten()
        .filter_map(|(port, _)| port.strip_suffix("/tcp")?.parse().ok())
        .collect()
}

/// Those of the ports, inside, at which the container takes connections.
pub(super) async fn taken(inspect: &Value, inside: &BTreeSet<u16>) -> BTreeSet<u16> {
    match place(inspect) {
        Some((address, _)) if runs(inspect) => taking(address.into(), inside).await,
        _ => BTreeSet::new(),
    }
}

/// Where something took connections that another one is to take as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// By the ports of the host that led there.
    doors: Vec<Published>,
    /// Inside, where no port of the host is known.
    inside: BTreeSet<u16>,
}

impl Taken {
    /// Where a standby does. One of an earlier version does not say which ports of the host lead to it.
    pub(super) async fn by_standby(standby: &Value) -> Self {
        let inside = taken(standby, &published(standby)).await;
        let labels = labels_of(standby);
        let doors = labels.get(labels::DOORS);
        match doors.and_then(|doors| serde_json::from_str::<Vec<Published>>(doors).ok()) {
            Some(mut doors) => {
                doors.retain(|door| inside.contains(&door.inside));
                Self {
                    doors,
                    inside: BTreeSet::new(),
                }
            }
            None => Self::inside(inside),
        }
    }

    /// At these ports, inside, of a container that is the same again.
    pub(super) fn inside(inside: BTreeSet<u16>) -> Self {
        Self {
            doors: Vec::new(),
            inside,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.doors.is_empty() && self.inside.is_empty()
    }
}

fn is_ready(inspect: &Value) -> bool {
    runs(inspect) && inspect["State"]["Health"]["Status"] != "starting"
}

/// Whether the container runs, is not starting, and takes connections at all of the ports that are asked of it. Where it
/// has no address of its own none counts.
pub(super) async fn takes(inspect: &Value, wanted: &Taken) -> bool {
    if !is_ready(inspect) {
        return false;
    }
    let asked = asked(inspect, wanted).ports;
    place(inspect).is_none() || taken(inspect, &asked).await.is_superset(&asked)
}

/// Whether clients that were served there need nobody else: never where the container takes no connections that can
/// be tried.
pub(super) async fn serves_instead(inspect: &Value, wanted: &Taken) -> bool {
    if !is_ready(inspect) {
        return false;
    }
    if text(&inspect["HostConfig"], "NetworkMode") == "host" {
        let mut there = !wanted.doors.is_empty() && wanted.inside.is_empty();
        for door in &wanted.doors {
            there = there && host_listens(door.port).await;
        }
        return there;
    }
    let asked = asked(inspect, wanted).ports;
    !asked.is_empty() && taken(inspect, &asked).await.is_superset(&asked)
}

/// What is asked of a container before clients are sent to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Inside.
    pub(super) ports: BTreeSet<u16>,
    /// Something served there before. Else it is not known whether anything ever will, and nobody waits for ever.
    pub(super) known: bool,
}

/// What leads there from where connections were taken; all that the container publishes unless it publishes all of
/// those: another revision may listen elsewhere, and what served may not have been seen to.
pub(super) fn asked(inspect: &Value, wanted: &Taken) -> Asked {
    let published = published(inspect);
    let own = doors(inspect);
    let mut ports = BTreeSet::new();
    let mut known = !wanted.is_nothing();
    for door in &wanted.doors {
        let behind = own.iter().filter(|own| own.is_door_of(door));
        let behind: BTreeSet<u16> = behind.map(|own| own.inside).collect();
        known = known && !behind.is_empty();
        ports.extend(behind);
    }
    known = known && wanted.inside.is_subset(&published);
    ports.extend(&wanted.inside);
    Asked {
        ports: if known { ports } else { published },
        known,
    }
}

/// The ports that a container publishes at addresses and ports of the host that are known beforehand.
pub(super) fn doors(inspect: &Value) -> Vec<Published> {
    warm::bound(&inspect["HostConfig"]["PortBindings"])
}

/// Those of the doors behind which the container takes connections, by what it publishes there itself.
pub(super) async fn served(inspect: &Value, doors: &[Published]) -> Vec<Published> {
    let own = self::doors(inspect);
    let inside = own.iter().map(|own| own.inside).collect();
    let taken = taken(inspect, &inside).await;
    let serves = |door: &&Published| {
        let mut behind = own.iter().filter(|own| own.is_door_of(door));
        behind.any(|own| taken.contains(&own.inside))
    };
    doors.iter().filter(serves).cloned().collect()
}

/// One way to a published port: a client of ours that the redirect spares, and where it goes.
#[derive(Debug)]
pub(super) struct Way {
    /// Holds the port.
    _held: TcpSocket,
    pub(super) from: SocketAddrV4,
    to: SocketAddrV4,
}

/// The ways that clients on this host take to those of the ports whose inside is among `inside`: the engine's
/// rules in the kernel, and its proxy where it runs one. `gateway` is an address of this host.
pub(super) async fn ways(
    ports: &[Published],
    inside: &BTreeSet<u16>,
    gateway: Option<Ipv4Addr>,
) -> io::Result<Vec<Way>> {
    let mut ways = Vec::new();
    for port in ports.iter().filter(|port| inside.contains(&port.inside)) {
        let addresses = match port.address {
            Some(address) => vec![address],
            None => gateway.into_iter().chain([Ipv4Addr::LOCALHOST]).collect(),
        };
        for address in addresses {
            // Without its proxy the engine may leave loopback out.
            if !address.is_loopback() || host_listens(port.port).await {
                ways.push(Way::new(SocketAddrV4::new(address, port.port))?);
            }
        }
    }
    Ok(ways)
}

/// Whether something listens at that port of the host: the engine's proxy, or who lives in the host's network.
async fn host_listens(port: u16) -> bool {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = drain::read(table).await.unwrap_or_default();
        if connections::listens(&table, port) {
            return true;
        }
    }
    false
}

impl Way {
    fn new(to: SocketAddrV4) -> io::Result<Self> {
        let held = bound(SocketAddrV4::new(*to.ip(), 0))?;
        let from = match held.local_addr()? {
            std::net::SocketAddr::V4(from) => from,
            std::net::SocketAddr::V6(_) => return Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        Ok(Self {
            _held: held,
            from,
            to,
        })
    }

    /// Whether it leads to something that takes connections.
    pub(super) async fn leads(&self) -> bool {
        let connect = async { bound(self.from)?.connect(self.to.into()).await };
        matches!(timeout(CONNECT, connect).await, Ok(Ok(_)))
    }
}

fn bound(from: SocketAddrV4) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(from.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_asks_for_is_no_reason_to_wait() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        let unused = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let closed = unused.local_addr().expect("bound").port();
        drop(unused);
        let mut inspect = json!({
            "State": {"Running": true, "Health": {"Status": "healthy"}},
            "HostConfig": {"PortBindings": {
                format!("{open}/tcp"): [{"HostPort": "1"}],
                format!("{closed}/tcp"): [{"HostPort": "2"}],
                "53/udp": [{"HostPort": "53"}],
            }},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
        });
        assert_eq!(published(&inspect), BTreeSet::from([open, closed]));
        assert_eq!(
            taken(&inspect, &published(&inspect)).await,
            BTreeSet::from([open])
        );
        let inside = |ports: &[u16]| Taken::inside(ports.iter().copied().collect());
        let door = |port| Taken {
            doors: vec![Published {
                port,
                inside: 9,
                address: None,
            }],
            ..Taken::default()
        };
        for served in [inside(&[open]), door(1)] {
            assert!(takes(&inspect, &served).await, "{served:?}");
            assert!(serves_instead(&inspect, &served).await, "{served:?}");
            let only = Asked {
                ports: BTreeSet::from([open]),
                known: true,
            };
            assert_eq!(asked(&inspect, &served), only, "{served:?}");
        }
        for dead in [inside(&[open, closed]), door(2)] {
            assert!(!takes(&inspect, &dead).await, "{dead:?}");
        }
        // It listens elsewhere than the other, or the other was not seen to listen: then all of its own count.
        for unknown in [inside(&[9]), inside(&[open, 9]), inside(&[]), door(3)] {
            assert!(!takes(&inspect, &unknown).await, "{unknown:?}");
            let all = Asked {
                ports: published(&inspect),
                known: false,
            };
            assert_eq!(asked(&inspect, &unknown), all);
        }
        let mut closed = inspect.clone();
        closed["HostConfig"]["PortBindings"] = json!({"53/udp": [{"HostPort": "53"}]});
        assert!(
            takes(&closed, &inside(&[open])).await,
            "it has nothing to take"
        );
        assert!(!serves_instead(&closed, &inside(&[open])).await);
        inspect["State"]["Health"]["Status"] = json!("starting");
        assert!(!takes(&inspect, &inside(&[open])).await);
    }

    #[tokio::test]
    async fn what_lives_in_the_network_of_the_host_serves_at_the_hosts_own_ports() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        let inspect = json!({
            "State": {"Running": true},
            "HostConfig": {"NetworkMode": "host"},
            "NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}},
        });
        let door = |port| Taken {
            doors: vec![Published {
                port,
                inside: 80,
                address: None,
            }],
            ..Taken::default()
        };
        assert!(serves_instead(&inspect, &door(open)).await);
        drop(listener);
        assert!(!serves_instead(&inspect, &door(open)).await);
        let unknown = Taken::inside(BTreeSet::from([open]));
        assert!(!serves_instead(&inspect, &unknown).await);
    }

    #[tokio::test]
    async fn who_serves_at_a_port_of_the_host_is_asked_at_its_own_port_behind_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        let door = |port, inside, address| Published {
            port,
            inside,
            address,
        };
        let inspect = json!({
            "State": {"Running": true},
            "HostConfig": {"PortBindings": {
                format!("{open}/tcp"): [
                    {"HostIp": "", "HostPort": "80"},
                    {"HostIp": "127.0.0.1", "HostPort": "81"},
                ],
                "1/tcp": [{"HostIp": "0.0.0.0", "HostPort": "82"}],
            }},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
        });
        let here = Some(Ipv4Addr::LOCALHOST);
        let doors = [
            // Behind it the other revision listens at another port.
            door(80, 8080, None),
            door(81, 8080, Some(Ipv4Addr::new(192, 168, 1, 2))),
            door(81, 8081, here),
            door(82, open, None),
            door(83, open, None),
        ];
        let found = served(&inspect, &doors).await;
        assert_eq!(found, [doors[0].clone(), doors[2].clone()]);
        let stopped = json!({"State": {"Running": false}, "HostConfig": inspect["HostConfig"]});
        assert_eq!(served(&stopped, &doors).await, []);
    }

    #[tokio::test]
    async fn a_way_leads_where_something_listens() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        let inside = BTreeSet::from([open]);
        let published = [Published {
            port: open,
            inside: open,
            address: Some(Ipv4Addr::LOCALHOST),
        }];
        let all = ways(&published, &inside, None)
            .await
            .expect("they are made");
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].leads().await);
        assert_eq!(
            taking(IpAddr::V4(Ipv4Addr::LOCALHOST), &inside).await,
            inside
        );
        drop(listener);
        assert!(!all[0].leads().await);
        let none = taking(IpAddr::V4(Ipv4Addr::LOCALHOST), &inside).await;
        assert_eq!(none, BTreeSet::new());
    }
}
