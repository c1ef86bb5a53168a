//! An agent that says what a test wants it to say: a real join, real TLS and a real stream, and nothing that it
//! does by itself but the heartbeat.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use sternway_proto::{
    channel, enrol,
    name::RevisionId,
    order::{self, VerifiedOrder},
    tls::ClientTls,
    v1::{
        self, agent_message::Message as Up, agent_service_client::AgentServiceClient,
        controller_message::Message as Down, order_event::Event,
    },
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// The one target of a scripted host.
pub const TARGET: &str = "docker/shop";

/// Whatever a test waits for is there within this time, also on a busy machine.
pub const WAIT: Duration = Duration::from_mins(1);

/// A joined host that says nothing by itself.
#[derive(Debug, Clone)]
pub struct Host {
    pub joined: enrol::Joined,
}

impl Host {
    /// Joins by a token, as `ctl host token` gives it.
    ///
    /// # Errors
    /// The token is none, or the controller refuses it.
    pub async fn join(token: &str) -> anyhow::Result<Self> {
        let joined = enrol::join(&token.parse()?, None, "scripted", "0.0.0").await?;
        Ok(Self { joined })
    }

    /// A connection with the host's certificate.
    ///
    /// # Errors
    /// The controller cannot be reached, or does not accept it.
    pub async fn client(&self) -> anyhow::Result<AgentServiceClient<Channel>> {
        Ok(AgentServiceClient::new(self.channel().await?))
    }

    /// The connection under it.
    ///
    /// # Errors
    /// As [`Host::client`].
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        let tls = ClientTls::new(
            self.joined.credentials.clone(),
            &self.joined.controller_trust,
            self.joined.cluster,
        )?;
        Ok(channel::connect(&self.joined.controller_address, &tls).await?)
    }

    /// A session, welcomed, where the controller may be down or die meanwhile.
    ///
    /// # Errors
    /// It does not come about.
    pub async fn try_session(&self) -> anyhow::Result<Session> {
        let (sender, receiver) = mpsc::channel(64);
        let mut client = self.client().await?;
        let opening = client.session(ReceiverStream::new(receiver));
        let mut session = Session {
            inbound: timeout(WAIT, opening).await??.into_inner(),
            sender,
            heart: None,
        };
        session
            .say(Up::Hello(v1::Hello {
                agent_version: "0.0.0".to_owned(),
                clock_ms: now_ms(),
                ..v1::Hello::default()
            }))
            .await;
        match session.next().await {
            Ok(Down::Welcome(_)) => {}
            other => anyhow::bail!("not welcome: {other:?}"),
        }
        session.beat();
        Ok(session)
    }

    /// A session, welcomed.
    ///
    /// # Panics
    /// It is not.
    pub async fn session(&self) -> Session {
        let mut session = self.stranger().await;
        session
            .say(Up::Hello(v1::Hello {
                agent_version: "0.0.0".to_owned(),
                clock_ms: now_ms(),
                ..v1::Hello::default()
            }))
            .await;
        let welcome = session.hear().await;
        assert!(matches!(welcome, Down::Welcome(_)), "{welcome:?}");
        session.beat();
        session
    }

    /// A stream on which nothing was said yet.
    ///
    /// # Panics
    /// The controller does not take it.
    pub async fn stranger(&self) -> Session {
        let (sender, receiver) = mpsc::channel(64);
        let mut client = self.client().await.expect("the controller is reached");
        let inbound = timeout(WAIT, client.session(ReceiverStream::new(receiver)))
            .await
            .expect("the stream opens in time")
            .expect("the stream opens")
            .into_inner();
        Session {
            inbound,
            sender,
            heart: None,
        }
    }
}

/// One stream of a scripted agent; closed when it is dropped.
#[derive(Debug)]
pub struct Session {
    inbound: Streaming<v1::ControllerMessage>,
    sender: mpsc::Sender<v1::AgentMessage>,
    heart: Option<JoinHandle<()>>,
}

impl Session {
    fn beat(&mut self) {
        let sender = self.sender.clone();
        self.heart = Some(tokio::spawn(async move {
            let mut tick = interval(Duration::from_millis(500));
            loop {
                tick.tick().await;
                let beat = Up::Heartbeat(v1::Heartbeat {
                    clock_ms: now_ms(),
                    facts: None,
                });
                let message = v1::AgentMessage {
                    message: Some(beat),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// Says something, whatever it is. A stream that is closed already is for the test to hear.
    pub async fn say(&self, message: Up) {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        let _ = timeout(WAIT, self.sender.send(message))
            .await
            .expect("the controller reads");
    }

    /// The next message that is no answer to a heartbeat.
    ///
    /// # Errors
    /// The stream ended; with a status where the controller said why.
    pub async fn next(&mut self) -> Result<Down, Option<Status>> {
        loop {
            let message = timeout(WAIT, self.inbound.message())
                .await
                .expect("the controller says something in time")
                .map_err(Some)?
                .ok_or(None)?;
            match message.message {
                Some(Down::Heartbeat(_)) | None => {}
                Some(other) => return Ok(other),
            }
        }
    }

    /// As [`Session::next`], where the stream must not end.
    ///
    /// # Panics
    /// It ends.
    pub async fn hear(&mut self) -> Down {
        self.next()
            .await
            .unwrap_or_else(|why| panic!("the stream ended: {why:?}"))
    }

    /// Reads until the controller ends the stream, and answers with the problem it named.
    ///
    /// # Panics
    /// It ends without one.
    pub async fn refused(&mut self) -> v1::Problem {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(status) => {
                    let status = status.expect("the stream ends with a status");
                    return sternway_proto::fault::from_status(&status)
                        .unwrap_or_else(|| panic!("no problem in {status:?}"));
                }
            }
        }
    }

    /// The next order.
    pub async fn order(&mut self) -> VerifiedOrder {
        loop {
            if let Down::Order(sealed) = self.hear().await {
                return order::parse(&sealed).expect("a good order");
            }
        }
    }

    /// The next acknowledgement of events of that order.
    pub async fn stored(&mut self, order: &VerifiedOrder) -> u64 {
        loop {
            if let Down::EventsStored(stored) = self.hear().await
                && stored.order_id == order.id().to_string()
            {
                return stored.up_to;
            }
        }
    }

    /// Reports an event of an order, and does not wait for its acknowledgement.
    pub async fn event(&self, order: &VerifiedOrder, number: u64, event: Event) {
        self.say(Up::OrderEvent(order_event(
            &order.id().to_string(),
            number,
            event,
        )))
        .await;
    }

    /// Reports an event of an order, and waits until it is stored.
    pub async fn report(&mut self, order: &VerifiedOrder, number: u64, event: Event) {
        self.event(order, number, event).await;
        while self.stored(order).await < number {}
    }

    /// Answers the next request for a plan, as an agent that has nothing against it.
    pub async fn plan(&mut self) {
        loop {
            if let Down::Plan(request) = self.hear().await {
                self.say(Up::PlanReply(plan(&request))).await;
                return;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(heart) = &self.heart {
            heart.abort();
        }
    }
}

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// An event as it travels.
pub fn order_event(order: &str, number: u64, event: Event) -> v1::OrderEvent {
    v1::OrderEvent {
        order_id: order.to_owned(),
        number,
        at_ms: now_ms(),
        event: Some(event),
    }
}

/// The order is in the agent's journal.
pub fn accepted() -> Event {
    Event::Accepted(v1::OrderAccepted {})
}

/// A check of what runs after the change passed.
pub fn passed() -> Event {
    Event::Evidence(v1::Evidence {
        check: "http".to_owned(),
        verdict: v1::Verdict::Passed.into(),
        instance: "replacement".to_owned(),
        at_ms: now_ms(),
        ..v1::Evidence::default()
    })
}

/// The order ended well.
pub fn restored() -> Event {
    finished(v1::Outcome::Restored)
}

/// The order ended so: #1 runs where it was restored, #2 where it was not.
pub fn finished(outcome: v1::Outcome) -> Event {
    let running = if outcome == v1::Outcome::Restored {
        1
    } else {
        2
    };
    Event::Finished(v1::OrderFinished {
        outcome: outcome.into(),
        running_revision: revision_id(running),
        ..v1::OrderFinished::default()
    })
}

/// The id of a revision of the target.
pub fn revision_id(number: u32) -> String {
    RevisionId::of(format!("scripted {number}").as_bytes()).to_string()
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

/// #1 was good, #2 runs.
pub fn target(name: &str) -> v1::Target {
    v1::Target {
        name: name.to_owned(),
        state: v1::TargetState::Running.into(),
        current_revision: revision_id(2),
        revisions: vec![revision(2, false), revision(1, true)],
        lineage: vec![revision_id(1), revision_id(2)],
        ..v1::Target::default()
    }
}

/// The whole inventory of a scripted host.
pub fn inventory() -> Up {
    Up::Inventory(v1::Inventory {
        targets: vec![target(TARGET)],
    })
}

/// The answer of an agent that has nothing against a restore.
pub fn plan(request: &v1::PlanRequest) -> v1::PlanReply {
    let plan = v1::Plan {
        target: request.target.clone(),
        from_revision: revision_id(2),
        from_number: 2,
        to_revision: request.revision.clone(),
        to_number: 1,
        scope: request.scope,
        swap: v1::Swap::Cold.into(),
        swap_reason: "scripted".to_owned(),
        ..v1::Plan::default()
    };
    v1::PlanReply {
        request_id: request.request_id,
        result: Some(v1::plan_reply::Result::Plan(plan)),
    }
}

/// The problem that a refusal names.
///
/// # Errors
/// It names none.
pub fn problem(status: &Status) -> anyhow::Result<v1::Problem> {
    sternway_proto::fault::from_status(status).with_context(|| format!("{status:?}"))
}
