//! What the host is.

use std::time::Duration;

use sternway_proto::{name::clean_text, v1};
use tokio::time::timeout;

use crate::targets::Registry;

/// How long the engines may take to say who they are.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The facts, as of now.
pub(super) async fn gather(registry: &Registry) -> v1::HostFacts {
    let system = rustix::system::uname();
    let text = |part: &std::ffi::CStr| clean_text(&part.to_string_lossy());
    let mut facts = v1::HostFacts {
        hostname: text(system.nodename()),
        os: os_name(),
        kernel: text(system.release()),
        architecture: text(system.machine()),
        ..v1::HostFacts::default()
    };
    for kind in registry.all() {
        if timeout(DESCRIBE_TIMEOUT, kind.describe(&mut facts))
            .await
            .is_err()
        {
            "the engine does not answer".clone_into(&mut facts.engine_problem);
        }
    }
    facts
}

/// `PRETTY_NAME` of os-release(5). Empty: not said.
fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| clean_text(name.trim_matches('"')))
        .unwrap_or_default()
}
