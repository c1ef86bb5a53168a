//! One controller with many simulated agents, each with its own certificate, TLS connection and stream: memory an
//! agent, the time from an order to the host's disk and to its acknowledgement in the controller's store, and the time
//! until all are back after the controller was killed and started again.
//!
//! `LOAD_AGENTS` says how many (1000).
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sternway_proto::v1;
use sternway_tests::{
    controller::Controller,
    engine::Scope,
    simulated::{Event, Host, TARGET},
    wait::until,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

/// Calls of operators that are in flight at the same time.
const OPERATORS: usize = 16;
const DEADLINE: Duration = Duration::from_mins(3);

type Events = mpsc::UnboundedReceiver<Event>;

async fn all_online(events: &mut Events, agents: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut online = HashSet::new();
    while online.len() < agents {
        let event = timeout(DEADLINE, events.recv())
            .await?
            .context("agents run")?;
        // One may come and go more than once.
        if let Event::Online(host) = event {
            online.insert(host);
        }
    }
    Ok(began.elapsed())
}

fn rss_kib(id: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(field.context("VmRSS is there")?.parse()?)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let agents: usize = match std::env::var("LOAD_AGENTS") {
        Ok(text) => text.parse()?,
        Err(_) => 1000,
    };
    let scope = Scope::new().await;
    let mut controller = Controller::new(&scope).await;
    let client = controller.ctl().client().await?;
    let empty = rss_kib(controller.process().id())?;

    let (sender, mut events) = mpsc::unbounded_channel();
    let began = Instant::now();
    let hosts: Vec<Host> = stream::iter(0..agents)
        .map(|number| {
            let (mut client, sender, folder) = (client.clone(), sender.clone(), scope.folder());
            async move {
                let request = v1::CreateJoinTokenRequest {
                    host_name: host_name(number),
                    ..v1::CreateJoinTokenRequest::default()
                };
                let token = client.create_join_token(request).await?.into_inner().token;
                Host::join(&token, folder, sender).await
            }
        })
        .buffer_unordered(OPERATORS)
        .try_collect()
        .await?;
    println!(
        "{agents} hosts joined in {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let mut running = JoinSet::new();
    for host in hosts {
        running.spawn(host.run());
    }
    let took = all_online(&mut events, agents).await?;
    println!("all online in {:.1} s", took.as_secs_f64());
    let full = rss_kib(controller.process().id())?;
    println!(
        "controller: {} MiB without agents, {} MiB with {agents}: {} KiB an agent",
        empty / 1024,
        full / 1024,
        full.saturating_sub(empty) / u64::try_from(agents)?
    );

    until("every inventory to be stored", DEADLINE, async || {
        let mut client = client.clone();
        match client.list_targets(v1::ListTargetsRequest::default()).await {
            Ok(listed) if listed.get_ref().targets.len() == agents => Ok(()),
            Ok(listed) => Err(format!("{} targets", listed.get_ref().targets.len())),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    order_everyone(&client, agents, &mut events).await?;

    controller.kill();
    let began = Instant::now();
    controller.start().await;
    let up = began.elapsed();
    all_online(&mut events, agents).await?;
    println!(
        "after kill -9 and a restart: the controller answers in {:.1} s, all {agents} are back in {:.1} s",
        up.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn host_name(number: usize) -> String {
    format!("load-{number}")
}

/// One rollback a host; prints how long each order took from the operator's call to the host's disk, and to its
/// acknowledgement in the controller's store.
async fn order_everyone(
    client: &v1::operator_service_client::OperatorServiceClient<tonic::transport::Channel>,
    agents: usize,
    events: &mut Events,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let started: HashMap<String, Instant> = stream::iter(0..agents)
        .map(|number| {
            let mut client = client.clone();
            async move {
                let request = v1::PlanRollbackRequest {
                    host: host_name(number),
                    target: TARGET.to_owned(),
                    to: "1".to_owned(),
                    scope: v1::RestoreScope::Both.into(),
                    swap: v1::Swap::Unspecified.into(),
                };
                let plan = client.plan_rollback(request).await?.into_inner();
                let called = Instant::now();
                let request = v1::StartRollbackRequest {
                    plan_id: plan.plan_id,
                    reason: "load".to_owned(),
                    deadline_ms: 0,
                    request_id: uuid::Uuid::new_v4().to_string(),
                };
                let rollout = client.start_rollback(request).await?.into_inner().rollout;
                let rollout = rollout.context("a rollout was started")?;
                let order = rollout.waves.iter().flat_map(|wave| &wave.orders).next();
                let order = order.context("it has an order")?.order_id.clone();
                anyhow::Ok((order, called))
            }
        })
        .buffer_unordered(OPERATORS)
        .try_collect()
        .await?;
    let (mut journaled, mut stored) = (HashMap::new(), HashMap::new());
    while journaled.len() < agents || stored.len() < agents {
        let event = timeout(DEADLINE, events.recv())
            .await?
            .context("agents run")?;
        let (order, at, first) = match event {
            Event::Journaled { order, at } => {
                let twice = journaled.contains_key(&order);
                ensure!(!twice, "never twice");
                (order, at, &mut journaled)
            }
            Event::Stored { order, at } => (order, at, &mut stored),
            Event::Online(_) => continue,
        };
        let called = started.get(&order).context("an order of ours")?;
        let took = at.into_std().saturating_duration_since(*called);
        first.entry(order).or_insert(took);
    }
    println!("{agents} orders in {:.1} s", began.elapsed().as_secs_f64());
    for (what, took) in [
        ("journaled by the host", journaled),
        ("its acknowledgement stored by the controller", stored),
    ] {
        let mut took: Vec<Duration> = took.into_values().collect();
        took.sort_unstable();
        println!(
            "order to {what}: p50 {} ms, p99 {} ms, longest {} ms",
            percentile(&took, 50).as_millis(),
            percentile(&took, 99).as_millis(),
            percentile(&took, 100).as_millis()
        );
    }
    Ok(())
}
