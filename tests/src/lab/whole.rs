//! What must hold of a target whatever befell its host: it is one revision, whole, that serves, and nothing is left over.

use super::{Host, Lab};
use crate::{http, stage::SETTLES, wait::until};

/// Where a restore of units writes beside what it exchanges. Not `/var`, in which the state of the agent is.
const WRITTEN: [&str; 4] = ["/etc", "/opt", "/usr/local", "/usr/bin"];

/// What orders noted on a host.
const WORKS: &str = "/var/lib/sternway-agent/works";

impl Host {
    /// Its agent lets go of what orders left soon after they are over, and looks at readiness as often.
    ///
    /// # Panics
    /// The settings cannot be written.
    pub async fn tidies_often(&self) {
        let often = "s/^readiness_interval = .*/readiness_interval = \"2s\"/";
        let edit = ["sed", "-i", often, "/etc/sternway/agent.toml"];
        self.run(&edit).await.ok();
    }

    /// Waits until what serves on that port is of this version.
    ///
    /// # Panics
    /// It does not become so.
    pub async fn serves(&self, port: u16, version: &str) {
        let address = format!("{}:{port}", self.address());
        let what = format!("{version} to be served by {}", self.name());
        until(&what, SETTLES, async || {
            match http::get(&address, "/").await {
                Ok(answer) if answer.status == 200 && answer.body == version => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Holds it against what restores may leave behind: files written beside others, units of works, folders of orders,
    /// packages that are half done.
    ///
    /// # Panics
    /// Something is left.
    pub async fn has_no_leftovers(&self) {
        let find = [&["find"], &WRITTEN[..], &["-name", ".*.sternway-*"]].concat();
        assert_eq!(self.run(&find).await.stdout, "", "on {}", self.name());
        let audit = self.run(&["dpkg", "--audit"]).await.stdout;
        assert_eq!(audit, "", "on {}", self.name());
        let what = format!("nothing of orders to be left on {}", self.name());
        until(&what, SETTLES, async || {
            let works = self.run(&["ls", WORKS]).await.stdout;
            let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend"];
            let units = self.run(&[&list[..], &["sternway-*"]].concat()).await.ok();
            let others = units
                .lines()
                .filter(|unit| !unit.starts_with("sternway-agent"));
            let left = others.chain(works.lines()).collect::<Vec<_>>();
            left.is_empty().then_some(()).ok_or(left.join("; "))
        })
        .await;
    }
}

impl Lab {
    /// Holds a target that serves on port 8080 against that revision, which is this version: the controller says so, the
    /// unit is up, it serves, and nothing is left over.
    ///
    /// # Panics
    /// It is otherwise.
    pub async fn is_whole(&self, host: &Host, target: &str, number: u64, version: &str) {
        host.serves(8080, version).await;
        self.runs(host.name(), target, number).await;
        let unit = target.rsplit('/').next().unwrap_or_default();
        let active = host.run(&["systemctl", "is-active", unit]).await;
        assert_eq!(active.stdout, "active", "{unit} on {}", host.name());
        host.has_no_leftovers().await;
    }
}
