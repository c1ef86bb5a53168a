//! One attempt at one check: what was seen, and whether that is good.

use std::net::IpAddr;

use tokio::time::timeout;

use super::{
    Check,
    private::{LOOKED_AT, Private},
};
use crate::targets::{
    docker::client::Engine,
    probe::{ATTEMPT, Seen, bad, good, request, tcp},
};

/// What is read of an answer, to show it: never all of it.
const SHOWN: usize = 200;

/// What of a log is read, lines and bytes.
const LOG_LINES: u32 = 5_000;
const LOG_BYTES: usize = 1024 * 1024;

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
        Check::Tcp { port } => timeout(ATTEMPT, tcp((address, *port).into())).await,
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

async fn http(place: &Place, address: IpAddr, port: u16, path: &str, status: Option<u16>) -> Seen {
    match request((address, port).into(), path).await {
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
