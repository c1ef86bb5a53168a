//! What an idle agent and an idle controller cost: memory, processor time, and the size of the binaries.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]
#![expect(clippy::expect_used, reason = "a bench that cannot measure fails")]

use std::{fs, time::Duration};

use sternway_tests::{binary, shop::Image, stage::Stage};

/// Over how long processor time is measured. Long enough for a heartbeat or two.
const WINDOW: Duration = Duration::from_secs(20);

/// A field of `/proc/PID/status` or `smaps_rollup`, KiB.
fn kib(id: u32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Processor time used so far, in ticks of 10 ms.
fn ticks(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |at| -> u64 {
        after_name
            .split_whitespace()
            .nth(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}

#[tokio::main]
async fn main() {
    for name in ["sternway-agent", "sternway-controller", "ctl"] {
        let bytes = fs::metadata(binary::find(name)).expect("built").len();
        println!("{name:<20} binary {:.1} MiB", to_mib(bytes / 1024));
    }
    let mut stage = Stage::new().await;
    let image = Image::good("v1").shared().await;
    stage.scope.run("shop", &[], &image).await;
    stage.known_good("shop", 1).await;
    let processes = [
        ("sternway-agent", stage.agent.process().id()),
        ("sternway-controller", stage.controller.process().id()),
    ];
    let before = processes.map(|(_, id)| ticks(id));
    tokio::time::sleep(WINDOW).await;
    for ((name, id), before) in processes.into_iter().zip(before) {
        let used = (ticks(id) - before) * 10;
        println!(
            "{name:<20} idle RSS {:.1} MiB (private {:.1} MiB), {used} ms of processor time in {} s",
            to_mib(kib(id, "status", "VmRSS")),
            to_mib(kib(id, "smaps_rollup", "Private_Dirty")),
            WINDOW.as_secs()
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a person, one decimal")]
fn to_mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
