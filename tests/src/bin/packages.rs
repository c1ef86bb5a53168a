//! `packages`: has the agent's library do to the packages of a host of the lab what the agent has work of its own do. What is
//! asked comes as JSON on standard input, the answer goes as JSON to standard output. Part of the tests, not of the product.

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sternway_agent::dpkg::{
    Dpkg, Install, InstallError, PackageId, Shelf, Supply, download_command, install, rebuild,
};
use tempfile::TempDir;
use tokio::process::Command;

/// What a shelf of the tests may hold, bytes.
const BUDGET: u64 = 100_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Install {
        order: Install,
        patience_ms: u64,
        deadline_ms: u64,
    },
    Rebuild {
        package: PackageId,
        into: PathBuf,
    },
    /// Keeps it, and copies it out again.
    Keep {
        shelf: PathBuf,
        package: PackageId,
        out: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let answer = answer(serde_json::from_reader(io::stdin())?).await;
    writeln!(io::stdout(), "{answer}")?;
    Ok(())
}

async fn answer(ask: Ask) -> Value {
    match ask {
        Ask::Install {
            order,
            patience_ms,
            deadline_ms,
        } => {
            let [patience, deadline] = [patience_ms, deadline_ms].map(Duration::from_millis);
            match install(&order, patience, deadline) {
                Err(InstallError::Locked { by }) => json!({ "locked": by }),
                done => told(done),
            }
        }
        Ask::Rebuild { package, into } => told(rebuild(&package, &into)),
        Ask::Keep {
            shelf,
            package,
            out,
        } => told(keep(shelf, package, out).await),
    }
}

fn told<T: Serialize, E: Display>(done: Result<T, E>) -> Value {
    match done {
        Ok(done) => json!({ "done": done }),
        Err(error) => json!({ "failed": error.to_string() }),
    }
}

async fn keep(shelf: PathBuf, package: PackageId, out: PathBuf) -> anyhow::Result<Value> {
    let shelf = Shelf::open(&shelf, BUDGET)?;
    let supply = Here {
        folder: TempDir::new()?,
    };
    let kept = shelf.keep(&Dpkg::default(), &package, &supply).await?;
    shelf.verify(&package).await?;
    let file = shelf.copy_to(&package, &out).await?;
    Ok(json!({ "source": kept.source, "file": file }))
}

/// What the agent has work of its own do, done in this process.
struct Here {
    folder: TempDir,
}

impl Here {
    async fn fetched(&self, package: &PackageId) -> anyhow::Result<PathBuf> {
        let download = download_command(package, self.folder.path());
        let output = Command::new(download.program)
            .args(download.arguments)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{said}");
        Ok(download.file)
    }
}

impl Supply for Here {
    async fn fetch(&self, package: &PackageId) -> Option<PathBuf> {
        self.fetched(package).await.ok()
    }

    async fn rebuild(&self, package: &PackageId) -> Option<PathBuf> {
        let rebuilt = rebuild(package, self.folder.path());
        rebuilt.ok().map(|rebuilt| rebuilt.file)
    }
}
