//! Where everything stands that was acknowledged. Traits by subject, resource-first names; SQLite behind
//! them. Every method that changes something commits before it returns, together with its entry in the
//! record.

pub mod error;
mod sqlite;
pub mod types;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use sternway_proto::v1;
use uuid::Uuid;

pub use self::{
    error::{RedeemError, StartError, StoreError, Trouble},
    sqlite::Sqlite,
};
use crate::{
    record::Entry,
    rollout::order::{Lost, Unsent},
};
use types::{
    Appended, Certified, DueOrder, Effects, EndedOrder, Host, IssuedOperator, LastOrder, NewMark,
    NewRollout, NewToken, Note, Observation, Operator, Order, Redeem, Revocation, RevokedOperators,
    RevokedWho, Rollout, Sending, SentOrder, StoredPlan, Verified,
};

/// The store as everyone holds it.
pub type SharedStore = Arc<dyn Store>;

/// All of the store.
pub trait Store:
    MetaStore
    + HostStore
    + OperatorStore
    + TargetStore
    + RolloutStore
    + RecordStore
    + Send
    + Sync
    + 'static
{
}

/// The cluster itself.
#[async_trait]
pub trait MetaStore: Send + Sync {
    /// The cluster's id, given once.
    async fn cluster_set(&self, id: &str) -> Result<(), StoreError>;
    /// None: never given.
    async fn cluster_fetch(&self) -> Result<Option<String>, StoreError>;
    /// The fencing number for this start: one more than ever before.
    async fn epoch_raise(&self, now_ms: i64) -> Result<u64, StoreError>;
    /// Raises the epoch above one that a host has seen. Answers with the epoch that holds now.
    async fn epoch_jump(&self, above: u64, host: &str, now_ms: i64) -> Result<u64, StoreError>;
}

/// Hosts and how they join.
#[async_trait]
pub trait HostStore: Send + Sync {
    /// By name; tombstones last.
    async fn host_list(&self) -> Result<Vec<Host>, StoreError>;
    /// How many there are: living and revoked.
    async fn host_count(&self) -> Result<(u64, u64), StoreError>;
    /// The revoked ones.
    async fn host_revoked_list(&self) -> Result<Vec<Uuid>, StoreError>;
    async fn host_fetch(&self, id: Uuid) -> Result<Option<Host>, StoreError>;
    /// By name or id; of several with one name the living one, else the one revoked last.
    async fn host_find(&self, name_or_id: &str) -> Result<Option<Host>, StoreError>;
    /// Makes the host a tombstone and ends its orders. None: no such living host.
    async fn host_revoke(
        &self,
        id: Uuid,
        reason: &str,
        operator: &str,
        now_ms: i64,
    ) -> Result<Option<(Host, Effects)>, StoreError>;
    /// A certificate was issued to the host. False: it must not have it, because the host was revoked.
    async fn host_certified(
        &self,
        id: Uuid,
        certificate: &Certified,
        now_ms: i64,
    ) -> Result<bool, StoreError>;
    async fn token_insert(&self, token: &NewToken) -> Result<(), StoreError>;
    /// Exchanges a token for a host with its first certificate, exactly once however many try at the same time. The
    /// host takes over the marks and deployments of the revoked ones of its name.
    async fn token_redeem(&self, redeem: &Redeem) -> Result<Host, RedeemError>;
    async fn observations_store(&self, observations: &[Observation]) -> Result<(), StoreError>;
}

/// Certificates of operators.
#[async_trait]
pub trait OperatorStore: Send + Sync {
    /// Refused where it would be revoked already: by a clock that was set back.
    async fn operator_issued(&self, issued: &IssuedOperator) -> Result<(), StoreError>;
    /// By name, oldest first.
    async fn operator_list(&self) -> Result<Vec<Operator>, StoreError>;
    /// Revokes every certificate that was issued to a name until now, or the one of a serial, also where it is not
    /// listed. By name it also ends what the operator left: orders that were not sent, tokens that nobody used.
    async fn operator_revoke(
        &self,
        who: &RevokedWho,
        reason: &str,
        now_ms: i64,
    ) -> Result<Revocation, StoreError>;
    /// What is revoked and would otherwise be valid.
    async fn operator_revoked_list(&self, now_ms: i64) -> Result<RevokedOperators, StoreError>;
}

/// Targets, their revisions, and what people said about them.
#[async_trait]
pub trait TargetStore: Send + Sync {
    /// Targets with their host's id, by name; all hosts' where none is given.
    async fn target_list(&self, host: Option<Uuid>) -> Result<Vec<(Uuid, v1::Target)>, StoreError>;
    /// The whole history, newest first, marks included; also of a target that is gone, until its agent forgets it. What
    /// its host does not have any more is `gone`: all that is marked, and the newest hundred of the others.
    async fn revision_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::Revision>, StoreError>;
    /// The two of that history with these ids, newest first. An empty one is none's.
    async fn revision_some(
        &self,
        host: Uuid,
        target: &str,
        ids: [&str; 2],
    ) -> Result<Vec<v1::Revision>, StoreError>;
    async fn mark_set(&self, mark: &NewMark) -> Result<(), StoreError>;
    /// Every marked revision of a host with its target, newest first, also those that its history does not list.
    async fn marked_list(&self, host: Uuid) -> Result<Vec<(String, v1::Revision)>, StoreError>;
    async fn mark_list(&self, host: Uuid) -> Result<Vec<v1::RevisionMark>, StoreError>;
    /// Revisions with this digest that are marked bad, as `(host name, target, revision)`.
    async fn digest_bad_list(
        &self,
        digest: &str,
    ) -> Result<Vec<(String, String, v1::Revision)>, StoreError>;
    /// Stores a deployment, unless there is one of its id. The one that stands.
    async fn deployment_insert(
        &self,
        host: Uuid,
        deployment: &v1::Deployment,
    ) -> Result<v1::Deployment, StoreError>;
    /// Newest first, at most 100.
    async fn deployment_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::Deployment>, StoreError>;
}

/// Plans, rollouts, orders and their events.
#[async_trait]
pub trait RolloutStore: Send + Sync {
    /// Keeps a plan, and forgets those that have expired.
    async fn plan_insert(&self, plan: &StoredPlan) -> Result<(), StoreError>;
    /// Starts a rollout, or finds the one that the same request started before.
    async fn rollout_start(&self, new: &NewRollout) -> Result<Rollout, StartError>;
    /// Newest first.
    async fn rollout_list(
        &self,
        host: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Rollout>, StoreError>;
    /// Rollouts whose id begins with this, else those with an order whose id does; at most two.
    async fn rollout_find(&self, prefix: &str) -> Result<Vec<Rollout>, StoreError>;
    async fn rollout_fetch(&self, id: Uuid) -> Result<Option<Rollout>, StoreError>;
    /// Orders of a host that are not finished, or lost, and whose wave has begun, by sequence.
    async fn order_active_list(&self, host: Uuid) -> Result<Vec<Order>, StoreError>;
    /// Notes that an order is about to be handed to a session. One that was never sent has the epoch of now from here
    /// on; where its revision was marked bad meanwhile it is refused instead.
    async fn order_sending(&self, id: Uuid, now_ms: i64) -> Result<Sending, StoreError>;
    /// Stores events of one host's orders, each at most once, without gaps. Of an order that nothing is known of the end
    /// is noted in the record; it is acknowledged all the same.
    async fn order_events_append(
        &self,
        host: &Host,
        events: &[v1::OrderEvent],
        now_ms: i64,
    ) -> Result<Appended, StoreError>;
    /// Orders that were never sent and whose deadline has passed; at most 500.
    async fn order_due_list(&self, now_ms: i64) -> Result<Vec<DueOrder>, StoreError>;
    /// Ends those of these orders that were still not sent.
    async fn order_expired(
        &self,
        orders: &[(Uuid, Unsent)],
        now_ms: i64,
    ) -> Result<Effects, StoreError>;
    /// Orders that were sent, and their hosts, where both the deadline and the last sign of the host are older
    /// than that; at most 500.
    async fn order_overdue_list(&self, before_ms: i64) -> Result<Vec<(Uuid, Uuid)>, StoreError>;
    /// Orders that were sent and are not finished, of all hosts.
    async fn order_sent_list(&self) -> Result<Vec<SentOrder>, StoreError>;
    /// Restores of whole revisions of a target that were begun and did not succeed, newest first, at most 100.
    async fn order_failed_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::FailedRestore>, StoreError>;
    /// The revisions of a target that were restored, or found to run and pass their checks, with when that was for the
    /// last time by the controller's clock. However long ago.
    async fn order_passed_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<HashMap<String, i64>, StoreError>;
    /// The finished orders of a target among the newest 200 of its host, newest first.
    async fn order_ended_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<EndedOrder>, StoreError>;
    /// The newest of them, beside what is said of the target now. None: there is none, or no such target.
    async fn order_last(&self, host: Uuid, target: &str) -> Result<Option<LastOrder>, StoreError>;
    /// Gives these orders up: finished with an unknown outcome, until their agents say more.
    async fn order_lost(&self, orders: &[(Uuid, Lost)], now_ms: i64)
    -> Result<Effects, StoreError>;
    /// Events of an order after that number, by number, at most 500.
    async fn order_event_list(
        &self,
        order: Uuid,
        after: u64,
    ) -> Result<Vec<v1::OrderEvent>, StoreError>;
}

/// The record.
#[async_trait]
pub trait RecordStore: Send + Sync {
    async fn record_append(&self, note: &Note) -> Result<(), StoreError>;
    /// Newest first, before that number (zero: the newest).
    async fn record_list(&self, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError>;
    /// Oldest first, from that number on.
    async fn record_page(&self, from: u64, limit: u32) -> Result<Vec<Entry>, StoreError>;
    async fn record_verify(&self) -> Result<Verified, StoreError>;
}
