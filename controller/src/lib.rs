//! The controller: keeps the record of a fleet, hands stored orders to agents, and answers operators.

pub mod backup;
pub mod clock;
mod cluster;
pub mod config;
pub mod fault;
pub mod fleet;
pub mod listen;
pub mod metrics;
pub mod operators;
pub mod pki;
pub mod record;
pub mod rollout;
pub mod rpc;
pub mod select;
pub mod store;

pub mod cli;
mod serve;

pub use self::serve::{Addresses, RunError, Running, cluster_in, run, run_renewing};
