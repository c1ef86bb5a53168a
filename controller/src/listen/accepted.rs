//! A connection that has shaken hands: who is at the other end, and an end that can be brought about.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sternway_proto::identity::PeerCertificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{peers::Connection, places::Place, watched::Watched};

/// A connection may outlive its certificate by this much, for clocks that differ.
const EXPIRY_GRACE: Duration = Duration::from_mins(1);

/// From the end of the handshake to the end of a connection without a certificate: a join takes a second, and
/// up to half a minute where many join at once.
const STRANGER: Duration = Duration::from_secs(30);

/// How long a connection lives that is one too many of its certificate: long enough to be told so.
const CROWDED: Duration = Duration::from_secs(5);

/// Who is at the other end; in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// None on the enrolment listener only.
    pub certificate: Option<Arc<PeerCertificate>>,
    pub address: Option<SocketAddr>,
    /// Its certificate has too many connections already: this one gets a refusal and nothing else.
    pub crowded: bool,
}

/// The stream of a connection. Reading fails as soon as the peer is revoked or its certificate has expired, or
/// the time of a peer without one is over; hyper always reads, so the connection is cut whatever runs on it.
pub struct Accepted {
    stream: TlsStream<Watched>,
    peer: Peer,
    cut: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    /// Keeps the connection in the list of those that can be cut, or in its place among the strangers.
    _connection: Option<Connection>,
    _place: Option<Place>,
}

impl Accepted {
    /// Of a peer that showed a certificate.
    pub(super) fn known(
        stream: TlsStream<Watched>,
        certificate: PeerCertificate,
        address: Option<SocketAddr>,
        connection: Connection,
    ) -> Self {
        let cut = connection.cut.clone();
        let left = time_left(certificate.not_after_ms, SystemTime::now());
        let crowded = connection.crowded;
        let cut = async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => "the peer was revoked",
                () = tokio::time::sleep(left) => "the peer's certificate has expired",
                () = tokio::time::sleep(CROWDED), if crowded => "the certificate has too many connections",
            }
        };
        Self {
            stream,
            peer: Peer {
                certificate: Some(Arc::new(certificate)),
                address,
                crowded,
            },
            cut: Box::pin(cut),
            _connection: Some(connection),
            _place: None,
        }
    }

    /// Of a peer without a certificate.
    pub(super) fn stranger(
        stream: TlsStream<Watched>,
        address: Option<SocketAddr>,
        place: Place,
    ) -> Self {
        let evicted = place.evicted.clone();
        let cut = async move {
            tokio::select! {
                biased;
                () = evicted.cancelled() => "its place was needed",
                () = tokio::time::sleep(STRANGER) => "its time to join is over",
            }
        };
        Self {
            stream,
            peer: Peer {
                certificate: None,
                address,
                crowded: false,
            },
            cut: Box::pin(cut),
            _connection: None,
            _place: Some(place),
        }
    }
}

fn time_left(not_after_ms: i64, now: SystemTime) -> Duration {
    let end = UNIX_EPOCH + Duration::from_millis(not_after_ms.try_into().unwrap_or_default());
    end.duration_since(now).unwrap_or_default() + EXPIRY_GRACE
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(why) = self.cut.as_mut().poll(context) {
            // Polled again after its end a future may panic; the connection never is a reason to.
            self.cut = Box::pin(std::future::ready(why));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
