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

use super::{connections, drain, normalise::text, steps::runs, warm::Published};

/// On this machine; a listener that has no room in its queue for that long takes none.
const CONNECT: Duration = Duration::from_secs(1);

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

/// Whether the container runs, is not starting, and takes connections at all of the ports. Those of them that it does
/// not publish, and all where it has no address of its own, do not count.
pub(super) async fn takes(inspect: &Value, wanted: &BTreeSet<u16>) -> bool {
    if !runs(inspect) || inspect["State"]["Health"]["Status"] == "starting" {
        return false;
    }
    let published = published(inspect);
    let wanted: BTreeSet<u16> = wanted.intersection(&published).copied().collect();
    place(inspect).is_none() || taken(inspect, &wanted).await.is_superset(&wanted)
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
        inspect["State"]["Health"]["Status"] = json!("starting");
        assert!(!takes(&inspect, &BTreeSet::from([open])).await);
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
