//! Real services of Debian: upgraded by apt, broken in their configuration, and back again by `ctl`.

use futures_util::future::join_all;
use sternway_tests::{
    http,
    lab::{Host, Lab, Real, Release},
    stage::SETTLES,
    wait::until,
};

/// How the agent is told to look after both.
const SECTIONS: &str = r#"
[[unit]]
unit = "nginx.service"
timeout = "5s"
soak = "1s"
[[unit.check]]
http = "http://127.0.0.1:80/"

[[unit]]
unit = "prometheus-node-exporter.service"
timeout = "5s"
soak = "1s"
[[unit.check]]
http = "http://127.0.0.1:9100/metrics"
status = 200
"#;

/// What each says of itself when it serves: not its revision, which Debian adds.
fn sign(real: Real, version: &str) -> String {
    let upstream = version.split('-').next().expect("a version");
    match real {
        Real::Nginx => "Welcome to nginx!".to_owned(),
        Real::NodeExporter => format!("version=\"{upstream}\""),
    }
}

/// Waits until that release is installed, whole, and serves.
async fn serves(host: &Host, real: Real, release: &Release) {
    let query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}"];
    let status = host.run(&[&query[..], &[&real.to_string()]].concat()).await;
    assert_eq!(status.ok(), format!("installed {}", release.version));
    let path = match real {
        Real::Nginx => "/",
        Real::NodeExporter => "/metrics",
    };
    let address = format!("{}:{}", host.address(), real.port());
    let sign = sign(real, &release.version);
    until(
        &format!("{sign:?} at {address}{path}"),
        SETTLES,
        async || match http::get(&address, path).await {
            Ok(answer) if answer.body.contains(&sign) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

/// Breaks its configuration so that it does not start any more.
async fn break_it(host: &Host, real: Real) {
    let (path, wrong) = match real {
        Real::Nginx => ("/etc/nginx/nginx.conf", "nonsense;"),
        Real::NodeExporter => (
            "/etc/default/prometheus-node-exporter",
            "ARGS=\"--no-such\"",
        ),
    };
    let before = host.run(&["cat", path]).await.ok();
    host.write(path, format!("{before}\n{wrong}\n")).await;
    let restart = ["systemctl", "restart", &real.to_string()];
    host.run(&restart).await;
}

/// What dpkg says of files that are not as they were packaged.
async fn verified(host: &Host, release: &Release) -> String {
    let names = release.packages.iter();
    let names: Vec<&str> = names.filter_map(|one| one.split('=').next()).collect();
    host.run(&[&["dpkg", "-V"], &names[..]].concat())
        .await
        .stdout
}

async fn goes_back(lab: &Lab, host: &Host, real: Real) {
    let (name, target) = (host.name(), format!("systemd/{real}.service"));
    let offer = host.offers(real).await;
    let old: Vec<&str> = offer.old.packages.iter().map(String::as_str).collect();
    host.apt_install(&old).await.ok();
    serves(host, real, &offer.old).await;
    lab.known_good(name, &target, 1).await;
    let before = verified(host, &offer.old).await;

    // As a person types it. That of nginx puts another process in the place of the one that runs, and starts nothing.
    let newest = format!("{real}={}", offer.new.version);
    host.run(&["apt-get", "install", "-y", &newest]).await.ok();
    serves(host, real, &offer.new).await;
    lab.runs(name, &target, 2).await;
    break_it(host, real).await;
    lab.runs(name, &target, 3).await;

    let rollback = [
        "rollback", "--host", name, "--target", &target, "--to", "1", "--yes",
    ];
    let said = lab.ctl.run(&rollback).await.exits(0).stdout;
    assert!(said.contains("verified"), "{said}");
    serves(host, real, &offer.old).await;
    lab.runs(name, &target, 1).await;
    assert_eq!(host.run(&["dpkg", "--audit"]).await.stdout, "");
    assert_eq!(verified(host, &offer.old).await, before);
    // Nobody who is not asked brings the bad one back.
    host.run(&["apt-get", "-y", "upgrade"]).await.ok();
    serves(host, real, &offer.old).await;
}

#[tokio::test]
async fn services_of_debian_go_back_after_a_bad_upgrade() {
    let lab = Lab::of_each_generation(SECTIONS).await;
    join_all(lab.hosts().map(async |host| {
        for real in Real::ALL {
            goes_back(&lab, host, real).await;
        }
    }))
    .await;
}
