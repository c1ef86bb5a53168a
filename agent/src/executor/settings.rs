//! What the executor is told.

use std::{path::PathBuf, time::Duration};

use sternway_proto::name::HostName;
use uuid::Uuid;

/// Settings of the executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where journals, revisions and artifacts stand.
    pub state_dir: PathBuf,
    /// This host, from its identity.
    pub host_id: Uuid,
    /// Its name, for commands that people are told.
    pub host_name: HostName,
    /// Revisions kept per target.
    pub keep: usize,
    /// A restore that takes longer is undone; the time that its checks may take comes on top.
    pub order_timeout: Duration,
    /// How often each target's checks run although nothing changed.
    pub check_interval: Duration,
    /// How often readiness is looked at, and leftovers are collected, although nothing changed.
    pub readiness_interval: Duration,
    /// How long a target must have been seen gone before it is forgotten with its revisions.
    pub forget_after: Duration,
}
