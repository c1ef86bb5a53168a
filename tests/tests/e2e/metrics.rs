//! What the metrics say of a rollback: each of them moves with what it counts.

use std::collections::BTreeMap;

use sternway_tests::{
    http,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Every line of the metrics with its value: `name{labels}` as it is written.
async fn metrics(stage: &Stage) -> BTreeMap<String, f64> {
    let answer = http::get(&stage.controller.metrics(), "/metrics").await;
    let body = answer.expect("the metrics answer").body;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// The sum over all labels of a name; zero before the first.
fn sum(metrics: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |line: &str| {
        line == name
            || line
                .strip_prefix(name)
                .is_some_and(|it| it.starts_with('{'))
    };
    metrics
        .iter()
        .filter(|(line, _)| of(line))
        .map(|it| it.1)
        .sum()
}

/// Waits until a sum is that; they are gathered every few seconds.
async fn becomes(stage: &Stage, name: &str, wanted: impl Fn(f64) -> bool) {
    until(name, SETTLES, async || {
        let all = metrics(stage).await;
        wanted(sum(&all, name))
            .then_some(())
            .ok_or(format!("{all:#?}"))
    })
    .await;
}

#[tokio::test]
async fn every_metric_moves_with_what_it_counts() {
    let mut stage = Stage::new().await;
    let image = Image {
        version: "v1",
        ..Image::default()
    };
    let image = image.shared().await;
    let flags = |setting| ["-l", "sternway.soak=0s", "-e", setting];
    stage.scope.run("shop", &flags("A=1"), &image).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &flags("A=2"), &image).await;
    stage.current("shop", 2).await;
    let one = |seen: f64| (seen - 1.0).abs() < f64::EPSILON;
    let none = |seen: f64| seen.abs() < f64::EPSILON;
    for gauge in ["sternway_sessions", "sternway_hosts{state=\"online\"}"] {
        becomes(&stage, gauge, one).await;
    }
    let before = metrics(&stage).await;
    let moved_by_then = [
        "sternway_sessions_opened_total",
        "sternway_store_write_wait_seconds_count",
        "sternway_observations_batch_count",
    ];
    for name in moved_by_then {
        assert!(sum(&before, name) > 0.0, "{name}: {before:#?}");
    }
    let of_orders = [
        "sternway_orders_started_total",
        "sternway_orders_finished_total",
        "sternway_order_accepted_seconds_count",
    ];
    for name in of_orders {
        assert!(none(sum(&before, name)), "{name}: {before:#?}");
    }

    let _ = stage
        .ctl
        .run(&["rollback", "--host", HOST, "--yes"])
        .await
        .exits(0);
    for name in of_orders {
        becomes(&stage, name, one).await;
    }
    let restored = "sternway_orders_finished_total{outcome=\"restored\"}";
    becomes(&stage, restored, one).await;
    let after = metrics(&stage).await;
    let took = sum(&after, "sternway_order_accepted_seconds_sum");
    assert!(took > 0.0 && took < SETTLES.as_secs_f64(), "{took} s");
    for name in [
        "sternway_store_write_wait_seconds_count",
        "sternway_observations_batch_count",
    ] {
        let moved = sum(&after, name) > sum(&before, name);
        assert!(moved, "{name}: {before:#?} {after:#?}");
    }

    // A stranger that speaks no TLS.
    let failed = sum(&after, "sternway_handshakes_failed_total");
    let mut stranger = TcpStream::connect(stage.controller.listen())
        .await
        .expect("connects");
    stranger
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    // What it is answered is of no interest; that it is done with is.
    let _ = stranger.read_to_end(&mut Vec::new()).await;
    becomes(&stage, "sternway_handshakes_failed_total", |seen| {
        seen > failed
    })
    .await;

    let ended = sum(&after, "sternway_sessions_ended_total");
    stage.agent.kill();
    becomes(&stage, "sternway_sessions", none).await;
    becomes(&stage, "sternway_sessions_ended_total", |seen| seen > ended).await;
    becomes(&stage, "sternway_hosts{state=\"offline\"}", one).await;
}
