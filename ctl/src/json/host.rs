//! Hosts and the controller as documents.

use std::collections::BTreeMap;

use serde::Serialize;
use sternway_proto::v1;

use super::{target::Target, text, time};

/// `ctl host ls`.
#[derive(Debug, Serialize)]
pub struct Hosts {
    pub hosts: Vec<Host>,
}

/// `ctl host show`.
#[derive(Debug, Serialize)]
pub struct HostDetail {
    pub host: Host,
    pub targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
pub struct Host {
    pub id: String,
    pub name: String,
    /// `online`, `offline`, `revoked` or `unknown`.
    pub state: &'static str,
    pub labels: BTreeMap<String, String>,
    pub last_seen: Option<String>,
    pub joined: Option<String>,
    pub agent_version: Option<String>,
    pub os: Option<String>,
    pub kernel: Option<String>,
    pub architecture: Option<String>,
    pub engine_version: Option<String>,
    pub engine_api: Option<String>,
    pub engine_problem: Option<String>,
    /// The host's clock minus the controller's.
    pub clock_offset_ms: i64,
    pub certificate_not_after: Option<String>,
    pub target_count: u32,
    pub targets_ready: u32,
}

impl From<&v1::Host> for Host {
    fn from(host: &v1::Host) -> Self {
        let facts = host.facts.clone().unwrap_or_default();
        Self {
            id: host.id.clone(),
            name: host.name.clone(),
            state: host_state(host.state()),
            labels: host.labels.clone().into_iter().collect(),
            last_seen: time(host.last_seen_ms),
            joined: time(host.joined_ms),
            agent_version: text(&host.agent_version),
            os: text(&facts.os),
            kernel: text(&facts.kernel),
            architecture: text(&facts.architecture),
            engine_version: text(&facts.engine_version),
            engine_api: text(&facts.engine_api),
            engine_problem: text(&facts.engine_problem),
            clock_offset_ms: host.clock_offset_ms,
            certificate_not_after: time(host.certificate_not_after_ms),
            target_count: host.target_count,
            targets_ready: host.targets_ready,
        }
    }
}

/// The word for a host's state.
pub fn host_state(state: v1::HostState) -> &'static str {
    match state {
        v1::HostState::Unspecified => "unknown",
        v1::HostState::Online => "online",
        v1::HostState::Offline => "offline",
        v1::HostState::Revoked => "revoked",
    }
}

/// `ctl host token`.
#[derive(Debug, Serialize)]
pub struct Token {
    pub token: String,
    pub expires: Option<String>,
}

/// `ctl status`.
#[derive(Debug, Serialize)]
pub struct Status {
    pub controller: String,
    pub controller_version: String,
    pub cluster: String,
    pub epoch: u64,
    pub caller_name: String,
    pub caller_role: String,
    pub controller_time: Option<String>,
}
