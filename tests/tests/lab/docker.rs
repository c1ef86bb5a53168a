//! Containers on real hosts: what is claimed of engines holds on both generations, under the unit that is installed.

use futures_util::future::join_all;
use serde_json::Value;
use sternway_tests::{
    lab::{Fleet, Generation, Host, Lab},
    shop::Image,
    stage::SETTLES,
    wait::until,
};

/// No restore appends more often to its journal; the power is cut at every fifth of them.
const APPENDS: usize = 60;
const EVERY: usize = 5;

/// The target.
const SHOP: &str = "docker/shop";

/// How shop is deployed: quick to pass and quick to fail.
const RUN: [&str; 14] = [
    "docker",
    "run",
    "-d",
    "--name",
    "shop",
    "--restart=always",
    "-p",
    "8080:8080",
    "-l",
    "sternway.check.http=:8080/health",
    "-l",
    "sternway.check.timeout=2s",
    "-l",
    "sternway.soak=0s",
];

/// Deploys a version of shop by the runbook.
async fn deploy(host: &Host, image: &str) {
    let there = host.run(&["docker", "inspect", "shop"]).await.code == 0;
    if there {
        host.run(&["docker", "stop", "shop"]).await.ok();
        host.run(&["docker", "rm", "shop"]).await.ok();
    }
    let run = [&RUN[..], &[image]].concat();
    host.run(&run).await.ok();
}

/// v1 is known-good there, and a bad v2 was deployed over it.
async fn bad_deployment(lab: &Lab, name: &str) {
    let (v1, v2) = (
        Image::plain("v1", "").shared().await,
        Image::plain("v2", "health").shared().await,
    );
    let host = lab.host(name);
    host.load(&v1).await;
    host.load(&v2).await;
    deploy(host, &v1).await;
    lab.known_good(name, SHOP, 1).await;
    deploy(host, &v2).await;
    lab.runs(name, SHOP, 2).await;
}

#[tokio::test]
async fn a_bad_deployment_is_rolled_back_on_hosts_of_both_generations() {
    let lab = Fleet::new()
        .docker("old", Generation::Bookworm)
        .docker("new", Generation::Trixie)
        .raise()
        .await;
    join_all(["old", "new"].map(async |name| {
        bad_deployment(&lab, name).await;
        let rollback = ["rollback", "--host", name, "--yes", "--swap", "warm"];
        let said = lab.ctl.run(&rollback).await.exits(0).stdout;
        assert!(said.contains("✔ passed"), "{said}");
        lab.host(name).serves(8080, "v1").await;
        lab.runs(name, SHOP, 1).await;
    }))
    .await;
}

/// The newest rollout.
async fn rollout(lab: &Lab) -> Value {
    lab.ctl.json(&["rollout", "ls"]).await["rollouts"][0].clone()
}

#[tokio::test]
async fn never_both_a_host_that_loses_power_in_a_warm_restore_boots_into_one_revision() {
    let lab = Fleet::new().docker("web", Generation::Trixie).raise().await;
    let web = lab.host("web");
    bad_deployment(&lab, "web").await;
    let mut cuts = 0;
    for append in (2..APPENDS).step_by(EVERY) {
        let when = format!("after append {append}");
        web.loses_power_at(&format!("journal:{append}:after")).await;
        lab.is("web", "online").await;
        let before = rollout(&lab).await["id"].clone();
        let rollback = ["rollback", "--host", "web", "--yes", "--swap", "warm"];
        let watching = lab.ctl.command(&rollback).spawn().expect("ctl starts");
        let cut = until(
            &format!("the cut or the end, {when}"),
            SETTLES,
            async || {
                if !web.has_power().await {
                    return Ok(true);
                }
                let now = rollout(&lab).await;
                let over = now["id"] != before && now["state"] != "running";
                over.then_some(false).ok_or(now)
            },
        )
        .await;
        if cut {
            web.power_on().await;
            cuts += 1;
        }
        let state = until(&format!("the rollout's end, {when}"), SETTLES, async || {
            let now = rollout(&lab).await;
            let over = now["id"] != before && now["state"] != "running";
            over.then(|| now["state"].clone()).ok_or(now)
        })
        .await;
        drop(watching);
        let number = match state.as_str() {
            Some("succeeded") => 1,
            Some("undone") => 2,
            _ => panic!("{when}: {state}"),
        };
        lab.runs("web", SHOP, number).await;
        let listed = web
            .run(&["docker", "ps", "--format", "{{.Names}}"])
            .await
            .ok();
        assert_eq!(listed, "shop", "{when}");
        web.serves(8080, &format!("v{number}")).await;
        let tables = web.run(&["nft", "list", "tables"]).await.ok();
        assert!(!tables.contains("sternway"), "{when}: {tables}");
        if !cut {
            break;
        }
        deploy(web, &Image::plain("v2", "health").shared().await).await;
        lab.runs("web", SHOP, 2).await;
    }
    assert!(cuts > 2, "the power was cut {cuts} times");
}
