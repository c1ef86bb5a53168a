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

use crate::{pki::issued_ms, store::types::RevokedOperators};

/// Connections that one certificate's name may have at the same time.
pub const PER_IDENTITY: usize = 64;

/// Connections beyond them that are told so, rather than cut without a word.
const TOLD: usize = 16;

/// The live connections by peer, and the revoked hosts and operators.
#[derive(Debug, Default)]
pub struct Peers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revoked: HashSet<Uuid>,
    operators: RevokedOperators,
    live: HashMap<Identity, HashMap<u64, Live>>,
    next: u64,
}

#[derive(Debug)]
struct Live {
    peer: PeerCertificate,
    cut: CancellationToken,
}

/// A connection in the list; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    peers: Arc<Peers>,
    identity: Identity,
    number: u64,
    pub(super) cut: CancellationToken,
    /// The peer has [`PER_IDENTITY`] others.
    pub(super) crowded: bool,
}

impl Peers {
    /// Nobody connected; these hosts revoked.
    #[must_use]
    pub fn new(revoked: impl IntoIterator<Item = Uuid>) -> Self {
        let peers = Self::default();
        peers.state().revoked.extend(revoked);
        peers
    }

    /// Refuses a host from now on. Its connections live until they are cut.
    pub fn refuse(&self, host: Uuid) {
        self.state().revoked.insert(host);
    }

    /// Cuts the connections of a host, whatever runs on them.
    pub fn cut(&self, host: Uuid) {
        let state = self.state();
        let cut = state
            .live
            .iter()
            .filter(|(identity, _)| identity.host_id() == Some(host))
            .flat_map(|(_, connections)| connections.values());
        for connection in cut {
            connection.cut.cancel();
        }
    }

    /// Refuses exactly these operators' certificates from now on, and cuts their connections. How many were cut.
    pub fn refuse_operators(&self, operators: RevokedOperators) -> usize {
        let mut state = self.state();
        state.operators = operators;
        let connections = state.live.values().flat_map(HashMap::values);
        let refused = connections.filter(|one| revoked(&state, &one.peer));
        refused.map(|one| one.cut.cancel()).count()
    }

    /// How many connections are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state().live.values().map(HashMap::len).sum()
    }

    /// Puts a connection into the list. None: its peer has so many that it is not even told so.
    pub(super) fn connected(self: &Arc<Self>, peer: &PeerCertificate) -> Option<Connection> {
        let cut = CancellationToken::new();
        let mut state = self.state();
        let others = state.live.get(&peer.identity).map_or(0, HashMap::len);
        if others >= PER_IDENTITY + TOLD {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.live.entry(peer.identity.clone()).or_default().insert(
            number,
            Live {
                peer: peer.clone(),
                cut: cut.clone(),
            },
        );
        // Revoked between its handshake and now: nobody else would cut it.
        if revoked(&state, peer) {
            cut.cancel();
        }
        Some(Connection {
            peers: self.clone(),
            identity: peer.identity.clone(),
            number,
            cut,
            crowded: others >= PER_IDENTITY,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn revoked(state: &State, peer: &PeerCertificate) -> bool {
    let host = peer.identity.host_id();
    if host.is_some_and(|id| state.revoked.contains(&id)) {
        return true;
    }
    let RevokedOperators { serials, names } = &state.operators;
    let by_name = || {
        let until = names.get(&peer.identity.name);
        peer.identity.role.is_operator() && until.is_some_and(|until| issued_ms(peer) <= *until)
    };
    serials.contains(&peer.serial) || by_name()
}

impl Revocations for Peers {
    fn is_revoked(&self, peer: &PeerCertificate) -> bool {
        revoked(&self.state(), peer)
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
