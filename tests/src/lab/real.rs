//! Packages that Debian has, at two versions each, for hosts that have no way to a mirror.

use std::{fmt, fs, path::PathBuf};

use tokio::process::Command;

use super::{Generation, host::Host};
use crate::binary;

/// Fetches them.
const SCRIPT: &str = "deploy/lab/packages";

/// Where they are on a host.
const REPOSITORY: &str = "/var/lib/sternway-lab/apt";

/// A package of Debian that serves as soon as it is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Real {
    /// On port 80.
    Nginx,
    /// On port 9100; its version is in `/metrics`, as `node_exporter_build_info`.
    NodeExporter,
}

impl Real {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Nginx, Self::NodeExporter];

    /// Where it serves.
    pub fn port(self) -> u16 {
        match self {
            Self::Nginx => 80,
            Self::NodeExporter => 9100,
        }
    }
}

/// The name of the package, and of its unit.
impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nginx => "nginx",
            Self::NodeExporter => "prometheus-node-exporter",
        })
    }
}

/// One version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub version: String,
    /// What is asked of apt to get it, also where a newer one is to be had: `nginx=…`, `nginx-common=…`.
    pub packages: Vec<String>,
}

/// A package at two versions, of which the host's apt knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub old: Release,
    pub new: Release,
}

impl Offer {
    /// `PACKAGE OLD NEW`, and what has the same versions.
    fn of(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [package, old, new, others @ ..] = &words[..] else {
            return None;
        };
        let release = |version: &str| Release {
            version: version.to_owned(),
            packages: [package]
                .into_iter()
                .chain(others)
                .map(|name| format!("{name}={version}"))
                .collect(),
        };
        Some(Self {
            old: release(old),
            new: release(new),
        })
    }
}

impl Generation {
    /// The folder of what its hosts are offered: fetched by the first one that asks for it.
    async fn packages(self) -> PathBuf {
        let output = Command::new(binary::script(SCRIPT))
            .arg(self.to_string())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the script starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the packages of {self} hosts: {said}"
        );
        String::from_utf8_lossy(&output.stdout).trim().into()
    }
}

impl Host {
    /// From now on its apt knows of the packages of the lab, and of no others: this one is to be had at two versions.
    /// Nothing is installed.
    ///
    /// # Panics
    /// They cannot be fetched, or apt does not take them.
    pub async fn offers(&self, real: Real) -> Offer {
        let folder = self.generation().packages().await;
        self.run(&["mkdir", "-p", REPOSITORY]).await.ok();
        let from = format!("{}/.", folder.display());
        let to = format!("{}:{REPOSITORY}", self.container());
        self.docker(&["cp", &from, &to], b"").await.ok();
        // They were held against Debian's keys when they were fetched.
        let source = format!("deb [trusted=yes] file:{REPOSITORY} ./\n");
        self.write("/etc/apt/sources.list", source).await;
        self.run(&["apt-get", "update"]).await.ok();
        let offers = fs::read_to_string(folder.join("offers")).expect("the offers are readable");
        let name = real.to_string();
        let line = offers
            .lines()
            .find(|line| line.split(' ').next() == Some(&name));
        line.and_then(Offer::of)
            .unwrap_or_else(|| panic!("no {real} is offered: {offers}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_names_what_is_installed_together() {
        let offer = Offer::of("nginx 1.0-1 1.0-2 nginx-common").expect("whole");
        assert_eq!(offer.old.version, "1.0-1");
        assert_eq!(offer.new.packages, ["nginx=1.0-2", "nginx-common=1.0-2"]);
        assert_eq!(Offer::of("nginx 1.0-1"), None);
    }
}
