//! The lab: a fleet of real hosts on this machine. Each is a container that runs systemd as PID 1, with D-Bus, dpkg, its
//! own journal, its own address and, where asked, its own Docker engine; the controller runs on one of them. They are
//! installed as the README says, and what goes wrong with real hosts is done to them from outside: see [`Host`].
//!
//! What a lab made bears the label of its [`Scope`] and goes with it, also when the test panics. A test that fails prints
//! the journals of all its hosts.

mod disk;
mod faults;
mod host;
mod image;
mod journals;
mod network;
mod packages;
mod real;
mod targets;
mod units;
mod whole;

use std::collections::BTreeMap;

use futures_util::future::join_all;

use self::{host::Blueprint, network::Network};
pub use self::{
    host::{Host, Said},
    image::Generation,
    packages::{Deb, Start},
    real::{Offer, Real, Release},
    units::{APP, App, PORT, shop},
};
use crate::{ctl::Ctl, engine::Scope, stage::SETTLES, wait::until};

/// The name of the host on which the controller runs.
pub const CONTROLLER: &str = "controller";

/// Where the operator's credentials are on that host.
const OPERATOR: &str = "/root/operator";

/// Which hosts a test needs.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    hosts: Vec<Blueprint>,
    way_out: bool,
}

impl Fleet {
    /// No host but the controller's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A host of each generation, with systemd and packages.
    #[must_use]
    pub fn of_each_generation() -> Self {
        let hosts = Generation::ALL.into_iter();
        hosts.fold(Self::new(), |fleet, one| fleet.vm(&one.to_string(), one))
    }

    /// And a host with systemd and packages.
    #[must_use]
    pub fn vm(mut self, name: &str, generation: Generation) -> Self {
        self.hosts.push(Blueprint::new(name, generation));
        self
    }

    /// And a host with a Docker engine of its own.
    #[must_use]
    pub fn docker(mut self, name: &str, generation: Generation) -> Self {
        self.hosts
            .push(Blueprint::new(name, generation).with_engine());
        self
    }

    /// The host that was named last has a disk of so many MiB for all that varies (`/var`), which a test may fill.
    ///
    /// # Panics
    /// No host was named.
    #[must_use]
    pub fn on_small_disk(mut self, mib: u32) -> Self {
        let host = self.hosts.pop().expect("a host was named");
        self.hosts.push(host.on_small_disk(mib));
        self
    }

    /// Its hosts reach what this machine reaches, for a person who wants to install something.
    #[must_use]
    pub fn with_a_way_out(self) -> Self {
        Self {
            way_out: true,
            ..self
        }
    }

    /// Powers its hosts on, without a controller and without agents.
    ///
    /// # Panics
    /// One does not come up.
    pub async fn bare(self) -> Bare {
        let scope = Scope::new().await;
        let network = Network::make(&scope, self.way_out).await;
        let hosts = boot(&scope, &network, &self.hosts).await;
        Bare { hosts, scope }
    }

    /// Raises it: every host is up, its agent has joined and is online.
    ///
    /// # Panics
    /// Something does not come up.
    pub async fn raise(self) -> Lab {
        Lab::raise(Scope::new().await, self).await
    }
}

async fn boot(scope: &Scope, network: &Network, hosts: &[Blueprint]) -> Vec<Host> {
    let boots = hosts.iter().enumerate();
    join_all(boots.map(|(number, host)| Host::boot(scope, network, number, host))).await
}

/// Hosts on which nothing of ours runs. Fields end in this order: first the hosts, which print their journals.
#[derive(Debug)]
pub struct Bare {
    pub hosts: Vec<Host>,
    pub scope: Scope,
}

/// A fleet that is up. Fields end in this order: first the hosts, which print their journals, then the scope.
#[derive(Debug)]
pub struct Lab {
    controller: Host,
    hosts: BTreeMap<String, Host>,
    pub ctl: Ctl,
    pub scope: Scope,
}

impl Lab {
    /// As [`Fleet::raise`], in that scope.
    ///
    /// # Panics
    /// Something does not come up.
    pub async fn raise(scope: Scope, fleet: Fleet) -> Self {
        let network = Network::make(&scope, fleet.way_out).await;
        let controller = Blueprint::new(CONTROLLER, Generation::Bookworm);
        let blueprints: Vec<Blueprint> = [controller].into_iter().chain(fleet.hosts).collect();
        let mut booted = boot(&scope, &network, &blueprints).await.into_iter();
        let controller = booted.next().expect("the controller's host is the first");
        controller.install_controller(OPERATOR).await;
        let folder = scope.folder().join("operator");
        controller.copy_out(OPERATOR, &folder).await;
        let lab = Self {
            controller,
            hosts: booted.map(|host| (host.name().to_owned(), host)).collect(),
            ctl: Ctl::new(folder.join("ctl.toml")),
            scope,
        };
        until("the controller", SETTLES, async || {
            let said = lab.ctl.run(&["status"]).await;
            (said.code == 0).then_some(()).ok_or(said.stderr)
        })
        .await;
        join_all(lab.hosts.values().map(|host| lab.enrol(host))).await;
        lab
    }

    /// A machine becomes a host, as the README says, and is online.
    async fn enrol(&self, host: &Host) {
        let token = ["host", "token", "--name", host.name()];
        let token = self.ctl.json(&token).await;
        host.install_agent(token["token"].as_str().expect("a token"))
            .await;
        self.is(host.name(), "online").await;
    }

    /// The controller's host.
    pub fn controller(&self) -> &Host {
        &self.controller
    }

    /// The hosts of the fleet, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// A host of the fleet.
    ///
    /// # Panics
    /// There is none of that name.
    pub fn host(&self, name: &str) -> &Host {
        let host = self.hosts.get(name);
        host.unwrap_or_else(|| panic!("the fleet has no host {name}"))
    }

    /// Waits until the controller says that of the host: `online`, `offline`.
    pub async fn is(&self, host: &str, wanted: &str) {
        until(&format!("{host} to be {wanted}"), SETTLES, async || {
            let shown = self.ctl.json(&["host", "show", host]).await;
            let state = &shown["host"]["state"];
            (state == wanted).then_some(()).ok_or(state.to_string())
        })
        .await;
    }
}
