//! What the agent does to packages, held to the real dpkg and systemd of both generations.

mod kept;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sternway_agent::dpkg::{Dpkg, Package, PackageId, Want};
use sternway_tests::{
    binary,
    lab::{Bare, Fleet, Host},
    stage::SETTLES,
    wait::until,
};

/// Makes a service in two packages, one of which needs the other in its own version, with scripts as debhelper writes them:
/// they stop it before it is upgraded and start it after. A file moves from the one to the other. Another file says where a script of a version fails or waits.
const BUILD: &str = r#"set -e
version=$1
root=$(mktemp -d)
control() {
    printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <n@example.org>\n%sDescription: a test\n of packages\n .\n and of what they do\n' "$1" "$version" "$2" >"$root/$1/DEBIAN/control"
}
mkdir -p "$root/billing/DEBIAN" "$root/billing/etc" "$root/billing/lib/systemd/system" "$root/billing/opt/billing" "$root/billing-data/DEBIAN" "$root/billing-data/opt/billing"
control billing "Depends: billing-data (= $version)
"
if [ "$version" = 1.0-1 ]; then
    control billing-data ''
    moved=billing
else
    control billing-data "Breaks: billing (<< 2.0-1)
Replaces: billing (<< 2.0-1)
"
    moved=billing-data
fi
echo "$version" >"$root/$moved/opt/billing/moved"
printf '/etc/billing.conf\n/etc/billing.own\n' >"$root/billing/DEBIAN/conffiles"
if [ "$version" = 1.0-1 ]; then
    echo /etc/billing.old >>"$root/billing/DEBIAN/conffiles"
    echo old >"$root/billing/etc/billing.old"
fi
echo "rate=$version" >"$root/billing/etc/billing.conf"
echo "own=$version" >"$root/billing/etc/billing.own"
echo "$version" >"$root/billing-data/opt/billing/version"
ln -s version "$root/billing-data/opt/billing/link"
ln "$root/billing-data/opt/billing/version" "$root/billing-data/opt/billing/twin"
install -d -m 2750 "$root/billing/opt/billing/spool"
install -m 4755 /bin/true "$root/billing/opt/billing/setuid"
cat >"$root/billing/lib/systemd/system/billing.service" <<UNIT
[Unit]
Description=billing $version
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
UNIT
for name in preinst postinst prerm; do
    cat >"$root/billing/DEBIAN/$name" <<SCRIPT
#!/bin/sh
set -e
told=/run/billing-test/$name-$version
[ ! -e "\$told-fails" ] || { echo "the $name of $version fails" >&2; exit 3; }
if [ -e "\$told-waits" ]; then
    : >"\$told-is-there"
    while [ -e "\$told-waits" ]; do sleep 0.1; done
fi
SCRIPT
    chmod 755 "$root/billing/DEBIAN/$name"
done
cat >>"$root/billing/DEBIAN/prerm" <<'SCRIPT'
if [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop billing.service >/dev/null || true
fi
SCRIPT
cat >>"$root/billing/DEBIAN/postinst" <<'SCRIPT'
deb-systemd-helper unmask billing.service >/dev/null || true
if deb-systemd-helper --quiet was-enabled billing.service; then
    deb-systemd-helper enable billing.service >/dev/null || true
else
    deb-systemd-helper update-state billing.service >/dev/null || true
fi
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    deb-systemd-invoke restart billing.service >/dev/null || true
    systemctl try-restart billing.service || true
fi
SCRIPT
mkdir -p /srv/debs /run/billing-test
for name in billing billing-data; do
    dpkg-deb --build --root-owner-group "$root/$name" "/srv/debs/${name}_${version}_all.deb" >/dev/null
done
rm -r "$root"
"#;

/// Where the tests' own program is on a host.
const PROGRAM: &str = "/usr/local/bin/packages";

/// The versions that are made.
const VERSIONS: [&str; 2] = ["1.0-1", "2.0-1"];

/// Does that on a host of each generation, where all versions lie ready and the first is installed.
async fn on_both(test: impl AsyncFn(&Host)) {
    let program = std::fs::read(binary::find("packages")).expect("it was built");
    let Bare { hosts, scope } = Fleet::of_each_generation().bare().await;
    join_all(hosts.iter().map(async |host| {
        host.write(PROGRAM, &program).await;
        host.run(&["chmod", "755", PROGRAM]).await.ok();
        for version in VERSIONS {
            host.run(&["sh", "-c", BUILD, "build", version]).await.ok();
        }
        deploy(host, "1.0-1").await;
        test(host).await;
    }))
    .await;
    drop(hosts);
    drop(scope);
}

fn file(name: &str, version: &str) -> String {
    format!("/srv/debs/{name}_{version}_all.deb")
}

/// As an administrator does it.
async fn deploy(host: &Host, version: &str) {
    let [data, billing] = ["billing-data", "billing"].map(|name| file(name, version));
    let dpkg = ["dpkg", "--force-confold", "--auto-deconfigure", "--install"];
    let command = [&dpkg[..], &[&data, &billing]].concat();
    host.run(&command).await.ok();
}

/// Has a script of a version do that; or no more.
async fn tell(host: &Host, script: &str) {
    host.write(&format!("/run/billing-test/{script}"), "").await;
}

async fn untell(host: &Host, script: &str) {
    let path = format!("/run/billing-test/{script}");
    host.run(&["rm", "-f", &path]).await.ok();
}

fn id(name: &str, version: &str) -> PackageId {
    let [name, version] = [name, version].map(str::to_owned);
    let name = name.try_into().expect("a name");
    PackageId::new(name, version.try_into().expect("a version"), "all").expect("valid")
}

/// An order for both packages in that version, held or not. The one that needs the other comes first.
fn order(version: &str, hold: bool) -> Value {
    let packages: Vec<_> = ["billing", "billing-data"]
        .map(|name| (id(name, version), file(name, version)))
        .into();
    json!({ "packages": packages, "hold": { "billing": hold, "billing-data": hold } })
}

async fn ask(host: &Host, question: &Value) -> Value {
    let question = question.to_string();
    let said = host.run_with(&[PROGRAM], question.as_bytes()).await.ok();
    serde_json::from_str(&said).expect("an answer in JSON")
}

async fn install_with_patience(host: &Host, order: &Value, patience_ms: u64) -> Value {
    install_within(host, order, patience_ms, 60_000).await
}

async fn install_within(host: &Host, order: &Value, patience_ms: u64, deadline_ms: u64) -> Value {
    let question = json!({ "install": {
        "order": order, "patience_ms": patience_ms, "deadline_ms": deadline_ms
    } });
    ask(host, &question).await
}

/// Installs, and holds the answer against success.
async fn install(host: &Host, version: &str, hold: bool) {
    let answer = install_with_patience(host, &order(version, hold), 5_000).await;
    assert!(answer.get("done").is_some(), "{version}: {answer}");
}

/// What dpkg has of both packages.
async fn found(host: &Host) -> Vec<Package> {
    let names = ["billing", "billing-data"].map(|name| name.parse().expect("a name"));
    let dpkg = Dpkg::by_way_of(host.by_way_of());
    dpkg.packages(&names).await.expect("told")
}

/// Both packages are whole in that version, nothing on the host is half done, and the files are those of that version.
async fn is_whole(host: &Host, version: &str) {
    let found = found(host).await;
    let whole = |one: &Package| one.is_installed() && one.version == version;
    assert!(found.len() == 2 && found.iter().all(whole), "{found:?}");
    let dpkg = Dpkg::by_way_of(host.by_way_of());
    assert_eq!(dpkg.audit().await.as_deref(), Ok(""));
    for file in ["/opt/billing/version", "/opt/billing/moved"] {
        assert_eq!(host.run(&["cat", file]).await.ok(), version, "{file}");
    }
}

/// Which run of the service this is.
async fn invocation(host: &Host) -> String {
    let show = [
        "systemctl",
        "show",
        "--value",
        "--property=InvocationID,ActiveState",
    ];
    let command = [&show[..], &["billing.service"]].concat();
    let said = host.run(&command).await.ok();
    assert!(
        said.contains("active") && !said.contains("inactive"),
        "{said}"
    );
    said
}

/// Waits until a script waits.
async fn waits(host: &Host, script: &str) {
    let path = format!("/run/billing-test/{script}-is-there");
    until(&path, SETTLES, async || {
        let said = host.run(&["test", "-e", &path]).await;
        (said.code == 0).then_some(()).ok_or("not yet")
    })
    .await;
}

#[tokio::test]
async fn an_older_version_is_installed_and_held_while_its_service_runs_on() {
    on_both(async |host| {
        let first = invocation(host).await;
        deploy(host, "2.0-1").await;
        let second = invocation(host).await;
        assert_ne!(first, second, "by itself its scripts restart it");
        host.write("/etc/billing.own", "own=mine\n").await;
        host.run(&["rm", "/etc/billing.conf"]).await.ok();

        install(host, "1.0-1", true).await;
        is_whole(host, "1.0-1").await;
        assert_eq!(invocation(host).await, second, "it ran on");
        let enabled = host.run(&["systemctl", "is-enabled", "billing"]).await;
        assert_eq!(enabled.stdout, "enabled");
        let held = found(host).await;
        assert!(held.iter().all(|one| one.want == Want::Hold), "{held:?}");
        let own = host.run(&["cat", "/etc/billing.own"]).await.ok();
        assert_eq!(own, "own=mine");
        let conf = host.run(&["test", "-e", "/etc/billing.conf"]).await;
        assert_eq!(conf.code, 1, "what the administrator removed stays away");

        // Once more: nothing is left to do.
        let answer = install_with_patience(host, &order("1.0-1", true), 5_000).await;
        let already = answer["done"]["already"].as_array().map(Vec::len);
        assert_eq!(already, Some(2), "{answer}");
        // A hold is no obstacle.
        let mut forward = order("2.0-1", true);
        forward["hold"] = json!({ "billing": false, "billing-data": true });
        let answer = install_with_patience(host, &forward, 5_000).await;
        assert!(answer.get("done").is_some(), "{answer}");
        is_whole(host, "2.0-1").await;
        let wants: Vec<Want> = found(host).await.iter().map(|one| one.want).collect();
        assert_eq!(wants, [Want::Install, Want::Hold]);
        assert_eq!(invocation(host).await, second, "it ran on");
    })
    .await;
}

#[tokio::test]
async fn a_version_whose_script_fails_is_told_and_another_goes_over_it() {
    on_both(async |host| {
        let running = invocation(host).await;
        for script in ["postinst-2.0-1-fails", "preinst-2.0-1-fails"] {
            tell(host, script).await;
            let answer = install_with_patience(host, &order("2.0-1", true), 5_000).await;
            let said = answer["failed"].as_str().unwrap_or_default();
            let (name, _) = script.split_once('-').expect("a script");
            let expected = format!("the {name} of 2.0-1 fails");
            assert!(said.contains(&expected), "{answer}");
            // What is half done and fails for good is not tried again.
            install(host, "1.0-1", true).await;
            is_whole(host, "1.0-1").await;
            untell(host, script).await;
        }
        assert_eq!(invocation(host).await, running, "it ran on");
    })
    .await;
}

#[tokio::test]
async fn an_installation_that_was_killed_is_finished_by_the_next_or_undone() {
    on_both(async |host| {
        let running = invocation(host).await;
        for script in ["preinst-2.0-1", "postinst-2.0-1", "prerm-1.0-1"] {
            for then in ["2.0-1", "1.0-1"] {
                tell(host, &format!("{script}-waits")).await;
                let order = order("2.0-1", false);
                let kill = async {
                    waits(host, script).await;
                    host.run(&["sh", "-c", "kill -9 $(pidof dpkg)"]).await.ok();
                };
                let killed = install_with_patience(host, &order, 5_000);
                let (killed, ()) = futures_util::join!(killed, kill);
                assert!(killed.get("failed").is_some(), "{killed}");
                untell(host, &format!("{script}-waits")).await;
                untell(host, &format!("{script}-is-there")).await;
                install(host, then, false).await;
                is_whole(host, then).await;
                install(host, "1.0-1", false).await;
            }
        }
        is_whole(host, "1.0-1").await;
        assert_eq!(invocation(host).await, running, "it ran on");
    })
    .await;
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_with_its_scripts() {
    on_both(async |host| {
        tell(host, "postinst-2.0-1-waits").await;
        let late = install_within(host, &order("2.0-1", false), 5_000, 1_500).await;
        let said = late["failed"].as_str().unwrap_or_default();
        assert!(said.contains("did not end within"), "{late}");
        assert!(host.run(&["pidof", "dpkg"]).await.code != 0);
        let scripts = host.run(&["pgrep", "--full", "billing.postinst"]).await;
        assert_eq!(scripts.stdout, "", "none goes on");
        untell(host, "postinst-2.0-1-waits").await;
        install(host, "1.0-1", false).await;
        is_whole(host, "1.0-1").await;
    })
    .await;
}

#[tokio::test]
async fn a_dpkg_whose_front_end_was_killed_is_waited_for() {
    on_both(async |host| {
        tell(host, "postinst-2.0-1-waits").await;
        let question = json!({ "install": {
            "order": order("2.0-1", false), "patience_ms": 0, "deadline_ms": 60_000
        } });
        let question = question.to_string();
        let killed = host.run_with(&[PROGRAM], question.as_bytes());
        let next = async {
            waits(host, "postinst-2.0-1").await;
            sh(host, "kill -9 $(pidof packages)").await;
            let order = order("1.0-1", true);
            let answer = install_with_patience(host, &order, 300).await;
            assert_eq!(answer["locked"]["program"], "dpkg", "{answer}");
            let next = install_with_patience(host, &order, 30_000);
            let let_go = untell(host, "postinst-2.0-1-waits");
            let (answer, ()) = futures_util::join!(next, let_go);
            assert!(answer.get("done").is_some(), "{answer}");
        };
        let (killed, ()) = futures_util::join!(killed, next);
        assert_ne!(killed.code, 0);
        is_whole(host, "1.0-1").await;
    })
    .await;
}

#[tokio::test]
async fn an_installation_may_be_killed_at_any_instant() {
    on_both(async |host| {
        let running = invocation(host).await;
        for round in 0..16 {
            // On the way there, and on the way back.
            let killed = if round % 2 == 0 {
                "2.0-1"
            } else {
                install(host, "2.0-1", false).await;
                "1.0-1"
            };
            let order = order(killed, true);
            // The whole of it takes some hundred milliseconds.
            let after = 4 + 4 * round;
            let kill = format!("sleep 0.{after:02}; kill -9 $(pidof dpkg) || true");
            futures_util::join!(install_with_patience(host, &order, 5_000), sh(host, &kill));
            install(host, "1.0-1", true).await;
            is_whole(host, "1.0-1").await;
        }
        assert_eq!(invocation(host).await, running, "it ran on");
    })
    .await;
}

#[tokio::test]
async fn whoever_uses_dpkg_is_waited_for_and_then_named() {
    on_both(async |host| {
        let [data, billing] = ["billing-data", "billing"].map(|name| file(name, "2.0-1"));
        for front_end in [&["env", "A=1"][..], &["env", "DPKG_FRONTEND_LOCKED=1"][..]] {
            tell(host, "postinst-2.0-1-waits").await;
            let command = [front_end, &["dpkg", "-B", "--install", &data, &billing]].concat();
            let other = host.run(&command);
            let us = async {
                waits(host, "postinst-2.0-1").await;
                let answer = install_with_patience(host, &order("1.0-1", false), 300).await;
                assert_eq!(answer["locked"]["program"], "dpkg", "{answer}");
                let patient = order("1.0-1", false);
                let patient = install_with_patience(host, &patient, 30_000);
                let let_go = untell(host, "postinst-2.0-1-waits");
                let (answer, ()) = futures_util::join!(patient, let_go);
                assert!(answer.get("done").is_some(), "{answer}");
            };
            let (other, ()) = futures_util::join!(other, us);
            other.ok();
            untell(host, "postinst-2.0-1-is-there").await;
            is_whole(host, "1.0-1").await;
        }
    })
    .await;
}

async fn sh(host: &Host, script: &str) -> String {
    host.run(&["sh", "-c", script]).await.ok()
}
