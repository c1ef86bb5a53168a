//! A network namespace joined to this machine by a pair of interfaces: a client that is neither loopback nor
//! this machine. Made and removed by the test.

use std::process::Command;

use crate::{engine::Scope, port::Port};

/// A network namespace; gone with its owner.
#[derive(Debug)]
pub struct Netns {
    name: String,
    host_address: String,
    /// Unique on this machine: gives the addresses.
    _lease: Port,
}

impl Netns {
    /// Makes one.
    ///
    /// # Panics
    /// Not allowed to (root is needed), or `ip` is missing.
    pub fn new(scope: &Scope) -> Self {
        let lease = Port::lease();
        let number = lease.number() - 20_000;
        let name = format!("{}-{number}", scope.name());
        let network = format!("10.213.{}", number / 64);
        let first = (number % 64) * 4;
        let host_address = format!("{network}.{}", first + 1);
        let inside = format!("{network}.{}/30", first + 2);
        let outside = format!("{host_address}/30");
        let link = format!("swt-veth-{number}");
        let made = Self {
            name: name.clone(),
            host_address,
            _lease: lease,
        };
        ip(&["netns", "add", &name]);
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ]);
        ip(&["addr", "add", &outside, "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        ip(&["-n", &name, "addr", "add", &inside, "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&[
            "-n",
            &name,
            "route",
            "add",
            "default",
            "via",
            &made.host_address,
        ]);
        made
    }

    /// The address of this machine as seen from the namespace.
    pub fn host_address(&self) -> &str {
        &self.host_address
    }

    /// A command that runs inside.
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The pair of interfaces goes with the namespace.
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip is installed (deploy/scripts/setup-tests)");
    assert!(
        output.status.success(),
        "ip {}: {} (network namespaces need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
