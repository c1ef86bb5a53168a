//! Attempts at checks that look at a place in the network: what was seen, and whether that is good.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sternway_proto::name::clean_text;
use tokio::net::TcpStream;

/// How long one attempt may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// What one attempt saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) good: bool,
    pub(super) observed: String,
}

/// It is as it should be.
pub(super) fn good(observed: impl Into<String>) -> Seen {
    Seen {
        good: true,
        observed: observed.into(),
    }
}

/// It is not.
pub(super) fn bad(observed: impl AsRef<str>) -> Seen {
    Seen {
        good: false,
        observed: clean_text(observed.as_ref()),
    }
}

/// Whether somebody takes connections there.
pub(super) async fn tcp(address: SocketAddr) -> Seen {
    match TcpStream::connect(address).await {
        Ok(_) => good("accepts"),
        Err(error) => bad(error.to_string()),
    }
}

/// Asks for that path there: the status, and the beginning of what is answered.
///
/// # Errors
/// Nobody answers, or not in HTTP, in words for a person.
pub(super) async fn request(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>), String> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header("host", "localhost")
        .header("user-agent", "sternway-check")
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        // A long body is no failure; it is only not shown.
        let body = Limited::new(answer.into_body(), 64 * 1024).collect().await;
        Ok((
            status,
            body.map_or(Vec::new(), |body| body.to_bytes().to_vec()),
        ))
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = &mut connection => match ended {
            // The whole answer may have come with the end.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
