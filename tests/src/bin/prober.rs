//! `prober ADDRESS PER_SECOND short|long RESULT_FILE`: probes until SIGTERM, then writes what it saw as JSON. Part of the
//! tests, not of the product.

use std::io::Write as _;

use anyhow::Context as _;
use sternway_tests::prober::{Patience, probe};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

const USAGE: &str = "usage: prober ADDRESS PER_SECOND short|long RESULT_FILE";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context(USAGE);
    let (address, per_second) = (next()?, next()?.parse()?);
    let patience = Patience::parse(&next()?).context(USAGE)?;
    let result = next()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (switch, stop) = watch::channel(false);
    let probing = tokio::spawn(async move { probe(&address, per_second, patience, stop).await });
    writeln!(std::io::stdout(), "probing")?;
    terminate.recv().await;
    switch.send(true)?;
    let summary = probing.await?;
    std::fs::write(result, serde_json::to_vec(&summary)?)?;
    Ok(())
}
