//! Who is connected, and who may no longer be.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sternway_proto::{
    identity::{Identity, PeerCertificate},
    tls::Revocations,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The live connections by peer, and the revoked hosts.
#[derive(Debug, Default)]
pub struct Peers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revoked: HashSet<Uuid>,
    live: HashMap<Identity, HashMap<u64, CancellationToken>>,
    next: u64,
}

/// A connection in the list; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    peers: Arc<Peers>,
    identity: Identity,
    number: u64,
    pub(super) cut: CancellationToken,
}

impl Peers {
    /// Nobody connected; these hosts revoked.
    #[must_use]
    pub fn new(revoked: impl IntoIterator<Item = Uuid>) -> Self {
        let peers = Self::default();
        peers.state().revoked.extend(revoked);
        peers
    }

    /// Refuses a host from now on and cuts its connections at once.
    pub fn revoke(&self, host: Uuid) {
        let mut state = self.state();
        state.revoked.insert(host);
        let cut = state
            .live
            .iter()
            .filter(|(identity, _)| identity.host_id() == Some(host))
            .flat_map(|(_, connections)| connections.values());
        for connection in cut {
            connection.cancel();
        }
    }

    /// How many connections are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state().live.values().map(HashMap::len).sum()
    }

    pub(super) fn connected(self: &Arc<Self>, peer: &PeerCertificate) -> Connection {
        let cut = CancellationToken::new();
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state
            .live
            .entry(peer.identity.clone())
            .or_default()
            .insert(number, cut.clone());
        // Revoked between its handshake and now: nobody else would cut it.
        if revoked(&state, &peer.identity) {
            cut.cancel();
        }
        Connection {
            peers: self.clone(),
            identity: peer.identity.clone(),
            number,
            cut,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn revoked(state: &State, identity: &Identity) -> bool {
    identity
        .host_id()
        .is_some_and(|id| state.revoked.contains(&id))
}

impl Revocations for Peers {
    fn is_revoked(&self, peer: &PeerCertificate) -> bool {
        revoked(&self.state(), &peer.identity)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.peers.state();
        if let Some(connections) = state.live.get_mut(&self.identity) {
            connections.remove(&self.number);
            if connections.is_empty() {
                state.live.remove(&self.identity);
            }
        }
    }
}
