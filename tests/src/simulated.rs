//! Agents without an engine: a real join, real TLS, a real stream, and orders journaled to a real disk before
//! they are acknowledged. For load on a controller, thousands in one process.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use prost::Message as _;
use sternway_proto::{
    channel, enrol,
    name::RevisionId,
    order,
    tls::ClientTls,
    v1::{
        self, agent_message::Message as Up, agent_service_client::AgentServiceClient,
        controller_message::Message as Down,
    },
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, interval, sleep},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

/// The one target of a simulated host.
pub const TARGET: &str = "docker/shop";
/// The longest pause before a further dial; full jitter below it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Messages that may wait for the stream.
const OUTBOX: usize = 32;

/// What a simulated host tells the bench.
#[derive(Debug)]
pub enum Event {
    /// The controller has said welcome to that host, and has its inventory on its way.
    Online(String),
    /// An order is on disk, and its acknowledgement on its way.
    Journaled { order: String, at: Instant },
    /// The controller has said that it has stored the acknowledgement of an order, the first time or again.
    Stored { order: String, at: Instant },
}

/// A joined host.
#[derive(Debug)]
pub struct Host {
    joined: enrol::Joined,
    tls: ClientTls,
    journal: PathBuf,
    events: mpsc::UnboundedSender<Event>,
}

impl Host {
    /// Joins by a token, as `ctl host token` gives it.
    ///
    /// # Errors
    /// The token is none, or the controller refuses it.
    pub async fn join(
        token: &str,
        folder: &std::path::Path,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        let joined = enrol::join(&token.parse()?, None, "simulated", "0.0.0").await?;
        let tls = ClientTls::new(
            joined.credentials.clone(),
            &joined.controller_trust,
            joined.cluster,
        )?;
        let journal = folder.join(format!("journal-{}", joined.host_id));
        Ok(Self {
            joined,
            tls,
            journal,
            events,
        })
    }

    /// Keeps a session for ever: dials again with full jitter whenever it ends.
    pub async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            // A cut session is what the bench provokes.
            let _ = self.session().await;
            failures = if began.elapsed() > LONGEST_PAUSE {
                0
            } else {
                failures + 1
            };
            let ceiling = Duration::from_millis(250)
                .saturating_mul(1 << failures.min(8))
                .min(LONGEST_PAUSE);
            sleep(ceiling.mul_f64(rand::random())).await;
        }
    }

    async fn session(&self) -> anyhow::Result<()> {
        let channel = channel::connect(&self.joined.controller_address, &self.tls).await?;
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let mut incoming = AgentServiceClient::new(channel)
            .session(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        send(&outbox, Up::Hello(hello())).await?;
        let mut heartbeat = interval(Duration::from_secs(10));
        loop {
            tokio::select! {
                biased;
                message = incoming.next() => {
                    let Some(message) = message else { return Ok(()) };
                    match message?.message {
                        Some(Down::Welcome(welcome)) => {
                            heartbeat = interval(Duration::from_millis(
                                u64::from(welcome.heartbeat_interval_ms.max(1000)),
                            ));
                            send(&outbox, Up::Inventory(inventory())).await?;
                            self.events.send(Event::Online(self.joined.host_id.to_string()))?;
                        }
                        Some(Down::Order(sealed)) => self.obey(&outbox, &sealed).await?,
                        Some(Down::EventsStored(stored)) if stored.up_to > 0 => {
                            let (order, at) = (stored.order_id, Instant::now());
                            self.events.send(Event::Stored { order, at })?;
                        }
                        Some(Down::Plan(request)) => send(&outbox, Up::PlanReply(plan(&request))).await?,
                        _ => {}
                    }
                }
                _ = heartbeat.tick() => {
                    let beat = v1::Heartbeat { clock_ms: now_ms(), facts: None };
                    send(&outbox, Up::Heartbeat(beat)).await?;
                }
            }
        }
    }

    async fn obey(
        &self,
        outbox: &mpsc::Sender<v1::AgentMessage>,
        sealed: &v1::SealedOrder,
    ) -> anyhow::Result<()> {
        let order = order::parse(sealed)?;
        let (path, line) = (self.journal.clone(), sealed.encode_to_vec());
        spawn_blocking(move || -> std::io::Result<()> {
            let mut file = File::options().create(true).append(true).open(path)?;
            file.write_all(&line)?;
            file.sync_data()
        })
        .await??;
        let id = order.id().to_string();
        let at = Instant::now();
        for (number, event) in [
            v1::order_event::Event::Accepted(v1::OrderAccepted {}),
            v1::order_event::Event::Finished(v1::OrderFinished {
                outcome: v1::Outcome::Restored.into(),
                problem: None,
                running_revision: order.revision().to_string(),
            }),
        ]
        .into_iter()
        .enumerate()
        {
            let event = v1::OrderEvent {
                order_id: id.clone(),
                number: u64::try_from(number + 1)?,
                at_ms: now_ms(),
                event: Some(event),
            };
            send(outbox, Up::OrderEvent(event)).await?;
        }
        self.events.send(Event::Journaled { order: id, at })?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.journal);
    }
}

async fn send(outbox: &mpsc::Sender<v1::AgentMessage>, message: Up) -> anyhow::Result<()> {
    let message = v1::AgentMessage {
        message: Some(message),
    };
    outbox.send(message).await?;
    Ok(())
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn hello() -> v1::Hello {
    v1::Hello {
        agent_version: "0.0.0".to_owned(),
        boot_id: "simulated".to_owned(),
        clock_ms: now_ms(),
        highest_epoch: 0,
        facts: None,
    }
}

fn revision(number: u32, known_good: bool) -> v1::Revision {
    v1::Revision {
        id: revision_id(number),
        number,
        first_seen_ms: now_ms(),
        last_active_ms: now_ms(),
        known_good,
        image: format!("shop:v{number}"),
        image_id: format!("sha256:{}", revision_id(number)),
        origin: "deployment".to_owned(),
        ..v1::Revision::default()
    }
}

fn revision_id(number: u32) -> String {
    RevisionId::of(format!("simulated {number}").as_bytes()).to_string()
}

/// #1 was good, #2 runs.
fn inventory() -> v1::Inventory {
    let target = v1::Target {
        name: TARGET.to_owned(),
        state: v1::TargetState::Running.into(),
        current_revision: revision_id(2),
        revisions: vec![revision(2, false), revision(1, true)],
        lineage: vec![revision_id(1), revision_id(2)],
        ..v1::Target::default()
    };
    v1::Inventory {
        targets: vec![target],
    }
}

fn plan(request: &v1::PlanRequest) -> v1::PlanReply {
    let plan = v1::Plan {
        target: request.target.clone(),
        from_revision: revision_id(2),
        from_number: 2,
        to_revision: request.revision.clone(),
        to_number: 1,
        scope: request.scope,
        swap: v1::Swap::Cold.into(),
        swap_reason: "simulated".to_owned(),
        ..v1::Plan::default()
    };
    v1::PlanReply {
        request_id: request.request_id,
        result: Some(v1::plan_reply::Result::Plan(plan)),
    }
}
