//! A recorded container, created again, inspects the same: one case a flag of `docker run`, and all at
//! once.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rstest::rstest;
use serde_json::{Value, json};
use sternway_agent::targets::docker::record::ContainerRecord;
use sternway_tests::{engine::Scope, shop::Image};

use crate::support::{Leftovers, comparable, kind, recorded, recreate};

/// Flags with `{scope}` for the scope's prefix and `{front}`, `{back}` for the first three bytes of two
/// networks' addresses.
struct Places {
    scope: Scope,
    front: String,
    back: String,
    // Behind the scope: dropped after it.
    leftovers: Leftovers,
}

impl Places {
    async fn new() -> Self {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let number = NETWORKS.fetch_add(2, Ordering::Relaxed);
        let base = std::process::id() % 64 * 4;
        Self {
            leftovers: Leftovers::default(),
            scope: Scope::new().await,
            front: format!("10.{}.{}", 64 + base / 4, number % 250),
            back: format!("10.{}.{}", 64 + base / 4, number % 250 + 1),
        }
    }

    fn fill(&self, flag: &str) -> String {
        flag.replace("{scope}", self.scope.name())
            .replace("{front}", &self.front)
            .replace("{back}", &self.back)
    }

    async fn networks(&self) {
        for (name, address) in [("front", &self.front), ("back", &self.back)] {
            let subnet = format!("--subnet={address}.0/24");
            self.scope.network(name, &[&subnet]).await;
        }
    }

    /// Records the running container, removes it, creates it again and compares.
    async fn goes_round(&self) {
        let kind = kind(&self.scope);
        let before = kind
            .inspected(&self.scope.named("web"))
            .await
            .expect("it is recorded");
        self.leftovers.note(&before.inspect);
        self.scope
            .cli(&["rm", "-f", &self.scope.named("web")])
            .await;
        let created = recreate(&kind, &before, &self.scope.named("again")).await;
        assert!(created.lost.is_empty(), "lost: {:?}", created.lost);
        let after = kind.inspected(&created.id).await.expect("it is there");
        let (was, is) = (comparable(&before.inspect), comparable(&after.inspect));
        for (path, value) in &was {
            assert_eq!(Some(value), is.get(path), "{path} was {value}");
        }
        for (path, value) in &is {
            assert!(was.contains_key(path), "{path} = {value} was added");
        }
        assert_eq!(
            recorded(&before).id,
            recorded(&after).id,
            "another revision: {:?}",
            sternway_agent::targets::docker::record::differences(&before.record, &after.record)
        );
    }
}

#[rstest]
#[case::nothing(&[], &[])]
#[case::removes_itself(&["--rm"], &[])]
#[case::environment(&["-e", "A=1", "-e", "B=x=y", "-e", "SHOP_VERSION=9"], &[])]
#[case::entry_point(&["--entrypoint", "/shop"], &[])]
#[case::user(&["--user", "1000:1000"], &[])]
#[case::working_directory(&["--workdir", "/tmp"], &[])]
#[case::ports(&["-p", "127.0.0.1::8080", "-p", "8080/udp"], &[])]
#[case::all_ports(&["-P"], &[])]
#[case::port_range(&["-p", "127.0.0.1:30000-30999:8080"], &[])]
#[case::several_ports(&["-p", "127.0.0.1:31000-31499:8080", "-p", "127.0.0.1:31500-31999:8080", "--expose", "9000-9002"], &[])]
#[case::ipv6_port(&["-p", "[::1]::8080"], &[])]
#[case::bind(&["-v", "/tmp:/host:ro"], &[])]
#[case::relabelled_bind(&["-v", "/tmp:/host:z"], &[])]
#[case::shallow_bind(&["--mount", "type=bind,src=/tmp,dst=/host,bind-nonrecursive"], &[])]
#[case::bare_volume(&["-v", "{scope}-data:/data:nocopy"], &[])]
#[case::volume_options(&["--mount", "type=volume,dst=/data,volume-label=a=b,volume-opt=type=tmpfs,volume-opt=device=tmpfs"], &[])]
#[case::bind_mount(&["--mount", "type=bind,src=/tmp,dst=/host,readonly,bind-propagation=private"], &[])]
#[case::named_volume(&["-v", "{scope}-data:/data"], &[])]
#[case::volume_mount(&["--mount", "type=volume,src={scope}-data,dst=/data,volume-nocopy"], &[])]
#[case::anonymous_volume(&["-v", "/data"], &[])]
#[case::anonymous_volume_mount(&["--mount", "type=volume,dst=/data"], &[])]
#[case::tmpfs(&["--tmpfs", "/scratch:size=1m,mode=700"], &[])]
#[case::tmpfs_mount(&["--mount", "type=tmpfs,dst=/scratch,tmpfs-size=1048576"], &[])]
#[case::network(&["--network", "{scope}-front", "--network-alias", "shop"], &[])]
#[case::static_address(&["--network", "{scope}-front", "--ip", "{front}.77"], &[])]
#[case::networks(
    &["--network", "{scope}-front", "--ip", "{front}.77", "--network-alias", "a"],
    &["network", "connect", "--ip", "{back}.78", "--alias", "b", "--alias", "c", "{scope}-back", "{scope}-web"],
)]
#[case::host_network(&["--network", "host", "-e", "SHOP_PORT=19081"], &[])]
#[case::no_network(&["--network", "none"], &[])]
#[case::hostname(&["--hostname", "shop-1", "--domainname", "example.test"], &[])]
#[case::dns(&["--dns", "192.0.2.1", "--dns-search", "example.test", "--dns-option", "ndots:2"], &[])]
#[case::extra_hosts(&["--add-host", "db:192.0.2.7"], &[])]
#[case::capabilities(&["--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD"], &[])]
#[case::devices(&["--device", "/dev/null:/dev/nix:r", "--device-cgroup-rule", "c 1:3 r"], &[])]
#[case::ulimits(&["--ulimit", "nofile=512:1024", "--ulimit", "core=0"], &[])]
#[case::sysctls(&["--sysctl", "net.ipv4.ip_unprivileged_port_start=0"], &[])]
#[case::memory(&["--memory", "128m", "--memory-swap", "256m", "--memory-reservation", "64m"], &[])]
#[case::cpus(&["--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0"], &[])]
#[case::pids(&["--pids-limit", "100"], &[])]
#[case::shared_memory(&["--shm-size", "32m", "--ipc", "shareable"], &[])]
#[case::init(&["--init"], &[])]
#[case::terminal(&["-t", "-i"], &[])]
#[case::read_only(&["--read-only"], &[])]
#[case::security(&["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"], &[])]
#[case::unmasked(&["--security-opt", "systempaths=unconfined"], &[])]
#[case::log_driver(&["--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"], &[])]
#[case::labels(&["--label", "app=shop", "--label", "sternway.check.http=8080/health"], &[])]
#[case::health_check(&["--health-cmd", "/shop check", "--health-interval", "2s", "--health-retries", "5", "--health-start-period", "3s", "--health-timeout", "4s"], &[])]
#[case::no_health_check(&["--no-healthcheck"], &[])]
#[case::restart_always(&["--restart", "always"], &[])]
#[case::restart_some(&["--restart", "on-failure:3"], &[])]
#[case::restart_unless(&["--restart", "unless-stopped"], &[])]
#[case::stop(&["--stop-signal", "SIGINT", "--stop-timeout", "7"], &[])]
#[case::groups(&["--group-add", "44", "--oom-score-adj", "100", "--uts", "host"], &[])]
#[case::pid_host(&["--pid", "host"], &[])]
#[case::user_namespace(&["--userns", "host"], &[])]
#[case::control_groups(&["--cgroupns", "host"], &[])]
#[case::own_ipc(&["--ipc", "private"], &[])]
#[case::no_ipc(&["--ipc", "none"], &[])]
#[case::host_ipc(&["--ipc", "host"], &[])]
#[case::runtime(&["--runtime", "runc"], &[])]
#[case::cpu_quota(&["--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-mems", "0"], &[])]
#[case::out_of_memory(&["--memory", "64m", "--memory-swappiness", "10", "--oom-kill-disable"], &[])]
#[case::no_pids_limit(&["--pids-limit", "-1"], &[])]
#[case::no_init(&["--init=false"], &[])]
#[case::stopped_at_once(&["--stop-timeout", "0"], &[])]
#[case::no_log(&["--log-driver", "none"], &[])]
#[case::local_log(&["--log-driver", "local", "--log-opt", "compress=false"], &[])]
#[case::device_rules(&["--device-cgroup-rule", "c *:* m"], &[])]
#[case::lines(&["-e", "TEXT=one\ntwo", "--label", "text=one\ntwo"], &[])]
#[case::restart_failed(&["--restart", "on-failure"], &[])]
#[case::link_local_address(&["--network", "{scope}-front", "--link-local-ip", "169.254.77.1"], &[])]
#[case::privileges(&["--cgroup-parent", "/swt"], &[])]
#[tokio::test]
async fn a_flag_survives(#[case] flags: &[&str], #[case] then: &[&str]) {
    let places = Places::new().await;
    let flags: Vec<String> = flags.iter().map(|flag| places.fill(flag)).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    if flags.iter().any(|flag| flag.ends_with("-front")) {
        places.networks().await;
    }
    if flags.iter().any(|flag| flag.contains("-data")) {
        places.scope.volume("data").await;
    }
    let image = Image::good("1").shared().await;
    places.scope.run("web", &flags, &image).await;
    if !then.is_empty() {
        let then: Vec<String> = then.iter().map(|word| places.fill(word)).collect();
        let then: Vec<&str> = then.iter().map(String::as_str).collect();
        places.scope.cli(&then).await;
    }
    places.goes_round().await;
}

#[tokio::test]
async fn a_network_that_was_left_is_not_joined_again_and_must_be_there() {
    let places = Places::new().await;
    places.networks().await;
    let image = Image::good("1").shared().await;
    let [front, back, web] = ["front", "back", "web"].map(|local| places.scope.named(local));
    places
        .scope
        .run("web", &["--network", &front], &image)
        .await;
    places.scope.cli(&["network", "connect", &back, &web]).await;
    places
        .scope
        .cli(&["network", "disconnect", &front, &web])
        .await;
    let kind = kind(&places.scope);
    let revision = recorded(&kind.inspected(&web).await.expect("recorded"));
    let networks: Vec<String> = ContainerRecord::from_bytes(&revision.record)
        .expect("a record")
        .networks
        .into_keys()
        .collect();
    assert_eq!(networks, [back]);
    places.goes_round().await;
    // Its mode still names it, and the engine creates nothing without it.
    places
        .scope
        .cli(&["rm", "-f", &places.scope.named("again")])
        .await;
    places.scope.cli(&["network", "rm", &front]).await;
    let target = places.scope.target("web").parse().expect("a target");
    let problems = kind.readiness(&target, &revision).await;
    let codes: Vec<&str> = problems.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["network-missing"], "{problems:?}");
}

#[tokio::test]
async fn all_flags_at_once_survive() {
    let places = Places::new().await;
    places.networks().await;
    places.scope.volume("data").await;
    let image = Image::good("1").shared().await;
    let owner = ["--ipc", "shareable"];
    places.scope.run("owner", &owner, &image).await;
    let flags = [
        "--entrypoint",
        "/shop",
        "--ipc",
        "container:{scope}-owner",
        "-e",
        "A=1",
        "--user",
        "1000:1000",
        "--workdir",
        "/tmp",
        "-p",
        "127.0.0.1::8080",
        "-v",
        "/tmp:/host:ro",
        "-v",
        "{scope}-data:/data",
        "-v",
        "/anonymous",
        "--tmpfs",
        "/scratch",
        "--network",
        "{scope}-front",
        "--ip",
        "{front}.77",
        "--network-alias",
        "a",
        "--hostname",
        "shop-1",
        "--dns",
        "192.0.2.1",
        "--add-host",
        "db:192.0.2.7",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "MKNOD",
        "--device",
        "/dev/null:/dev/nix:r",
        "--ulimit",
        "nofile=512:1024",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=0",
        "--memory",
        "128m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "100",
        "--group-add",
        "44",
        "--oom-score-adj",
        "100",
        "--mount",
        "type=tmpfs,dst=/more,tmpfs-size=1048576",
        "--shm-size",
        "32m",
        "--init",
        "-t",
        "--read-only",
        "--security-opt",
        "no-new-privileges",
        "--log-driver",
        "json-file",
        "--log-opt",
        "max-size=1m",
        "--label",
        "app=shop",
        "--health-cmd",
        "/shop check",
        "--restart",
        "always",
        "--stop-signal",
        "SIGINT",
        "--stop-timeout",
        "7",
    ]
    .map(|flag| places.fill(flag));
    let flags = flags.each_ref().map(String::as_str);
    places.scope.run("web", &flags, &image).await;
    let scope = &places.scope;
    let (back, web) = (scope.named("back"), scope.named("web"));
    let address = format!("{}.78", places.back);
    let connect = ["network", "connect", "--ip", &address, "--alias", "b"];
    scope.cli(&[&connect[..], &[&back, &web]].concat()).await;
    // Newer tools than the engine refuse a MAC address: what they made is made again with one.
    let kind = kind(scope);
    let mut made = kind.inspected(&web).await.expect("recorded");
    places.leftovers.note(&made.inspect);
    made.record.config.insert("MacAddress".into(), json!(MAC));
    scope.cli(&["rm", "-f", &web]).await;
    recreate(&kind, &made, &web).await;
    places.goes_round().await;
    let again = kind.inspected(&scope.named("again")).await;
    let again = again.expect("it is there").inspect;
    let networks = &again["NetworkSettings"]["Networks"];
    assert_eq!(networks[&scope.named("front")]["MacAddress"], MAC);
    assert_eq!(networks[&back]["IPAddress"], address.as_str());
    assert_eq!(again["HostConfig"]["ShmSize"], 32 * 1024 * 1024);
}

const MAC: &str = "02:42:ac:11:be:ef";

#[rstest]
#[case::bridge(false)]
#[case::own_network(true)]
#[tokio::test]
async fn a_mac_address_survives(#[case] own_network: bool) {
    let places = Places::new().await;
    let image = Image::good("1").shared().await;
    let kind = kind(&places.scope);
    // Newer tools than the engine refuse the flag, so it is asked for as they did.
    let mut body = json!({
        "Image": image,
        "MacAddress": MAC,
        "Labels": places.scope.labels(),
    });
    if own_network {
        places.networks().await;
        let front = places.scope.named("front");
        let address = format!("{}.77", places.front);
        body["HostConfig"] = json!({"NetworkMode": front});
        body["NetworkingConfig"] = json!({"EndpointsConfig": {
            front: {"IPAMConfig": {"IPv4Address": address}, "Aliases": ["a"]},
        }});
    }
    let id = kind
        .engine()
        .create_container(&places.scope.named("web"), &body)
        .await
        .expect("created");
    kind.engine().start_container(&id).await.expect("started");
    let inspected = kind.inspected(&id).await.expect("recorded");
    assert_eq!(inspected.record.config["MacAddress"], MAC);
    places.goes_round().await;
    // Not only asked for: its interface has it, on the network that it was started on.
    let again = kind.inspected(&places.scope.named("again")).await;
    let again = again.expect("it is there").inspect;
    let network = if own_network {
        places.scope.named("front")
    } else {
        "bridge".to_owned()
    };
    let endpoint = &again["NetworkSettings"]["Networks"][&network];
    assert_eq!(endpoint["MacAddress"], MAC, "{again:#}");
}

#[tokio::test]
async fn a_link_survives() {
    let places = Places::new().await;
    let image = Image::good("1").shared().await;
    places.scope.run("owner", &[], &image).await;
    let link = format!("{}:db", places.scope.named("owner"));
    places.scope.run("web", &["--link", &link], &image).await;
    places.goes_round().await;
}

#[rstest]
#[case::network("--network", &["-e", "SHOP_PORT=9000"])]
#[case::ipc("--ipc", &[])]
#[case::pid("--pid", &[])]
#[tokio::test]
async fn a_shared_namespace_survives_a_new_owner(#[case] flag: &str, #[case] more: &[&str]) {
    let places = Places::new().await;
    let scope = &places.scope;
    let image = Image::good("1").shared().await;
    scope.run("owner", &["--ipc", "shareable"], &image).await;
    let shared = format!("container:{}", scope.named("owner"));
    let mut flags = vec![flag, &shared];
    flags.extend(more);
    scope.run("web", &flags, &image).await;
    let kind = kind(scope);
    let before = kind.inspected(&scope.named("web")).await.expect("recorded");
    let owner = scope.named("owner");
    assert_eq!(before.record.shares_with(), [owner.as_str()]);
    places.goes_round().await;
    // The owner is replaced: its id changes, its name stays.
    scope.cli(&["rm", "-f", &scope.named("again")]).await;
    scope
        .redeploy("owner", &["--ipc", "shareable"], &image)
        .await;
    let created = recreate(&kind, &before, &scope.named("third")).await;
    let after = kind.inspected(&created.id).await.expect("recorded");
    assert_eq!(recorded(&before).id, recorded(&after).id);
}

#[tokio::test]
async fn a_command_of_its_own_survives() {
    let places = Places::new().await;
    let image = Image::good("1").shared().await;
    let scope = &places.scope;
    // Behind the image: arguments, and an empty entry point with the program among them.
    let mut arguments = vec!["run", "-d", "--name"];
    let name = scope.named("web");
    let labels: Vec<String> = scope
        .labels()
        .iter()
        .map(|(key, value)| format!("--label={key}={value}"))
        .collect();
    arguments.push(&name);
    arguments.extend(labels.iter().map(String::as_str));
    arguments.extend(["--entrypoint", "", &image, "/shop"]);
    scope.cli(&arguments).await;
    places.goes_round().await;
}

#[tokio::test]
async fn data_in_an_anonymous_volume_survives() {
    let places = Places::new().await;
    let scope = &places.scope;
    let image = Image::good("1").shared().await;
    scope.run("web", &["-v", "/data"], &image).await;
    let file = scope.folder().join("precious");
    std::fs::write(&file, "precious").expect("written");
    let source = file.display().to_string();
    let place = format!("{}:/data/precious", scope.named("web"));
    scope.cli(&["cp", &source, &place]).await;
    places.goes_round().await;
    let back = scope.folder().join("back");
    let place = format!("{}:/data/precious", scope.named("again"));
    let target = back.display().to_string();
    scope.cli(&["cp", &place, &target]).await;
    assert_eq!(std::fs::read_to_string(back).expect("read"), "precious");
}

#[tokio::test]
async fn volumes_from_another_container_survive_it() {
    let places = Places::new().await;
    let scope = &places.scope;
    let image = Image::good("1").shared().await;
    scope
        .run(
            "owner",
            &["-v", "/shared", "-v", "/tmp:/host:private"],
            &image,
        )
        .await;
    let owner = format!("{}:ro", scope.named("owner"));
    scope.run("web", &["--volumes-from", &owner], &image).await;
    let kind = kind(scope);
    let before = kind.inspected(&scope.named("web")).await.expect("recorded");
    places.leftovers.note(&before.inspect);
    scope.cli(&["rm", "-f", &scope.named("owner")]).await;
    let created = recreate(&kind, &before, &scope.named("again")).await;
    let after = kind.inspected(&created.id).await.expect("recorded");
    let mounts = |inspect: &Value| {
        let all = inspect["Mounts"].as_array().cloned().unwrap_or_default();
        let place = |mount: &Value| mount["Destination"].to_string();
        let mut all: Vec<(String, Value)> = all
            .into_iter()
            .map(|mount| (place(&mount), mount))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let (was, is) = (mounts(&before.inspect), mounts(&after.inspect));
    assert_eq!(was.len(), 2, "{was:?}");
    for ((place, was), (_, is)) in was.iter().zip(&is) {
        for key in ["Type", "Name", "Source", "Destination", "RW", "Propagation"] {
            assert_eq!(was[key], is[key], "{place} {key}");
        }
        assert_eq!(is["RW"], false);
    }
    assert_eq!(recorded(&before).id, recorded(&after).id);
}

#[tokio::test]
async fn settings_of_the_old_image_are_not_pinned_on_the_new_one() {
    use sternway_agent::targets::docker::record::compose;
    use sternway_proto::v1::RestoreScope;
    let places = Places::new().await;
    let scope = &places.scope;
    let (old, new) = (
        Image::good("1").shared().await,
        Image::good("2").shared().await,
    );
    let kind = kind(scope);
    scope.run("web", &["-e", "MINE=1"], &old).await;
    let first = kind.inspected(&scope.named("web")).await.expect("recorded");
    scope.redeploy("web", &["-e", "MINE=2"], &new).await;
    let second = kind.inspected(&scope.named("web")).await.expect("recorded");
    scope.healthy("web", Duration::from_secs(90)).await;
    let mixed = sternway_agent::targets::docker::discover::Inspected {
        record: compose(Some(&second.record), &first.record, RestoreScope::Image),
        hints: first.hints.clone(),
        inspect: first.inspect.clone(),
    };
    let created = recreate(&kind, &mixed, &scope.named("again")).await;
    let after = kind.inspected(&created.id).await.expect("recorded");
    let environment = after.inspect["Config"]["Env"].to_string();
    assert!(environment.contains("SHOP_VERSION=1"), "{environment}");
    assert!(environment.contains("MINE=2"), "{environment}");
}
