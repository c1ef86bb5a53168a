//! Hosts and the controller as documents.

use std::collections::BTreeMap;

use serde::Serialize;
use sternway_proto::v1;

use super::{target::Target, text, time};
use crate::render::host::is_seen;

/// `ctl host ls`.
#[derive(Debug, Serialize)]
pub(crate) struct Hosts {
    pub(crate) hosts: Vec<Host>,
    /// The controller left parts out, for the whole would have been too long.
    pub(crate) thinned: bool,
}

/// `ctl host show`.
#[derive(Debug, Serialize)]
pub(crate) struct HostDetail {
    pub(crate) host: Host,
    pub(crate) targets: Vec<Target>,
    /// The controller left parts out, for the whole would have been too long.
    pub(crate) thinned: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) name: String,
    /// `online`, `offline`, `revoked` or `unknown`.
    pub(crate) state: &'static str,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) last_seen: Option<String>,
    pub(crate) joined: Option<String>,
    pub(crate) agent_version: Option<String>,
    pub(crate) os: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) engine_version: Option<String>,
    pub(crate) engine_api: Option<String>,
    pub(crate) engine_problem: Option<String>,
    /// The host's clock minus the controller's.
    pub(crate) clock_offset_ms: i64,
    pub(crate) certificate_not_after: Option<String>,
    pub(crate) target_count: u32,
    /// None of a host that is not online: nobody knows.
    pub(crate) targets_ready: u32,
    /// They have nothing to go back to yet.
    pub(crate) targets_without_predecessor: u32,
    /// Those of a host that is not online.
    pub(crate) targets_unknown: u32,
}

impl From<&v1::Host> for Host {
    fn from(host: &v1::Host) -> Self {
        let facts = host.facts.clone().unwrap_or_default();
        let seen = is_seen(host);
        let known = |count: u32| if seen { count } else { 0 };
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
            targets_ready: known(host.targets_ready),
            targets_without_predecessor: known(host.targets_without_predecessor),
            targets_unknown: host.target_count - known(host.target_count),
        }
    }
}

/// The word for a host's state.
pub(crate) fn host_state(state: v1::HostState) -> &'static str {
    match state {
        v1::HostState::Unspecified => "unknown",
        v1::HostState::Online => "online",
        v1::HostState::Offline => "offline",
        v1::HostState::Revoked => "revoked",
    }
}

/// `ctl host token`.
#[derive(Debug, Serialize)]
pub(crate) struct Token {
    pub(crate) token: String,
    pub(crate) expires: Option<String>,
}

/// `ctl status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) controller: String,
    pub(crate) controller_version: String,
    pub(crate) cluster: String,
    pub(crate) epoch: u64,
    pub(crate) caller_name: String,
    pub(crate) caller_role: String,
    pub(crate) controller_time: Option<String>,
}
