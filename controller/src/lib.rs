//! The controller: keeps the record of a fleet, hands stored orders to agents, and answers operators.

pub mod clock;
pub mod fleet;
pub mod metrics;
pub mod record;
pub mod rollout;
pub mod store;
