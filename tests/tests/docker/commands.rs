//! Check commands in a container that hang: never more than one of them.

use sternway_agent::{
    engine::step::EvidenceSink,
    targets::{Kind as _, docker::DockerKind},
};
use sternway_proto::{
    name::TargetName,
    v1::{Evidence, Verdict},
};
use sternway_tests::{engine::Scope, shop::Image};

use crate::support::{kind, recorded};

/// One look at the checks of a container: its verdict, and what is told of the command.
async fn look(kind: &DockerKind, target: &TargetName) -> (Verdict, Evidence) {
    let recorded = recorded(&kind.inspected(target.local()).await.expect("inspected"));
    let (sink, mut seen) = EvidenceSink::channel();
    let verdict = kind.check(target, &recorded, &sink).await.expect("checked");
    drop(sink);
    let mut told = None;
    while let Some(one) = seen.recv().await {
        if one.check == "command" {
            told = Some(one);
        }
    }
    (verdict, told.expect("the command is told of"))
}

#[tokio::test]
async fn never_blind_what_is_paused_does_not_pass_for_running() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("shop").parse().expect("a target");
    let image = Image {
        version: "v1",
        ..Image::default()
    };
    let flags = ["-l", "sternway.soak=0s", "-l", "sternway.check.timeout=1s"];
    scope.run("shop", &flags, &image.shared().await).await;
    let recorded = recorded(&kind.inspected(target.local()).await.expect("inspected"));
    let checked = async || {
        let (sink, _seen) = EvidenceSink::channel();
        kind.check(&target, &recorded, &sink)
            .await
            .expect("checked")
    };
    assert_eq!(checked().await, Verdict::Passed);
    scope.cli(&["pause", target.local()]).await;
    assert_eq!(checked().await, Verdict::Failed);
    scope.cli(&["unpause", target.local()]).await;
    assert_eq!(checked().await, Verdict::Passed);
}

#[tokio::test]
async fn a_check_command_that_hangs_is_one_process_however_often_it_is_looked_at() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("shop").parse().expect("a target");
    let image = Image {
        version: "v1",
        ..Image::default()
    };
    let flags = [
        "-l",
        "sternway.check.command=[\"/shop\",\"hang\"]",
        "-l",
        "sternway.check.timeout=1s",
        "-l",
        "sternway.soak=0s",
    ];
    scope.run("shop", &flags, &image.shared().await).await;
    let hanging = async || {
        let top = scope.cli(&["top", &scope.named("shop")]).await;
        top.matches("/shop hang").count()
    };
    for expected in ["no end within", "still runs", "still runs"] {
        let (verdict, told) = look(&kind, &target).await;
        assert_eq!(verdict, Verdict::Failed);
        assert!(told.observed.contains(expected), "{told:?}");
        assert_eq!(hanging().await, 1);
    }
    // With its container the command has ended: it is started anew.
    scope
        .cli(&["restart", "-t", "1", &scope.named("shop")])
        .await;
    let (_, told) = look(&kind, &target).await;
    assert!(told.observed.contains("no end within"), "{told:?}");
    assert_eq!(hanging().await, 1);
}
