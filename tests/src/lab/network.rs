//! The network of a lab: its hosts and this machine. In a test it has no way out: what happens there reaches nobody else.

use std::process;

use crate::engine::Scope;

/// How many networks are tried: each lab has one of its own.
const NETWORKS: u32 = 256;

/// The network of one lab.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    number: u8,
}

impl Network {
    /// Makes it, where the engine has room: `10.214.N.0/24`.
    ///
    /// # Panics
    /// There is none.
    pub(super) async fn make(scope: &Scope, way_out: bool) -> Self {
        let mut last = String::new();
        for step in 0..NETWORKS {
            let number = u8::try_from((process::id() + step) % NETWORKS).unwrap_or_default();
            let subnet = format!("10.214.{number}.0/24");
            let flags = ["--subnet", &subnet, "--internal"];
            let flags = if way_out { &flags[..2] } else { &flags };
            match scope.try_network("lab", flags).await {
                Ok(name) => return Self { name, number },
                Err(refused) => last = refused,
            }
        }
        panic!("no network for the lab: {last}");
    }

    /// Its name on the engine.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The address of the host of that number, counted from 0. It keeps it across reboots.
    pub(super) fn address(&self, host: usize) -> String {
        format!("10.214.{}.{}", self.number, host + 10)
    }
}
