//! The controller's listeners: our own accept loop under tonic, because tonic's has no bound on a
//! handshake, cannot exchange its certificate, and cannot cut a connection.

mod accepted;
mod peers;

use std::{io, sync::Arc, time::Duration};

use futures_util::Stream;
use sternway_proto::{identity::PeerCertificate, limits, tls::ServerTls};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use self::{
    accepted::{Accepted, Peer},
    peers::Peers,
};

/// Handshakes at the same time: with some 1.4 ms of processor time each, more would only make each slower
/// than its time-out.
const HANDSHAKES: usize = 512;

/// Connections that have shaken hands and wait to be served.
const BACKLOG: usize = 128;

/// After an error of `accept` (no file descriptors left, mostly) the loop rests.
const REST: Duration = Duration::from_millis(100);

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

/// Accepts connections until `shutdown`: each handshake in a task of its own, in bounded time and number.
pub fn incoming(
    listener: TcpListener,
    tls: ServerTls,
    peers: Arc<Peers>,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Ok(permit) = handshakes.clone().acquire_owned().await else {
                return;
            };
            let (tls, peers, sender) = (tls.clone(), peers.clone(), sender.clone());
            tokio::spawn(async move {
                let accepted = handshake(tcp, &tls, &peers).await;
                drop(permit);
                if let Some(accepted) = accepted {
                    // Full or closed: the connection is dropped, its peer dials again.
                    let _ = timeout(limits::HANDSHAKE_TIMEOUT, sender.send(Ok(accepted))).await;
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(tcp: TcpStream, tls: &ServerTls, peers: &Arc<Peers>) -> Option<Accepted> {
    let address = tcp.peer_addr().ok();
    let failed = |reason: &str| {
        metrics::counter!("sternway_handshakes_failed_total").increment(1);
        tracing::debug!(peer.address = ?address, "handshake failed: {reason}");
    };
    if let Err(error) = tcp.set_nodelay(true) {
        failed(&error.to_string());
        return None;
    }
    let acceptor = TlsAcceptor::from(tls.config());
    let stream = match timeout(limits::HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            failed(&error.to_string());
            return None;
        }
        Err(_) => {
            failed("it took too long");
            return None;
        }
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| PeerCertificate::from_der(chain.first()?).ok());
    let peer = Peer {
        certificate: certificate.map(Arc::new),
        address,
    };
    Some(Accepted::new(stream, peer, peers))
}
