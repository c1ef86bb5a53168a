//! What the agent reads of packages, held to the real dpkg of both generations.

use std::path::PathBuf;

use futures_util::future::join_all;
use sternway_agent::dpkg::{Dpkg, PackageName, Status, Want};
use sternway_tests::lab::{Bare, Fleet, Host};

/// A package with a conffile, a program below a folder that a merged `/usr` has twice, and a file whose name means
/// something to a shell and to dpkg's patterns.
const BUILD: &str = r#"set -e
root=$(mktemp -d)
mkdir -p "$root/DEBIAN" "$root/etc" "$root/bin" "$root/opt/billing"
printf 'Package: billing\nVersion: %s\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: a test\n' "$1" >"$root/DEBIAN/control"
echo /etc/billing.conf >"$root/DEBIAN/conffiles"
echo rate=1 >"$root/etc/billing.conf"
printf '#!/bin/sh\n' >"$root/bin/billing"
: >"$root/opt/billing/[a]* b"
[ -z "$2" ] || { printf '#!/bin/sh\nexit 1\n' >"$root/DEBIAN/postinst"; chmod 755 "$root/DEBIAN/postinst"; }
dpkg-deb --build --root-owner-group "$root" "/root/billing_$1.deb" >/dev/null
rm -r "$root"
"#;

async fn build(host: &Host, version: &str, fault: &str) -> String {
    let command = ["sh", "-c", BUILD, "build", version, fault];
    host.run(&command).await.ok();
    format!("/root/billing_{version}.deb")
}

fn name(text: &str) -> PackageName {
    text.parse().expect("a name")
}

fn names(of: Option<&Vec<PackageName>>) -> Vec<String> {
    of.into_iter().flatten().map(ToString::to_string).collect()
}

async fn reads_all(host: &Host) {
    let dpkg = Dpkg::by_way_of(host.by_way_of());
    let billing = [name("billing"), name("no-such-package")];
    assert_eq!(dpkg.packages(&billing).await, Ok(Vec::new()), "unknown");
    assert_eq!(dpkg.audit().await.as_deref(), Ok(""));

    let deb = build(host, "1.0-1", "").await;
    host.run(&["dpkg", "--install", &deb]).await.ok();
    let found = dpkg.packages(&billing).await.expect("told");
    assert_eq!(found.len(), 1, "{found:?}");
    let package = found.first().expect("one");
    assert_eq!(
        (package.version.as_str(), package.want),
        ("1.0-1", Want::Install)
    );
    assert!(package.is_installed());
    let conffiles: Vec<_> = package
        .conffiles
        .iter()
        .map(|one| one.path.clone())
        .collect();
    assert_eq!(conffiles, [PathBuf::from("/etc/billing.conf")]);

    let odd = PathBuf::from("/opt/billing/[a]* b");
    let paths: Vec<PathBuf> = [
        "/usr/bin/billing",
        "/bin/billing",
        "/etc/hostname",
        "/usr/bin/dpkg",
    ]
    .map(PathBuf::from)
    .into_iter()
    .chain([odd.clone()])
    .collect();
    let owners = dpkg.owners(&paths).await.expect("told");
    for path in ["/usr/bin/billing", "/bin/billing"] {
        assert_eq!(
            names(owners.get(&PathBuf::from(path))),
            ["billing"],
            "{path}"
        );
    }
    assert_eq!(names(owners.get(&odd)), ["billing"]);
    assert_eq!(names(owners.get(&PathBuf::from("/usr/bin/dpkg"))), ["dpkg"]);
    assert!(!owners.contains_key(&PathBuf::from("/etc/hostname")));
    let files = dpkg.files(package).await.expect("told");
    assert!(files.contains(&odd), "{files:?}");
    assert!(
        files.contains(&PathBuf::from("/etc/billing.conf")),
        "{files:?}"
    );

    // What the administrator put in its place is no package's.
    let divert = [
        "dpkg-divert",
        "--local",
        "--rename",
        "--add",
        "/bin/billing",
    ];
    host.run(&divert).await.ok();
    let owners = dpkg.owners(&paths).await.expect("told");
    assert!(
        !owners.contains_key(&PathBuf::from("/bin/billing")),
        "{owners:?}"
    );
    let undo = [
        "dpkg-divert",
        "--local",
        "--rename",
        "--remove",
        "/bin/billing",
    ];
    host.run(&undo).await.ok();

    host.run(&["apt-mark", "hold", "billing"]).await.ok();
    let held = dpkg.packages(&billing).await.expect("told");
    assert_eq!(held.first().map(|one| one.want), Some(Want::Hold));
    host.run(&["apt-mark", "unhold", "billing"]).await.ok();

    let broken = build(host, "2.0-1", "postinst fails").await;
    let said = host.run(&["dpkg", "--install", &broken]).await;
    assert_ne!(said.code, 0);
    let half = dpkg.packages(&billing).await.expect("told");
    let half = half.first().expect("known");
    assert_eq!(
        (half.version.as_str(), half.status),
        ("2.0-1", Status::HalfConfigured)
    );
    assert!(half.is_half_done());
    assert!(dpkg.audit().await.expect("told").contains("billing"));

    host.run(&["dpkg", "--remove", "billing"]).await.ok();
    let removed = dpkg.packages(&billing).await.expect("told");
    assert_eq!(
        removed.first().map(|one| one.status),
        Some(Status::ConfigFiles)
    );

    let [old, new] = ["1.0~rc1-1", "1.0-1"].map(|text| text.parse().expect("a version"));
    assert_eq!(dpkg.is_older(&old, &new).await, Ok(true));
    assert_eq!(dpkg.is_older(&new, &old).await, Ok(false));
    assert_eq!(dpkg.is_older(&new, &new).await, Ok(false));
}

#[tokio::test]
async fn packages_are_read_as_dpkg_has_them() {
    let Bare { hosts, scope } = Fleet::of_each_generation().bare().await;
    join_all(hosts.iter().map(reads_all)).await;
    drop(hosts);
    drop(scope);
}
