//! What the kernel remembers of connections that their server has reset. For 10 s
//! (`nf_conntrack_tcp_timeout_close`) it takes a new connection between the same addresses and ports for the old
//! one, and sends it where that one went, past every rule; the other ends of a connection it forgets by itself
//! (`nf_conntrack_proto_tcp.c`, the reopening of closed connections). A deployment that is to be undone may well
//! reset its clients, and a busy client on the same machine uses a port again within seconds.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
        Protocol, Tuple,
    },
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
    sockopt::{Timeout, set_socket_timeout},
};
use tokio::task::spawn_blocking;

use super::warm::Published;

/// For all of it. A table of 100,000 connections is listed in some tens of milliseconds.
const BUDGET: Duration = Duration::from_secs(3);
/// For one answer of the kernel.
const ANSWER: Duration = Duration::from_secs(1);
/// More than the kernel puts into one answer.
const BUFFER_BYTES: usize = 64 * 1024;

/// `TCP_CONNTRACK_CLOSE` of `linux/netfilter/nf_conntrack_tcp.h`: ended by a reset.
const CLOSE: u8 = 8;
/// `CTA_ID` and `CTA_ZONE` of `linux/netfilter/nfnetlink_conntrack.h`: which of the entries with these addresses.
const WHICH: [u16; 2] = [12, 18];

/// Forgets the connections to these ports that were reset, and answers with how many there were. Those to the same port of
/// another machine may be among them, which is as good: they are over.
///
/// # Errors
/// The kernel does not let us, has no such table, or does not answer in time. New connections that look like one of
/// those then go where that one went.
pub(super) async fn forget_reset(ports: &[Published]) -> io::Result<usize> {
    let ports = ports.to_vec();
    spawn_blocking(move || forget(&ports))
        .await
        .map_err(io::Error::other)?
}

fn forget(ports: &[Published]) -> io::Result<usize> {
    let end = Instant::now() + BUDGET;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    set_socket_timeout(&socket, Timeout::Send, Some(ANSWER))?;
    let mut found = Vec::new();
    let list = ConntrackMessage::Get(Vec::new());
    asked(socket.as_fd(), list, NLM_F_DUMP, end, |message| {
        found.extend(was_reset(message, ports));
    })?;
    let count = found.len();
    for entry in found {
        let delete = ConntrackMessage::Delete(entry);
        match asked(socket.as_fd(), delete, NLM_F_ACK, end, |_| {}) {
            // It has expired meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(count)
}

/// One request and its answers, to the last one.
fn asked(
    socket: BorrowedFd<'_>,
    request: ConntrackMessage,
    flags: u16,
    end: Instant,
    mut each: impl FnMut(&NetfilterMessage),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let inner = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        request,
    );
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, &bytes, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (_, length) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        for answer in answers(buffer.get(..length).unwrap_or_default()) {
            match answer?.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => each(&message),
                _ => {}
            }
        }
    }
}

/// The messages of one datagram.
fn answers(
    datagram: &[u8],
) -> impl Iterator<Item = io::Result<NetlinkMessage<NetfilterMessage>>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(rest).ok()?.length();
        let length = usize::try_from(length).ok()?;
        let (message, behind) = rest.split_at_checked(length)?;
        // Each begins at a multiple of four.
        rest = behind
            .get(length.next_multiple_of(4) - length..)
            .unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_err(io::Error::other))
    })
}

/// What names the entry, if it is a connection to one of the ports that was reset.
fn was_reset(message: &NetfilterMessage, ports: &[Published]) -> Option<Vec<ConntrackAttribute>> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    let mut named = Vec::new();
    let (mut ours, mut reset) = (false, false);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                ours = leads_to(tuple, ports);
                named.push(attribute.clone());
            }
            ConntrackAttribute::CtaProtoInfo(infos) => {
                reset = infos.iter().any(|info| match info {
                    ProtoInfo::TCP(tcp) => tcp.contains(&ProtoInfoTCP::State(CLOSE)),
                    _ => false,
                });
            }
            ConntrackAttribute::Other(other) if WHICH.contains(&other.kind()) => {
                named.push(attribute.clone());
            }
            _ => {}
        }
    }
    (ours && reset).then_some(named)
}

fn leads_to(tuple: &[Tuple], ports: &[Published]) -> bool {
    let (mut address, mut port, mut tcp) = (None, None, false);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for one in addresses {
                    if let IPTuple::DestinationAddress(to) = one {
                        address = Some(*to);
                    }
                }
            }
            Tuple::Proto(protocol) => {
                for one in protocol {
                    match one {
                        ProtoTuple::Protocol(name) => tcp = *name == Protocol::Tcp,
                        ProtoTuple::DestinationPort(to) => port = Some(*to),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    tcp && ports.iter().any(|published| {
        let here = published.address.map(std::net::IpAddr::from);
        port == Some(published.port) && (here.is_none() || here == address)
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_core::DefaultNla;

    use super::*;

    fn entry(to: &str, port: u16, protocol: Protocol, state: u8) -> NetfilterMessage {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let tuple = vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(address("192.0.2.9")),
                IPTuple::DestinationAddress(address(to)),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(40_000),
                ProtoTuple::DestinationPort(port),
            ]),
        ];
        NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
            ConntrackMessage::New(vec![
                ConntrackAttribute::CtaTupleOrig(tuple),
                ConntrackAttribute::CtaTimeout(9),
                ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![ProtoInfoTCP::State(
                    state,
                )])]),
                ConntrackAttribute::Other(DefaultNla::new(12, vec![0, 0, 0, 7])),
            ]),
        )
    }

    #[test]
    fn what_was_reset_at_our_ports_is_forgotten_and_nothing_else() {
        let any = Published {
            port: 80,
            inside: 8080,
            address: None,
        };
        let bound = Published {
            address: Some([127, 0, 0, 1].into()),
            ..any.clone()
        };
        let found = |to: &str, port, protocol, state, ports: &[Published]| {
            was_reset(&entry(to, port, protocol, state), ports).map(|named| named.len())
        };
        let (tcp, any, bound) = (Protocol::Tcp, &[any][..], &[bound][..]);
        assert_eq!(found("192.0.2.1", 80, tcp, CLOSE, any), Some(2));
        assert_eq!(found("127.0.0.1", 80, tcp, CLOSE, bound), Some(2));
        assert_eq!(found("192.0.2.1", 80, tcp, CLOSE, bound), None);
        assert_eq!(
            found("192.0.2.1", 81, tcp, CLOSE, any),
            None,
            "another port"
        );
        assert_eq!(found("192.0.2.1", 80, Protocol::Udp, CLOSE, any), None);
        for open in (0..=9).filter(|state| *state != CLOSE) {
            assert_eq!(found("192.0.2.1", 80, tcp, open, any), None, "state {open}");
        }
    }

    #[test]
    fn a_datagram_has_several_messages_and_nonsense_ends_it() {
        let mut datagram = Vec::new();
        for port in [80, 81] {
            let inner = entry("192.0.2.1", port, Protocol::Tcp, CLOSE);
            let mut message =
                NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(inner));
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            datagram.extend(bytes);
        }
        assert_eq!(answers(&datagram).flatten().count(), 2);
        datagram.extend([7; 9]);
        assert_eq!(answers(&datagram).flatten().count(), 2);
        assert_eq!(answers(&[]).count(), 0);
    }
}
