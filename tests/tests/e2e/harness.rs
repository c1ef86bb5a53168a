//! The harness itself: what the other stories rely on.

use std::time::Duration;

use sternway_tests::{
    engine::{SCOPE_LABEL, Scope},
    http,
    netns::Netns,
    port::Port,
    prober::{Prober, host_address},
    registry::Registry,
    shop::Image,
    wait::until,
};

const START: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_shop_is_deployed_and_redeployed_by_plain_docker_commands() {
    let scope = Scope::new().await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let address = format!("127.0.0.1:{port}");
    let flags = ["-p", publish.as_str()];
    scope
        .run("shop", &flags, &Image::good("v1").shared().await)
        .await;
    scope.healthy("shop", START).await;
    assert_eq!(http::get(&address, "/").await.expect("answers").body, "v1");

    scope
        .redeploy("shop", &flags, &Image::bad("v2", "errors").shared().await)
        .await;
    until("an error from v2", START, async || {
        match http::get(&address, "/").await {
            Ok(answer) if answer.status == 500 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_scope_leaves_nothing_behind_also_when_the_test_panics() {
    let observer = Scope::new().await;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let failed = tokio::spawn(async move {
        let scope = Scope::new().await;
        sender
            .send(scope.name().to_owned())
            .expect("somebody waits");
        let network = scope.network("net", &[]).await;
        let volume = scope.volume("data").await;
        let mount = format!("{volume}:/data");
        let flags = ["--network", &network, "-v", &mount, "-v", "/anonymous"];
        let image = Image::good("v1").own(&scope).await;
        scope.run("shop", &flags, &image).await;
        panic!("on purpose");
    })
    .await;
    assert!(failed.is_err());
    let name = receiver.await.expect("the scope has a name");
    let filter = format!("label={SCOPE_LABEL}={name}");
    for what in [
        &["ps", "-aq"][..],
        &["network", "ls", "-q"],
        &["volume", "ls", "-q"],
        &["images", "-q"],
    ] {
        let listed = observer.cli(&[what, &["--filter", &filter]].concat()).await;
        assert_eq!(listed, "", "docker {what:?}");
    }
}

#[tokio::test]
async fn probers_see_the_outage_of_the_runbook_from_three_places() {
    let scope = Scope::new().await;
    let port = Port::lease();
    let publish = format!("{port}:8080");
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::good("v2").shared().await,
    );
    scope.run("shop", &["-p", &publish], &v1).await;
    scope.healthy("shop", START).await;

    let netns = Netns::new(&scope);
    let folder = scope.folder();
    let loopback = format!("127.0.0.1:{port}");
    let outside = format!("{}:{port}", host_address());
    let probers = [
        Prober::start("prober-loopback", &loopback, 100, folder).await,
        Prober::start("prober-host", &outside, 100, folder).await,
        Prober::start_in(&netns, port.number(), 100, folder).await,
    ];
    scope.redeploy("shop", &["-p", &publish], &v2).await;
    scope.healthy("shop", START).await;
    for prober in probers {
        let seen = prober.stop().await;
        assert!(seen.lost > 0, "an outage is seen: {seen:?}");
        assert!(seen.longest_gap_ms >= 50, "{seen:?}");
        assert!(seen.answers.contains_key("v1"), "{seen:?}");
        assert!(seen.answers.contains_key("v2"), "{seen:?}");
    }
}

#[tokio::test]
async fn an_image_goes_through_the_registry_and_comes_back_by_digest() {
    let scope = Scope::new().await;
    let mut registry = Registry::start(&scope).await;
    let name = registry.image("shop:v1");
    Image::good("v1").make(&name, &scope.labels()).await;
    scope.cli(&["push", "-q", &name]).await;
    let digest = scope
        .cli(&["inspect", "--format", "{{index .RepoDigests 0}}", &name])
        .await;
    scope.cli(&["rmi", "-f", &name, &digest]).await;
    scope.cli(&["pull", "-q", &digest]).await;
    registry.down();
    let again = tokio::process::Command::new("docker")
        .args(["pull", "-q", &registry.image("shop:v9")])
        .output()
        .await
        .expect("docker starts");
    assert!(!again.status.success(), "the registry is down");
}
