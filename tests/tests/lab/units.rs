//! Units of systemd on both generations, deployed by hand, under the unit of the agent that is installed.

use futures_util::future::join_all;
use sternway_tests::{
    lab::{APP, App, Host, Lab, PORT},
    stage::SETTLES,
    wait::until,
};

const TARGET: &str = "systemd/app.service";

/// How the agent is told to look after it: quick to pass and quick to fail.
const SECTION: &str = r#"
[[unit]]
unit = "app.service"
timeout = "3s"
soak = "1s"
[[unit.check]]
http = "http://127.0.0.1:8080/health"
"#;

/// v1 is known-good there, and a bad v2 was deployed over it.
async fn bad_deployment(lab: &Lab, host: &Host) {
    App::new("v1").deploy(host).await;
    lab.known_good(host.name(), TARGET, 1).await;
    App::new("v2").fault("health").deploy(host).await;
    lab.runs(host.name(), TARGET, 2).await;
}

#[tokio::test]
async fn a_bad_release_is_rolled_back_with_its_environment_and_its_link() {
    let lab = Lab::of_each_generation(SECTION).await;
    join_all(lab.hosts().map(async |host| {
        bad_deployment(&lab, host).await;
        let rollback = ["rollback", "--host", host.name(), "--yes"];
        let said = lab.ctl.run(&rollback).await.exits(0).stdout;
        assert!(said.contains("✔ passed"), "{said}");
        host.serves(PORT, "v1").await;
        lab.runs(host.name(), TARGET, 1).await;
        let link = host.run(&["readlink", "/opt/app/current"]).await.ok();
        assert_eq!(link, "releases/v1");
        let environment = host.run(&["cat", "/etc/app.env"]).await.ok();
        assert!(environment.contains("none"), "{environment}");
        let active = host.run(&["systemctl", "is-active", APP]).await.ok();
        assert_eq!(active, "active");
    }))
    .await;
}

#[tokio::test]
async fn a_release_that_crashes_in_a_loop_is_rolled_back_in_the_middle_of_it() {
    let lab = Lab::of_each_generation(SECTION).await;
    join_all(lab.hosts().map(async |host| {
        App::new("v1").deploy(host).await;
        lab.known_good(host.name(), TARGET, 1).await;
        // Slowly enough for its start limit, so that it goes on for ever: each start is another invocation.
        let loops = App::new("v2").fault("crash");
        loops
            .with_lines("Restart=always\nRestartSec=2s")
            .deploy(host)
            .await;
        lab.runs(host.name(), TARGET, 2).await;
        until("some restarts", SETTLES, async || {
            let show = ["systemctl", "show", "--property=NRestarts", "--value", APP];
            let restarts = host.run(&show).await.ok();
            let some = restarts.parse::<u32>().is_ok_and(|restarts| restarts > 1);
            some.then_some(()).ok_or(restarts)
        })
        .await;
        let rollback = ["rollback", "--host", host.name(), "--yes"];
        let said = lab.ctl.run(&rollback).await.exits(0).stdout;
        assert!(said.contains("verified"), "{said}");
        host.serves(PORT, "v1").await;
        lab.runs(host.name(), TARGET, 1).await;
    }))
    .await;
}
