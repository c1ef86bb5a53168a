//! What is seen of containers: a revision a deployment, none for a restart; events; names of all sorts.

use std::time::Duration;

use sternway_agent::targets::{Changed, Observed};
use sternway_proto::{name::TargetName, v1::TargetState};
use sternway_tests::{engine::Scope, shop::Image};
use tokio::{sync::mpsc, time::timeout};

use crate::support::{Leftovers, kind};

fn id(observed: &Observed) -> String {
    let content = observed.content.as_ref().expect("content");
    content.id().to_string()
}

fn note(leftovers: &Leftovers, observed: &Observed) {
    let content = observed.content.as_ref().expect("content");
    let inspect = &content.attachments["inspect.json"];
    leftovers.note(&serde_json::from_slice(inspect).expect("JSON"));
}

#[tokio::test]
async fn a_restart_and_the_same_deployment_again_are_the_same_revision() {
    let leftovers = Leftovers::default();
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    let image = Image::good("1").shared().await;
    let flags = ["-e", "A=1", "-v", "/data", "-P"];
    scope.run("web", &flags, &image).await;
    let first = kind.observe(&target).await.expect("seen");
    assert_eq!(first.state, TargetState::Running);
    scope.cli(&["restart", &scope.named("web")]).await;
    let restarted = kind.observe(&target).await.expect("seen");
    assert_eq!(
        (id(&first), &first.instance),
        (id(&restarted), &restarted.instance)
    );
    note(&leftovers, &first);
    scope.redeploy("web", &flags, &image).await;
    let again = kind.observe(&target).await.expect("seen");
    assert_eq!(id(&first), id(&again));
    assert_ne!(first.instance, again.instance);
    note(&leftovers, &again);
    scope
        .redeploy("web", &["-e", "A=2", "-v", "/data", "-P"], &image)
        .await;
    let changed = kind.observe(&target).await.expect("seen");
    assert_ne!(id(&first), id(&changed));
    note(&leftovers, &changed);
    scope.cli(&["rm", "-f", &scope.named("web")]).await;
    let gone = kind.observe(&target).await.expect("seen");
    assert_eq!((gone.state, gone.content), (TargetState::Gone, None));
}

#[tokio::test]
async fn plain_containers_are_discovered_and_those_of_others_are_not() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let image = Image::good("1").shared().await;
    let huge = format!("big={}", "x".repeat(10_000));
    let hostile = "\u{1b}[2J/../../etc=\u{202e}\nx";
    scope
        .run("web", &["--label", &huge, "--label", hostile], &image)
        .await;
    scope.run("rm", &["--rm"], &image).await;
    for (name, label) in [
        ("compose", "com.docker.compose.project=x"),
        ("swarm", "com.docker.swarm.service.id=x"),
        ("ignored", "sternway.ignore=true"),
        ("standby", "sternway.role=standby"),
    ] {
        scope.run(name, &["--label", label], &image).await;
    }
    let found = kind.discover().await.expect("discovered").seen;
    let names: Vec<&str> = found.iter().map(|one| one.target.as_str()).collect();
    assert_eq!(names, [scope.target("rm"), scope.target("web")]);
    for field in &found[1].content.as_ref().expect("content").fields {
        assert!(
            !field.path.chars().any(char::is_control),
            "{:?}",
            field.path
        );
        assert!(field.private || field.value.len() <= 2_048);
    }
    // By the beginning of its id nothing is found.
    let short: String = found[1].instance.chars().take(12).collect();
    let by_id = format!("docker/{short}").parse().expect("a target");
    let seen = kind.observe(&by_id).await.expect("seen");
    assert_eq!(seen.state, TargetState::Gone);
}

#[tokio::test]
async fn events_tell_what_changed() {
    let scope = Scope::new().await;
    let watched = kind(&scope);
    let (sender, mut told) = mpsc::channel(16);
    let watching = tokio::spawn(async move { watched.watch(sender).await });
    let patience = Duration::from_mins(1);
    let first = timeout(patience, told.recv()).await.expect("in time");
    assert_eq!(first, Some(Changed::All));
    let image = Image::good("1").shared().await;
    scope.run("web", &[], &image).await;
    let web = Changed::Target(scope.target("web").parse().expect("a target"));
    // Other tests rename and remove images on the same engine: `All` may come in between.
    timeout(patience, async {
        while told.recv().await.expect("watching") != web {}
    })
    .await
    .expect("told of the deployment");
    watching.abort();
}
