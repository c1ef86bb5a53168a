//! The agent: runs on a host, records what is deployed there, and restores it when ordered to.
//!
//! Two parts that talk through [`boundary`] only: the *link* (network, no rights on the host) and the
//! *executor* (rights on the host, no network).

pub mod boundary;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dpkg;
pub mod engine;
pub mod executor;
pub mod fault;
pub mod identity;
pub mod link;
pub mod run;
pub mod snapshot;
pub mod store;
pub mod systemd;
pub mod targets;
pub mod work;
