//! Images are kept from being pruned, pulled by digest where they are missing, and missed before an
//! incident.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use sternway_agent::targets::docker::{
    DockerKind, DockerSettings,
    record::{ContainerRecord, Hints},
};
use sternway_proto::name::TargetName;
use sternway_tests::{
    engine::{SCOPE_LABEL, Scope},
    registry::{PASSWORD, Registry, USER},
    shop::Image,
};

use crate::support::{Leftovers, kind, recorded, settings};

async fn keepers(scope: &Scope, target: &str) -> Vec<String> {
    let filter = format!("label=sternway.target={target}");
    let listed = scope
        .cli(&[
            "ps",
            "-a",
            "--filter",
            &filter,
            "--format",
            "{{.Names}} {{.State}}",
        ])
        .await;
    listed.lines().map(str::to_owned).collect()
}

async fn exists(kind: &DockerKind, id: &str) -> bool {
    kind.engine().image(id).await.is_ok()
}

#[tokio::test]
async fn a_kept_image_survives_its_container_and_its_tag_and_is_let_go_of() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    let image = Image::good("1").own(&scope).await;
    scope.run("web", &[], &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    let id = inspected.record.image.id.clone();
    let revision = recorded(&inspected);
    // Twice the same image, twice in a row: one keeper.
    for _ in 0..2 {
        let kept = [revision.clone(), revision.clone()];
        kind.keep(&target, &kept).await.expect("kept");
    }
    let found = keepers(&scope, target.as_str()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("created"), "{found:?}");

    scope.cli(&["rm", "-f", &scope.named("web")]).await;
    scope.cli(&["rmi", &image]).await;
    assert!(exists(&kind, &id).await, "the tag of ours keeps it");

    // Somebody removes the tag, then the keeper: each is repaired.
    let name = found[0].split(' ').next().expect("a name").to_owned();
    let tag = format!("sternway-keep:{}", id.trim_start_matches("sha256:"));
    scope.cli(&["tag", &tag, &image]).await;
    scope.cli(&["rmi", &tag]).await;
    kind.keep(&target, std::slice::from_ref(&revision))
        .await
        .expect("kept");
    assert!(exists(&kind, &tag).await, "tagged again");
    scope.cli(&["rm", &name]).await;
    kind.keep(&target, std::slice::from_ref(&revision))
        .await
        .expect("kept");
    assert_eq!(keepers(&scope, target.as_str()).await.len(), 1);

    scope.cli(&["rmi", &image]).await;
    kind.keep(&target, &[]).await.expect("let go");
    assert!(keepers(&scope, target.as_str()).await.is_empty());
    assert!(!exists(&kind, &id).await, "nothing keeps it any more");
}

#[tokio::test]
async fn an_image_shared_by_two_targets_is_kept_until_both_let_go() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let image = Image::good("1").own(&scope).await;
    scope.run("web", &[], &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    let id = inspected.record.image.id.clone();
    let revision = [recorded(&inspected)];
    let targets =
        ["web", "api"].map(|name| scope.target(name).parse::<TargetName>().expect("valid"));
    for target in &targets {
        kind.keep(target, &revision).await.expect("kept");
    }
    scope.cli(&["rm", "-f", &scope.named("web")]).await;
    scope.cli(&["rmi", &image]).await;
    kind.keep(&targets[0], &[]).await.expect("let go");
    assert!(exists(&kind, &id).await);
    kind.keep(&targets[1], &[]).await.expect("let go");
    assert!(!exists(&kind, &id).await);
}

#[tokio::test]
async fn a_missing_image_comes_back_from_its_registry_or_is_missed_before_an_incident() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    let mut registry = Registry::start(&scope).await;
    let image = registry.image("shop:1");
    Image::good("1").make(&image, &scope.labels()).await;
    scope.cli(&["push", &image]).await;
    scope.run("web", &[], &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    let revision = recorded(&inspected);
    assert_eq!(inspected.hints.digests.len(), 1, "{:?}", inspected.hints);
    assert_eq!(kind.readiness(&target, &revision).await, []);

    scope.cli(&["rm", "-f", &scope.named("web")]).await;
    scope.cli(&["rmi", "-f", &inspected.record.image.id]).await;
    assert_eq!(
        kind.readiness(&target, &revision).await,
        [],
        "the registry has it"
    );
    let said = kind
        .ensure_image(&inspected.record.image, &inspected.hints)
        .await
        .expect("pulled");
    assert!(said.starts_with("pulled 127.0.0.1"), "{said}");
    assert!(exists(&kind, &inspected.record.image.id).await);

    // Another image under the digest asked for is not accepted.
    let mut wrong = inspected.record.image.clone();
    wrong.id = format!("sha256:{}", "0".repeat(64));
    let refused = kind.ensure_image(&wrong, &inspected.hints).await;
    assert!(refused.expect_err("refused").is_not_found());

    scope.cli(&["rmi", "-f", &inspected.record.image.id]).await;
    let (repository, _) = inspected.hints.digests[0]
        .split_once('@')
        .expect("a digest");
    for name in [repository.to_owned(), registry.image("never")] {
        let mut another = revision.clone();
        let digests = vec![format!("{name}@sha256:{}", "0".repeat(64))];
        another.hints = serde_json::to_value(Hints {
            digests,
            ..Hints::default()
        })
        .expect("hints");
        let problems = kind.readiness(&target, &another).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = &problems[0].message;
        assert!(
            said.contains("neither on this host nor in a registry"),
            "{said}"
        );
    }
    registry.down();
    let problems = kind.readiness(&target, &revision).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].code, "image-missing");
    let said = &problems[0].message;
    assert!(
        said.contains("could not be asked") && said.contains("refused"),
        "{said}"
    );
    let gone = kind
        .ensure_image(&inspected.record.image, &inspected.hints)
        .await;
    assert!(gone.is_err());
}

#[tokio::test]
async fn whatever_a_restore_needs_is_missed_before_an_incident() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    let image = Image::good("1").shared().await;
    scope.run("web", &[], &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let mut record: ContainerRecord = inspected.record.clone();
    let none = scope.named("none");
    let host = json!({
        "Binds": [format!("{none}:/data"), format!("/nonexistent-{none}:/srv")],
        "PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]},
        "IpcMode": format!("container:{none}"),
    });
    record.host = serde_json::from_value(host).expect("settings");
    record
        .networks
        .insert(none, std::collections::BTreeMap::new());
    let mut revision = recorded(&inspected);
    revision.record = record.to_bytes().expect("written");
    let problems = kind.readiness(&target, &revision).await;
    let codes: Vec<&str> = problems
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    assert_eq!(
        codes,
        [
            "network-missing",
            "bind-source-missing",
            "volume-missing",
            "container-missing",
            "port-taken"
        ]
    );
    drop(listener);

    // Nothing starts in the namespace of what does not run.
    record = inspected.record.clone();
    let owner = scope.named("owner");
    scope.run("owner", &["--ipc", "shareable"], &image).await;
    record
        .host
        .insert("IpcMode".to_owned(), json!(format!("container:{owner}")));
    revision.record = record.to_bytes().expect("written");
    assert_eq!(kind.readiness(&target, &revision).await, []);
    scope.cli(&["stop", &owner]).await;
    let problems = kind.readiness(&target, &revision).await;
    let codes: Vec<&str> = problems.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["container-stopped"], "{problems:?}");

    // Room for an image of more bytes than any disk has.
    record = inspected.record.clone();
    record.image.id = format!("sha256:{}", "0".repeat(64));
    revision.record = record.to_bytes().expect("written");
    revision.hints = serde_json::to_value(Hints {
        image_bytes: u64::MAX / 4,
        ..Hints::default()
    })
    .expect("hints");
    let problems = kind.readiness(&target, &revision).await;
    let codes: Vec<&str> = problems
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    assert_eq!(codes, ["image-missing", "no-disk-space"]);
}

#[tokio::test]
async fn data_in_an_unnamed_volume_that_is_gone_is_missed_before_an_incident() {
    let leftovers = Leftovers::default();
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    let image = Image::good("1").shared().await;
    let flags = ["-v", "/data"];
    scope.run("web", &flags, &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    leftovers.note(&inspected.inspect);
    let revision = recorded(&inspected);
    assert_eq!(kind.readiness(&target, &revision).await, []);

    // The volume is still there; then its container goes with it.
    scope.redeploy("web", &[], &image).await;
    assert_eq!(kind.readiness(&target, &revision).await, []);
    let volume = &inspected.hints.volumes["/data"];
    scope.cli(&["volume", "rm", volume]).await;
    let problems = kind.readiness(&target, &revision).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].code, "volume-missing");
    assert!(problems[0].message.contains("/data"), "{problems:?}");
    let next = format!("`docker volume create {volume}`");
    assert!(problems[0].next_step.contains(&next), "{problems:?}");

    // What runs now has data at the same place: that goes along.
    scope.redeploy("web", &flags, &image).await;
    let now = kind.inspected(&scope.named("web")).await.expect("recorded");
    leftovers.note(&now.inspect);
    assert_eq!(kind.readiness(&target, &revision).await, []);

    // Somebody says that it may begin empty.
    scope.redeploy("web", &[], &image).await;
    let label = format!("{SCOPE_LABEL}={}", scope.name());
    scope
        .cli(&["volume", "create", "--label", &label, volume])
        .await;
    assert_eq!(kind.readiness(&target, &revision).await, []);
}

#[tokio::test]
async fn a_registry_that_never_answers_is_told_of_as_such() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let target: TargetName = scope.target("web").parse().expect("a target");
    scope
        .run("web", &[], &Image::good("1").shared().await)
        .await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    // The kernel takes the connections; nobody ever reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let registry = silent.local_addr().expect("an address");
    let digest = |number: u32| format!("{registry}/shop@sha256:{number:064x}");
    let mut record = inspected.record.clone();
    record.image.id = format!("sha256:{}", "0".repeat(64));
    let mut revision = recorded(&inspected);
    revision.record = record.to_bytes().expect("written");
    revision.hints = serde_json::to_value(Hints {
        digests: (0..8).map(digest).collect(),
        ..Hints::default()
    })
    .expect("hints");
    // Asked one after the other, each to its end, they take two minutes.
    let looked = kind.readiness(&target, &revision);
    let problems = tokio::time::timeout(Duration::from_mins(1), looked).await;
    let problems = problems.expect("all registries have one bound together");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].code, "image-missing");
    let said = &problems[0].message;
    assert!(said.contains("did not answer"), "{said}");
}

/// The kind on the scope's engine with this login for that registry.
fn with_login(scope: &Scope, registry: &Registry, password: &str) -> DockerKind {
    let login = STANDARD.encode(format!("{USER}:{password}"));
    let config = json!({"auths": {registry.address(): {"auth": login}}});
    let path = scope.folder().join("config.json");
    std::fs::write(&path, config.to_string()).expect("the logins are written");
    DockerKind::new(DockerSettings {
        registry_config: Some(path),
        ..settings(scope)
    })
    .expect("valid settings")
}

#[tokio::test]
async fn a_login_that_is_missing_or_wrong_is_told_and_with_the_right_one_the_image_comes_back() {
    let scope = Scope::new().await;
    let registry = Registry::closed(&scope).await;
    let target: TargetName = scope.target("web").parse().expect("a target");
    let image = registry.image("shop:1");
    Image::good("1").make(&image, &scope.labels()).await;
    let kind = with_login(&scope, &registry, PASSWORD);
    let folder = scope.folder().to_string_lossy().into_owned();
    scope.cli(&["--config", &folder, "push", &image]).await;
    scope.run("web", &[], &image).await;
    let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
    let revision = recorded(&inspected);
    scope.cli(&["rm", "-f", &scope.named("web")]).await;
    scope.cli(&["rmi", "-f", &inspected.record.image.id]).await;

    let missing = DockerKind::new(settings(&scope)).expect("valid settings");
    let wrong = with_login(&scope, &registry, "wrong");
    for kind in [missing, wrong] {
        let problems = kind.readiness(&target, &revision).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].code, "image-missing");
        let said = &problems[0].message;
        assert!(said.contains("does not let the agent in"), "{said}");
    }
    let kind = with_login(&scope, &registry, PASSWORD);
    assert_eq!(kind.readiness(&target, &revision).await, []);
    let image = &inspected.record.image;
    let pulled = kind.ensure_image(image, &inspected.hints).await;
    assert!(pulled.is_ok(), "{pulled:?}");
    assert!(exists(&kind, &image.id).await);
}
