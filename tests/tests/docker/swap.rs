//! Restores on the real engine, cold and warm: to the end, with every step done twice, and turned back from
//! every place.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use rstest::rstest;
use serde_json::{Value, json};
use sternway_agent::engine::step::EvidenceSink;
use sternway_agent::targets::{
    Kind, PlanInput, Recorded,
    docker::{
        DockerKind, DockerSettings,
        labels::{Role, own_name},
        record::ContainerRecord,
    },
};
use sternway_proto::{
    name::RevisionId,
    v1::{RestoreScope, Swap, Verdict},
};
use sternway_tests::{
    engine::Scope,
    http,
    netns::Netns,
    port::Port,
    prober::{Prober, host_address, since_epoch},
    shop::Image,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use uuid::Uuid;

use crate::{
    runner::Shop,
    support::{kind, recorded},
};

/// Between two good answers nobody waits for longer than this in a warm swap, also on a busy machine: a client whose first
/// packet is dropped sends it again after a second, and the rest is for scheduling. A cold swap of the application that
/// takes three seconds to start is well beyond it.
const LONGEST_GAP_MS: u64 = 2000;

/// An application that was deployed serves within this time, also on a busy machine.
const STARTS: Duration = Duration::from_mins(1);

const QUICK: [&str; 4] = ["--label", "sternway.soak=0s", "--restart", "always"];

fn flags(publish: &str) -> Vec<&str> {
    let http = ["--label", "sternway.check.http=:8080/", "-p", publish];
    QUICK.into_iter().chain(http).collect()
}

#[rstest]
#[case::cold(Swap::Cold)]
#[case::warm(Swap::Warm)]
#[tokio::test]
async fn every_step_may_be_done_twice(#[case] swap: Swap) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    let mut order = shop.order(swap).await;
    for step in order.steps() {
        for time in ["first", "second"] {
            let done = order.apply(&step).await;
            assert!(done.is_ok(), "{} the {time} time: {done:?}", step.id);
        }
    }
    assert_eq!(shop.serving().await, Some(1));
    assert_eq!(shop.policy().await, "always");
    shop.is_tidy(order.id, true).await;
    let evidence = order.evidence.lock().expect("not poisoned").clone();
    for check in ["identity", "running", "http", "restarts"] {
        let one = evidence
            .iter()
            .find(|one| one.check == check && one.instance == "replacement");
        let one = one.unwrap_or_else(|| panic!("no evidence of {check}: {evidence:?}"));
        assert_eq!(one.verdict, i32::from(Verdict::Passed), "{one:?}");
    }
}

#[rstest]
#[case::cold(Swap::Cold, true)]
#[case::cold_unheard(Swap::Cold, false)]
#[case::warm(Swap::Warm, true)]
#[case::warm_unheard(Swap::Warm, false)]
#[tokio::test]
async fn a_restore_turned_back_anywhere_leaves_what_ran(#[case] swap: Swap, #[case] heard: bool) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    let last = shop.order(swap).await.commit();
    for fatal in 0..=last {
        let mut order = shop.order(swap).await;
        for (at, step) in order.steps().iter().enumerate().take(fatal + 1) {
            let done = if at == fatal && !heard {
                order.apply_unheard(step).await
            } else {
                order.apply(step).await
            };
            assert!(done.is_ok(), "{}: {done:?}", step.id);
        }
        order.undo_all(fatal + 1).await;
        let step = &order.steps()[fatal].id;
        assert_eq!(shop.serving().await, Some(2), "turned back behind {step}");
        assert_eq!(shop.policy().await, "always", "turned back behind {step}");
        shop.is_tidy(order.id, false).await;
    }
}

#[rstest]
#[case::heard(true)]
#[case::unheard(false)]
#[tokio::test]
async fn what_removes_itself_comes_back_wherever_a_restore_is_turned_back(#[case] heard: bool) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let flags = [
        "--rm",
        "-v",
        "/data",
        "-l",
        "sternway.soak=0s",
        "-p",
        &publish,
    ];
    let shop = Shop::new(&flags).await;
    let volume = ["inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}"];
    let volume = [&volume[..], &[shop.target.local()]].concat();
    let before = shop.scope.cli(&volume).await;
    let last = shop.order(Swap::Unspecified).await.commit();
    for fatal in 0..=last {
        let mut order = shop.order(Swap::Unspecified).await;
        for (at, step) in order.steps().iter().enumerate().take(fatal + 1) {
            let done = if at == fatal && !heard {
                order.apply_unheard(step).await
            } else {
                order.apply(step).await
            };
            assert!(done.is_ok(), "{}: {done:?}", step.id);
        }
        order.undo_all(fatal + 1).await;
        let step = &order.steps()[fatal].id;
        assert_eq!(shop.serving().await, Some(2), "turned back behind {step}");
        assert_eq!(
            shop.scope.cli(&volume).await,
            before,
            "turned back behind {step}"
        );
        shop.is_tidy(order.id, false).await;
    }
}

#[tokio::test]
async fn the_last_resort_does_not_start_what_somebody_had_stopped() {
    let shop = Shop::new(&[&QUICK[..], &["--restart", "always"]].concat()).await;
    let before = shop.instance().await;
    shop.scope.cli(&["stop", shop.target.local()]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    let steps = order.steps();
    for step in steps
        .iter()
        .take_while(|step| step.id != "docker.start-new")
    {
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    let done = Kind::rescue(&shop.kind, &order.context(), &steps).await;
    let said = done.expect("it is left as it was").message;
    assert!(said.contains("nothing runs, as before"), "{said}");
    assert_eq!(shop.running().await, [""; 0]);
    assert_eq!(shop.instance().await, before, "it has its name again");
    assert_eq!(shop.policy().await, "always", "and its restart policy");
}

#[tokio::test]
async fn the_last_resort_starts_what_was_proven_where_nothing_ran_before() {
    let shop = Shop::new(&QUICK).await;
    shop.scope.cli(&["stop", shop.target.local()]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    let steps = order.steps();
    let verified = steps.iter().position(|step| step.id == "docker.verify");
    for step in steps.iter().take(verified.expect("a check") + 1) {
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    let new = shop.instance().await;
    let start = steps.iter().find(|step| step.id == "docker.start-new");
    let stopped = order.undo(start.expect("a start")).await;
    assert!(stopped.is_ok(), "{stopped:?}");
    let done = Kind::rescue(&shop.kind, &order.context(), &steps).await;
    let said = done.expect("it can run").message;
    assert!(said.contains("the new one, runs"), "{said}");
    assert_eq!(shop.running().await, [shop.target.local()]);
    assert_eq!(shop.instance().await, new);
}

#[rstest]
#[case::cold(Swap::Cold, "docker.verify")]
#[case::warm(Swap::Warm, "docker.verify-standby")]
#[tokio::test]
async fn what_failed_is_kept_with_its_log_and_its_data_stays_with_what_runs(
    #[case] swap: Swap,
    #[case] fails: &str,
) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let check = ["-l", "sternway.check.http=:8080/health"];
    let quick = ["-l", "sternway.check.timeout=1s", "-p", &publish];
    let data = ["-v", "/data"];
    let data = if swap == Swap::Cold { &data[..] } else { &[] };
    let flags = [&QUICK[..], &check, &quick, data].concat();
    let image = |version, fault| Image {
        version,
        fault,
        ..Image::default()
    };
    let shop = Shop::of(&flags, &image("v1", "health"), &image("v2", "")).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut order = shop.order(swap).await;
        let steps = order.steps();
        let at = steps.iter().position(|step| step.id == fails);
        let at = at.expect("such a step");
        for step in &steps[..at] {
            let done = order.apply(step).await;
            assert!(done.is_ok(), "{}: {done:?}", step.id);
        }
        let error = order.apply(&steps[at]).await.expect_err("its check fails");
        order.undo_all(at + 1).await;
        assert_eq!(shop.serving().await, Some(2));
        shop.is_tidy(order.id, false).await;
        let name = own_name(Role::Failed, order.id, &shop.target);
        assert_eq!(shop.failed(order.id).await, std::slice::from_ref(&name));
        let logs = format!("docker logs {name}");
        assert!(error.next_step.contains(&logs), "{error:?}");
        let state = "{{.State.Running}} {{.HostConfig.RestartPolicy.Name}}";
        let state = shop.scope.cli(&["inspect", "-f", state, &name]).await;
        assert_eq!(state, "false no");
        let log = shop.scope.cli(&["logs", &name]).await;
        assert!(log.contains("v1"), "{log:?}");
        kept.push(name);
    }
    let mut all = shop.scope.containers().await;
    all.retain(|name| name.starts_with("sternway-failed-"));
    all.sort();
    kept.sort();
    assert_eq!(all, kept[1..], "the newest three");
    // Those that went took no data along.
    let volume = ["inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}"];
    let volume = [&volume[..], &[shop.target.local()]].concat();
    let volume = shop.scope.cli(&volume).await;
    if swap == Swap::Cold {
        shop.scope.cli(&["volume", "inspect", &volume]).await;
    }
}

#[tokio::test]
async fn labels_of_the_image_choose_the_swap_and_declare_checks_unless_the_own_say_otherwise() {
    let scope = Scope::new().await;
    let base = Image {
        version: "v1",
        ..Image::default()
    };
    scope.run("base", &[], &base.shared().await).await;
    let image = format!("{}-labelled:1", scope.name());
    let labels = [
        "LABEL sternway.exclusive=true",
        "LABEL sternway.soak=0s",
        "LABEL sternway.check.http=:8080/",
    ];
    let changes = labels.map(|label| ["--change", label]).concat();
    let made_from = scope.named("base");
    let commit = [&["commit"], &changes[..], &[&made_from, &image]].concat();
    scope.cli(&commit).await;
    scope.cli(&["rm", "-f", &made_from]).await;
    let (port, next) = (Port::lease(), Image::good("v2").shared().await);
    let publish = format!("{}:8080", port.number());
    let flags = ["-p", publish.as_str()];
    let mut shop = Shop::deployed(scope, &flags, &image, &next).await;
    {
        let mut order = shop.order(Swap::Unspecified).await;
        assert_eq!(order.draft.swap, Swap::Cold);
        let reason = &order.draft.swap_reason;
        assert!(reason.contains("sternway.exclusive"), "{reason}");
        assert_eq!(order.draft.soak, Duration::ZERO);
        order.run().await;
        let evidence = order.evidence.lock().expect("not poisoned").clone();
        let http = evidence.iter().find(|one| one.check == "http");
        let http = http.unwrap_or_else(|| panic!("no evidence of http: {evidence:?}"));
        assert_eq!(http.instance, "replacement");
    }
    // What runs now is checked by them, too.
    let (sink, mut seen) = EvidenceSink::channel();
    let checked = shop.kind.check(&shop.target, &shop.v1, &sink).await;
    assert_eq!(checked.expect("it is checked"), Verdict::Passed);
    drop(sink);
    let mut checks = Vec::new();
    while let Some(one) = seen.recv().await {
        checks.push(one.check);
    }
    assert!(checks.contains(&"http".to_owned()), "{checks:?}");
    // The container's own label wins.
    let own = ["-l", "sternway.exclusive=false", "-p", publish.as_str()];
    shop.scope.redeploy("shop", &own, &image).await;
    let name = shop.target.local().to_owned();
    shop.v1 = recorded(&shop.kind.inspected(&name).await.expect("recorded"));
    shop.scope.redeploy("shop", &flags, &next).await;
    let draft = shop.order(Swap::Unspecified).await.draft;
    assert_eq!(draft.swap, Swap::Warm, "{}", draft.swap_reason);
}

#[tokio::test]
async fn data_that_would_go_with_what_removes_itself_is_in_the_way() {
    let scope = Scope::new().await;
    let kind = kind(&scope);
    let name = scope.named("shop");
    let image = Image::good("v1").shared().await;
    scope.run("shop", &[], &image).await;
    let to = recorded(&kind.inspected(&name).await.expect("recorded"));
    scope
        .redeploy("shop", &["--rm", "-v", "/data"], &image)
        .await;
    let from = recorded(&kind.inspected(&name).await.expect("recorded"));
    let input = PlanInput {
        target: scope.target("shop").parse().expect("a name"),
        from: Some(from),
        instance: scope
            .inspect("shop")
            .await
            .and_then(|it| it.id)
            .expect("there"),
        to,
        scope: RestoreScope::Both,
        swap: Swap::Unspecified,
    };
    let draft = kind.plan(&input).await.expect("planned");
    let codes: Vec<&str> = draft.blockers.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["volume-lost"], "{:?}", draft.blockers);
}

#[rstest]
#[case::on_the_way_there("", "deaf")]
#[case::on_the_way_back("deaf", "")]
#[tokio::test]
async fn what_does_not_hear_is_killed_behind_its_own_grace(
    #[case] restored: &'static str,
    #[case] replaced: &'static str,
) {
    let image = |version, fault| Image {
        version,
        fault,
        ..Image::default()
    };
    let flags = ["--stop-timeout", "1", "-l", "sternway.soak=0s"];
    let shop = Shop::of(&flags, &image("v1", restored), &image("v2", replaced)).await;
    let mut order = shop.order(Swap::Cold).await;
    order.run().await;
    assert_eq!(shop.serving().await, Some(1));
    shop.is_tidy(order.id, true).await;
    order.undo_all(order.steps().len()).await;
    assert_eq!(shop.serving().await, Some(2));
    shop.is_tidy(order.id, false).await;
}

#[tokio::test]
async fn what_is_restored_otherwise_than_it_was_recorded_is_told_and_another_image_fails() {
    let mut shop = Shop::new(&["-l", "sternway.soak=0s"]).await;
    // Of an engine that knew a setting which this one does not know.
    let mut record: Value = serde_json::from_slice(&shop.v1.record).expect("JSON");
    record["host"]["OfAnotherEngine"] = json!(true);
    shop.v1.record = serde_json::to_vec(&record).expect("JSON");
    shop.v1.id = RevisionId::of(&shop.v1.record);
    let mut order = shop.order(Swap::Cold).await;
    let mut verified = None;
    for step in order.steps() {
        let done = order.apply(&step).await.expect("applied");
        if step.id == "docker.verify" {
            assert_eq!(done.output["differs"], "host.OfAnotherEngine", "{done:?}");
            verified = Some(step);
        }
    }
    let mut verify = verified.expect("it is verified");
    verify.payload["record"]["image"]["id"] = json!("sha256:another");
    let error = order.apply(&verify).await.expect_err("another image");
    assert_eq!(error.code, "wrong-image");
}

#[tokio::test]
async fn a_step_that_was_announced_and_never_begun_can_be_taken_back() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    for swap in [Swap::Cold, Swap::Warm] {
        let last = shop.order(swap).await.commit();
        for fatal in 0..=last {
            let mut order = shop.order(swap).await;
            for step in order.steps().iter().take(fatal) {
                let done = order.apply(step).await;
                assert!(done.is_ok(), "{}: {done:?}", step.id);
            }
            order.undo_all(fatal + 1).await;
            assert_eq!(shop.serving().await, Some(2));
            shop.is_tidy(order.id, false).await;
        }
    }
}

#[rstest]
#[case::the_way_there(false, "")]
#[case::and_back(true, "")]
#[case::of_an_application_that_starts_slowly(false, "3s")]
#[tokio::test]
async fn a_warm_restore_has_no_requests_lost_by_any_client(
    #[case] back: bool,
    #[case] startup: &'static str,
) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let image = |version| Image {
        version,
        startup,
        ..Image::default()
    };
    let shop = Shop::of(&flags(&publish), &image("v1"), &image("v2")).await;
    let netns = Netns::new(&shop.scope);
    let folder = shop.scope.folder();
    let (near, own) = (
        format!("127.0.0.1:{}", port.number()),
        format!("{}:{}", host_address(), port.number()),
    );
    until("v2 to serve", STARTS, async || {
        let answer = http::get(&near, "/").await.map_err(|e| e.to_string())?;
        (answer.body == "v2")
            .then_some(())
            .ok_or_else(|| format!("{answer:?}"))
    })
    .await;
    let probers = [
        Prober::start_patient("loopback", &near, 100, folder).await,
        Prober::start_patient("own", &own, 100, folder).await,
        Prober::start_patient_in(&netns, port.number(), 100, folder).await,
    ];
    let mut order = shop.order(Swap::Warm).await;
    let mut story = Vec::new();
    let mut note = |what: &str, step: &str, said: &str| {
        let now = since_epoch(SystemTime::now());
        story.push(format!("{now} {what} {step}: {said}"));
    };
    let count = if back {
        order.commit()
    } else {
        order.steps().len()
    };
    for step in order.steps().iter().take(count) {
        note("begins", &step.id, "");
        let done = order.apply(step).await.expect("it succeeds");
        note("ends", &step.id, &done.message);
    }
    for step in order.steps().iter().take(count).rev().filter(|_| back) {
        note("undo begins", &step.id, "");
        for _ in 0..2 {
            let done = order.undo(step).await.expect("it is undone");
            note("undo ends", &step.id, &done.message);
        }
    }
    assert_eq!(shop.serving().await, Some(if back { 2 } else { 1 }));
    let story = story.join("\n");
    for (prober, client) in probers.into_iter().zip(["loopback", "own", "elsewhere"]) {
        let seen = prober.stop().await;
        assert!(seen.requests > 50, "{client}: {seen:?}");
        assert_eq!(seen.lost, 0, "{client}: {seen:?}\n{story}");
        // Patient clients lose nothing to a port that is deaf for long: that is told by the gap alone.
        assert!(
            seen.longest_gap_ms < LONGEST_GAP_MS,
            "{client}: {seen:?}\n{story}"
        );
    }
}

/// Asks from a port of the client's own choice.
async fn ask_from(client: SocketAddr, server: SocketAddr, path: &str) -> io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(client)?;
    let exchange = async {
        let mut stream = socket.connect(server).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await?
}

/// The kernel remembers for 10 s where a connection went that its server has reset, and a new one from the same
/// port of the client goes there, too, whatever the rules say by then.
#[tokio::test]
async fn a_client_that_was_reset_before_is_redirected_as_everybody() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    let host: IpAddr = host_address().parse().expect("an address");
    let (server, own) = (SocketAddr::new(host, port.number()), Port::lease());
    let client = SocketAddr::new(host, own.number());
    let mut order = shop.order(Swap::Warm).await;
    let steps = order.steps();
    let redirect = steps.iter().position(|step| step.id == "docker.redirect");
    let (before, after) = steps.split_at(redirect.expect("it is warm"));
    for step in before {
        let _ = order.apply(step).await.expect("it succeeds");
    }
    let reset = ask_from(client, server, "/reset").await;
    let reset = reset.map_err(|error| error.kind());
    assert_eq!(reset, Err(io::ErrorKind::ConnectionReset));
    let _ = order.apply(&after[0]).await.expect("it is redirected");
    let answer = ask_from(client, server, "/").await;
    assert_eq!(answer.expect("it is answered"), "v1", "by the standby");
    order.undo_all(before.len() + 1).await;
    shop.is_tidy(order.id, false).await;
}

/// Both are reached at the same port of the host, and the one that is to serve there is not up at once.
#[tokio::test]
async fn a_standby_that_listens_at_another_port_of_its_own_is_waited_for() {
    let slow = Image {
        version: "v1",
        startup: "3s",
        ..Image::default()
    };
    let port = Port::lease();
    let before = format!("{}:8080", port.number());
    let flags = [&QUICK[..], &["-p", &before]].concat();
    let next = Image {
        version: "v2",
        ..Image::default()
    };
    let mut shop = Shop::of(&flags, &slow, &next).await;
    let other = format!("{}:9090", port.number());
    let moved = ["-e", "SHOP_PORT=9090", "-p", &other];
    let flags = [&QUICK[..], &moved].concat();
    shop.scope
        .redeploy("shop", &flags, &next.shared().await)
        .await;
    let name = shop.target.local().to_owned();
    let found = shop.kind.inspected(&name).await.expect("recorded");
    shop.v2 = Recorded {
        number: 2,
        ..recorded(&found)
    };
    let address = format!("127.0.0.1:{}", port.number());
    until("v2 to answer", STARTS, async || {
        let answer = http::get(&address, "/").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let mut order = shop.order(Swap::Warm).await;
    let steps = order.steps();
    let redirect = steps.iter().position(|step| step.id == "docker.redirect");
    let redirect = redirect.expect("it is warm");
    for step in &steps[..=redirect] {
        let _ = order.apply(step).await.expect("it succeeds");
    }
    let answer = http::get(&address, "/").await.expect("it is answered");
    assert_eq!(answer.body, "v1", "by the standby");
    order.undo_all(redirect + 1).await;
    shop.is_tidy(order.id, false).await;
}

/// The revision that ran before listens behind no port of the host: only the standby serves.
#[tokio::test]
async fn never_none_a_standby_stays_until_what_was_started_takes_connections() {
    let port = Port::lease();
    let before = format!("{}:8080", port.number());
    let mut shop = Shop::new(&flags(&before)).await;
    let nowhere = format!("{}:9090", port.number());
    let next = Image {
        version: "v2",
        ..Image::default()
    };
    let image = next.shared().await;
    let broken = [&QUICK[..], &["-p", &nowhere]].concat();
    shop.scope.redeploy("shop", &broken, &image).await;
    let name = shop.target.local().to_owned();
    let found = shop.kind.inspected(&name).await.expect("recorded");
    shop.v2 = Recorded {
        number: 2,
        ..recorded(&found)
    };
    let mut order = shop.order(Swap::Warm).await;
    let steps = order.steps();
    let stopped = steps.iter().position(|step| step.id == "docker.stop-old");
    for step in steps.iter().take(stopped.expect("a step") + 1) {
        order.apply(step).await.expect("it succeeds");
    }
    let rescued = shop.kind.rescue(&order.context(), &steps).await;
    let said = rescued.expect("one runs").message;
    let standby = own_name(Role::Standby, order.id, &shop.target);
    assert!(said.contains(&standby), "{said}");
    let address = format!("127.0.0.1:{}", port.number());
    let body = async || Some(http::get(&address, "/").await.ok()?.body);
    assert_eq!(body().await.as_deref(), Some("v1"));
    shop.kind.collect(&[]).await.expect("it collects");
    assert_eq!(shop.running().await.len(), 2);
    assert_eq!(body().await.as_deref(), Some("v1"));
    shop.scope.redeploy("shop", &flags(&before), &image).await;
    until("the standby to be collected", STARTS, async || {
        shop.kind.collect(&[]).await.expect("it collects");
        let left = shop.running().await;
        (left.len() == 1).then_some(()).ok_or(left.join(", "))
    })
    .await;
    assert_eq!(body().await.as_deref(), Some("v2"));
}

/// Who listens at the port on the host is the target itself.
#[tokio::test]
async fn what_moved_into_the_network_of_the_host_is_no_hindrance_to_its_own_restore() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let mut shop = Shop::new(&flags(&publish)).await;
    let own = format!("SHOP_PORT={}", port.number());
    let moved = [&QUICK[..], &["--network", "host", "-e", &own]].concat();
    let next = Image {
        version: "v2",
        ..Image::default()
    };
    let image = next.shared().await;
    shop.scope.redeploy("shop", &moved, &image).await;
    let name = shop.target.local().to_owned();
    let found = shop.kind.inspected(&name).await.expect("recorded");
    shop.v2 = Recorded {
        number: 2,
        ..recorded(&found)
    };
    let address = format!("127.0.0.1:{}", port.number());
    let answers = async |version: &'static str| {
        until("an answer", STARTS, async || {
            let body = http::get(&address, "/").await.map(|answer| answer.body);
            let body = body.map_err(|error| error.to_string())?;
            (body == version).then_some(()).ok_or(body)
        })
        .await;
    };
    answers("v2").await;
    let mut order = shop.order(Swap::Unspecified).await;
    order.run().await;
    answers("v1").await;
    // Whoever else is at the port is in the way.
    let other = shop.scope.named("other");
    shop.scope.cli(&["rm", "-f", &name]).await;
    shop.scope.run("other", &["-p", &publish], &image).await;
    shop.scope.run("shop", &moved, &image).await;
    let problems = shop.kind.readiness(&shop.target, &shop.v1).await;
    let told: Vec<&str> = problems.iter().map(|one| one.message.as_str()).collect();
    assert!(told.iter().any(|one| one.contains(&other)), "{told:?}");
}

#[tokio::test]
async fn a_standby_that_ended_before_it_served_is_kept_with_its_log() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    let mut order = shop.order(Swap::Warm).await;
    let steps = order.steps();
    let redirect = steps.iter().position(|step| step.id == "docker.redirect");
    let redirect = redirect.expect("it is warm");
    for step in &steps[..redirect] {
        let _ = order.apply(step).await.expect("it succeeds");
    }
    let standby = own_name(Role::Standby, order.id, &shop.target);
    shop.scope.cli(&["kill", &standby]).await;
    let error = order.apply(&steps[redirect]).await;
    let error = error.expect_err("there is nothing to redirect to");
    assert_eq!(error.code, "standby-gone");
    let name = own_name(Role::Failed, order.id, &shop.target);
    let logs = format!("docker logs {name}");
    assert!(error.next_step.contains(&logs), "{error:?}");
    order.undo_all(redirect + 1).await;
    assert_eq!(shop.failed(order.id).await, [name]);
    shop.is_tidy(order.id, false).await;
}

#[tokio::test]
async fn a_container_that_was_deployed_while_it_is_planned_is_not_replaced() {
    let shop = Shop::new(&QUICK).await;
    let seen = shop.instance().await;
    let image = Image {
        version: "v3",
        ..Image::default()
    };
    let image = image.shared().await;
    shop.scope.redeploy("shop", &QUICK, &image).await;
    let blocked = async |instance: &str| {
        let input = shop.input(instance, Swap::Cold);
        let draft = shop.kind.plan(&input).await.expect("it is planned");
        let first = draft.blockers.first().map(|first| first.code.clone());
        first.unwrap_or_default()
    };
    assert_eq!(blocked(&seen).await, "changed-meanwhile");
    assert_eq!(blocked("").await, "changed-meanwhile", "nothing bore it");
    shop.scope.cli(&["rm", "-f", shop.target.local()]).await;
    assert_eq!(blocked(&seen).await, "changed-meanwhile", "it is gone");
    assert_eq!(blocked("").await, "");
}

#[rstest]
#[case::where_nothing_is_said("app=shop", Swap::Warm, "overlap")]
#[case::by_its_wish("sternway.swap=cold", Swap::Cold, "sternway.swap")]
#[case::because_there_may_be_one_only("sternway.exclusive=true", Swap::Cold, "sternway.exclusive")]
#[tokio::test]
async fn labels_decide_how_to_swap_where_the_operator_does_not(
    #[case] label: &str,
    #[case] swap: Swap,
    #[case] reason: &str,
) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&[&flags(&publish)[..], &["--label", label]].concat()).await;
    let order = shop.order(Swap::Unspecified).await;
    let draft = &order.draft;
    assert_eq!(draft.swap, swap, "{}", draft.swap_reason);
    assert!(draft.swap_reason.contains(reason), "{}", draft.swap_reason);
    let redirects = draft.steps.iter().any(|step| step.id == "docker.redirect");
    assert_eq!(redirects, swap == Swap::Warm);
}

#[rstest]
#[case::before_it_is_stopped(Swap::Cold, "stop-old")]
#[case::before_its_connections_are_redirected(Swap::Warm, "redirect")]
#[tokio::test]
async fn a_container_that_somebody_deployed_meanwhile_is_left_alone(
    #[case] swap: Swap,
    #[case] refused: &str,
) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let flags = flags(&publish);
    let shop = Shop::new(&flags).await;
    let mut order = shop.order(swap).await;
    let steps = order.steps();
    let at = |verb: &str| {
        let found = steps
            .iter()
            .position(|step| step.id == format!("docker.{verb}"));
        found.expect("a step")
    };
    for step in &steps[..at(refused)] {
        order.apply(step).await.expect("it succeeds");
    }
    let image = Image {
        version: "v3",
        ..Image::default()
    }
    .shared()
    .await;
    let stranger = shop.scope.redeploy("shop", &flags, &image).await;
    let error = order.apply(&steps[at(refused)]).await;
    assert_eq!(error.expect_err("it is refused").code, "changed-by-another");
    order.undo_all(at(refused) + 1).await;
    let now = shop.scope.inspect("shop").await.expect("it is there");
    assert_eq!(now.id.as_deref(), Some(stranger.as_str()));
    assert_eq!(shop.running().await, [shop.target.local()]);
    assert_eq!(shop.policy().await, "always");
}

#[tokio::test]
async fn a_revision_that_crashes_does_not_pass() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let bad = Image {
        version: "v1",
        fault: "crash",
        ..Image::default()
    };
    let good = Image {
        version: "v2",
        ..Image::default()
    };
    let shop = Shop::of(&["-p", &publish, "--restart", "always"], &bad, &good).await;
    let mut order = shop.order(Swap::Cold).await;
    let steps = order.steps();
    let mut failed = None;
    for (at, step) in steps.iter().enumerate() {
        if let Err(error) = order.apply(step).await {
            failed = Some((at, error));
            break;
        }
    }
    let (at, error) = failed.expect("it fails");
    assert_eq!(error.code, "check-failed", "{error:?}");
    order.undo_all(at + 1).await;
    assert_eq!(shop.serving().await, Some(2));
    shop.is_tidy(order.id, false).await;
}

#[tokio::test]
async fn never_leaked_what_the_engine_quotes_of_a_container_it_cannot_start() {
    const SECRET: &str = "/s3cr3t-s3cr3t";
    let mut shop = Shop::new(&QUICK).await;
    let mut record = ContainerRecord::from_bytes(&shop.v1.record).expect("a record");
    for (key, value) in [("Entrypoint", SECRET), ("Env", &format!("S={SECRET}"))] {
        record.config.insert(key.to_owned(), json!([value]));
    }
    shop.v1.record = record.to_bytes().expect("it is written");
    let mut order = shop.order(Swap::Cold).await;
    let mut failed = None;
    for (at, step) in order.steps().iter().enumerate() {
        if let Err(error) = order.apply(step).await {
            failed = Some((at, error));
            break;
        }
    }
    let (at, error) = failed.expect("it cannot be started");
    assert!(error.message.contains("***"), "{error}");
    assert!(!error.message.contains("s3cr3t"), "{error}");
    order.undo_all(at + 1).await;
    assert_eq!(shop.serving().await, Some(2));
}

#[rstest]
#[case::the_old_one_can(false, false)]
#[case::the_old_one_can_and_the_standby_is_gone(false, true)]
#[case::only_the_new_one_can(true, false)]
#[tokio::test]
async fn the_last_resort_leaves_exactly_one_running(
    #[case] without_old: bool,
    #[case] without_standby: bool,
) {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&flags(&publish)).await;
    let old = shop.scope.inspect("shop").await.and_then(|old| old.id);
    let mut order = shop.order(Swap::Warm).await;
    let steps = order.steps();
    let stopped = steps.iter().position(|step| step.id == "docker.stop-old");
    for step in steps.iter().take(stopped.expect("a step") + 1) {
        order.apply(step).await.expect("it succeeds");
    }
    if without_old {
        shop.scope.cli(&["rm", &old.expect("an id")]).await;
    }
    if without_standby {
        let standby = own_name(Role::Standby, order.id, &shop.target);
        shop.scope.cli(&["rm", "-f", &standby]).await;
    }
    assert!(crate::runner::tables().contains(&order.id.simple().to_string()));
    let rescued = shop.kind.rescue(&order.context(), &steps).await;
    assert!(rescued.is_ok(), "{rescued:?}");
    assert_eq!(shop.running().await, [shop.target.local()]);
    let tables = crate::runner::tables();
    assert!(!tables.contains(&order.id.simple().to_string()), "{tables}");
    let serving = if without_old { 1 } else { 2 };
    assert_eq!(shop.serving().await, Some(serving));
    assert_eq!(shop.policy().await, "always");
}

#[tokio::test]
async fn never_both_what_was_put_aside_is_started_while_its_successor_is_watched() {
    let shop = Shop::new(&QUICK).await;
    let old = shop.instance().await;
    let mut order = shop.order(Swap::Cold).await;
    let steps = order.steps();
    let commit = order.commit();
    for step in steps.iter().take(commit) {
        order.apply(step).await.expect("it succeeds");
    }
    shop.scope.cli(&["start", &old]).await;
    let error = order.apply(&steps[commit]).await.expect_err("two run");
    assert_eq!(
        (error.code.as_str(), error.transient),
        ("runs-again", false)
    );
    order.undo_all(commit + 1).await;
    shop.is_tidy(order.id, false).await;
    assert_eq!(shop.serving().await, Some(2));
}

#[tokio::test]
async fn what_was_replaced_is_kept_for_its_dwell_from_when_it_was_put_aside() {
    let shop = Shop::new(&QUICK).await;
    let mut order = shop.order(Swap::Cold).await;
    // Put aside an hour after it ended, as far as its name tells.
    order.id = ordered_in(3600);
    order.run().await;
    let is_kept = async |dwell_hours: u64| {
        let kind = DockerKind::new(DockerSettings {
            include: vec![format!("{}-*", shop.scope.name())],
            dwell_hours,
            ..DockerSettings::default()
        });
        let collected = kind.expect("the settings are valid").collect(&[]).await;
        collected.expect("it collects");
        let all = shop.scope.containers().await;
        all.iter().any(|name| name.starts_with("sternway-previous"))
    };
    assert!(is_kept(0).await, "counted from its end");
    let target = &shop.target;
    let name = |order| own_name(Role::Previous, order, target);
    let (aside, lately) = (name(order.id), name(ordered_in(0)));
    shop.scope.cli(&["rename", &aside, &lately]).await;
    assert!(is_kept(24).await, "within its dwell");
    assert!(!is_kept(0).await, "after its dwell");
    assert_eq!(shop.running().await, [shop.target.local()]);
}

/// The id of an order that is made in so many seconds.
fn ordered_in(seconds: u64) -> Uuid {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let at = now.expect("after 1970").as_secs() + seconds;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, at, 0))
}

#[tokio::test]
async fn what_a_forgotten_order_left_is_collected_once_its_target_runs() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    // Nothing ever listens behind the second port.
    let unused = Port::lease();
    let second = format!("{}:9", unused.number());
    let own = ["--stop-timeout", "60", "-p", &second];
    let shop = Shop::new(&[&flags(&publish)[..], &own].concat()).await;
    let mut order = shop.order(Swap::Warm).await;
    for step in order.steps().iter().take(order.commit() - 1) {
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    // A client that never asks and never ends, such as a pool of connections.
    let idle = TcpStream::connect(format!("127.0.0.1:{}", port.number())).await;
    let idle = idle.expect("the standby takes it");
    let running = shop.running().await.len();
    let collect = async |open: &[Uuid]| shop.kind.collect(open).await.expect("it collects");
    collect(&[order.id]).await;
    assert_eq!(shop.running().await.len(), running, "the order is open");
    assert_eq!(shop.kind.beside(&shop.target, &[order.id]).await, []);
    shop.scope.cli(&["stop", shop.target.local()]).await;
    collect(&[]).await;
    assert_eq!(shop.running().await.len(), 1, "the standby alone serves");
    assert!(crate::runner::tables().contains(&order.id.simple().to_string()));
    let told = shop.kind.beside(&shop.target, &[]).await;
    let codes: Vec<&str> = told.iter().map(|one| one.code.as_str()).collect();
    assert_eq!(codes, ["standby-serves"], "{told:?}");
    shop.scope.cli(&["start", shop.target.local()]).await;
    until("the standby to be collected", STARTS, async || {
        collect(&[]).await;
        let left = shop.running().await;
        (left.len() == 1).then_some(()).ok_or(left.join(", "))
    })
    .await;
    shop.is_tidy(order.id, true).await;
    drop(idle);
}

#[tokio::test]
async fn a_bridge_accepts_loopback_addresses_only_during_a_warm_restore() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let scope = Scope::new().await;
    let network = scope.network("net", &[]).await;
    let shop = Shop::new(&[&flags(&publish)[..], &["--network", &network]].concat()).await;
    let id = scope
        .cli(&["network", "inspect", "-f", "{{.Id}}", &network])
        .await;
    let bridge: String = id.chars().take(12).collect();
    let setting = format!("/proc/sys/net/ipv4/conf/br-{bridge}/route_localnet");
    let accepts = || std::fs::read_to_string(&setting).expect("the bridge is there");
    assert_eq!(accepts().trim(), "0");
    let order = shop.order(Swap::Warm).await;
    for step in order.steps() {
        // The journal hears of none of it, and the agent is started anew for each step.
        let kind = kind(&shop.scope);
        let done = kind.apply(&order.context(), &step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
        if step.id == "docker.redirect" {
            assert_eq!(accepts().trim(), "1");
        }
    }
    assert_eq!(accepts().trim(), "0");
    shop.is_tidy(order.id, true).await;
}
