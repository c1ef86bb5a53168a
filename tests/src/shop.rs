//! Images of `shop`, the application under deployment.

use std::{
    collections::HashMap,
    fs::{self, File},
};

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::{
    binary,
    engine::{Scope, labels, run_id},
};

/// Makes an image.
const SCRIPT: &str = "deploy/demo/shop-image";

/// What an image of shop is like.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// What `GET /` answers.
    pub version: &'static str,
    /// `health`, `crash`, `errors`, `deaf`, `mood`; empty: none.
    pub fault: &'static str,
    /// For instance `3s`; empty: at once.
    pub startup: &'static str,
    pub healthcheck: bool,
}

impl Image {
    /// A good version that is up at once and has a HEALTHCHECK.
    pub fn good(version: &'static str) -> Self {
        Self {
            version,
            healthcheck: true,
            ..Self::default()
        }
    }

    /// A version without a HEALTHCHECK, with which the engine takes its time. No fault: an empty one.
    pub fn plain(version: &'static str, fault: &'static str) -> Self {
        Self {
            version,
            fault,
            ..Self::default()
        }
    }

    /// A version with a fault.
    pub fn bad(version: &'static str, fault: &'static str) -> Self {
        Self {
            fault,
            ..Self::good(version)
        }
    }

    fn tag(&self) -> String {
        let text: Vec<&str> = [self.version, self.fault, self.startup]
            .into_iter()
            .chain((!self.healthcheck).then_some("plain"))
            .filter(|part| !part.is_empty())
            .collect();
        text.join("-")
    }

    /// This image, shared by all tests of this run: made by the first one that asks. Never remove it in a
    /// test.
    pub async fn shared(&self) -> String {
        let binary = binary::find("shop");
        let digest = hex::encode(Sha256::digest(fs::read(&binary).expect("shop is readable")));
        let run = run_id();
        let repository: String = digest.chars().take(12).collect();
        let name = format!("swt-shop-{run}:{repository}-{}", self.tag());
        let lock = File::create(std::env::temp_dir().join("sternway-test-images.lock"))
            .expect("the lock of the images opens");
        let lock = tokio::task::spawn_blocking(move || {
            lock.lock().expect("the lock of the images is taken");
            lock
        })
        .await
        .expect("locking does not panic");
        let there = Command::new("docker")
            .args(["image", "inspect", &name])
            .output()
            .await
            .expect("the docker tool starts");
        if !there.status.success() {
            // All tests share it, so it bears a scope that no test has.
            self.make(&name, &labels("shared")).await;
        }
        drop(lock);
        name
    }

    /// This image for one test alone, which may remove it. Its id is like no other's.
    pub async fn own(&self, scope: &Scope) -> String {
        let name = format!("{}-shop:{}", scope.name(), self.tag());
        let script = scope.command(binary::script(SCRIPT));
        self.make_by(script, &name, &scope.labels()).await;
        name
    }

    /// This image under a name of the caller's choice, for instance with a registry in front.
    pub async fn make(&self, name: &str, labels: &HashMap<String, String>) {
        let script = std::process::Command::new(binary::script(SCRIPT));
        self.make_by(script, name, labels).await;
    }

    async fn make_by(
        &self,
        script: std::process::Command,
        name: &str,
        labels: &HashMap<String, String>,
    ) {
        let mut command = Command::from(script);
        command.arg("--binary").arg(binary::find("shop")).args([
            "--tag",
            name,
            "--version",
            self.version,
        ]);
        for (key, value) in labels {
            command.args(["--label", &format!("{key}={value}")]);
        }
        if !self.fault.is_empty() {
            command.args(["--fail", self.fault]);
        }
        if !self.startup.is_empty() {
            command.args(["--startup", self.startup]);
        }
        if self.healthcheck {
            command.arg("--healthcheck");
        }
        let output = command.output().await.expect("shop-image starts");
        assert!(
            output.status.success(),
            "cannot make {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
