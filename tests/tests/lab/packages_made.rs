//! Packages that tests make to deploy them: they install, upgrade and serve on both generations.

use futures_util::future::join_all;
use sternway_tests::{
    http,
    lab::{Bare, Deb, Fleet, Host, Start},
    stage::SETTLES,
    wait::until,
};

/// Waits until it answers there, with a body that has this in it.
async fn answers(host: &Host, port: u16, path: &str, wanted: &str) {
    let address = format!("{}:{port}", host.address());
    let what = format!("{wanted:?} at {address}{path}");
    until(&what, SETTLES, async || {
        match http::get(&address, path).await {
            Ok(answer) if answer.body.contains(wanted) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn status(host: &Host, package: &str) -> String {
    let query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}"];
    host.run(&[&query[..], &[package]].concat()).await.ok()
}

/// Does that on a host of each generation.
async fn on_both(test: impl AsyncFn(&Host)) {
    let Bare { hosts, scope } = Fleet::of_each_generation().bare().await;
    join_all(hosts.iter().map(async |host| test(host).await)).await;
    drop(hosts);
    drop(scope);
}

async fn upgrades(host: &Host) {
    let old = Deb::new("billing", "1.0-1");
    let path = old.build(host).await;
    host.apt_install(&[&path]).await.ok();
    answers(host, 8080, "/", "1.0-1").await;
    host.unit_is("billing", "active").await;
    let enabled = ["systemctl", "is-enabled", "billing"];
    assert_eq!(host.run(&enabled).await.ok(), "enabled");

    // The administrator's own line survives a package that has another.
    let conffile = "/etc/billing/billing.conf";
    let own = old.conf().replace("8080", "8081");
    host.write(conffile, &own).await;
    let bad = Deb::new("billing", "1.1-1").fault("health");
    host.apt_install(&[&bad.build(host).await]).await.ok();
    answers(host, 8081, "/", "1.1-1").await;
    answers(host, 8081, "/health", "healthy").await;
    assert_eq!(host.run(&["cat", conffile]).await.ok(), own.trim());

    let broken = Deb::new("billing", "1.2-1").with_failing_postinst();
    let said = host.dpkg_install(&[&broken.build(host).await]).await;
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(status(host, "billing").await, "half-configured 1.2-1");
    answers(host, 8081, "/", "1.1-1").await;

    host.apt_install(&[&path]).await.ok();
    assert_eq!(status(host, "billing").await, "installed 1.0-1");
    answers(host, 8081, "/", "1.0-1").await;
    host.run(&["apt-get", "purge", "-y", "billing"]).await.ok();
    let left = host.run(&["systemctl", "cat", "billing"]).await;
    assert_ne!(left.code, 0, "{left:?}");
}

async fn starts_in_every_way(host: &Host) {
    for (name, port, start) in [
        ("says", 8082, Start::Notify),
        ("waits", 8083, Start::Socket),
    ] {
        for version in ["1.0", "1:0.9"] {
            let deb = Deb::new(name, version).in_sbin().port(port).starts(start);
            let path = deb.build(host).await;
            host.apt_install(&[&path]).await.ok();
            answers(host, port, "/", version).await;
            host.unit_is(name, "active").await;
        }
    }
    let kind = ["systemctl", "show", "--property=Type", "--value", "says"];
    assert_eq!(host.run(&kind).await.ok(), "notify");
    host.unit_is("waits.socket", "active").await;
}

#[tokio::test]
async fn a_package_that_a_test_made_installs_upgrades_and_keeps_its_conffile() {
    on_both(async |host| {
        upgrades(host).await;
        starts_in_every_way(host).await;
    })
    .await;
}
