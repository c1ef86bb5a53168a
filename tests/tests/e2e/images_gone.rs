//! Images that are gone: it is said before an incident, refused with the reason, and mended where a registry has
//! them.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use sternway_tests::{
    engine::Scope,
    gate::Gate,
    registry::Registry,
    shop::Image,
    stage::{HOST, Stage},
    wait::until,
};

const TOLD: Duration = Duration::from_mins(1);
const FLAGS: [&str; 2] = ["-l", "sternway.soak=0s"];
const LOOKS: &str = "check_interval = \"1s\"\nreadiness_interval = \"1s\"\n";
const REFUSED: i32 = 4;

async fn rollback(stage: &Stage) -> sternway_tests::ctl::Said {
    let rollback = ["rollback", "--host", HOST, "--to", "1", "--yes"];
    stage.ctl.run(&rollback).await
}

/// Waits until the readiness of the target is of that verdict and says that.
async fn readiness(stage: &Stage, verdict: &str, said: &str) {
    until(&format!("{verdict}: {said}"), TOLD, async || {
        let readiness: Value = stage.target("shop").await["readiness"].clone();
        let text = readiness.to_string();
        let is = readiness["verdict"] == verdict && text.contains(said);
        is.then_some(()).ok_or(text)
    })
    .await;
}

/// Takes an image from the disk, and whatever keeps it there.
async fn lose(scope: &Scope, id: &str) {
    until("the image to be gone", TOLD, async || {
        let docker = |arguments: &[&str]| {
            let mut command = tokio::process::Command::from(scope.command("docker"));
            command.args(arguments).kill_on_drop(true);
            async move { command.output().await.expect("docker starts") }
        };
        let filter = format!("label=sternway.keeps={id}");
        let keepers = docker(&["ps", "-aq", "--filter", &filter]).await;
        for keeper in String::from_utf8_lossy(&keepers.stdout).lines() {
            docker(&["rm", "-f", keeper]).await;
        }
        docker(&["rmi", "-f", id]).await;
        let there = docker(&["image", "inspect", id]).await.status.success();
        (!there).then_some(()).ok_or("it is there")
    })
    .await;
}

async fn image_of(scope: &Scope, local: &str) -> String {
    let found = scope.inspect(local).await.and_then(|found| found.image);
    found.expect("it has an image")
}

#[tokio::test]
async fn an_image_that_is_gone_is_missed_before_the_incident_and_pulled_where_it_can_be() {
    let scope = Scope::new().await;
    let mut registry = Registry::start(&scope).await;
    let image = registry.image("shop:live");
    let socket = scope.socket();
    let stage = Stage::of(scope, &socket, LOOKS).await;
    let scope = &stage.scope;
    Image::plain("v1", "").make(&image, &scope.labels()).await;
    scope.cli(&["push", "-q", &image]).await;
    scope.run("shop", &FLAGS, &image).await;
    stage.known_good("shop", 1).await;
    let lost = image_of(scope, "shop").await;
    // The tag moves on, as tags do.
    Image::plain("v2", "").make(&image, &scope.labels()).await;
    scope.cli(&["push", "-q", &image]).await;
    scope.redeploy("shop", &FLAGS, &image).await;
    stage.known_good("shop", 2).await;
    readiness(&stage, "ready", "").await;

    registry.down();
    lose(scope, &lost).await;
    let missing = "its registry could not be asked";
    readiness(&stage, "not-ready", missing).await;
    let _ = rollback(&stage).await.exits(REFUSED).complains(missing);
    let listed = stage.ctl.json(&["rollout", "ls"]).await;
    assert_eq!(listed["rollouts"].as_array().map(Vec::len), Some(0));
    stage.unchanged("shop", 2).await;

    registry.up().await;
    readiness(&stage, "ready", "").await;
    let _ = rollback(&stage).await.exits(0);
}

#[tokio::test]
async fn pruning_takes_no_image_for_good() {
    let scope = Scope::with_own_engine().await;
    let socket = scope.socket();
    let mut stage = Stage::of(scope, &socket, LOOKS).await;
    for (number, image) in [(1, Image::plain("v1", "")), (2, Image::plain("v2", ""))] {
        let image = image.own(&stage.scope).await;
        if number == 1 {
            stage.scope.run("shop", &FLAGS, &image).await;
        } else {
            stage.scope.redeploy("shop", &FLAGS, &image).await;
        }
        stage.known_good("shop", number).await;
    }
    readiness(&stage, "ready", "").await;
    let keepers = async |scope: &Scope| {
        let filter = "label=sternway.role=keeper";
        let listed = scope.cli(&["ps", "-aq", "--filter", filter]).await;
        listed.lines().count()
    };
    until("two keepers", TOLD, async || {
        let found = keepers(&stage.scope).await;
        (found == 2).then_some(()).ok_or(found)
    })
    .await;
    stage.scope.cli(&["image", "prune", "-af"]).await;
    readiness(&stage, "ready", "").await;
    // Keepers never run, so that this removes them; they are made again before the images go.
    stage.scope.cli(&["container", "prune", "-f"]).await;
    until("two keepers again", TOLD, async || {
        let found = keepers(&stage.scope).await;
        (found == 2).then_some(()).ok_or(found)
    })
    .await;
    stage.scope.cli(&["image", "prune", "-af"]).await;
    readiness(&stage, "ready", "").await;
    // Both at once leave no time for that: the copy on the agent's disk does not ask for it.
    stage.agent.process().signal(Signal::STOP);
    stage.scope.cli(&["system", "prune", "-af"]).await;
    stage.agent.process().signal(Signal::CONT);
    stage.online().await;
    let images = stage.scope.cli(&["images", "-q"]).await;
    assert_eq!(images.lines().count(), 1, "only what runs: {images}");
    readiness(&stage, "ready", "").await;
    let said = rollback(&stage).await.exits(0);
    assert!(said.stderr.contains("from the archive"), "{said:?}");
    stage.current("shop", 1).await;
}

#[tokio::test]
async fn an_agent_killed_while_it_archives_or_loads_an_image_goes_on_with_it() {
    let scope = Scope::new().await;
    let gate = Gate::new(&scope.socket(), scope.folder());
    let mut stage = Stage::of(scope, gate.socket(), LOOKS).await;
    let exported = gate.hold("GET", "/get");
    let image = Image::plain("v1", "").own(&stage.scope).await;
    stage.scope.run("shop", &FLAGS, &image).await;
    let id = image_of(&stage.scope, "shop").await;
    stage.known_good("shop", 1).await;
    exported.reached().await;
    stage.agent.kill();
    exported.done().await;
    assert!(!stage.listed_in_archive(&id).exists());
    stage.agent.start();
    stage.archived(&id).await;
    let blobs = stage.agent.folder().join("state/images/blobs");
    for blob in fs::read_dir(blobs).expect("listed") {
        let name = blob.expect("read").file_name();
        assert_eq!(name.len(), 64, "{name:?} is half of a file");
    }

    let image = Image::plain("v2", "").own(&stage.scope).await;
    stage.scope.redeploy("shop", &FLAGS, &image).await;
    stage.known_good("shop", 2).await;
    lose(&stage.scope, &id).await;
    let loaded = gate.hold("POST", "/images/load");
    let rollback = [
        "rollback",
        "--host",
        HOST,
        "--to",
        "1",
        "--yes",
        "--no-wait",
    ];
    let _ = stage.ctl.run(&rollback).await.exits(0);
    loaded.reached().await;
    stage.agent.kill();
    // Half of an archive: the engine makes nothing of it.
    loaded.cut();
    stage.agent.start();
    stage.current("shop", 1).await;
    let rollout = super::crash::newest_rollout(&stage).await;
    assert_eq!(rollout["state"], "succeeded", "{rollout:#}");
    assert_eq!(image_of(&stage.scope, "shop").await, id);
}
