//! The controller's listeners: our own accept loop under tonic, because tonic's has no bound on a
//! handshake, cannot exchange its certificate, and cannot cut a connection.

mod accepted;
mod files;
mod peers;
mod places;
mod seldom;
mod watched;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::Stream;
use sternway_proto::{identity::PeerCertificate, limits, tls::ServerTls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use self::{
    accepted::{Accepted, Peer},
    files::raise_limit,
    peers::{PER_IDENTITY, Peers},
};
use self::{
    places::{Place, Places},
    seldom::Seldom,
    watched::Watched,
};

/// Connections that have shaken hands and wait to be served.
const BACKLOG: usize = 128;

/// After an error of `accept` (no file descriptors left, mostly) the loop rests: so long after the first, and
/// twice as long after each further one, up to the longest.
const REST: Duration = Duration::from_millis(50);
const REST_AT_MOST: Duration = Duration::from_secs(1);

/// How long, and how many bytes, a peer that is not let in is listened to.
const HEARS_OUT: Duration = Duration::from_secs(1);
const HEARD_OUT_AT_MOST: usize = 64 * 1024;

/// A server with the bounds that hold on every listener.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_header_list_size(16 * 1024)
        .tcp_nodelay(true)
}

/// What the connections of one listener share.
struct Door {
    name: &'static str,
    tls: ServerTls,
    peers: Arc<Peers>,
    places: Arc<Places>,
    crowded: Seldom,
}

/// Accepts connections until `shutdown`: each handshake in a task of its own, in bounded time and number.
/// `name` is the listener's, for the log.
pub fn incoming(
    name: &'static str,
    listener: TcpListener,
    tls: ServerTls,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let door = Arc::new(Door {
        name,
        tls,
        peers,
        places: Places::new(files::places()),
        crowded: Seldom::default(),
    });
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = accept(&listener, &door, &sender) => {}
        }
    });
    ReceiverStream::new(receiver)
}

/// Accepts for ever: no error of a listening socket is a reason to stop listening.
async fn accept(
    listener: &TcpListener,
    door: &Arc<Door>,
    sender: &mpsc::Sender<io::Result<Accepted>>,
) {
    let (failed, mut rest) = (Seldom::default(), REST);
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                if let Some(times) = failed.happened(Instant::now()) {
                    tracing::warn!(
                        %error, times,
                        "{} cannot accept connections; if files are short, raise LimitNOFILE", door.name
                    );
                }
                door.places.make_room();
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST_AT_MOST);
                continue;
            }
        };
        rest = REST;
        let place = door.places.take().await;
        let (door, sender) = (Arc::clone(door), sender.clone());
        tokio::spawn(async move {
            if let Some(accepted) = door.admit(tcp, place).await {
                // Full or closed: the connection is dropped, its peer dials again.
                let _ = timeout(limits::HANDSHAKE_TIMEOUT, sender.send(Ok(accepted))).await;
            }
        });
    }
}

impl Door {
    /// From a TCP connection to one that has shaken hands. None: it came to nothing.
    async fn admit(&self, tcp: TcpStream, place: Place) -> Option<Accepted> {
        let address = tcp.peer_addr().ok();
        let stream = match self.handshake(tcp, &place).await {
            Ok(stream) => stream,
            Err(reason) => {
                metrics::counter!(crate::metrics::HANDSHAKES_FAILED).increment(1);
                tracing::debug!(peer.address = ?address, "handshake failed: {reason}");
                return None;
            }
        };
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| PeerCertificate::from_der(chain.first()?).ok());
        match certificate {
            // Known from here on: its place is free for the next stranger.
            Some(certificate) => self.known(stream, certificate, address),
            None => Some(Accepted::stranger(stream, address, place)),
        }
    }

    fn known(
        &self,
        stream: TlsStream<Watched>,
        certificate: PeerCertificate,
        address: Option<SocketAddr>,
    ) -> Option<Accepted> {
        let connection = self.peers.connected(&certificate);
        if connection.as_ref().is_none_or(|one| one.crowded)
            && let Some(times) = self.crowded.happened(Instant::now())
        {
            tracing::warn!(
                peer.address = ?address, times,
                "{} has more than {PER_IDENTITY} connections with one certificate: more are refused",
                certificate.identity
            );
        }
        Some(Accepted::known(stream, certificate, address, connection?))
    }

    async fn handshake(&self, tcp: TcpStream, place: &Place) -> Result<TlsStream<Watched>, String> {
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let watched = Watched::new(tcp, Arc::clone(&place.waited));
        let acceptor = TlsAcceptor::from(self.tls.config());
        let accept = acceptor.accept(watched).into_fallible();
        let shaken = tokio::select! {
            biased;
            () = place.evicted.cancelled() => return Err("its place was needed".to_owned()),
            shaken = timeout(limits::HANDSHAKE_TIMEOUT, accept) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, watched))) => {
                tokio::select! {
                    biased;
                    () = place.evicted.cancelled() => {}
                    () = hear_out(watched) => {}
                }
                Err(error.to_string())
            }
            Err(_) => Err("it took too long".to_owned()),
        }
    }
}

/// Ends a connection whose handshake failed so that its peer can read the alert. A client of TLS 1.3 speaks before it
/// is judged: closing on what it says would reset the connection, and who writes before it reads would hear of that
/// alone.
async fn hear_out(mut peer: Watched) {
    let until_it_closes = async {
        peer.shutdown().await?;
        let mut heard = [0; 1024];
        for _ in 0..HEARD_OUT_AT_MOST.div_ceil(heard.len()) {
            if peer.read(&mut heard).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // It is told already: whatever becomes of this is as good.
    let _ = timeout(HEARS_OUT, until_it_closes).await;
}
