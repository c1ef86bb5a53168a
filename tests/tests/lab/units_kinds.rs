//! Units of every sort: instances of a template, those that a socket starts, those that run once, and the agent itself.

use std::time::Duration;

use futures_util::future::join_all;
use sternway_tests::{
    http,
    lab::{Deb, Host, Lab, Start, shop},
    stage::SETTLES,
    wait::until,
};
use tokio::time::timeout;

const SECTIONS: &str = r#"
[[unit]]
unit = "worker@*.service"
files = ["/opt/worker"]
timeout = "3s"
soak = "500ms"

[[unit]]
unit = "waits.service"
timeout = "3s"
soak = "500ms"

[[unit]]
unit = "job.service"
soak = "0s"

[[unit]]
unit = "sternway-agent.service"
"#;

async fn roll_back(lab: &Lab, host: &Host, target: &str) -> String {
    let rollback = [
        "rollback",
        "--host",
        host.name(),
        "--target",
        target,
        "--to",
        "1",
        "--yes",
    ];
    lab.ctl.run(&rollback).await.exits(0).stderr
}

/// Deploys a version of both workers, which share everything but their number.
async fn deploy_workers(host: &Host, version: &str) {
    let shop = shop(host).await;
    let run = format!("#!/bin/sh\nSHOP_VERSION={version} SHOP_PORT=900$1 exec {shop}\n");
    host.write_program("/opt/worker/run", run).await;
    let unit = "[Service]\nExecStart=/opt/worker/run %i\n";
    host.write("/etc/systemd/system/worker@.service", unit)
        .await;
    host.run(&["systemctl", "daemon-reload"]).await.ok();
    for unit in ["worker@1", "worker@2"] {
        host.run(&["systemctl", "restart", unit]).await.ok();
    }
}

async fn instances_go_back_together_one_after_the_other(lab: &Lab, host: &Host) {
    let both = [1u16, 2];
    let target = |number: u16| format!("systemd/worker@{number}.service");
    deploy_workers(host, "v1").await;
    for number in both {
        lab.known_good(host.name(), &target(number), 1).await;
    }
    deploy_workers(host, "v2").await;
    for number in both {
        lab.runs(host.name(), &target(number), 2).await;
    }
    let plan = roll_back(lab, host, &target(1)).await;
    assert!(plan.contains("start worker@2.service again"), "{plan}");
    for number in both {
        host.serves(9000 + number, "v1").await;
        lab.runs(host.name(), &target(number), 1).await;
    }
}

/// Asks again and again, and counts those who were not answered.
async fn unanswered(host: &Host, port: u16) -> u32 {
    let address = format!("{}:{port}", host.address());
    let mut failed = 0;
    loop {
        match http::get(&address, "/").await {
            Ok(answer) if answer.status == 200 => {}
            _ => failed += 1,
        }
        if failed > 0 {
            return failed;
        }
    }
}

async fn nobody_is_turned_away_by_a_socket(lab: &Lab, host: &Host) {
    let (target, port) = ("systemd/waits.service", 8083);
    for version in ["1.0", "2.0"] {
        let deb = Deb::new("waits", version).port(port).starts(Start::Socket);
        let file = deb.build(host).await;
        host.apt_install(&[&file]).await.ok();
        host.serves(port, version).await;
        let number = if version == "1.0" { 1 } else { 2 };
        lab.known_good(host.name(), target, number).await;
    }
    let asks = unanswered(host, port);
    let rolls = async {
        let plan = roll_back(lab, host, target).await;
        assert!(plan.contains("waits.socket"), "{plan}");
        host.serves(port, "1.0").await;
    };
    tokio::select! {
        failed = asks => panic!("{failed} were turned away"),
        () = rolls => {}
    }
}

async fn what_runs_once_runs_once_more(lab: &Lab, host: &Host) {
    let target = "systemd/job.service";
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/opt/job/run\n";
    host.write("/etc/systemd/system/job.service", unit).await;
    host.run(&["systemctl", "daemon-reload"]).await.ok();
    for (number, version) in [(1, "v1"), (2, "v2")] {
        let run = format!("#!/bin/sh\necho {version} >/run/job\n");
        host.write_program("/opt/job/run", run).await;
        host.run(&["systemctl", "restart", "job"]).await.ok();
        lab.known_good(host.name(), target, number).await;
    }
    roll_back(lab, host, target).await;
    assert_eq!(host.run(&["cat", "/run/job"]).await.ok(), "v1");
}

/// Waits until it is told that this cannot be restored, for being the agent's own.
async fn is_refused_as_its_own(lab: &Lab, host: &Host, target: &str, why: &str) {
    until(&format!("{target} to be refused"), SETTLES, async || {
        let shown = lab.target(host.name(), target).await;
        let problem = &shown["unsupported"];
        let said = problem["message"].as_str().unwrap_or_default();
        let refused = problem["code"] == "own-unit" && said.contains(why);
        refused.then_some(()).ok_or(shown)
    })
    .await;
}

async fn the_agent_itself_is_refused(lab: &Lab, host: &Host) {
    let target = "systemd/sternway-agent.service";
    is_refused_as_its_own(lab, host, target, "is the agent itself").await;
    let rollback = [
        "rollback",
        "--host",
        host.name(),
        "--target",
        target,
        "--yes",
    ];
    let said = lab.ctl.run(&rollback).await;
    assert_ne!(said.code, 0);
    assert!(
        said.stderr.contains("is the agent itself"),
        "{}",
        said.stderr
    );
    // As if it had come with the package of this one.
    let list = "/var/lib/dpkg/info/waits.list";
    let files = host.run(&["cat", list]).await.ok();
    host.write(list, format!("{files}\n/usr/bin/sternway-agent\n"))
        .await;
    host.run(&["systemctl", "restart", "waits"]).await.ok();
    is_refused_as_its_own(lab, host, "systemd/waits.service", "own package waits").await;
}

#[tokio::test]
async fn units_of_every_sort_go_back() {
    let lab = Lab::of_each_generation(SECTIONS).await;
    let all = join_all(lab.hosts().map(async |host| {
        instances_go_back_together_one_after_the_other(&lab, host).await;
        nobody_is_turned_away_by_a_socket(&lab, host).await;
        what_runs_once_runs_once_more(&lab, host).await;
        the_agent_itself_is_refused(&lab, host).await;
    }));
    timeout(Duration::from_mins(3), all).await.expect("in time");
}
