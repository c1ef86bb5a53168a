//! The stage of most stories: a controller, one host with its agent, and an operator, all real.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{agent::Agent, controller::Controller, ctl::Ctl, engine::Scope, wait::until};

/// The name of the host.
pub const HOST: &str = "web-1";

/// What has been caused is seen within this time, also on a busy machine.
pub const SETTLES: Duration = Duration::from_secs(90);

/// A controller, an agent and an operator. Fields end in this order: first what acts, then the scope.
#[derive(Debug)]
pub struct Stage {
    pub agent: Agent,
    pub controller: Controller,
    pub ctl: Ctl,
    pub scope: Scope,
}

impl Stage {
    /// All of them up, the host online.
    ///
    /// # Panics
    /// Something does not come up.
    pub async fn new() -> Self {
        let scope = Scope::new().await;
        let socket = scope.socket();
        Self::of(scope, &socket, "").await
    }

    /// As [`Stage::new`] on that scope; the agent finds its engine behind that socket and has further settings.
    ///
    /// # Panics
    /// Something does not come up.
    pub async fn of(scope: Scope, socket: &Path, settings: &str) -> Self {
        let controller = Controller::new(&scope).await;
        let ctl = controller.ctl();
        let token = ctl.json(&["host", "token", "--name", HOST]).await;
        let token = token["token"].as_str().expect("a token").to_owned();
        let mut agent = Agent::join_with(&scope, HOST, &token, socket, settings);
        agent.start();
        let stage = Self {
            agent,
            controller,
            ctl,
            scope,
        };
        stage.online().await;
        stage
    }

    /// Waits until the host is in this state.
    pub async fn host_is(&self, wanted: &str) {
        until(&format!("{HOST} to be {wanted}"), SETTLES, async || {
            let shown = self.ctl.json(&["host", "show", HOST]).await;
            let state = &shown["host"]["state"];
            (state == wanted).then_some(()).ok_or(state.to_string())
        })
        .await;
    }

    /// Waits until the host is online.
    pub async fn online(&self) {
        self.host_is("online").await;
    }

    /// The target of a container of the scope, as `ctl` shows it; `Null` where it is unknown.
    pub async fn target(&self, local: &str) -> Value {
        let name = self.scope.target(local);
        let listed = self.ctl.json(&["target", "ls", "--host", HOST]).await;
        let targets = listed["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .find(|target| target["target"] == name.as_str())
            .unwrap_or(Value::Null)
    }

    /// A revision of a target by its number; `Null` where there is none.
    pub async fn revision(&self, local: &str, number: u32) -> Value {
        revision(&self.target(local).await, number)
    }

    /// Waits until that revision is the current one.
    pub async fn current(&self, local: &str, number: u32) {
        self.revision_is(local, number, "current", |_| true).await;
    }

    /// Waits until that revision is the current one and known-good.
    pub async fn known_good(&self, local: &str, number: u32) {
        self.revision_is(local, number, "known-good", |revision| {
            revision["known_good"] == true
        })
        .await;
    }

    /// Where the agent lists what an image in its archive is made of: written last.
    pub fn listed_in_archive(&self, image: &str) -> PathBuf {
        let digits = image.trim_start_matches("sha256:");
        let folder = self.agent.folder().join("state/images/images");
        folder.join(format!("{digits}.json"))
    }

    /// Waits until the agent has a copy of that image, by its id.
    pub async fn archived(&self, image: &str) {
        until("the image to be archived", SETTLES, async || {
            let listed = self.listed_in_archive(image).exists();
            listed.then_some(()).ok_or("it is not")
        })
        .await;
    }

    async fn revision_is(&self, local: &str, number: u32, what: &str, ok: fn(&Value) -> bool) {
        let what = format!("{local} #{number} to be {what}");
        until(&what, SETTLES, async || {
            let target = self.target(local).await;
            let revision = revision(&target, number);
            let current = !revision.is_null() && target["current_revision"] == revision["id"];
            if current && ok(&revision) {
                Ok(())
            } else {
                Err(format!("{target:#}"))
            }
        })
        .await;
    }

    /// That revision runs, in a container that was not exchanged: asserted, not waited for.
    ///
    /// # Panics
    /// Another runs.
    pub async fn unchanged(&self, local: &str, number: u32) {
        let target = self.target(local).await;
        assert_eq!(
            target["current_revision"],
            revision(&target, number)["id"],
            "{target:#}"
        );
        assert_eq!(target["state"], "running", "{target:#}");
    }
}

fn revision(target: &Value, number: u32) -> Value {
    let revisions = target["revisions"].as_array().cloned().unwrap_or_default();
    revisions
        .into_iter()
        .find(|revision| revision["number"] == number)
        .unwrap_or(Value::Null)
}
