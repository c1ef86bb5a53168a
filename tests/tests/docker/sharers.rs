//! What shares a namespace of a container that is replaced.

use std::time::Duration;

use serde_json::{Value, json};
use sternway_agent::{engine::step::Done, targets::Kind as _};
use sternway_proto::v1::Swap;
use sternway_tests::shop::Image;
use tokio::time::timeout;

use crate::runner::{Order, Shop};

const QUICK: [&str; 4] = ["--label", "sternway.soak=0s", "--restart", "always"];

fn side() -> Image {
    Image {
        version: "side",
        ..Image::default()
    }
}

/// `v2` of it runs, and `LOCAL` shares its network.
async fn beside(locals: &[&str], flags: &[&str]) -> Shop {
    let shop = Shop::new(&QUICK).await;
    for local in locals {
        share(&shop, local, flags).await;
    }
    shop
}

async fn share(shop: &Shop, local: &str, flags: &[&str]) {
    let network = format!("container:{}", shop.target.local());
    let own = ["--network", &network, "-e", "SHOP_PORT=9090"];
    let image = side().shared().await;
    shop.scope
        .run(local, &[&own[..], flags].concat(), &image)
        .await;
}

async fn id(shop: &Shop, local: &str) -> String {
    let found = shop.scope.inspect(local).await;
    found.and_then(|found| found.id).unwrap_or_default()
}

/// The steps up to that one, and it, are done.
async fn up_to(order: &mut Order<'_>, last: &str) {
    let steps = order.steps();
    let at = steps.iter().position(|step| step.id == last);
    let count = at.expect("there is such a step") + 1;
    for step in &steps[..count] {
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
}

async fn running(shop: &Shop) -> Vec<String> {
    let mut running = shop.running().await;
    running.sort();
    running
}

#[tokio::test]
async fn a_restore_turned_back_anywhere_leaves_what_ran_and_what_hung_on_it() {
    let shop = beside(&["side"], &["--restart", "always"]).await;
    let before = [shop.instance().await, id(&shop, "side").await];
    let last = shop.order(Swap::Unspecified).await.commit();
    for fatal in 0..=last {
        let mut order = shop.order(Swap::Unspecified).await;
        let step = order.steps()[fatal].id.clone();
        up_to(&mut order, &step).await;
        order.undo_all(fatal + 1).await;
        let after = [shop.instance().await, id(&shop, "side").await];
        assert_eq!(after, before, "turned back behind {step}");
        let names = ["shop", "side"].map(|local| shop.scope.named(local));
        assert_eq!(running(&shop).await, names, "turned back behind {step}");
        let mut all = shop.scope.containers().await;
        // Of what shares a namespace nothing is kept.
        all.retain(|name| {
            let failed = name.starts_with("sternway-failed-");
            !failed || name.ends_with("-side")
        });
        assert_eq!(all, names, "behind {step}");
    }
}

#[tokio::test]
async fn an_undo_does_not_wait_for_the_health_of_what_hung_on_the_target() {
    let never = ["--health-cmd", "/shop check", "--health-interval", "1h"];
    let shop = beside(&["side"], &never).await;
    let before = id(&shop, "side").await;
    let mut order = shop.order(Swap::Unspecified).await;
    up_to(&mut order, "docker.stop-old").await;
    let count = order
        .steps()
        .iter()
        .position(|step| step.id == "docker.stop-old")
        .expect("such a step");
    // It would be given half a minute to become healthy, twice.
    let undone = timeout(Duration::from_secs(25), order.undo_all(count + 1)).await;
    assert_eq!(undone, Ok(()));
    assert_eq!(id(&shop, "side").await, before);
    assert_eq!(
        running(&shop).await,
        ["shop", "side"].map(|local| shop.scope.named(local))
    );
}

#[tokio::test]
async fn the_last_resort_brings_back_what_hung_on_the_one_that_runs() {
    let shop = beside(&["side"], &["--restart", "always"]).await;
    let before = [shop.instance().await, id(&shop, "side").await];
    let local = shop.scope.named("side");
    for last in [
        format!("docker.stop-old/{local}"),
        "docker.stop-old".to_owned(),
        "docker.start-new".to_owned(),
        format!("docker.start-new/{local}"),
    ] {
        let mut order = shop.order(Swap::Unspecified).await;
        up_to(&mut order, &last).await;
        // The new one crashed: what hangs on it goes on in a network that leads nowhere.
        if last.starts_with("docker.start-new") {
            shop.scope.cli(&["stop", &shop.scope.named("shop")]).await;
        }
        let said = shop.kind.rescue(&order.context(), &order.steps()).await;
        assert!(matches!(said, Ok(Done { .. })), "behind {last}: {said:?}");
        let names = ["shop", "side"].map(|local| shop.scope.named(local));
        assert_eq!(running(&shop).await, names, "behind {last}: {said:?}");
        let after = [shop.instance().await, id(&shop, "side").await];
        assert_eq!(after, before, "behind {last}: {said:?}");
        // As the journal would: what it made goes.
        order.undo_all(order.steps().len()).await;
        let after = [shop.instance().await, id(&shop, "side").await];
        assert_eq!(after, before, "behind {last}");
    }
}

#[tokio::test]
async fn what_came_to_hang_on_it_since_it_was_planned_is_seen_before_anything_is_stopped() {
    let shop = beside(&["side"], &["--restart", "always"]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    up_to(&mut order, "docker.create-new").await;
    share(&shop, "late", &["-e", "SHOP_PORT=9091"]).await;
    let disarm = order
        .steps()
        .into_iter()
        .find(|step| step.id == "docker.disarm-old");
    let error = order
        .apply(&disarm.expect("a step"))
        .await
        .expect_err("seen");
    assert_eq!(error.code, "changed-by-another", "{error:?}");
    assert_eq!(shop.serving().await, Some(2));
}

#[tokio::test]
async fn what_hangs_on_what_hangs_on_it_stands_behind_that_and_others_are_left_alone() {
    let shop = beside(&["side"], &["--ipc", "shareable"]).await;
    let named = |local: &str| shop.scope.named(local);
    let image = side().shared().await;
    shop.scope.run("vpn", &[], &image).await;
    let vpn = format!("container:{}", named("vpn"));
    let port = "SHOP_PORT=9090";
    let other = ["--network", &vpn, "--ipc", "shareable", "-e", port];
    shop.scope.run("other", &other, &image).await;
    let (side, other) = (named("side"), named("other"));
    let [side, other] = [side, other].map(|name| format!("container:{name}"));
    share(&shop, "chained", &["--ipc", &side, "-e", "SHOP_PORT=9091"]).await;
    share(&shop, "both", &["--ipc", &other, "-e", "SHOP_PORT=9092"]).await;
    let order = shop.order(Swap::Unspecified).await;
    let with: Vec<String> = order.draft.with.iter().map(ToString::to_string).collect();
    let at = |local: &str| with.iter().position(|one| *one == shop.scope.target(local));
    assert_eq!(with.len(), 3, "{with:?}");
    assert!(at("both").is_some() && at("side").is_some(), "{with:?}");
    assert!(at("side") < at("chained"), "{with:?}");
}

#[tokio::test]
async fn a_job_that_ends_meanwhile_does_not_turn_a_restore_back() {
    // Without a restart policy, and done a second after its start.
    let shop = beside(&["side"], &[]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    assert!(order.draft.warnings[0].message.contains("begins again"));
    let local = shop.scope.named("side");
    up_to(&mut order, "docker.verify").await;
    shop.scope.cli(&["stop", &local]).await;
    let rest = order
        .steps()
        .into_iter()
        .skip_while(|step| !step.id.starts_with("docker.commit"));
    for step in rest.collect::<Vec<_>>() {
        let done = order.apply(&step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    assert_eq!(running(&shop).await, [shop.scope.named("shop")]);
}

#[tokio::test]
async fn what_ended_before_the_target_was_up_is_started_once_more() {
    let shop = beside(&["side"], &["--restart", "always"]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    let local = shop.scope.named("side");
    up_to(&mut order, "docker.verify").await;
    shop.scope.cli(&["kill", &local]).await;
    let rest = order
        .steps()
        .into_iter()
        .skip_while(|step| !step.id.starts_with("docker.commit"));
    for step in rest.collect::<Vec<_>>() {
        let done = order.apply(&step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    let names = ["shop", "side"].map(|local| shop.scope.named(local));
    assert_eq!(running(&shop).await, names);
}

#[tokio::test]
async fn what_will_be_in_the_way_is_told_before_an_incident() {
    let shop = beside(&["side"], &["--label", "com.docker.compose.project=x"]).await;
    let told = shop.kind.beside(&shop.target, &[]).await;
    let codes: Vec<&str> = told.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["shared-namespace"], "{told:?}");
}

#[tokio::test]
async fn a_revision_that_does_not_share_what_others_need_is_refused() {
    let flags = [&QUICK[..], &["--ipc", "shareable"]].concat();
    let mut shop = Shop::new(&flags).await;
    let ipc = format!("container:{}", shop.target.local());
    share(&shop, "side", &["--ipc", &ipc]).await;
    assert_eq!(shop.order(Swap::Unspecified).await.draft.blockers, []);
    let mut record: Value = serde_json::from_slice(&shop.v1.record).expect("JSON");
    record["host"]["IpcMode"] = json!("private");
    shop.v1.record = serde_json::to_vec(&record).expect("JSON");
    let input = shop.input(&shop.instance().await, Swap::Unspecified);
    let draft = shop.kind.plan(&input).await.expect("planned");
    let codes: Vec<&str> = draft.blockers.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["shared-namespace"], "{:?}", draft.blockers);
}

#[tokio::test]
async fn what_hangs_on_one_that_does_not_run_is_in_the_way() {
    let shop = beside(&["side"], &["--restart", "always"]).await;
    shop.scope.cli(&["stop", &shop.scope.named("shop")]).await;
    let input = shop.input(&shop.instance().await, Swap::Unspecified);
    let draft = shop.kind.plan(&input).await.expect("planned");
    let said: Vec<&str> = draft
        .blockers
        .iter()
        .map(|one| one.message.as_str())
        .collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("does not run"), "{said:?}");
}

#[tokio::test]
async fn one_that_was_stopped_is_warned_of_and_its_revision_stays() {
    let shop = beside(&["side"], &[]).await;
    shop.scope.cli(&["stop", &shop.scope.named("side")]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    let warned = order
        .draft
        .warnings
        .iter()
        .any(|one| one.message.contains("cannot be started again"));
    assert!(warned, "{:?}", order.draft.warnings);
    let name = shop.scope.named("side");
    let before = shop.kind.inspected(&name).await.expect("there").record;
    order.run().await;
    let after = shop.kind.inspected(&name).await.expect("there").record;
    assert!(before == after, "another revision");
}
