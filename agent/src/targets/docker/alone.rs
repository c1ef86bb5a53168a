//! One change of the redirects at a time, whoever makes it: what a bridge did before is read and put back in
//! several steps, and another agent on this host may be at the same.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::warn;

/// An abstract name: it belongs to the network namespace, as the redirects do, and ends with its process.
const NAME: &[u8] = b"sternway-redirect";
/// A change takes some milliseconds. Whoever holds the name longer has no right to.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The right to change redirects, until it is dropped.
#[derive(Debug)]
pub(super) struct Alone {
    /// None: the work goes on without it.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is held, not used"))]
    name: Option<UnixListener>,
}

/// Waits for the right. Any process can hold a name: behind [`PATIENCE`] the work goes on without.
pub(super) async fn alone() -> Alone {
    let end = Instant::now() + PATIENCE;
    loop {
        let bound = SocketAddr::from_abstract_name(NAME)
            .and_then(|address| UnixListener::bind_addr(&address));
        match bound {
            Ok(name) => return Alone { name: Some(name) },
            Err(error) if Instant::now() >= end => {
                warn!(%error, "redirects are changed without having the name to ourselves");
                return Alone { name: None };
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let first = alone().await;
        let second = tokio::spawn(alone());
        sleep(PAUSE * 5).await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await;
        assert!(second.is_ok_and(|second| second.name.is_some()));
    }
}
