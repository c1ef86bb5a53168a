//! What a lab's controller says of the targets of its hosts.

use futures_util::future::join_all;
use serde_json::Value;

use super::{Fleet, Host, Lab};
use crate::{stage::SETTLES, wait::until};

impl Host {
    /// Adds to the settings of its agent and starts it again with them.
    ///
    /// # Panics
    /// They cannot be written, or the agent does not come up.
    pub async fn looks_after(&self, settings: &str) {
        let path = "/etc/sternway/agent.toml";
        let before = self.run(&["cat", path]).await.ok();
        self.write(path, format!("{before}\n{settings}\n")).await;
        let restart = ["systemctl", "restart", "sternway-agent"];
        self.run(&restart).await.ok();
    }
}

impl Lab {
    /// A host of each generation, whose agents look after what these settings say.
    ///
    /// # Panics
    /// Something does not come up.
    pub async fn of_each_generation(settings: &str) -> Self {
        let lab = Fleet::of_each_generation().raise().await;
        join_all(lab.hosts().map(|host| host.looks_after(settings))).await;
        lab
    }

    /// A target as `ctl` shows it; null: there is none.
    ///
    /// # Panics
    /// `ctl` fails.
    pub async fn target(&self, host: &str, target: &str) -> Value {
        let listed = self.ctl.json(&["target", "ls", "--host", host]).await;
        let all = listed["targets"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|one| one["target"] == target);
        found.unwrap_or_default()
    }

    /// Waits until revision `number` of the target is the current one there.
    ///
    /// # Panics
    /// It does not become so.
    pub async fn runs(&self, host: &str, target: &str, number: u64) {
        self.revision(host, target, number, |_| true).await;
    }

    /// As [`Self::runs`], and it is known-good.
    ///
    /// # Panics
    /// It does not become so.
    pub async fn known_good(&self, host: &str, target: &str, number: u64) {
        let good = |revision: &Value| revision["known_good"] == true;
        self.revision(host, target, number, good).await;
    }

    async fn revision(&self, host: &str, target: &str, number: u64, is: impl Fn(&Value) -> bool) {
        until(
            &format!("#{number} of {target} on {host}"),
            SETTLES,
            async || {
                let shown = self.target(host, target).await;
                let all = shown["revisions"].as_array();
                let revision = all.and_then(|all| all.iter().find(|one| one["number"] == number));
                let runs = |one: &&Value| one["id"] == shown["current_revision"];
                let fits = revision.filter(runs).is_some_and(&is);
                fits.then_some(()).ok_or(format!("{shown:#}"))
            },
        )
        .await;
    }
}
