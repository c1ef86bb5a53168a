//! `packages`: has the agent's library do to the packages of a host of the lab what the agent has work of its own do. What is
//! asked comes as JSON on standard input, the answer goes as JSON to standard output. Part of the tests, not of the product.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use sternway_agent::dpkg::{self, Install, InstallError};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Install {
        order: Install,
        patience_ms: u64,
        deadline_ms: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let answer = answer(serde_json::from_reader(io::stdin())?);
    writeln!(io::stdout(), "{answer}")?;
    Ok(())
}

fn answer(ask: Ask) -> Value {
    match ask {
        Ask::Install {
            order,
            patience_ms,
            deadline_ms,
        } => {
            let [patience, deadline] = [patience_ms, deadline_ms].map(Duration::from_millis);
            match dpkg::install(&order, patience, deadline) {
                Ok(installed) => json!({ "done": installed }),
                Err(InstallError::Locked { by }) => json!({ "locked": by }),
                Err(error) => json!({ "failed": error.to_string() }),
            }
        }
    }
}
