//! Around a warm restore: what is in flight ends, bridges are what they were before, and what an agent left
//! is found again.

use std::{process::Command, time::Duration};

use rstest::rstest;
use sternway_agent::engine::step::Step;
use sternway_proto::v1::Swap;
use sternway_tests::{engine::Scope, port::Port, prober::host_address, wait::until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use uuid::Uuid;

use crate::runner::{Order, Shop, tables};

const PATIENCE: Duration = Duration::from_mins(1);

/// A network of this test alone, so that no other test changes its bridge.
struct Ground {
    network: String,
    bridge: String,
    /// Declared last: it goes when the shops have gone.
    _scope: Scope,
}

impl Ground {
    async fn new() -> Self {
        let scope = Scope::new().await;
        let network = scope.network("net", &[]).await;
        let format = ["network", "inspect", "-f", "{{.Id}}", &network];
        let id = scope.cli(&format).await;
        Self {
            bridge: format!("br-{}", id.chars().take(12).collect::<String>()),
            network,
            _scope: scope,
        }
    }

    async fn shop(&self, port: &Port) -> Shop {
        let publish = format!("{}:8080", port.number());
        let flags = [
            "--label",
            "sternway.soak=0s",
            "--restart",
            "always",
            "-p",
            &publish,
        ];
        Shop::new(&[&flags[..], &["--network", &self.network]].concat()).await
    }

    fn accepts_loopback(&self) -> bool {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.bridge);
        let text = std::fs::read_to_string(path).expect("the bridge is there");
        text.trim() == "1"
    }
}

/// The steps up to the one of that name, and it.
fn until_step(order: &Order<'_>, verb: &str) -> Vec<Step> {
    let steps = order.steps();
    let id = format!("docker.{verb}");
    let at = steps.iter().position(|step| step.id == id).expect("a step");
    steps.into_iter().take(at + 1).collect()
}

async fn go_until(order: &mut Order<'_>, verb: &str) -> Step {
    let steps = until_step(order, verb);
    for step in &steps {
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    steps.into_iter().next_back().expect("a step")
}

fn redirects(order: Uuid) -> bool {
    tables().contains(&order.simple().to_string())
}

/// A request that takes a while.
struct Slow {
    answer: JoinHandle<std::io::Result<String>>,
    sent: oneshot::Receiver<()>,
}

impl Slow {
    fn ask(address: String) -> Self {
        let (sender, sent) = oneshot::channel();
        let answer = tokio::spawn(async move {
            let ask = async {
                let mut stream = TcpStream::connect(address).await?;
                stream
                    .write_all(
                        b"GET /slow/4000 HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n",
                    )
                    .await?;
                let _ = sender.send(());
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                Ok(answer)
            };
            timeout(PATIENCE, ask).await?
        });
        Self { answer, sent }
    }

    /// Waits until it is under way: connected, and sent.
    async fn under_way(&mut self) {
        (&mut self.sent).await.expect("it is sent");
    }
}

#[rstest]
#[case::the_way_there(false)]
#[case::and_back(true)]
#[tokio::test]
async fn a_request_that_is_under_way_is_answered(#[case] back: bool) {
    let ground = Ground::new().await;
    let port = Port::lease();
    let shop = ground.shop(&port).await;
    let addresses = ["127.0.0.1".to_owned(), host_address()];
    let ask = async || {
        let all = addresses.iter();
        let mut all: Vec<_> = all
            .map(|address| Slow::ask(format!("{address}:{}", port.number())))
            .collect();
        for one in &mut all {
            one.under_way().await;
        }
        all
    };
    // Each goes to whatever serves at that moment, which is then on its way out.
    let mut order = shop.order(Swap::Warm).await;
    let mut asked = Vec::new();
    for step in order.steps().iter().take(order.commit()) {
        if matches!(step.id.as_str(), "docker.redirect" | "docker.end-redirect") {
            // The connections are made before the step begins.
            asked.push((step.id.clone(), ask().await));
        }
        let done = order.apply(step).await;
        assert!(done.is_ok(), "{}: {done:?}", step.id);
    }
    if back {
        let step = format!("undo of {}", order.steps()[order.commit() - 1].id);
        asked.push((step, ask().await));
        order.undo_all(order.commit()).await;
    } else {
        for step in order.steps().iter().skip(order.commit()) {
            let done = order.apply(step).await;
            assert!(done.is_ok(), "{}: {done:?}", step.id);
        }
    }
    for (step, requests) in asked {
        for (request, address) in requests.into_iter().zip(&addresses) {
            let answer = request.answer.await.expect("it does not panic");
            let whole = answer.as_ref().is_ok_and(|answer| {
                answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with(['1', '2'])
            });
            assert!(whole, "{address}, asked before {step}: {answer:?}");
        }
    }
    assert_eq!(shop.serving().await, Some(if back { 2 } else { 1 }));
    shop.is_tidy(order.id, !back).await;
    assert!(!ground.accepts_loopback());
}

#[tokio::test]
async fn an_idle_connection_is_waited_for_only_so_long_and_told_of() {
    let ground = Ground::new().await;
    let port = Port::lease();
    let shop = ground.shop(&port).await;
    let address = format!("127.0.0.1:{}", port.number());
    let idle = TcpStream::connect(&address).await.expect("it connects");
    let mut order = shop.order(Swap::Warm).await;
    for step in until_step(&order, "drain-old") {
        let done = order.apply(&step).await.expect("it succeeds");
        if step.id == "docker.drain-old" {
            assert!(done.message.contains("still open"), "{done:?}");
        }
    }
    drop(idle);
    until("the connection's end", PATIENCE, async || {
        let step = until_step(&order, "drain-old").pop().expect("a step");
        let done = order.apply_unheard(&step).await.expect("it succeeds");
        let ended = done.message.contains("no connection was in flight");
        ended.then_some(()).ok_or(done.message)
    })
    .await;
    order.undo_all(until_step(&order, "drain-old").len()).await;
    shop.is_tidy(order.id, false).await;
}

#[rstest]
#[case::the_first_ends_first(true)]
#[case::the_last_ends_first(false)]
#[tokio::test]
async fn the_last_of_two_redirects_on_a_bridge_puts_it_back(#[case] first_ends_first: bool) {
    let ground = Ground::new().await;
    let ports = [Port::lease(), Port::lease()];
    // Each shop has an agent of its own.
    let (one, two) = (ground.shop(&ports[0]).await, ground.shop(&ports[1]).await);
    let (mut first, mut last) = (one.order(Swap::Warm).await, two.order(Swap::Warm).await);
    assert!(!ground.accepts_loopback());
    let redirect = go_until(&mut first, "redirect").await;
    let other = go_until(&mut last, "redirect").await;
    assert!(ground.accepts_loopback());
    let (mut begun, mut left) = ((&first, redirect), (&last, other));
    if !first_ends_first {
        std::mem::swap(&mut begun, &mut left);
    }
    begun.0.undo(&begun.1).await.expect("it is undone");
    assert!(!redirects(begun.0.id) && redirects(left.0.id));
    assert!(ground.accepts_loopback(), "the other one needs it");
    left.0.undo(&left.1).await.expect("it is undone");
    assert!(!redirects(left.0.id));
    assert!(!ground.accepts_loopback());
    for (order, shop) in [(&first, &one), (&last, &two)] {
        order.undo_all(until_step(order, "redirect").len()).await;
        shop.is_tidy(order.id, false).await;
    }
}

/// What an agent wrote down before it died: the bridge is not changed yet. Removed with this value.
struct Announced(String);

impl Announced {
    fn new(order: Uuid, bridge: &str) -> Self {
        let table = format!("sternway_{}", order.simple());
        nft(&["add", "table", "ip", &table]);
        let announced = Self(table);
        let chain = format!("localnet_0_{bridge}");
        nft(&["add", "chain", "ip", &announced.0, &chain]);
        announced
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = Command::new("nft")
            .args(["delete", "table", "ip", &self.0])
            .output();
    }
}

fn nft(arguments: &[&str]) {
    let output = Command::new("nft").args(arguments).output();
    let output = output.expect("nft is installed");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn an_agent_that_died_before_it_changed_the_bridge_leaves_it_as_it_was() {
    let ground = Ground::new().await;
    let ports = [Port::lease(), Port::lease()];
    let (one, two) = (ground.shop(&ports[0]).await, ground.shop(&ports[1]).await);
    let dead = one.order(Swap::Warm).await;
    let undone = until_step(&dead, "redirect").pop().expect("a step");

    let _announced = Announced::new(dead.id, &ground.bridge);
    dead.undo(&undone).await.expect("it is undone");
    assert!(!redirects(dead.id) && !ground.accepts_loopback());

    // Another one begins and ends meanwhile, in both orders.
    for dead_ends_first in [true, false] {
        let _announced = Announced::new(dead.id, &ground.bridge);
        let mut order = two.order(Swap::Warm).await;
        let redirect = go_until(&mut order, "redirect").await;
        assert!(ground.accepts_loopback());
        if dead_ends_first {
            dead.undo(&undone).await.expect("it is undone");
            assert!(ground.accepts_loopback(), "the living one needs it");
        }
        order.undo(&redirect).await.expect("it is undone");
        if !dead_ends_first {
            dead.undo(&undone).await.expect("it is undone");
        }
        assert!(!redirects(dead.id) && !redirects(order.id));
        assert!(!ground.accepts_loopback());
        order.undo_all(until_step(&order, "redirect").len()).await;
        two.is_tidy(order.id, false).await;
    }
}

#[tokio::test]
async fn a_redirect_whose_containers_somebody_removed_is_collected() {
    let ground = Ground::new().await;
    let port = Port::lease();
    let shop = ground.shop(&port).await;
    let mut order = shop.order(Swap::Warm).await;
    go_until(&mut order, "redirect").await;
    let all = shop.scope.containers().await;
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    shop.scope.cli(&[&["rm", "-f"], &names[..]].concat()).await;
    shop.kind.collect(&[order.id]).await.expect("it collects");
    assert!(redirects(order.id), "the order is open");
    shop.kind.collect(&[]).await.expect("it collects");
    assert!(!redirects(order.id));
    assert!(!ground.accepts_loopback());
}

#[tokio::test]
async fn a_paused_container_is_replaced_cold_and_a_rescue_lets_it_go_on() {
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let shop = Shop::new(&["--label", "sternway.soak=0s", "-p", &publish]).await;
    let name = shop.target.local();
    shop.scope.cli(&["pause", name]).await;
    let mut order = shop.order(Swap::Unspecified).await;
    assert_eq!(order.draft.swap, Swap::Cold);
    assert!(
        order.draft.swap_reason.contains("paused"),
        "{}",
        order.draft.swap_reason
    );
    let rescued = shop.kind.rescue(&order.context(), &order.steps()).await;
    assert!(rescued.is_ok(), "{rescued:?}");
    let state = ["inspect", "-f", "{{.State.Status}}", name];
    assert_eq!(shop.scope.cli(&state).await, "running");
    shop.scope.cli(&["pause", name]).await;
    order.run().await;
    assert_eq!(shop.serving().await, Some(1));
    assert_eq!(shop.scope.cli(&state).await, "running");
}

#[tokio::test]
async fn a_network_that_leads_nowhere_is_planned_cold() {
    let scope = Scope::new().await;
    let network = scope.network("inside", &["--internal"]).await;
    let port = Port::lease();
    let publish = format!("{}:8080", port.number());
    let flags = ["--network", network.as_str(), "-p", &publish];
    let shop = Shop::new(&flags).await;
    let draft = shop.order(Swap::Unspecified).await.draft;
    assert_eq!(draft.swap, Swap::Cold);
    assert!(
        draft.swap_reason.contains("internal"),
        "{}",
        draft.swap_reason
    );
}
