//! The metrics listener: plain HTTP, on loopback unless it is configured otherwise.

use std::{
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

/// What is measured in this process, from now on.
pub(super) fn recorder() -> Result<PrometheusHandle, RunError> {
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
        let Ok((living, revoked)) = store.host_count().await else {
            continue;
        };
        // Sessions of hosts that live: those of revoked ones are over in a moment.
        let online = u64::try_from(fleet.online())
            .unwrap_or(u64::MAX)
            .min(living);
        for (state, count) in [
            ("online", online),
            ("offline", living - online),
            ("revoked", revoked),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
            metrics::gauge!(HOSTS, "state" => state).set(count as f64);
        }
    }
}

/// Answers `/metrics` and `/healthz` until the controller stops.
pub(super) fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    store: SharedStore,
    shutdown: CancellationToken,
) {
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
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the metrics listener ended");
        }
    });
}
