//! What cannot simply be stopped and started again: containers that share the network of the target, and those
//! that were started with `--rm`.

use serde_json::Value;
use sternway_tests::{http, stage::HOST, wait::until};

use crate::crash::{Deaths, Ground, forward, newest_rollout, undo};

/// Every third append, each time at another moment.
const SOME: Deaths = Deaths::Some {
    moments: &["before", "in", "after"],
    stride: 3,
};
const KEPT: &[&str] = &["--restart", "always"];
const REMOVED: &[&str] = &["--rm", "-v", "/data"];

async fn rollback(ground: &Ground, to: &str, code: i32) -> String {
    let target = ground.stage.scope.target("shop");
    let arguments = ["rollback", "--host", HOST, "--target", &target, "--to", to];
    let all = [&arguments[..], &["--yes"]].concat();
    let said = ground.stage.ctl.run(&all).await.exits(code);
    format!("{}{}", said.stdout, said.stderr)
}

async fn read(ground: &Ground, local: &str, what: &str) -> String {
    let name = ground.stage.scope.named(local);
    ground
        .stage
        .scope
        .cli(&["inspect", "-f", what, &name])
        .await
}

async fn id(ground: &Ground, local: &str) -> String {
    read(ground, local, "{{.Id}}").await
}

async fn serves(ground: &Ground, version: &str) {
    let rollout = newest_rollout(&ground.stage).await;
    ground.exactly_one(version, &rollout, version).await;
}

/// The numbers of the revisions that are known of it.
async fn numbers(ground: &Ground, local: &str) -> Vec<Value> {
    let target = ground.stage.target(local).await;
    let revisions = target["revisions"].as_array().cloned().unwrap_or_default();
    revisions
        .iter()
        .map(|revision| revision["number"].clone())
        .collect()
}

#[tokio::test]
async fn what_shares_the_network_is_created_anew_with_it() {
    let ground = Ground::together(KEPT).await;
    ground.stage.current("side", 1).await;
    let before = id(&ground, "side").await;
    let said = rollback(&ground, "1", 0).await;
    assert!(said.contains("created anew as it is"), "{said}");
    serves(&ground, "v1").await;
    assert_ne!(id(&ground, "side").await, before);
    let shop = id(&ground, "shop").await;
    let mode = read(&ground, "side", "{{.HostConfig.NetworkMode}}").await;
    assert_eq!(mode, format!("container:{shop}"));
    let policy = read(&ground, "side", "{{.HostConfig.RestartPolicy.Name}}").await;
    assert_eq!(policy, "always");
    ground.stage.current("side", 1).await;
    assert_eq!(numbers(&ground, "side").await, [1]);
    let side = ground.stage.target("side").await;
    assert_eq!(side["active_order"], Value::Null, "{side:#}");
}

#[tokio::test]
async fn what_shares_the_network_comes_back_with_an_undo() {
    let ground = Ground::together(KEPT).await;
    let _ = rollback(&ground, "1", 0).await;
    let before = [id(&ground, "shop").await, id(&ground, "side").await];
    let _ = rollback(&ground, "2", 10).await;
    serves(&ground, "v1").await;
    assert_eq!(
        [id(&ground, "shop").await, id(&ground, "side").await],
        before
    );
    let policy = read(&ground, "side", "{{.HostConfig.RestartPolicy.Name}}").await;
    assert_eq!(policy, "always");
}

#[tokio::test]
async fn what_others_look_after_and_shares_the_network_is_in_the_way() {
    let ground = Ground::new().await;
    let scope = &ground.stage.scope;
    let network = format!("container:{}", scope.named("shop"));
    let flags = ["--network", &network, "-e", "SHOP_PORT=9090"];
    let theirs = ["--label", "com.docker.compose.project=x"];
    let image = ground.new.clone();
    scope
        .run("side", &[&flags[..], &theirs[..]].concat(), &image)
        .await;
    let before = id(&ground, "shop").await;
    let said = rollback(&ground, "1", 4).await;
    assert!(said.contains("belongs to a compose project"), "{said}");
    assert_eq!(id(&ground, "shop").await, before);
}

#[tokio::test]
async fn what_removes_itself_is_restored_with_its_volume() {
    let ground = Ground::with(REMOVED).await;
    let volume = "{{range .Mounts}}{{.Name}}{{end}}";
    let before = read(&ground, "shop", volume).await;
    let said = rollback(&ground, "1", 0).await;
    assert!(said.contains("started with --rm"), "{said}");
    serves(&ground, "v1").await;
    assert_eq!(read(&ground, "shop", volume).await, before);
    let removes = "{{.HostConfig.AutoRemove}}";
    assert_eq!(read(&ground, "shop", removes).await, "true");
    assert_eq!(numbers(&ground, "shop").await, [2, 1]);
}

#[tokio::test]
async fn what_removed_itself_is_created_again_by_an_undo() {
    let ground = Ground::with(REMOVED).await;
    let _ = rollback(&ground, "1", 0).await;
    let before = id(&ground, "shop").await;
    let volume = "{{range .Mounts}}{{.Name}}{{end}}";
    let data = read(&ground, "shop", volume).await;
    let _ = rollback(&ground, "2", 10).await;
    serves(&ground, "v1").await;
    assert_ne!(id(&ground, "shop").await, before);
    assert_eq!(read(&ground, "shop", volume).await, data);
    ground.stage.current("shop", 1).await;
    assert_eq!(numbers(&ground, "shop").await, [2, 1]);
    // It is the target, and as it was: once it is stopped it is gone.
    let scope = &ground.stage.scope;
    scope.cli(&["stop", &scope.named("shop")]).await;
    until(
        "it to be gone",
        sternway_tests::stage::SETTLES,
        async || {
            let target = ground.stage.target("shop").await;
            let gone = target["state"] == "gone";
            gone.then_some(()).ok_or_else(|| format!("{target:#}"))
        },
    )
    .await;
    assert!(http::get(&ground.address(), "/").await.is_err());
}

#[tokio::test]
async fn what_must_not_be_cut_off_or_could_not_come_back_is_in_the_way() {
    for (shop, side, said) in [
        (KEPT, &["--rm"][..], "as jobs are"),
        (REMOVED, KEPT, "could not bring it back"),
    ] {
        let ground = Ground::with(shop).await;
        let network = format!("container:{}", ground.stage.scope.named("shop"));
        let flags = ["--network", &network, "-e", "SHOP_PORT=9090"];
        let flags = [&flags[..], side].concat();
        let image = ground.new.clone();
        ground.stage.scope.run("side", &flags, &image).await;
        let before = id(&ground, "shop").await;
        let told = rollback(&ground, "1", 4).await;
        assert!(told.contains(said), "{told}");
        assert_eq!(id(&ground, "shop").await, before);
    }
}

#[tokio::test]
async fn a_container_and_what_shares_its_network_killed_at_every_third_append_end_on_one_revision()
{
    forward(Ground::together(KEPT).await, "cold", SOME).await;
}

#[tokio::test]
async fn an_undo_of_both_killed_at_every_third_append_ends_on_the_old_ones() {
    undo(Ground::together(KEPT).await, "cold", SOME).await;
}

#[tokio::test]
async fn what_removes_itself_killed_at_every_third_append_ends_on_one_revision() {
    forward(Ground::with(REMOVED).await, "cold", SOME).await;
}

#[tokio::test]
async fn an_undo_of_what_removes_itself_killed_at_every_third_append_ends_on_the_old_one() {
    undo(Ground::with(REMOVED).await, "cold", SOME).await;
}
