//! Agents and hosts that die at every moment of a restore of a unit: it ends on exactly one revision, which serves.

use futures_util::future::join_all;
use sternway_tests::{
    lab::{App, Deb, Fleet, Generation, Host, Lab},
    stage::SETTLES,
    wait::until,
};

const TARGET: &str = "systemd/app.service";

/// The exit codes of `ctl` for a rollback that went well, and for one that was undone.
const DONE: i32 = 0;
const UNDONE: i32 = 10;

/// Quick to pass and quick to fail.
const SECTION: &str = r#"
[[unit]]
unit = "app.service"
timeout = "1s"
soak = "0s"
[[unit.check]]
http = "http://127.0.0.1:8080/health"
"#;

/// What makes a version unhealthy that minds it.
const ILL: &str = "/mood/ill";

const MOMENTS: [&str; 3] = ["before", "in", "after"];

/// More appends than any of these restores makes to its journal.
const APPENDS: usize = 60;

async fn vms() -> Lab {
    let fleet = Fleet::new()
        .vm("old", Generation::Bookworm)
        .vm("new", Generation::Trixie);
    let lab = fleet.raise().await;
    join_all(lab.hosts().map(async |host| {
        host.tidies_often().await;
        // This version is healthy as long as nobody is in a mood.
        App::new("v1").fault("mood").deploy(host).await;
        host.looks_after(SECTION).await;
        lab.known_good(host.name(), TARGET, 1).await;
        App::new("v2").deploy(host).await;
        lab.known_good(host.name(), TARGET, 2).await;
    }))
    .await;
    lab
}

/// Rolls back, also where the host loses its power meanwhile. The exit code, and whether it did.
async fn rolled_back(lab: &Lab, host: &Host, to: u64) -> (i32, bool) {
    let to = to.to_string();
    let rollback = ["rollback", "--host", host.name(), "--to", &to, "--yes"];
    let rollback = lab.ctl.run(&rollback);
    let mut rollback = std::pin::pin!(rollback);
    tokio::select! {
        said = &mut rollback => (said.code, false),
        () = host.is_down() => {
            host.power_on().await;
            (rollback.await.code, true)
        }
    }
}

/// It is that revision and no other, by every account.
async fn is_only(lab: &Lab, host: &Host, number: u64) {
    let version = format!("v{number}");
    lab.is_whole(host, TARGET, number, &version).await;
    let link = host.run(&["readlink", "/opt/app/current"]).await.ok();
    assert_eq!(link, format!("releases/{version}"));
    let environment = host.run(&["cat", "/etc/app.env"]).await.ok();
    let own = ["mood", "none"].map(|fault| environment.contains(fault));
    assert_eq!(own, [number == 1, number == 2], "{environment}");
}

/// Who dies.
#[derive(Clone, Copy, PartialEq)]
enum Dies {
    Agent,
    Host,
}

/// Which appends a host dies at: the first one, every so many from there, and the last that there is.
#[derive(Clone, Copy)]
struct Sweep {
    dies: Dies,
    first: usize,
    every: usize,
}

impl Sweep {
    /// Arms the next death, rolls back, and answers with the exit code, and whether somebody died.
    async fn restore(self, lab: &Lab, host: &Host, append: usize, to: u64) -> (i32, bool) {
        let moment = MOMENTS[append % MOMENTS.len()];
        let fault = format!("journal:{append}:{moment}");
        match self.dies {
            Dies::Agent => host.agent_dies_at(&fault).await,
            Dies::Host => host.loses_power_at(&fault).await,
        }
        lab.is(host.name(), "online").await;
        let (code, was_cut) = rolled_back(lab, host, to).await;
        let died = was_cut || self.dies == Dies::Agent && host.deaths().await > 0;
        (code, died)
    }

    /// Until nobody dies any more, because the order is over before. How often somebody did.
    async fn run(self, mut restore: impl AsyncFnMut(usize) -> bool) -> usize {
        let appends = (self.first..APPENDS).step_by(self.every);
        let mut lived = None;
        for (deaths, append) in appends.enumerate() {
            if !restore(append).await {
                lived = Some(deaths);
                break;
            }
        }
        lived.expect("a restore has no more appends than that")
    }

    /// Restores go there and back again; each ends well or is undone.
    async fn forward(self, lab: &Lab, host: &Host) -> usize {
        let mut runs = 2;
        self.run(async |append| {
            let to = 3 - runs;
            let (code, died) = self.restore(lab, host, append, to).await;
            assert!(code == DONE || code == UNDONE, "append {append}: {code}");
            if code == DONE {
                runs = to;
            }
            is_only(lab, host, runs).await;
            died
        })
        .await
    }

    /// Restores of what is not healthy then: each is undone.
    async fn undo(self, lab: &Lab, host: &Host) -> usize {
        host.write(ILL, "").await;
        self.run(async |append| {
            let (code, died) = self.restore(lab, host, append, 1).await;
            assert_eq!(code, UNDONE, "append {append}");
            is_only(lab, host, 2).await;
            died
        })
        .await
    }
}

/// On both hosts at once, each with its half of the appends.
async fn swept(
    dies: Dies,
    every: usize,
    enough: usize,
    sweep: impl AsyncFn(Sweep, &Lab, &Host) -> usize,
) {
    let lab = vms().await;
    let deaths = join_all(lab.hosts().enumerate().map(async |(at, host)| {
        let first = 1 + at * every;
        let every = every * 2;
        sweep(Sweep { dies, first, every }, &lab, host).await
    }))
    .await;
    assert!(deaths.iter().sum::<usize>() >= enough, "{deaths:?}");
}

#[tokio::test]
async fn an_agent_that_is_killed_in_a_restore_of_a_unit_goes_on_with_it() {
    swept(Dies::Agent, 2, 6, Sweep::forward).await;
}

#[tokio::test]
async fn an_agent_that_is_killed_in_the_undo_of_a_unit_goes_on_with_it() {
    swept(Dies::Agent, 4, 5, Sweep::undo).await;
}

#[tokio::test]
async fn a_host_that_loses_power_in_a_restore_of_a_unit_boots_into_one_revision() {
    swept(Dies::Host, 4, 3, Sweep::forward).await;
}

#[tokio::test]
async fn a_host_that_loses_power_in_the_undo_of_a_unit_boots_into_one_revision() {
    swept(Dies::Host, 5, 4, Sweep::undo).await;
}

/// The journals of orders that are under way.
const OPEN: &str = "/var/lib/sternway-agent/orders/open";

#[tokio::test]
async fn a_unit_whose_orders_journal_is_lost_ends_on_one_revision() {
    let lab = vms().await;
    join_all(lab.hosts().map(async |host| {
        // On one of them its files are back, on the other it was started with them.
        let append = match host.generation() {
            Generation::Bookworm => 6,
            Generation::Trixie => 10,
        };
        let name = host.name();
        host.agent_stays_dead_at(&format!("journal:{append}:after"))
            .await;
        lab.is(name, "online").await;
        let rollback = ["rollback", "--host", name, "--to", "1", "--yes"];
        let rollback = [&rollback[..], &["--no-wait"]].concat();
        let _ = lab.ctl.run(&rollback).await.exits(DONE);
        host.unit_is("sternway-agent", "failed").await;
        let link = host.run(&["readlink", "/opt/app/current"]).await.ok();
        assert_eq!(link, "releases/v1", "it was in the middle of it");
        let lose = format!("ls {OPEN}/* && rm -r {OPEN}/*");
        host.run(&["sh", "-c", &lose]).await.ok();
        host.starts_agent().await;
        is_only(&lab, host, 2).await;
        let told = lab.target(name, TARGET).await.to_string();
        assert!(told.contains("cannot-resume"), "{told}");
        assert!(told.contains("what ran before runs again"), "{told}");
    }))
    .await;
}

const PACKAGED: &str = "systemd/billing.service";

const PACKAGED_SECTION: &str = r#"
[[unit]]
unit = "billing.service"
timeout = "2s"
soak = "0s"
[[unit.check]]
http = "http://127.0.0.1:8080/health"
"#;

/// A package whose postinst waits, or fails, as long as it is told to. What tells it is gone with the next boot.
fn deb(name: &str, version: &str) -> Deb {
    Deb::new(name, version).with_postinst(&format!(
        "while test -e {WAIT}; do touch {WAITS}; sleep 0.1; done\ntest ! -e {FAIL}-{version}"
    ))
}

const FAIL: &str = "/run/lab/fail";
const WAIT: &str = "/run/lab/wait";
const WAITS: &str = "/run/lab/waits";

/// What restores of packages are disturbed by.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Script,
    Dpkg,
    Work,
    Power,
    Lock,
}

const BLOWS: [Blow; 5] = [
    Blow::Script,
    Blow::Dpkg,
    Blow::Work,
    Blow::Power,
    Blow::Lock,
];

impl Blow {
    async fn before(self, host: &Host, to: u64) {
        match self {
            Self::Script => host.write(&format!("{FAIL}-{to}.0"), "").await,
            Self::Dpkg | Self::Work | Self::Power => host.write(WAIT, "").await,
            Self::Lock => {}
        }
    }

    /// Once the postinst waits in its middle.
    async fn falls(self, host: &Host) {
        if matches!(self, Self::Script | Self::Lock) {
            return;
        }
        until("the script to wait", SETTLES, async || {
            let there = host.run(&["test", "-e", WAITS]).await.code == 0;
            there.then_some(()).ok_or("it does not")
        })
        .await;
        let end = match self {
            Self::Dpkg => "kill -9 $(pidof dpkg)",
            Self::Work => "systemctl kill --signal=KILL 'sternway-*-install.service'",
            Self::Script | Self::Power | Self::Lock => {
                host.power_cut().await;
                host.power_on().await;
                return;
            }
        };
        let end = format!("{end} && rm -f {WAIT} {WAITS}");
        host.run(&["sh", "-c", &end]).await.ok();
    }
}

/// Another package is being installed by apt, as by an unattended upgrade; it ends once the restore waits for it.
async fn another_upgrade(host: &Host) {
    let begun = async {
        until("the work to wait", SETTLES, async || {
            let list = ["systemctl", "list-units", "--plain", "--no-legend"];
            let list = [&list[..], &["sternway-*-install.service"]].concat();
            let units = host.run(&list).await.ok();
            units.contains("activating").then_some(()).ok_or(units)
        })
        .await;
        host.run(&["rm", "-f", WAIT, WAITS]).await.ok();
    };
    begun.await;
}

/// Which version dpkg has installed, whole.
async fn installed(host: &Host) -> String {
    let format = "--showformat=${db:Status-Status} ${Version}";
    let show = ["dpkg-query", "--show", format, "billing"];
    host.run(&show).await.ok()
}

#[tokio::test]
async fn a_restore_of_packages_that_is_killed_in_the_middle_ends_on_one_version() {
    let fleet = Fleet::new()
        .vm("old", Generation::Bookworm)
        .vm("new", Generation::Trixie);
    let lab = fleet.raise().await;
    join_all(lab.hosts().map(async |host| {
        let name = host.name();
        host.tidies_often().await;
        for (number, version) in [(1, "1.0"), (2, "2.0")] {
            let file = deb("billing", version).build(host).await;
            host.run(&["cp", &file, "/var/cache/apt/archives/"])
                .await
                .ok();
            host.apt_install(&[&file]).await.ok();
            if number == 1 {
                host.looks_after(PACKAGED_SECTION).await;
            }
            lab.known_good(name, PACKAGED, number).await;
        }
        let other = deb("other", "1.0").port(8081).build(host).await;
        let mut runs = 2;
        for blow in BLOWS {
            let to = 3 - runs;
            let number = to.to_string();
            let rollback = ["rollback", "--host", name, "--to", &number, "--yes"];
            let code = if matches!(blow, Blow::Lock) {
                host.write(WAIT, "").await;
                let upgrade = [other.as_str()];
                let upgrade = host.apt_install(&upgrade);
                let restore = async {
                    until("the upgrade to be in its middle", SETTLES, async || {
                        let there = host.run(&["test", "-e", WAITS]).await.code == 0;
                        there.then_some(()).ok_or("it is not")
                    })
                    .await;
                    let rollback = lab.ctl.run(&rollback);
                    tokio::join!(rollback, another_upgrade(host)).0.code
                };
                let (upgraded, code) = tokio::join!(upgrade, restore);
                upgraded.ok();
                assert_eq!(code, DONE, "it waits for dpkg");
                code
            } else {
                blow.before(host, to).await;
                let rollback = lab.ctl.run(&rollback);
                tokio::join!(rollback, blow.falls(host)).0.code
            };
            assert!(code == DONE || code == UNDONE, "{blow:?}: {code}");
            if code == DONE {
                runs = to;
            }
            host.run(&["rm", "-f", &format!("{FAIL}-{to}.0")])
                .await
                .ok();
            let version = format!("{runs}.0");
            assert_eq!(installed(host).await, format!("installed {version}"));
            lab.is_whole(host, PACKAGED, runs, &version).await;
        }
    }))
    .await;
}
