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
    connections, drain,
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

/// Whether the container runs, is not starting, and takes connections at all of the ports that are asked of it. Where it
/// has no address of its own none counts.
pub(super) async fn takes(inspect: &Value, wanted: &BTreeSet<u16>) -> bool {
    if !runs(inspect) || inspect["State"]["Health"]["Status"] == "starting" {
        return false;
    }
    let asked = asked(inspect, wanted).ports;
    place(inspect).is_none() || taken(inspect, &asked).await.is_superset(&asked)
}

/// What is asked of a container before clients are sent to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Inside.
    pub(super) ports: BTreeSet<u16>,
    /// Something served there before. Else it is not known whether anything ever will, and nobody waits for ever.
    pub(super) known: bool,
}

/// Of the ports that were served, inside, those that the container publishes; all that it publishes where it is none of
/// them: another revision may listen at other ports, and what served may not have been seen to.
pub(super) fn asked(inspect: &Value, wanted: &BTreeSet<u16>) -> Asked {
    let published = published(inspect);
    let common: BTreeSet<u16> = wanted.intersection(&published).copied().collect();
    let known = !common.is_empty();
    Asked {
        ports: if known { common } else { published },
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
            if !address.is_loopback() || proxied(port.port).await {
                ways.push(Way::new(SocketAddrV4::new(address, port.port))?);
            }
        }
    }
    Ok(ways)
}

async fn proxied(port: u16) -> bool {
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
        // What another takes and this one does not even publish is not asked of it.
        assert!(takes(&inspect, &BTreeSet::from([open, 9])).await);
        assert!(!takes(&inspect, &BTreeSet::from([open, closed])).await);
        // It listens elsewhere than the other, or the other was not seen to listen: then all of its own count.
        for unknown in [BTreeSet::from([9]), BTreeSet::new()] {
            assert!(!takes(&inspect, &unknown).await, "{unknown:?}");
            let all = Asked {
                ports: published(&inspect),
                known: false,
            };
            assert_eq!(asked(&inspect, &unknown), all);
        }
        inspect["State"]["Health"]["Status"] = json!("starting");
        assert!(!takes(&inspect, &BTreeSet::from([open])).await);
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
