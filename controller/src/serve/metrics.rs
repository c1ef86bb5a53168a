//! The metrics listener: plain HTTP, on loopback unless it is configured otherwise.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::RunError;
use crate::{
    fleet::Fleet,
    metrics::{HOSTS, LATENCY_BUCKETS, ORDER_ACCEPTED_SECONDS, STORE_WAIT, describe},
    store::SharedStore,
};

/// Without upkeep histograms grow for ever.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder is the process's, however many controllers run in it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

fn recorder() -> Result<PrometheusHandle, RunError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for name in [ORDER_ACCEPTED_SECONDS, STORE_WAIT] {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), &LATENCY_BUCKETS)
            .map_err(|error| RunError::Metrics(error.to_string()))?;
    }
    match builder.install_recorder() {
        Ok(handle) => {
            describe();
            Ok(RECORDER.get_or_init(|| handle).clone())
        }
        // Another controller of this process was faster.
        Err(error) => RECORDER
            .get()
            .cloned()
            .ok_or_else(|| RunError::Metrics(error.to_string())),
    }
}

/// Keeps the recorder small and the gauges of hosts right, until the controller stops.
pub(super) async fn upkeep(store: SharedStore, fleet: Arc<Fleet>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Some(handle) = RECORDER.get() {
            handle.run_upkeep();
        }
        let Ok(hosts) = store.host_list().await else {
            continue;
        };
        let mut states: HashMap<&'static str, u32> =
            HashMap::from([("online", 0), ("offline", 0), ("revoked", 0)]);
        for host in hosts {
            let state = match (host.revoked_ms, fleet.live(host.id)) {
                (Some(_), _) => "revoked",
                (None, Some(_)) => "online",
                (None, None) => "offline",
            };
            *states.entry(state).or_default() += 1;
        }
        for (state, count) in states {
            metrics::gauge!(HOSTS, "state" => state).set(f64::from(count));
        }
    }
}

/// Answers `/metrics` and `/healthz` until the controller stops.
pub(super) fn serve(
    listener: TcpListener,
    store: SharedStore,
    shutdown: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, RunError> {
    let handle = recorder()?;
    let healthy = move || {
        let store = Arc::clone(&store);
        async move {
            match tokio::time::timeout(Duration::from_secs(5), store.cluster_fetch()).await {
                Ok(Ok(_)) => (StatusCode::OK, "ok\n"),
                _ => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store does not answer\n",
                ),
            }
        }
    };
    let router = Router::new()
        .route("/metrics", get(move || std::future::ready(handle.render())))
        .route("/healthz", get(healthy));
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the metrics listener ended");
        }
    }))
}
