//! Bad days of units: what stands in the way of a restore ends it well, or undone, or refused with the reason; one revision
//! serves whatever it was.

use sternway_tests::{
    ctl::Said,
    lab::{APP, App, Fleet, Generation, Host, Lab},
    stage::SETTLES,
    wait::until,
};

const TARGET: &str = "systemd/app.service";

/// The exit codes of `ctl` for a rollback.
const DONE: i32 = 0;
const REFUSED: i32 = 4;
const UNDONE: i32 = 10;

/// Quick to pass and quick to fail. The program belongs to it, too.
const SECTION: &str = r#"
[[unit]]
unit = "app.service"
files = ["/usr/local/lib/shop"]
timeout = "2s"
soak = "0s"
[[unit.check]]
http = "http://127.0.0.1:8080/health"
"#;

/// A host of that generation on which v1 is known-good.
async fn with_v1(generation: Generation, v1: App) -> Lab {
    let lab = Fleet::new().vm("vm", generation).raise().await;
    let host = lab.host("vm");
    host.tidies_often().await;
    v1.deploy(host).await;
    host.looks_after(SECTION).await;
    lab.known_good("vm", TARGET, 1).await;
    lab
}

/// A good one. What delays the other is nothing to it.
fn v2() -> App {
    App::new("v2").with_lines("UnsetEnvironment=SHOP_STARTUP")
}

/// And v2, which is good.
async fn with_both(generation: Generation, v1: App) -> Lab {
    let lab = with_v1(generation, v1).await;
    v2().deploy(lab.host("vm")).await;
    lab.known_good("vm", TARGET, 2).await;
    lab
}

async fn roll_back(lab: &Lab, to: u64) -> Said {
    let to = to.to_string();
    let rollback = ["rollback", "--host", "vm", "--to", &to, "--yes"];
    lab.ctl.run(&rollback).await
}

/// It is that revision and no other, by every account.
async fn is_only(lab: &Lab, number: u64) {
    let (host, version) = (lab.host("vm"), format!("v{number}"));
    lab.is_whole(host, TARGET, number, &version).await;
    let link = host.run(&["readlink", "/opt/app/current"]).await.ok();
    assert_eq!(link, format!("releases/{version}"));
}

/// A rollback is undone and says why and what to do; once that was done, it goes well, and v2 is back after it.
async fn is_undone_until(lab: &Lab, why: &[&str], mend: impl AsyncFn()) {
    let said = roll_back(lab, 1).await.exits(UNDONE);
    let told = format!("{}{}", said.stdout, said.stderr);
    for word in why {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    is_only(lab, 2).await;
    mend().await;
    let _ = roll_back(lab, 1).await.exits(DONE);
    is_only(lab, 1).await;
    let _ = roll_back(lab, 2).await.exits(DONE);
    is_only(lab, 2).await;
}

#[tokio::test]
async fn what_cannot_be_written_is_undone_and_told_with_what_to_do() {
    let lab = with_both(Generation::Trixie, App::new("v1")).await;
    let host = lab.host("vm");

    // Behind files that can be: those go back.
    host.immutable("/opt/app", true).await;
    let why = ["/opt/app/current", "immutable", "chattr -i"];
    is_undone_until(&lab, &why, async || {
        host.immutable("/opt/app", false).await;
    })
    .await;

    let bind = ["mount", "--bind", "/opt/app", "/opt/app"];
    host.run(&bind).await.ok();
    let remount = ["mount", "-o", "remount,bind,ro", "/opt/app"];
    host.run(&remount).await.ok();
    let why = ["/opt/app/current", "ead-only"];
    is_undone_until(&lab, &why, async || {
        host.run(&["umount", "/opt/app"]).await.ok();
    })
    .await;
}

#[tokio::test]
async fn files_that_were_deleted_or_are_running_are_put_back() {
    let lab = with_both(Generation::Bookworm, App::new("v1")).await;
    let host = lab.host("vm");
    let sum = async || host.run(&["sha256sum", "/usr/local/lib/shop"]).await.ok();
    let shop = sum().await;

    // Another program, which runs when the one from before is put back in its place.
    let change =
        "cp /usr/local/lib/shop /tmp/shop && echo >> /tmp/shop && mv /tmp/shop /usr/local/lib/shop";
    host.run(&["sh", "-c", change]).await.ok();
    let other = sum().await;
    assert_ne!(shop, other);
    host.run(&["systemctl", "restart", APP]).await.ok();
    lab.runs("vm", TARGET, 3).await;
    let _ = roll_back(&lab, 2).await.exits(DONE);
    is_only(&lab, 2).await;
    assert_eq!(sum().await, shop);

    // What the revision from before needs, and its unit file.
    let unit = format!("/etc/systemd/system/{APP}");
    let gone = [
        "rm",
        "-r",
        "/opt/app/releases/v1",
        "/opt/app/current",
        &unit,
    ];
    host.run(&gone).await.ok();
    let _ = roll_back(&lab, 1).await.exits(DONE);
    is_only(&lab, 1).await;
    host.run(&["rm", &unit]).await.ok();
    host.run(&["systemctl", "daemon-reload"]).await.ok();
    let _ = roll_back(&lab, 2).await.exits(DONE);
    is_only(&lab, 2).await;
}

#[tokio::test]
async fn a_unit_that_crashes_into_its_start_limit_or_is_masked_is_rolled_back() {
    let lab = with_v1(Generation::Trixie, App::new("v1")).await;
    let host = lab.host("vm");
    // A fault that it does not understand ends it at once.
    let v2 = App::new("v2").fault("nonsense");
    let v2 = v2.with_lines("Restart=always\nRestartSec=10ms");
    v2.deploy(host).await;
    host.unit_is(APP, "failed").await;
    let start = host.run(&["systemctl", "start", APP]).await;
    assert_ne!(start.code, 0, "its start limit holds");
    lab.runs("vm", TARGET, 2).await;
    let _ = roll_back(&lab, 1).await.exits(DONE);
    is_only(&lab, 1).await;

    // By hand, as `systemctl mask` does it with a unit of a package.
    let unit = format!("/etc/systemd/system/{APP}");
    host.run(&["mv", &unit, "/root/app.service"]).await.ok();
    host.run(&["systemctl", "mask", APP]).await.ok();
    let said = roll_back(&lab, 2).await.exits(REFUSED);
    let _ = said.complains("masked").complains("systemctl unmask");
    host.serves(8080, "v1").await;
    host.run(&["systemctl", "unmask", APP]).await.ok();
    host.run(&["mv", "/root/app.service", &unit]).await.ok();
    host.run(&["systemctl", "daemon-reload"]).await.ok();
    is_only(&lab, 1).await;
}

#[tokio::test]
async fn a_revision_that_never_gets_ready_is_undone() {
    let lines = "Type=notify\nTimeoutStartSec=2s";
    let v1 = App::new("v1").with_lines(lines);
    let lab = with_both(Generation::Bookworm, v1).await;
    let host = lab.host("vm");
    // From now on it takes its time.
    let slow = ["systemctl", "set-environment", "SHOP_STARTUP=60s"];
    host.run(&slow).await.ok();
    is_undone_until(&lab, &["in its time", "journalctl"], async || {
        let quick = ["systemctl", "unset-environment", "SHOP_STARTUP"];
        host.run(&quick).await.ok();
    })
    .await;
}

/// What the agent says of the readiness of the target.
async fn problems(lab: &Lab) -> String {
    lab.target("vm", TARGET).await["readiness"].to_string()
}

#[tokio::test]
async fn a_damaged_artifact_is_told_and_keeps_its_revision_alone_from_being_restored() {
    let lab = with_both(Generation::Trixie, App::new("v1")).await;
    let host = lab.host("vm");
    App::new("v3").fault("health").deploy(host).await;
    lab.runs("vm", TARGET, 3).await;
    let damage = async |version: &str| {
        let script = format!(
            "cd /var/lib/sternway-agent/artifacts && file=$(grep -rl \"SHOP_VERSION='{version}' exec\" .) && \
             sed -i \"s/exec/EXEC/\" $file"
        );
        host.run(&["sh", "-c", &script]).await.ok();
    };
    damage("v2").await;
    until("the damage to be told", SETTLES, async || {
        let problems = problems(&lab).await;
        let told = problems.contains("artifact-damaged") && problems.contains("/opt/app");
        told.then_some(()).ok_or(problems)
    })
    .await;
    let said = roll_back(&lab, 2).await.exits(REFUSED);
    let _ = said.complains("damaged").complains("ctl history");
    host.serves(8080, "v3").await;
    let _ = roll_back(&lab, 1).await.exits(DONE);
    is_only(&lab, 1).await;
    // Whoever deploys it again mends what is kept of it.
    v2().deploy(host).await;
    lab.runs("vm", TARGET, 2).await;
    let _ = roll_back(&lab, 1).await.exits(DONE);
    let _ = roll_back(&lab, 2).await.exits(DONE);
    is_only(&lab, 2).await;
}

#[tokio::test]
async fn what_somebody_else_deployed_since_the_plan_is_left_to_them() {
    let lab = with_both(Generation::Bookworm, App::new("v1")).await;
    let host = lab.host("vm");
    // Planned, and nothing more.
    host.agent_stays_dead_at("journal:2:after").await;
    lab.is("vm", "online").await;
    let rollback = roll_back(&lab, 1);
    let meanwhile = async {
        host.unit_is("sternway-agent", "failed").await;
        App::new("v3").deploy(host).await;
        host.serves(8080, "v3").await;
        let process = process_of(host).await;
        host.starts_agent().await;
        process
    };
    let (said, process) = tokio::join!(rollback, meanwhile);
    let told = format!("{}{}", said.stdout, said.stderr);
    assert_ne!(said.code, DONE, "{told}");
    assert!(told.contains("by somebody else"), "{told}");
    is_only(&lab, 3).await;
    assert_eq!(process_of(host).await, process, "it was not started again");
    let _ = roll_back(&lab, 1).await.exits(DONE);
    is_only(&lab, 1).await;
}

async fn process_of(host: &Host) -> String {
    let process = ["systemctl", "show", "--property=MainPID", "--value", APP];
    host.run(&process).await.ok()
}

#[tokio::test]
async fn a_disk_that_gets_full_in_a_restore_holds_it_until_there_is_room() {
    let fleet = Fleet::new().vm("vm", Generation::Trixie).on_small_disk(384);
    let lab = fleet.raise().await;
    let host = lab.host("vm");
    host.tidies_often().await;
    App::new("v1").deploy(host).await;
    host.looks_after(SECTION).await;
    lab.known_good("vm", TARGET, 1).await;
    App::new("v2").deploy(host).await;
    lab.known_good("vm", TARGET, 2).await;
    let mut runs = 2;
    for append in [1, 5, 9] {
        host.agent_stays_dead_at(&format!("journal:{append}:after"))
            .await;
        lab.is("vm", "online").await;
        let to = 3 - runs;
        let meanwhile = async {
            host.unit_is("sternway-agent", "failed").await;
            host.fill_disk().await;
            host.starts_agent().await;
            lab.is("vm", "online").await;
            until("the disk to be told, or the end", SETTLES, async || {
                let said = host.journal("sternway-agent").await;
                let told = said.to_lowercase().contains("no space");
                told.then_some(()).ok_or("nothing is said of the disk")
            })
            .await;
            host.free_disk().await;
        };
        let (said, ()) = tokio::join!(roll_back(&lab, to), meanwhile);
        let ended = matches!(said.code, DONE | UNDONE);
        assert!(ended, "append {append}: {said:?}");
        if said.code == DONE {
            runs = to;
        }
        is_only(&lab, runs).await;
    }
}
