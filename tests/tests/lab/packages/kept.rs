//! Where the files of packages come from, so that they can be installed again.

use serde_json::json;
use sternway_agent::dpkg::PackageId;
use sternway_tests::lab::Host;

use super::{VERSIONS, ask, deploy, id, install_with_patience, is_whole, on_both, order, sh};

/// Makes a repository of all that was made.
const PUBLISH: &str = r"set -e
cd /srv/debs
for file in *.deb; do
    dpkg-deb --field $file
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $file $(stat -c %s $file) $(sha256sum $file | cut -d' ' -f1)
done >Packages
echo 'deb [trusted=yes] file:/srv/debs ./' >/etc/apt/sources.list
apt-get update
";

/// All that a package's file can say of files.
const LOOK: &str = r"find /opt/billing /etc/billing.* /lib/systemd/system/billing.service -printf '%p %y %m %n %u %g %l\n' | sort
find /opt/billing /etc/billing.* /lib/systemd/system/billing.service -type f -printf '%T@ ' -exec sha256sum {} \; | sort
";

/// Makes a package file of what is installed, and answers with it and with what is missing.
async fn rebuild(host: &Host, package: &PackageId) -> (String, u64) {
    let into = sh(host, "mktemp -d").await;
    let question = json!({ "rebuild": { "package": package, "into": into } });
    let answer = ask(host, &question).await;
    let done = &answer["done"];
    let file = done["file"].as_str().map(str::to_owned);
    let file = file.unwrap_or_else(|| format!("none: {answer}"));
    (file, done["missing"].as_u64().unwrap_or_default())
}

#[tokio::test]
async fn a_package_made_of_its_installed_files_installs_what_was_there() {
    on_both(async |host| {
        host.write("/etc/billing.own", "own=mine\n").await;
        sh(
            host,
            "chown daemon:adm /opt/billing/spool; rm /opt/billing/link",
        )
        .await;
        let divert =
            "dpkg-divert --local --rename /opt/billing/setuid; echo other >/opt/billing/setuid";
        sh(host, divert).await;
        let (billing, missing) = rebuild(host, &id("billing", "1.0-1")).await;
        assert_eq!(missing, 0);
        sh(
            host,
            "rm /opt/billing/setuid; dpkg-divert --rename --remove /opt/billing/setuid",
        )
        .await;
        let (data, missing) = rebuild(host, &id("billing-data", "1.0-1")).await;
        assert_eq!(missing, 1, "the link");
        let other = json!({ "rebuild": { "package": id("billing", "2.0-1"), "into": "/tmp" } });
        let other = ask(host, &other).await;
        let said = other["failed"].as_str().unwrap_or_default();
        assert!(said.contains("is not what is installed"), "{other}");

        let before = sh(host, LOOK).await;
        deploy(host, "2.0-1").await;
        assert_ne!(sh(host, LOOK).await, before);
        let (newer, _) = rebuild(host, &id("billing", "2.0-1")).await;
        let content = host.run(&["dpkg-deb", "--contents", &newer]).await.ok();
        assert!(
            content.contains("billing.conf") && !content.contains("billing.old"),
            "{content}"
        );
        host.write("/etc/billing.own", "own=mine\n").await;
        let mut back = order("1.0-1", true);
        back["packages"][0][1] = billing.into();
        back["packages"][1][1] = data.into();
        let answer = install_with_patience(host, &back, 5_000).await;
        assert!(answer.get("done").is_some(), "{answer}");
        is_whole(host, "1.0-1").await;
        let verified = host
            .run(&["dpkg", "--verify", "billing", "billing-data"])
            .await;
        assert_eq!(verified.ok(), "");
    })
    .await;
}

#[tokio::test]
async fn packages_of_debian_are_made_of_their_installed_files() {
    on_both(async |host| {
        for name in [
            "dash",
            "iproute2",
            "zlib1g",
            "init-system-helpers",
            "ca-certificates",
        ] {
            let look = format!(
                "dpkg --verify {name}; dpkg-query --status {name}; dpkg-query --listfiles {name}"
            );
            let before = sh(host, &look).await;
            let show = "--showformat=${Version} ${Architecture}";
            let version = host.run(&["dpkg-query", "--show", show, name]).await.ok();
            let (version, architecture) = version.split_once(' ').expect("two words");
            let package = PackageId::new(
                name.parse().expect("a name"),
                version.parse().expect("a version"),
                architecture,
            );
            let (file, missing) = rebuild(host, &package.expect("valid")).await;
            assert_eq!(missing, 0, "{name}");
            host.run(&["dpkg", "--install", &file]).await.ok();
            assert_eq!(sh(host, &look).await, before, "{name}");
            assert_eq!(host.run(&["dpkg", "--audit"]).await.ok(), "");
        }
    })
    .await;
}

#[tokio::test]
async fn a_package_is_kept_by_whatever_way_there_is_to_its_file() {
    on_both(async |host| {
        sh(host, "mkdir /srv/out").await;
        let keep = async |name: &str, version: &str| {
            let question = json!({ "keep": {
                "shelf": "/srv/shelf", "package": id(name, version), "out": "/srv/out"
            } });
            ask(host, &question).await
        };
        let source = async |name: &str, version: &str| {
            let answer = keep(name, version).await;
            let source = answer["done"]["source"].as_str();
            source.map(str::to_owned).ok_or(answer)
        };
        let away = keep("billing", "2.0-1").await;
        let said = away["failed"].as_str().unwrap_or_default();
        assert!(said.contains("to be had"), "{away}");
        for name in ["billing", "billing-data"] {
            assert_eq!(source(name, "1.0-1").await, Ok("rebuilt".into()));
        }
        sh(host, PUBLISH).await;
        sh(
            host,
            "cp /srv/debs/billing-data_1.0-1_all.deb /var/cache/apt/archives/",
        )
        .await;
        assert_eq!(source("billing-data", "1.0-1").await, Ok("cache".into()));
        for version in VERSIONS {
            assert_eq!(source("billing", version).await, Ok("repository".into()));
        }
        sh(host, "rm /srv/debs/*.deb /var/cache/apt/archives/*.deb").await;
        for name in ["billing", "billing-data"] {
            assert!(keep(name, "1.0-1").await.get("done").is_some());
        }
        let files = "dpkg-deb --field /srv/out/billing_1.0-1_all.deb Version; ls /srv/shelf/files";
        assert!(sh(host, files).await.starts_with("1.0-1"));
    })
    .await;
}
