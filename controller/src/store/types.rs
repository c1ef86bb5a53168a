//! What the store keeps, as plain values.

use std::collections::{BTreeMap, HashMap, HashSet};

use sternway_proto::v1;
use uuid::Uuid;

use crate::{record::Actor, rollout::order::Progress};

/// Targets that are kept of one host.
pub const TARGETS: usize = 500;

/// An enrolled machine, or the tombstone of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub id: Uuid,
    /// Unique among the hosts that are not revoked.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub joined_ms: i64,
    /// Zero: never. Written in batches, so the live sessions know better.
    pub last_seen_ms: i64,
    pub revoked_ms: Option<i64>,
    pub revoke_reason: String,
    pub facts: Option<v1::HostFacts>,
    pub agent_version: String,
    pub clock_offset_ms: i64,
    pub certificate_not_after_ms: i64,
    pub target_count: u32,
    pub targets_ready: u32,
    pub targets_without_predecessor: u32,
}

/// A join token, of which only the hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Empty: what the machine calls itself.
    pub host_name: String,
    pub labels: BTreeMap<String, String>,
    pub created_ms: i64,
    pub created_by: String,
    pub expires_ms: i64,
}

/// The exchange of a join token for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeem {
    /// SHA-256 of the secret that was presented.
    pub hash: [u8; 32],
    /// The id for the new host. Fresh.
    pub host_id: Uuid,
    /// Used where the token names no host. A valid host name.
    pub hostname: String,
    pub agent_version: String,
    /// The host's first certificate, made before and given away only after the exchange.
    pub certificate: Certified,
    pub now_ms: i64,
}

/// A certificate that was issued to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Hexadecimal.
    pub serial: String,
    pub not_after_ms: i64,
}

/// A certificate that was issued to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedOperator {
    /// Hexadecimal, lower-case.
    pub serial: String,
    /// Empty, as is the role: revoked by its serial, and issued before such certificates were listed.
    pub name: String,
    pub role: String,
    pub issued_ms: i64,
    pub not_after_ms: i64,
}

/// A certificate of an operator as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub issued: IssuedOperator,
    pub revoked_ms: Option<i64>,
}

/// Whose certificates are revoked, in the words of whoever does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedWho {
    /// Every certificate that was issued to this name until now. An operator's valid name.
    Name(String),
    /// The one of this serial: hexadecimal, lower-case.
    Serial(String),
}

/// What a revocation of an operator led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocation {
    /// What is listed of that which is meant, also where it was revoked before.
    pub certificates: Vec<Operator>,
    /// Nothing was listed of it.
    pub unlisted: bool,
    /// By a name: what the operator left is ended. By a serial it stays.
    pub by_name: bool,
    /// Orders of the operator's rollouts that were not sent.
    pub orders: u64,
    /// The operator's join tokens that nobody had used.
    pub tokens: u64,
}

/// Which certificates of operators are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedOperators {
    /// Lower-case hexadecimal.
    pub serials: HashSet<String>,
    /// By name: those that were issued until then, Unix milliseconds.
    pub names: HashMap<String, i64>,
}

/// What an agent said about its host. Not acknowledged on the wire, so stored in batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub host_id: Uuid,
    pub host_name: String,
    pub at_ms: i64,
    pub seen: Seen,
}

/// The content of an [`Observation`], validated.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The agent is there.
    Alive {
        facts: Option<v1::HostFacts>,
        /// Empty: as before.
        agent_version: String,
        clock_offset_ms: i64,
    },
    /// Every target of the host; those not named are no longer looked after.
    Inventory {
        targets: Vec<v1::Target>,
        /// Named, and told in a way that is not kept: what was told of them before stands.
        also: Vec<String>,
    },
    Target(Box<v1::Target>),
    TargetRemoved(String),
}

/// A mark of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMark {
    pub host_id: Uuid,
    pub host_name: String,
    pub target: String,
    pub revision: String,
    /// Unspecified: take the mark away.
    pub mark: v1::Mark,
    pub reason: String,
    pub operator: String,
    pub at_ms: i64,
}

/// A plan that may be carried out until it expires.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPlan {
    pub id: Uuid,
    pub host_id: Uuid,
    /// The operator who asked for it.
    pub made_for: String,
    pub scope: v1::RestoreScope,
    /// As asked for: unspecified leaves it to the agent.
    pub swap: v1::Swap,
    pub created_ms: i64,
    pub expires_ms: i64,
    pub plan: v1::Plan,
}

/// The start of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRollout {
    pub id: Uuid,
    pub order_id: Uuid,
    /// The caller's own id of this call: the same one starts nothing twice.
    pub request_id: Uuid,
    pub plan_id: Uuid,
    pub operator: String,
    pub reason: String,
    pub epoch: u64,
    pub now_ms: i64,
    pub not_after_ms: i64,
}

/// One order of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub id: Uuid,
    pub rollout_id: Uuid,
    pub wave: u32,
    pub host_id: Uuid,
    pub host_name: String,
    pub target: String,
    pub sequence: u64,
    pub progress: Progress,
    pub sent_ms: i64,
    pub not_after_ms: i64,
    pub plan: v1::Plan,
    /// As it travels, byte for byte.
    pub sealed: v1::SealedOrder,
}

/// An order that was sent and is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentOrder {
    pub id: Uuid,
    pub rollout: Uuid,
    pub host: Uuid,
    pub target: String,
    pub last_event: u64,
    pub not_after_ms: i64,
}

/// An order that was never sent and whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueOrder {
    pub id: Uuid,
    pub host: Uuid,
    pub not_after_ms: i64,
}

/// Whether an order may be handed to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Sending {
    /// It is noted as sent, as it travels.
    Goes(v1::SealedOrder),
    /// It must not be, any more; what that led to.
    Stays(Effects),
}

/// How an order of a target ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedOrder {
    pub rollout: Uuid,
    pub outcome: v1::Outcome,
    /// What its plan went away from.
    pub from_revision: String,
    /// What its agent said to run then. May be empty.
    pub running_revision: String,
    /// The controller's clock.
    pub finished_ms: i64,
}

/// The newest order of a target that has ended, beside what its host says of the target now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOrder {
    /// What its agent said to run at its end. May be empty.
    pub running_revision: String,
    /// The controller's clock.
    pub finished_ms: i64,
    pub current_revision: String,
    /// When the host told it last. The controller's clock.
    pub told_ms: i64,
}

/// A rollout with its orders, by wave.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub id: Uuid,
    pub state: v1::RolloutState,
    pub operator: String,
    pub reason: String,
    pub created_ms: i64,
    /// Zero while it runs.
    pub finished_ms: i64,
    pub orders: Vec<Order>,
}

/// What a change of orders led to: whom to tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// Rollouts in which anything changed.
    pub rollouts: Vec<Uuid>,
    /// Hosts for which an order became ready to be sent.
    pub hosts: Vec<Uuid>,
    /// How orders ended.
    pub ended: Vec<v1::Outcome>,
    /// From the order being sent to its agent's acceptance, milliseconds.
    pub accepted_after_ms: Vec<i64>,
}

impl Effects {
    /// Adds what another change led to.
    pub fn merge(&mut self, other: Self) {
        self.rollouts.extend(other.rollouts);
        self.hosts.extend(other.hosts);
        self.ended.extend(other.ended);
        self.accepted_after_ms.extend(other.accepted_after_ms);
    }
}

/// What became of a batch of order events from one host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Appended {
    pub effects: Effects,
    /// To be acknowledged: committed, or settled before.
    pub stored: Vec<v1::EventsStored>,
    /// An order whose events came with a gap: they must be sent again from the one after what is stored.
    pub gap: Option<String>,
    /// Events of orders that are another host's.
    pub foreign: u64,
}

/// An entry for the record that belongs to nothing else in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub actor: Actor,
    pub action: &'static str,
    pub subject: String,
    pub body: serde_json::Value,
    pub at_ms: i64,
}

/// The result of following the whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub entries: u64,
    pub head: crate::record::Hash,
    pub broken: Option<crate::record::Break>,
}
