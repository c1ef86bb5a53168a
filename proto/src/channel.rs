//! The mTLS channel to a controller: how agents and operators dial.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

pub use crate::alert::Revoked;
use crate::{alert::Listening, limits, tls::ClientTls};

/// How long one address of a name is waited for before the next is tried beside it.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Why no channel could be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("{address:?} is no address of a controller: it reads HOST:PORT")]
    Address { address: String },
    #[error("cannot reach {address}")]
    Unreachable {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} did not answer within {} s", limits::HANDSHAKE_TIMEOUT.as_secs())]
    Timeout { address: String },
    /// What TLS 1.3 lets a client know: that the server is not the one it trusts. That the server did
    /// not accept *us* shows only later, as a connection that is cut.
    #[error("{address} is no controller that this certificate's cluster knows")]
    NotTrusted {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the connection to {address} was cut during the handshake: the controller may not accept this certificate (expired, revoked, or of another cluster)"
    )]
    Rejected {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConnectError {
    /// Whether another attempt may succeed with nothing changed on this side.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }
}

/// Opens a channel to the controller at `HOST:PORT`. The channel redials by itself, with the newest
/// credentials of `tls`.
///
/// # Errors
/// The first connection could not be made.
pub async fn connect(address: &str, tls: &ClientTls) -> Result<Channel, ConnectError> {
    connect_listening(address, tls, &Revoked::default()).await
}

/// As [`connect`]; where a controller refuses us because we are revoked, that is noted.
///
/// # Errors
/// As [`connect`].
pub async fn connect_listening(
    address: &str,
    tls: &ClientTls,
    revoked: &Revoked,
) -> Result<Channel, ConnectError> {
    let tls = tls.clone();
    open(address, move || tls.config(), revoked).await
}

/// As [`connect`], with a configuration of the caller's choice for every dial.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn open(
    address: &str,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + Clone + 'static,
    revoked: &Revoked,
) -> Result<Channel, ConnectError> {
    let invalid = || ConnectError::Address {
        address: address.chars().take(300).collect(),
    };
    let uri: Uri = format!("http://{address}").parse().map_err(|_| invalid())?;
    if uri.port_u16().is_none() || uri.path() != "/" || address.contains('@') {
        return Err(invalid());
    }
    // Dialled once by hand: tonic's error does not say which of the steps failed.
    let first = Arc::new(tokio::sync::Mutex::new(Some(
        dial(address, config()).await?,
    )));
    let (owned, revoked) = (address.to_owned(), revoked.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (first, config, address) = (first.clone(), config.clone(), owned.clone());
        let revoked = revoked.clone();
        async move {
            let made = first.lock().await.take();
            let stream = match made {
                Some(stream) => stream,
                None => dial(&address, config())
                    .await
                    .map_err(|error| io::Error::other(error.to_string()))?,
            };
            Ok::<_, io::Error>(TokioIo::new(Listening {
                inner: stream,
                revoked,
            }))
        }
    });
    Endpoint::from(uri)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(limits::HANDSHAKE_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| ConnectError::Rejected {
            address: address.to_owned(),
            source: Box::new(error),
        })
}

async fn dial(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let late = |_| ConnectError::Timeout {
        address: address.to_owned(),
    };
    let reached = async {
        first_of(
            lookup_host(address).await?,
            TcpStream::connect::<SocketAddr>,
        )
        .await
    };
    let tcp = timeout(limits::HANDSHAKE_TIMEOUT, reached)
        .await
        .map_err(late)?
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .map_err(|source| ConnectError::Unreachable {
            address: address.to_owned(),
            source,
        })?;
    // Not checked and, without SNI, not sent: controllers are known by their URI names.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    timeout(
        limits::HANDSHAKE_TIMEOUT,
        TlsConnector::from(config).connect(name, tcp),
    )
    .await
    .map_err(late)?
    .map_err(|source| handshake_error(address, source))
}

/// The first connection that is made to one of these addresses. Where one fails the next is tried at once, and where one
/// does not answer in a moment the next beside it: a network that swallows what goes to the one (IPv6, mostly) is not in
/// the way of the other.
async fn first_of<T, F>(
    addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting: VecDeque<SocketAddr> = addresses.collect();
    let mut trying = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = waiting.pop_front() {
            trying.spawn(connect(address));
        }
        let ended = if waiting.is_empty() {
            trying.join_next().await
        } else {
            match timeout(NEXT_ADDRESS, trying.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(made))) => return Ok(made),
            Some(Ok(Err(error))) => failure = error,
            Some(Err(error)) => failure = error.into(),
            None => return Err(failure),
        }
    }
}

fn handshake_error(address: &str, source: io::Error) -> ConnectError {
    let address = address.to_owned();
    // A server that does not accept this certificate says so, or cuts the connection after the handshake.
    // One that goes away in the middle of it is one that stops.
    if matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ) {
        return ConnectError::Unreachable { address, source };
    }
    let ours = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
    if ours {
        ConnectError::NotTrusted { address, source }
    } else {
        ConnectError::Rejected {
            address,
            source: Box::new(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// What an address does, by its port: refuses, answers then, or never.
    async fn answer(address: SocketAddr) -> io::Result<u16> {
        match address.port() {
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            2 => std::future::pending().await,
            port => {
                tokio::time::sleep(Duration::from_millis(port.into())).await;
                Ok(port)
            }
        }
    }

    async fn first(ports: &[u16]) -> Result<u16, io::ErrorKind> {
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        let ended = timeout(Duration::from_secs(8), first_of(addresses, answer)).await;
        ended
            .map_err(|_| io::ErrorKind::TimedOut)?
            .map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn an_address_that_swallows_everything_is_not_in_the_way_of_the_next() {
        assert_eq!(first(&[2, 2, 5]).await, Ok(5));
        assert_eq!(first(&[2, 1, 5]).await, Ok(5));
        // Slow, and still the first.
        assert_eq!(first(&[400, 2]).await, Ok(400));
        assert_eq!(first(&[400, 1, 900]).await, Ok(400));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let began = Instant::now();
        let many = [1; 40];
        assert_eq!(first(&[&many[..], &[5]].concat()).await, Ok(5));
        assert!(began.elapsed() < NEXT_ADDRESS * 10);
        assert_eq!(first(&many).await, Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(first(&[]).await, Err(io::ErrorKind::NotFound));
    }
}
