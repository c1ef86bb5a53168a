//! The ground of stories in which it does not matter what runs on a host: a controller and an operator, both real. The
//! hosts that join are scripted.

use std::{pin::pin, process::ExitStatus, time::Duration};

use serde_json::Value;
use sternway_proto::token::JoinToken;
use tokio::time::sleep;

use crate::{
    controller::Controller,
    ctl::Ctl,
    engine::Scope,
    scripted::{Host, Session, WAIT, inventory},
    wait::until,
};

/// Between looks at whether the controller has died.
const LOOK: Duration = Duration::from_millis(20);

/// A controller and an operator. Fields end in this order: first what acts, then the scope.
#[derive(Debug)]
pub struct Ground {
    pub controller: Controller,
    pub ctl: Ctl,
    pub scope: Scope,
}

impl Ground {
    /// Both of them up, no host yet.
    ///
    /// # Panics
    /// The controller does not come up.
    pub async fn new() -> Self {
        let scope = Scope::new().await;
        let controller = Controller::new(&scope).await;
        Self {
            ctl: controller.ctl(),
            controller,
            scope,
        }
    }

    /// A join token for a host of that name.
    pub async fn token(&self, name: &str) -> JoinToken {
        let said = self.ctl.json(&["host", "token", "--name", name]).await;
        let token = said["token"].as_str().expect("a token");
        token.parse().expect("whole")
    }

    /// A host of that name, joined.
    pub async fn join(&self, name: &str) -> Host {
        let token = self.token(name).await.to_string();
        Host::join(&token).await.expect("joined")
    }

    /// A session of that host, whose inventory is known.
    pub async fn session(&self, name: &str, host: &Host) -> Session {
        let session = host.session().await;
        session.say(inventory()).await;
        self.known(name).await;
        session
    }

    /// Waits until the controller knows what the host has, and answers with its one target.
    pub async fn known(&self, name: &str) -> Value {
        until("the inventory", WAIT, async || {
            let listed = self.ctl.json(&["target", "ls", "--host", name]).await;
            match listed["targets"].as_array().map(Vec::as_slice) {
                Some([target]) => Ok(target.clone()),
                _ => Err(listed.to_string()),
            }
        })
        .await
    }

    /// Hosts of that name, revoked ones too.
    pub async fn hosts(&self, name: &str) -> Vec<Value> {
        let listed = self.ctl.json(&["host", "ls"]).await;
        let all = listed["hosts"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|host| host["name"] == name)
            .collect()
    }

    /// All rollouts, the newest first.
    pub async fn rollouts(&self) -> Vec<Value> {
        let listed = self.ctl.json(&["rollout", "ls"]).await;
        listed["rollouts"].as_array().cloned().unwrap_or_default()
    }

    /// Entries of the record with that action and subject.
    pub async fn recorded(&self, action: &str, subject: &str) -> usize {
        let listed = self.ctl.json(&["record", "ls", "--limit", "1000"]).await;
        let entries = listed["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["action"] == action && entry["subject"] == subject)
            .count()
    }

    /// The record holds: asserted, not waited for.
    ///
    /// # Panics
    /// It does not.
    pub async fn holds(&self, when: &str) {
        let verified = self.ctl.json(&["record", "verify"]).await;
        assert_eq!(verified["holds"], true, "{when}: {verified}");
    }

    /// Does that under a controller that may die of it, and is started again then. How it has ended, if it has.
    pub async fn survive(&mut self, acts: impl Future<Output = ()>) -> Option<ExitStatus> {
        let (mut acts, mut ended) = (pin!(acts), None);
        loop {
            tokio::select! {
                () = &mut acts => return ended,
                () = sleep(LOOK) => {}
            }
            if ended.is_none() {
                ended = self.controller.process().status();
                if ended.is_some() {
                    self.controller.start().await;
                }
            }
        }
    }
}
