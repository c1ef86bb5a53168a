//! Units that come in packages: upgraded by the package manager, and back again.

use futures_util::future::join_all;
use sternway_tests::lab::{Deb, Generation, Host, Lab};

const TARGET: &str = "systemd/billing.service";

const SECTION: &str = r#"
[[unit]]
unit = "billing.service"
timeout = "3s"
soak = "1s"
[[unit.check]]
http = "http://127.0.0.1:8080/health"
"#;

/// Where apt keeps what it downloaded.
const CACHE: &str = "/var/cache/apt/archives/";

/// Installs a version as a user does: on one of the generations as if it came from a repository.
async fn install(host: &Host, deb: &Deb) {
    let file = deb.build(host).await;
    // On the other one nobody has it, and it is made of what is installed.
    if host.generation() == Generation::Bookworm {
        host.run(&["cp", &file, CACHE]).await.ok();
    }
    host.apt_install(&[&file]).await.ok();
}

/// That version of it is installed, whole.
async fn installed(host: &Host) -> String {
    let show = [
        "dpkg-query",
        "--show",
        "--showformat=${db:Status-Abbrev} ${Version}",
        "billing",
    ];
    host.run(&show).await.ok()
}

#[tokio::test]
async fn a_bad_upgrade_is_rolled_back_and_held() {
    let lab = Lab::of_each_generation(SECTION).await;
    join_all(lab.hosts().map(async |host| {
        let name = host.name();
        install(host, &Deb::new("billing", "1.0")).await;
        lab.known_good(name, TARGET, 1).await;
        // The administrator's own, which the package does not bring.
        let conf = "/etc/billing/billing.conf";
        host.write(conf, "port=8080\nfault=none\n# ours\n").await;
        host.run(&["systemctl", "restart", "billing"]).await.ok();
        lab.known_good(name, TARGET, 2).await;
        let verified = host.run(&["dpkg", "-V", "billing"]).await.stdout;

        install(host, &Deb::new("billing", "2.0").fault("health")).await;
        lab.runs(name, TARGET, 3).await;
        host.write(conf, "port=8080\nfault=health\n").await;
        host.run(&["systemctl", "restart", "billing"]).await.ok();
        lab.runs(name, TARGET, 4).await;
        let rollback = ["rollback", "--host", name, "--to", "2", "--yes"];
        let said = lab.ctl.run(&rollback).await.exits(0).stderr;
        assert!(said.contains("1.0 (instead of 2.0) and hold it"), "{said}");
        lab.runs(name, TARGET, 2).await;
        host.serves(8080, "1.0").await;
        assert_eq!(installed(host).await, "hi  1.0");
        assert_eq!(host.run(&["dpkg", "--audit"]).await.stdout, "");
        assert_eq!(host.run(&["dpkg", "-V", "billing"]).await.stdout, verified);
        let back = host.run(&["cat", conf]).await.ok();
        assert!(back.ends_with("# ours"), "{back}");

        // Forward again, on purpose: not held.
        let forward = ["rollback", "--host", name, "--to", "3", "--yes"];
        lab.ctl.run(&forward).await;
        assert_eq!(installed(host).await, "ii  2.0");
    }))
    .await;
}
