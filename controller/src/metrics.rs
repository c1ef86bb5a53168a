//! Every metric's name and help text. Collected by `metrics`, rendered on the metrics listener.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const HOSTS: &str = "sternway_hosts";
pub const SESSIONS: &str = "sternway_sessions";
pub const SESSIONS_OPENED: &str = "sternway_sessions_opened_total";
pub const SESSIONS_ENDED: &str = "sternway_sessions_ended_total";
pub const HANDSHAKES_FAILED: &str = "sternway_handshakes_failed_total";
pub const ORDERS_STARTED: &str = "sternway_orders_started_total";
pub const ORDERS_FINISHED: &str = "sternway_orders_finished_total";
pub const ORDER_ACCEPTED_SECONDS: &str = "sternway_order_accepted_seconds";
pub const STORE_WAIT: &str = "sternway_store_write_wait_seconds";
pub const OBSERVATIONS_BATCH: &str = "sternway_observations_batch";
pub const CERTIFICATE_END: &str = "sternway_certificate_not_after_seconds";
pub const AGENT_MESSAGES_REFUSED: &str = "sternway_agent_messages_refused_total";

/// Bounds of the latency histograms, seconds.
pub const LATENCY_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Gives every metric its help text.
pub fn describe() {
    describe_gauge!(HOSTS, "Hosts by state");
    describe_gauge!(SESSIONS, "Agents connected now");
    describe_counter!(SESSIONS_OPENED, "Sessions that agents opened");
    describe_counter!(SESSIONS_ENDED, "Sessions that ended, by why");
    describe_counter!(
        HANDSHAKES_FAILED,
        "Handshakes of strangers and others that failed"
    );
    describe_gauge!(
        CERTIFICATE_END,
        Unit::Seconds,
        "When a certificate ends, Unix time: of `authority` all of the cluster's, of `controller` its own"
    );
    describe_counter!(ORDERS_STARTED, "Orders that were stored");
    describe_counter!(ORDERS_FINISHED, "Orders that ended, by outcome");
    describe_histogram!(
        ORDER_ACCEPTED_SECONDS,
        Unit::Seconds,
        "From sending an order to having its agent's first journaled event"
    );
    describe_histogram!(
        STORE_WAIT,
        Unit::Seconds,
        "Wait for the database's write lock"
    );
    describe_histogram!(OBSERVATIONS_BATCH, "Observations stored in one transaction");
    describe_counter!(
        AGENT_MESSAGES_REFUSED,
        "Messages of agents that were not acceptable, by why"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_metric_and_no_other() {
        let docs = include_str!("../../docs/metrics.md");
        let rows = docs.lines().filter_map(|line| line.strip_prefix("| `"));
        let mut documented: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        documented.sort_unstable();
        let mut all = [
            HOSTS,
            SESSIONS,
            SESSIONS_OPENED,
            SESSIONS_ENDED,
            HANDSHAKES_FAILED,
            ORDERS_STARTED,
            ORDERS_FINISHED,
            ORDER_ACCEPTED_SECONDS,
            STORE_WAIT,
            OBSERVATIONS_BATCH,
            CERTIFICATE_END,
            AGENT_MESSAGES_REFUSED,
        ];
        all.sort_unstable();
        assert_eq!(documented, all);
    }
}
