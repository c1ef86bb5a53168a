//! The lab itself: hosts are what they claim to be, and what befalls them befalls them alone.

use std::{collections::BTreeSet, fs, mem::ManuallyDrop, process::Command};

use rustix::process::Signal;
use sternway_tests::{
    binary,
    lab::{Fleet, Generation, Host},
    shop::Image,
    stage::SETTLES,
    wait::until,
};

/// When systemd began there: no two boots are the same. (The kernel and its boot id are the machine's.)
async fn boot_of(host: &Host) -> String {
    let began = [
        "systemctl",
        "show",
        "--property=UserspaceTimestampMonotonic",
    ];
    host.run(&began).await.ok()
}

/// The agent's process there.
async fn process_of(host: &Host) -> String {
    let process = ["systemctl", "show", "--property=MainPID", "sternway-agent"];
    host.run(&process).await.ok()
}

#[tokio::test]
async fn hosts_of_both_generations_are_what_they_claim() {
    let lab = Fleet::new()
        .docker("old", Generation::Bookworm)
        .docker("new", Generation::Trixie)
        .raise()
        .await;
    for (name, systemd, engine) in [("old", "252", "1.41"), ("new", "257", "1.45")] {
        let host = lab.host(name);
        let version = host.run(&["systemctl", "--version"]).await.ok();
        assert!(
            version.starts_with(&format!("systemd {systemd}")),
            "{version}"
        );
        let api = ["docker", "version", "--format", "{{.Server.APIVersion}}"];
        assert_eq!(host.run(&api).await.ok(), engine);
        assert_eq!(host.run(&["hostname"]).await.ok(), name);
        assert_eq!(host.run(&["dpkg", "--audit"]).await.ok(), "");
        // Each reaches the others by name.
        for other in ["old", "new", "controller"] {
            let found = host.run(&["getent", "hosts", other]).await.ok();
            assert!(found.starts_with("10.214."), "{found}");
        }
        until(&format!("the facts of {name}"), SETTLES, async || {
            let facts = lab.ctl.json(&["host", "show", name]).await.to_string();
            facts.contains(engine).then_some(()).ok_or(facts)
        })
        .await;
    }
}

#[tokio::test]
async fn a_host_that_is_cut_off_or_paused_is_offline_until_it_is_back() {
    let lab = Fleet::new()
        .vm("there", Generation::Bookworm)
        .vm("away", Generation::Trixie)
        .raise()
        .await;
    let away = lab.host("away");
    away.cut_off().await;
    lab.is("away", "offline").await;
    away.unit_is("sternway-agent", "active").await;
    away.rejoin().await;
    lab.is("away", "online").await;
    away.pause().await;
    lab.is("away", "offline").await;
    away.resume().await;
    lab.is("away", "online").await;
    lab.is("there", "online").await;
}

#[tokio::test]
async fn a_host_that_loses_power_or_reboots_is_back_by_itself() {
    let lab = Fleet::new().vm("vm-1", Generation::Trixie).raise().await;
    let host = lab.host("vm-1");
    let mut boots = BTreeSet::from([boot_of(host).await]);
    host.power_cut().await;
    lab.is("vm-1", "offline").await;
    host.power_on().await;
    lab.is("vm-1", "online").await;
    boots.insert(boot_of(host).await);
    host.reboot().await;
    lab.is("vm-1", "online").await;
    boots.insert(boot_of(host).await);
    assert_eq!(boots.len(), 3, "{boots:?}");
    let shown = host.run(&["hostname", "--all-ip-addresses"]).await.ok();
    assert_eq!(shown, host.address());
}

#[tokio::test]
async fn an_agent_that_is_killed_on_its_host_is_started_again_by_systemd() {
    let lab = Fleet::new().vm("vm-1", Generation::Bookworm).raise().await;
    let host = lab.host("vm-1");
    let before = process_of(host).await;
    host.signal("sternway-agent", Signal::KILL).await;
    until("another agent", SETTLES, async || {
        let now = process_of(host).await;
        (now != before && now != "MainPID=0")
            .then_some(())
            .ok_or(now)
    })
    .await;
    host.unit_is("sternway-agent", "active").await;
    lab.is("vm-1", "online").await;
}

#[tokio::test]
async fn a_full_disk_is_full_for_its_host_alone() {
    let lab = Fleet::new()
        .vm("small", Generation::Bookworm)
        .on_small_disk(384)
        .vm("other", Generation::Bookworm)
        .raise()
        .await;
    let write = ["tee", "/var/lib/note"];
    let (small, other) = (lab.host("small"), lab.host("other"));
    assert_eq!(
        small.run(&["dpkg", "--audit"]).await.ok(),
        "",
        "/var is there"
    );
    let agent = process_of(small).await;
    let large = vec![0; 64 * 1024];
    until("no room", SETTLES, async || {
        // What its journal gave up meanwhile is filled again.
        small.fill_disk().await;
        let said = small.run_with(&write, &large).await.stderr;
        said.contains("No space left").then_some(()).ok_or(said)
    })
    .await;
    assert_eq!(other.run_with(&write, b"full").await.ok(), "full");
    small.free_disk().await;
    assert_eq!(small.run_with(&write, b"full").await.ok(), "full");
    assert_eq!(process_of(small).await, agent, "its agent lives through it");
    lab.is("small", "online").await;
    // And it is a disk: it survives a power cut.
    small.power_cut().await;
    lab.is("small", "offline").await;
    small.power_on().await;
    assert_eq!(small.run(&["cat", "/var/lib/note"]).await.ok(), "full");
    lab.is("small", "online").await;
}

#[tokio::test]
async fn a_lab_whose_test_was_killed_is_removed_without_a_trace() {
    let lab = Fleet::new()
        .docker("web", Generation::Bookworm)
        .on_small_disk(384)
        .raise()
        .await;
    let host = lab.host("web");
    let image = Image::good("v1").shared().await;
    host.load(&image).await;
    host.run(&["docker", "run", "-d", &image]).await.ok();
    let (scope, folder) = (lab.scope.name().to_owned(), lab.scope.folder().to_owned());
    let groups = host.groups().await;
    assert!(!groups.is_empty(), "a host has control groups");
    // Nothing of it is dropped, as after a SIGKILL.
    let _lab = ManuallyDrop::new(lab);
    let clean = Command::new(binary::script("deploy/scripts/clean-tests"))
        .args(["--scope", &scope])
        .output()
        .expect("the script starts");
    assert!(clean.status.success(), "{clean:?}");
    let filter = format!("label=sternway.test.scope={scope}");
    for what in [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]] {
        let list = [what, &["--quiet", "--filter", &filter]].concat();
        let left = Command::new("docker")
            .args(&list)
            .output()
            .expect("it runs");
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{what:?}");
    }
    let devices = Command::new("losetup").arg("--list").output();
    let devices = String::from_utf8_lossy(&devices.expect("it runs").stdout).into_owned();
    assert!(!devices.contains(&scope), "{devices}");
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_dir_all(folder).expect("the folder of the scope is removed");
}
