//! `prober ADDRESS PER_SECOND RESULT_FILE`: probes until SIGTERM, then writes what it saw as JSON. Part of the
//! tests, not of the product.

use std::io::Write as _;

use anyhow::Context as _;
use sternway_tests::prober::probe;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .context("usage: prober ADDRESS PER_SECOND RESULT_FILE")
    };
    let (address, per_second, result) = (next()?, next()?.parse()?, next()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let (switch, stop) = watch::channel(false);
    let probing = tokio::spawn(async move { probe(&address, per_second, stop).await });
    writeln!(std::io::stdout(), "probing")?;
    terminate.recv().await;
    switch.send(true)?;
    let summary = probing.await?;
    std::fs::write(result, serde_json::to_vec(&summary)?)?;
    Ok(())
}
