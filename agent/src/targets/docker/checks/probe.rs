//! One attempt at one check: what was seen, and whether that is good.

use std::{net::IpAddr, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sternway_proto::name::clean_text;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Check,
    private::{LOOKED_AT, Private},
};
use crate::targets::docker::client::Engine;

/// How long one attempt may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// What is read of an answer, to show it: never all of it.
const SHOWN: usize = 200;

/// What of a log is read, lines and bytes.
const LOG_LINES: u32 = 5_000;
const LOG_BYTES: usize = 1024 * 1024;

/// What one attempt saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) good: bool,
    pub(super) observed: String,
}

fn good(observed: impl Into<String>) -> Seen {
    Seen {
        good: true,
        observed: observed.into(),
    }
}

fn bad(observed: impl AsRef<str>) -> Seen {
    Seen {
        good: false,
        observed: clean_text(observed.as_ref()),
    }
}

/// Where a container is reached, and since when it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: String,
    pub(super) address: Option<IpAddr>,
    /// Unix seconds.
    pub(super) started: i64,
    /// What it must not be quoted with.
    pub(super) private: Private,
}

/// One attempt. `now`: Unix seconds.
pub(super) async fn attempt(engine: &Engine, check: &Check, place: &Place, now: i64) -> Seen {
    let Some(address) = place.address else {
        return match check {
            Check::Http { .. } | Check::Tcp { .. } => bad("the container has no address"),
            _ => inside(engine, check, place, now).await,
        };
    };
    let seen = match check {
        Check::Http { port, path, status } => {
            timeout(ATTEMPT, http(place, address, *port, path, *status)).await
        }
        Check::Tcp { port } => timeout(ATTEMPT, tcp(address, *port)).await,
        _ => return inside(engine, check, place, now).await,
    };
    seen.unwrap_or_else(|_| bad(format!("no answer within {} s", ATTEMPT.as_secs())))
}

async fn inside(engine: &Engine, check: &Check, place: &Place, now: i64) -> Seen {
    match check {
        Check::Command { argv } => command(engine, place, argv).await,
        Check::Log { text, max } => log(engine, place, text, *max, now).await,
        Check::Http { .. } | Check::Tcp { .. } => bad("the container has no address"),
    }
}

async fn tcp(address: IpAddr, port: u16) -> Seen {
    match TcpStream::connect((address, port)).await {
        Ok(_) => good("accepts"),
        Err(error) => bad(error.to_string()),
    }
}

async fn http(place: &Place, address: IpAddr, port: u16, path: &str, status: Option<u16>) -> Seen {
    match request(address, port, path).await {
        Ok((found, body)) => {
            let body = place.private.blank(&body, SHOWN);
            let fits = match status {
                Some(wanted) => found == wanted,
                None => (200..400).contains(&found),
            };
            if fits {
                good(format!("answers {found}"))
            } else if body.is_empty() {
                bad(format!("answers {found}"))
            } else {
                bad(format!("answers {found}: {body}"))
            }
        }
        Err(reason) => bad(reason),
    }
}

async fn request(address: IpAddr, port: u16, path: &str) -> Result<(u16, Vec<u8>), String> {
    let tcp = TcpStream::connect((address, port))
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

async fn command(engine: &Engine, place: &Place, argv: &[String]) -> Seen {
    match engine.exec(&place.id, argv, LOOKED_AT, ATTEMPT * 2).await {
        Ok(outcome) => {
            let said = place.private.blank(&outcome.output, SHOWN);
            match outcome.exit_code {
                Some(0) => good("exits with 0"),
                Some(code) if said.is_empty() => bad(format!("exits with {code}")),
                Some(code) => bad(format!("exits with {code}: {said}")),
                None => bad("its end is not known"),
            }
        }
        // An engine may quote what it could not start.
        Err(error) => bad(place.private.blank(error.message.as_bytes(), SHOWN)),
    }
}

async fn log(engine: &Engine, place: &Place, text: &str, max: u32, now: i64) -> Seen {
    let since = place.started.max(now - 60);
    match engine.logs(&place.id, since, LOG_LINES, LOG_BYTES).await {
        Ok(bytes) => {
            let lines = String::from_utf8_lossy(&bytes)
                .lines()
                .filter(|line| line.contains(text))
                .count();
            if lines <= max as usize {
                good(format!("{lines} lines"))
            } else {
                bad(format!("{lines} lines"))
            }
        }
        Err(error) => bad(error.message),
    }
}
