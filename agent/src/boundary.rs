//! The narrow interface between link and executor: two enums of plain messages, each a message of the
//! contract, so that the two parts can become two processes with a socket between them.

use sternway_proto::v1;

/// From the link to the executor.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// A session was opened: report the whole inventory, then every order event that is not stored.
    /// Carries the controller's clock minus the host's, milliseconds.
    Connected {
        clock_offset_ms: i64,
    },
    /// A better estimate of the offset.
    ClockOffset {
        clock_offset_ms: i64,
    },
    /// The session is gone. Orders go on; reports wait.
    Disconnected,
    /// An order as it came off the wire; verified by the executor.
    Order(v1::SealedOrder),
    /// The controller has stored the order's events up to that number.
    EventsStored(v1::EventsStored),
    Plan(v1::PlanRequest),
    Marks(v1::Marks),
}

/// From the executor to the link.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    Inventory(v1::Inventory),
    Target(v1::Target),
    TargetRemoved(String),
    OrderEvent(v1::OrderEvent),
    PlanReply(v1::PlanReply),
    /// What the host is; sent at start and when it changes.
    Facts(v1::HostFacts),
    /// The highest controller epoch accepted; sent at start and when it rises.
    HighestEpoch(u64),
}

/// Reports that may wait in memory. When the queue is full the executor waits: what matters is in
/// the journal and on the host, not in the queue.
pub const REPORTS: usize = 256;

/// Requests that may wait for the executor.
pub const REQUESTS: usize = 64;
