//! The services of a running controller over real TLS and SQLite, with a scripted agent.
#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    future::pending,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustls::pki_types::ServerName;
use sternway_controller::{Running, backup, config::Settings, operators, pki, run};
use sternway_proto::{
    channel, enrol, fault,
    identity::Role,
    order,
    tls::{ClientTls, Credentials, read_certificates},
    v1::{
        self, AgentMessage, agent_message::Message as Up, agent_service_client::AgentServiceClient,
        controller_message::Message as Down, operator_service_client::OperatorServiceClient,
        order_event::Event, rollout_event::Event as Watched,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

const WAIT: Duration = Duration::from_secs(90);

/// From the answer to a revocation to the end of the host's connections, at most.
const CUT: Duration = Duration::from_secs(10);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT, future).await {
        Ok(value) => value,
        Err(late) => panic!("{what} took too long: {late}"),
    }
}

struct Stage {
    folder: tempfile::TempDir,
    data: PathBuf,
    shutdown: CancellationToken,
    running: Option<Running>,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let now = SystemTime::now();
        pki::init(
            &path.join("data"),
            "127.0.0.1:1",
            "alice",
            &path.join("op"),
            pki::Lifetimes::default(),
            now,
            pki::Database {
                make: &mut || Ok(()),
                keep: &mut |_| Ok(()),
            },
        )
        .expect("a cluster");
        let made = operators::make_database(&path.join("data")).await;
        made.expect("its database");
        let mut stage = Self {
            data: path.join("data"),
            folder,
            shutdown: CancellationToken::new(),
            running: None,
        };
        stage.start().await;
        stage
    }

    fn settings(&self) -> Settings {
        Settings {
            data_dir: self.data.clone(),
            listen: "127.0.0.1:0".into(),
            listen_enrolment: "127.0.0.1:0".into(),
            listen_metrics: String::new(),
            shutdown_timeout: Duration::from_secs(4),
            ..Settings::default()
        }
    }

    async fn start(&mut self) {
        self.shutdown = CancellationToken::new();
        self.running = Some(
            run(self.settings(), self.shutdown.clone())
                .await
                .expect("it starts"),
        );
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        let running = self.running.take().expect("it ran");
        within("the stop", running.wait()).await.expect("it stops");
    }

    fn address(&self) -> String {
        self.running
            .as_ref()
            .expect("it runs")
            .addresses
            .listen
            .to_string()
    }

    async fn operator(&self) -> OperatorServiceClient<Channel> {
        self.operator_of("op").await.expect("a channel")
    }

    /// A client with the credentials of that folder.
    async fn operator_of(
        &self,
        folder: &str,
    ) -> Result<OperatorServiceClient<Channel>, channel::ConnectError> {
        let dir = self.folder.path().join(folder);
        let credentials = Credentials::load(&dir).expect("credentials");
        let cluster = credentials.peer().expect("a leaf").identity.cluster;
        let trust = read_certificates(&dir.join("trust.pem")).expect("trust");
        let tls = ClientTls::new(credentials, &trust, cluster).expect("TLS");
        let channel = channel::connect(&self.address(), &tls).await?;
        Ok(OperatorServiceClient::new(channel))
    }

    /// As `sternway-controller operator issue` does, into a folder of that name.
    async fn issue(&self, name: &str) {
        let lifetimes = pki::Lifetimes::default();
        let authority = pki::Authority::open(&self.data.join("pki"), lifetimes).expect("opened");
        let mut noted = None;
        pki::issue_operator(
            &authority,
            name,
            Role::Viewer,
            "127.0.0.1:1",
            &self.folder.path().join(name),
            SystemTime::now(),
            &mut |issued| {
                noted = Some(issued.clone());
                Ok(())
            },
        )
        .expect("issued");
        let issued = noted.expect("noted");
        operators::note(&self.data, &issued).await.expect("stored");
    }

    async fn join(&self, name: &str) -> enrol::Joined {
        let asked = v1::CreateJoinTokenRequest {
            host_name: name.into(),
            ..v1::CreateJoinTokenRequest::default()
        };
        let made = self
            .operator()
            .await
            .create_join_token(asked)
            .await
            .expect("a token");
        let token = made.into_inner().token.parse().expect("a token");
        enrol::join(&token, None, "machine", "test")
            .await
            .expect("joined")
    }

    async fn agent(&self, joined: &enrol::Joined) -> Agent {
        self.agent_that_saw(joined, 0).await.0
    }

    /// An agent that accepted orders up to that epoch, and the epoch that it is told.
    async fn agent_that_saw(&self, joined: &enrol::Joined, epoch: u64) -> (Agent, u64) {
        let channel = dial(&self.address(), joined).await.expect("a channel");
        Agent::over(channel, epoch).await
    }
}

/// A connection with the certificate of a host.
async fn dial(address: &str, joined: &enrol::Joined) -> Result<Channel, channel::ConnectError> {
    channel::connect(address, &host_tls(joined)).await
}

fn host_tls(joined: &enrol::Joined) -> ClientTls {
    ClientTls::new(
        joined.credentials.clone(),
        &joined.controller_trust,
        joined.cluster,
    )
    .expect("TLS")
}

struct Agent {
    inbound: Option<Streaming<v1::ControllerMessage>>,
    sender: mpsc::Sender<AgentMessage>,
}

fn id(letter: &str) -> String {
    letter.repeat(64)
}

impl Agent {
    /// A session on that channel, and the epoch that it is told.
    async fn over(channel: Channel, epoch: u64) -> (Self, u64) {
        let (sender, receiver) = mpsc::channel(64);
        let mut agent = Self {
            inbound: None,
            sender,
        };
        let hello = v1::Hello {
            highest_epoch: epoch,
            ..v1::Hello::default()
        };
        agent.say(Up::Hello(hello)).await;
        let session = AgentServiceClient::new(channel)
            .session(ReceiverStream::new(receiver))
            .await
            .expect("a session");
        agent.inbound = Some(session.into_inner());
        let Down::Welcome(welcome) = agent.hear().await else {
            panic!("not welcome");
        };
        assert!(matches!(agent.hear().await, Down::Marks(_)));
        (agent, welcome.epoch)
    }

    async fn say(&self, message: Up) {
        let message = AgentMessage {
            message: Some(message),
        };
        self.sender.send(message).await.expect("the stream is open");
    }

    async fn next(&mut self) -> Result<Option<v1::ControllerMessage>, tonic::Status> {
        let inbound = self.inbound.as_mut().expect("a session");
        within("a message", inbound.message()).await
    }

    async fn hear(&mut self) -> Down {
        let message = self.next().await.expect("no error").expect("not the end");
        message.message.expect("a message")
    }

    /// Two revisions of one target, the second current.
    async fn inventory(&self) {
        self.tells(&["a", "b"]).await;
    }

    /// Two revisions of one target, which became current in that order.
    async fn tells(&self, lineage: &[&str]) {
        let revision = |letter: &str, number| v1::Revision {
            id: id(letter),
            number,
            known_good: number == 1,
            image_digest: format!("shop@sha256:{}", id(letter)),
            ..v1::Revision::default()
        };
        let target = v1::Target {
            name: "docker/shop".into(),
            state: v1::TargetState::Running.into(),
            current_revision: lineage.last().map(|letter| id(letter)).unwrap_or_default(),
            revisions: vec![revision("b", 2), revision("a", 1)],
            lineage: lineage.iter().map(|letter| id(letter)).collect(),
            ..v1::Target::default()
        };
        self.say(Up::Inventory(v1::Inventory {
            targets: vec![target],
        }))
        .await;
    }

    async fn order(&mut self) -> order::VerifiedOrder {
        let Down::Order(sealed) = self.hear().await else {
            panic!("no order");
        };
        order::parse(&sealed).expect("a good order")
    }

    async fn report(&mut self, order: &order::VerifiedOrder, number: u64, event: Event) {
        let event = v1::OrderEvent {
            order_id: order.id().to_string(),
            number,
            at_ms: 1,
            event: Some(event),
        };
        self.say(Up::OrderEvent(event)).await;
        let stored = loop {
            match self.hear().await {
                Down::EventsStored(stored) => break stored,
                // Not answered fast enough on a busy machine: it was sent again.
                Down::Order(_) => {}
                other => panic!("not stored: {other:?}"),
            }
        };
        assert_eq!(stored.up_to, number);
    }
}

fn passed() -> Event {
    Event::Evidence(v1::Evidence {
        check: "http".into(),
        verdict: v1::Verdict::Passed.into(),
        instance: "replacement".into(),
        ..v1::Evidence::default()
    })
}

fn restored() -> Event {
    Event::Finished(v1::OrderFinished {
        outcome: v1::Outcome::Restored.into(),
        running_revision: id("a"),
        ..v1::OrderFinished::default()
    })
}

/// Waits until the controller knows the host's target, then lets the host go.
async fn known(stage: &Stage, joined: &enrol::Joined) -> Agent {
    let agent = stage.agent(joined).await;
    agent.inventory().await;
    let mut operator = stage.operator().await;
    within("the inventory", async {
        loop {
            let all = operator
                .list_targets(v1::ListTargetsRequest::default())
                .await;
            if !all.expect("a list").into_inner().targets.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    agent
}

async fn offline(operator: &mut OperatorServiceClient<Channel>, host: &str) {
    within("the host to be offline", async {
        loop {
            let asked = v1::GetHostRequest { host: host.into() };
            let host = operator.get_host(asked).await.expect("a host").into_inner();
            if host.host.expect("a host").state() == v1::HostState::Offline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Plans while the host is offline and starts.
async fn start(
    operator: &mut OperatorServiceClient<Channel>,
    host: &str,
    deadline_ms: i64,
) -> v1::Rollout {
    let asked = v1::PlanRollbackRequest {
        host: host.into(),
        ..v1::PlanRollbackRequest::default()
    };
    let plan = operator
        .plan_rollback(asked)
        .await
        .expect("a plan")
        .into_inner();
    assert!(plan.host_offline);
    assert_eq!(plan.chosen_because, "newest known-good before #2");
    let request = v1::StartRollbackRequest {
        plan_id: plan.plan_id,
        reason: "500s".into(),
        deadline_ms,
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    let first = operator
        .start_rollback(request.clone())
        .await
        .expect("started");
    let again = operator
        .start_rollback(request.clone())
        .await
        .expect("the same");
    let other = v1::StartRollbackRequest {
        plan_id: uuid::Uuid::new_v4().to_string(),
        ..request
    };
    let refused = operator
        .start_rollback(other)
        .await
        .expect_err("another plan");
    let problem = fault::from_status(&refused).expect("a problem");
    assert_eq!(problem.code, "request-id-used", "{problem:?}");
    assert!(!problem.next_step.is_empty(), "{problem:?}");
    let rollout = first.into_inner().rollout.expect("a rollout");
    assert_eq!(
        again.into_inner().rollout.expect("a rollout").id,
        rollout.id
    );
    rollout
}

/// Everything a watcher sees until the rollout is over: the events' numbers, and how it ended.
async fn watch(operator: &mut OperatorServiceClient<Channel>, id: &str) -> (Vec<u64>, v1::Rollout) {
    let asked = v1::WatchRolloutRequest { rollout: id.into() };
    let mut stream = operator
        .watch_rollout(asked)
        .await
        .expect("a stream")
        .into_inner();
    let (mut numbers, mut last, mut first) = (Vec::new(), None, true);
    while let Some(event) = within("an event", stream.message())
        .await
        .expect("no error")
    {
        match event.event.expect("an event") {
            Watched::Rollout(rollout) => last = Some(rollout),
            Watched::OrderEvent(_) if first => panic!("the first is no rollout"),
            Watched::OrderEvent(event) => numbers.push(event.number),
        }
        first = false;
    }
    (numbers, last.expect("a rollout"))
}

/// The rollout that is at the host's target, as lists and details have it.
async fn restoring(operator: &mut OperatorServiceClient<Channel>) -> String {
    let listed = operator
        .list_targets(v1::ListTargetsRequest::default())
        .await
        .expect("listed");
    let asked = v1::GetTargetRequest {
        host: "web-1".into(),
        target: String::new(),
    };
    let shown = operator
        .get_target(asked)
        .await
        .expect("shown")
        .into_inner();
    let rollout = |one: &v1::HostTarget| {
        one.target
            .as_ref()
            .expect("a target")
            .active_rollout
            .clone()
    };
    let rollouts: Vec<String> = listed.into_inner().targets.iter().map(rollout).collect();
    assert_eq!(rollouts, [rollout(&shown.target.expect("found"))]);
    rollouts.concat()
}

#[tokio::test]
async fn an_order_survives_a_restart_and_is_believed_with_evidence_only_once() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    let rollout = start(&mut operator, "web-1", 0).await;
    drop(operator);
    stage.stop().await;
    stage.start().await;

    let mut agent = stage.agent(&joined).await;
    let order = agent.order().await;
    assert_eq!(order.revision().as_str(), id("a"));
    assert_eq!(order.order().operator, "alice");
    // Not journaled yet: a new session brings it again.
    drop(agent);
    let mut agent = stage.agent(&joined).await;
    assert_eq!(agent.order().await.id(), order.id());
    let mut operator = stage.operator().await;
    let watcher = tokio::spawn({
        let (mut operator, id) = (operator.clone(), rollout.id.clone());
        async move { watch(&mut operator, &id).await }
    });
    agent
        .report(&order, 1, Event::Accepted(v1::OrderAccepted {}))
        .await;
    agent
        .report(&order, 1, Event::Accepted(v1::OrderAccepted {}))
        .await;
    assert_eq!(restoring(&mut operator).await, rollout.id);
    agent.report(&order, 2, passed()).await;
    agent.report(&order, 3, restored()).await;
    agent.report(&order, 3, restored()).await;
    assert_eq!(restoring(&mut operator).await, "");
    let (numbers, ended) = within("the watcher", watcher).await.expect("it ends");
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(ended.state(), v1::RolloutState::Succeeded);
    assert_eq!(watch(&mut operator, &rollout.id).await.0, [1, 2, 3]);
    let verified = operator
        .verify_record(v1::VerifyRecordRequest {})
        .await
        .expect("verified");
    let verified = verified.into_inner();
    assert_eq!(verified.problem, None);
    assert!(verified.entries > 5);
    // The record's time is the controller's, also of what a host with another clock has seen.
    let listed = operator
        .list_record(v1::ListRecordRequest::default())
        .await
        .expect("listed")
        .into_inner();
    let seen = listed
        .entries
        .iter()
        .find(|one| one.action == "evidence.seen");
    let seen = seen.expect("it is there");
    assert!(seen.at_ms > 1_000_000, "{seen:?}");
    assert!(seen.body.contains("\"host_at_ms\":1"), "{seen:?}");
    stage.stop().await;
}

#[tokio::test]
async fn the_epoch_rises_above_a_host_that_has_it_from_elsewhere_and_not_above_our_own_orders() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    start(&mut operator, "web-1", 0).await;
    let mut agent = stage.agent(&joined).await;
    let own = agent.order().await.order().epoch;
    drop(agent);
    let (agent, epoch) = stage.agent_that_saw(&joined, own).await;
    assert_eq!(epoch, own);
    drop(agent);
    // As after a restore of the controller's folder: what it was not sent by us is another's.
    let other = stage.join("web-2").await;
    let (_agent, epoch) = stage.agent_that_saw(&other, own).await;
    assert_eq!(epoch, own + 1);
}

#[tokio::test]
async fn an_order_for_a_host_that_stays_offline_expires() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    let rollout = start(&mut operator, "web-1", 1500).await;
    let (numbers, ended) = watch(&mut operator, &rollout.id).await;
    assert!(numbers.is_empty());
    assert_eq!(ended.state(), v1::RolloutState::Expired);
    // A host that is late is sent nothing: the next thing it hears is a heartbeat's reply.
    let mut agent = stage.agent(&joined).await;
    agent.say(Up::Heartbeat(v1::Heartbeat::default())).await;
    assert!(matches!(agent.hear().await, Down::Heartbeat(_)));
    drop(operator);
    stage.stop().await;
}

#[tokio::test]
async fn a_plan_warns_of_a_destructive_migration_that_it_goes_back_over() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    let deployment = v1::Deployment {
        host: "web-1".into(),
        digest: format!("sha256:{}", id("c")),
        version: "2.0".into(),
        migration: "destructive".into(),
        ..v1::Deployment::default()
    };
    let asked = v1::RecordDeploymentRequest {
        deployment: Some(deployment.clone()),
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let recorded = operator.record_deployment(asked.clone()).await;
        let recorded = recorded.expect("recorded").into_inner().deployment;
        ids.push(recorded.expect("a deployment").id);
    }
    assert_eq!(ids[0], ids[1], "recorded twice");
    let other = v1::RecordDeploymentRequest {
        deployment: Some(v1::Deployment {
            version: "2.1".into(),
            ..deployment
        }),
        ..asked
    };
    let refused = operator
        .record_deployment(other)
        .await
        .expect_err("another");
    let problem = fault::from_status(&refused).expect("a problem");
    assert_eq!(problem.code, "request-id-used", "{problem:?}");
    let entries = v1::ListRecordRequest::default();
    let entries = operator.list_record(entries).await.expect("listed");
    let recorded = |one: &&v1::RecordEntry| one.action == "deployment.recorded";
    assert_eq!(
        entries.into_inner().entries.iter().filter(recorded).count(),
        1
    );
    for (scope, told) in [
        (v1::RestoreScope::Both, true),
        (v1::RestoreScope::Config, false),
    ] {
        let asked = v1::PlanRollbackRequest {
            host: "web-1".into(),
            scope: scope.into(),
            ..v1::PlanRollbackRequest::default()
        };
        let planned = operator.plan_rollback(asked).await.expect("planned");
        let plan = planned.into_inner().plan.expect("a plan");
        let mut codes = plan.warnings.iter().map(|it| it.code.as_str());
        assert_eq!(
            codes.any(|code| code == "migration-destructive"),
            told,
            "{plan:?}"
        );
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_plan_right_after_an_order_counts_from_what_the_order_left() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    start(&mut operator, "web-1", 0).await;
    let mut agent = stage.agent(&joined).await;
    let order = agent.order().await;
    agent
        .report(&order, 1, Event::Accepted(v1::OrderAccepted {}))
        .await;
    agent.report(&order, 2, passed()).await;
    agent.report(&order, 3, restored()).await;
    // What runs since is told behind the end.
    let planned = tokio::spawn(async move {
        let asked = v1::PlanRollbackRequest {
            host: "web-1".into(),
            to: "previous".into(),
            ..v1::PlanRollbackRequest::default()
        };
        operator.plan_rollback(asked).await
    });
    let early = tokio::time::timeout(Duration::from_millis(300), agent.next()).await;
    assert!(early.is_err(), "asked before it could tell: {early:?}");
    agent.tells(&["a", "b", "a"]).await;
    let Down::Plan(asked) = agent.hear().await else {
        panic!("no plan");
    };
    assert_eq!(asked.revision, id("b"));
    planned.abort();
    stage.stop().await;
}

#[tokio::test]
async fn of_too_many_plans_at_once_the_last_is_refused_as_that_and_not_as_late() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    // It answers none of them.
    let agent = known(&stage, &joined).await;
    let operator = stage.operator().await;
    let mut plans: FuturesUnordered<_> = (0..17)
        .map(|_| {
            let mut operator = operator.clone();
            let asked = v1::PlanRollbackRequest {
                host: "web-1".into(),
                ..v1::PlanRollbackRequest::default()
            };
            async move { operator.plan_rollback(asked).await }
        })
        .collect();
    let first = within("a refusal", plans.next())
        .await
        .expect("one of them");
    let problem = fault::from_status(&first.expect_err("refused")).expect("a problem");
    assert_eq!(problem.code, "too-many-plans", "{problem:?}");
    drop((plans, operator, agent));
    stage.stop().await;
}

#[tokio::test]
async fn never_blind_a_restore_without_evidence_needs_a_human() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    offline(&mut operator, "web-1").await;
    let rollout = start(&mut operator, "web-1", 0).await;
    let mut agent = stage.agent(&joined).await;
    let order = agent.order().await;
    agent.report(&order, 1, restored()).await;
    let (_, ended) = watch(&mut operator, &rollout.id).await;
    assert_eq!(ended.state(), v1::RolloutState::NeedsHuman);
    let problem = ended.waves[0].orders[0].problem.clone().expect("a problem");
    assert_eq!(problem.code, "no-evidence");
}

#[tokio::test]
async fn the_session_of_a_revoked_host_ends_and_its_name_is_free_for_another() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    let mut agent = known(&stage, &joined).await;
    revoke(&mut stage.operator().await).await;
    assert!(
        !matches!(agent.next().await, Ok(Some(_))),
        "it is still heard"
    );
    let other = stage.join("web-1").await;
    assert_ne!(other.host_id, joined.host_id);
}

/// How a mark of the one target's revision is set, and how it may be refused.
async fn mark(
    operator: &mut OperatorServiceClient<Channel>,
    revision: &str,
    mark: v1::Mark,
) -> Result<v1::Revision, String> {
    let asked = v1::MarkRevisionRequest {
        host: "web-1".into(),
        target: "docker/shop".into(),
        revision: revision.into(),
        mark: mark.into(),
        reason: "500s".into(),
    };
    let marked = operator.mark_revision(asked).await;
    marked
        .map(|answer| answer.into_inner().revision.expect("a revision"))
        .map_err(|status| fault::from_status(&status).expect("a problem").code)
}

/// Whether somewhere a revision with that digest is marked bad, and which.
async fn bad(operator: &mut OperatorServiceClient<Channel>, letter: &str) -> Vec<String> {
    let asked = v1::CheckDeploymentRequest {
        digest: format!("sha256:{}", id(letter)),
    };
    let checked = operator.check_deployment(asked).await.expect("an answer");
    checked.into_inner().reasons
}

#[tokio::test]
async fn what_was_said_of_a_host_holds_when_its_machine_joins_again() {
    let stage = Stage::new().await;
    let mut operator = stage.operator().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    mark(&mut operator, "1", v1::Mark::Bad)
        .await
        .expect("marked");
    let recorded = v1::RecordDeploymentRequest {
        deployment: Some(v1::Deployment {
            host: "web-1".into(),
            digest: format!("sha256:{}", id("b")),
            version: "2.0".into(),
            ..v1::Deployment::default()
        }),
        ..v1::RecordDeploymentRequest::default()
    };
    operator
        .record_deployment(recorded)
        .await
        .expect("recorded");
    revoke(&mut operator).await;
    let again = stage.join("web-1").await;
    // Before the new host has said anything.
    let said = ["web-1 docker/shop #1: DO_NOT_DEPLOY, 500s"];
    assert_eq!(bad(&mut operator, "a").await, said);
    let _agent = known(&stage, &again).await;
    let asked = v1::GetTargetRequest {
        host: "web-1".into(),
        target: String::new(),
    };
    let target = operator.get_target(asked).await.expect("there");
    let target = target.into_inner();
    let versions: Vec<&str> = target.deployments.iter().map(|d| &*d.version).collect();
    assert_eq!(versions, ["2.0"]);
    let revisions = target.target.and_then(|one| one.target).expect("a target");
    let marks: Vec<v1::Mark> = revisions.revisions.iter().map(v1::Revision::mark).collect();
    assert_eq!(marks, [v1::Mark::Unspecified, v1::Mark::Bad]);
    let asked = v1::PlanRollbackRequest {
        host: "web-1".into(),
        ..v1::PlanRollbackRequest::default()
    };
    let refused = operator.plan_rollback(asked).await.expect_err("refused");
    let problem = fault::from_status(&refused).expect("a problem");
    assert_eq!(problem.code, "nothing-to-go-back-to");
    // One mark, in one place: taken away, it is away.
    assert_eq!(bad(&mut operator, "a").await, said);
    mark(&mut operator, "1", v1::Mark::Unspecified)
        .await
        .expect("taken away");
    assert!(bad(&mut operator, "a").await.is_empty());
}

#[tokio::test]
async fn the_mark_of_a_target_that_is_forgotten_can_be_taken_away() {
    let stage = Stage::new().await;
    let mut operator = stage.operator().await;
    let joined = stage.join("web-1").await;
    let agent = known(&stage, &joined).await;
    mark(&mut operator, "1", v1::Mark::Bad)
        .await
        .expect("marked");
    agent.say(Up::TargetRemoved("docker/shop".into())).await;
    within("the target to be forgotten", async {
        loop {
            let all = operator
                .list_targets(v1::ListTargetsRequest::default())
                .await;
            if all.expect("a list").into_inner().targets.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let said = ["web-1 docker/shop #1: DO_NOT_DEPLOY, 500s"];
    assert_eq!(bad(&mut operator, "a").await, said);
    // Only taken away: nobody can see what it is any more.
    let unknown = "no-targets".to_owned();
    let good = mark(&mut operator, "1", v1::Mark::Good).await;
    assert_eq!(good.map(|it| it.number), Err(unknown.clone()));
    let other = mark(&mut operator, "2", v1::Mark::Unspecified).await;
    assert_eq!(other.map(|it| it.number), Err(unknown));
    let taken = mark(&mut operator, "1", v1::Mark::Unspecified).await;
    assert_eq!(taken.map(|it| it.number), Ok(1));
    assert!(bad(&mut operator, "a").await.is_empty());
}

async fn revoke(operator: &mut OperatorServiceClient<Channel>) {
    let asked = v1::RevokeHostRequest {
        host: "web-1".into(),
        reason: "stolen".into(),
    };
    operator.revoke_host(asked).await.expect("revoked");
}

/// Which end of a connection ended it.
#[derive(Debug, PartialEq)]
enum End {
    Agent,
    Controller,
}

/// A wire to the controller: its address, and who ends the one connection that it carries.
async fn wire(stage: &Stage) -> (String, JoinHandle<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let controller = stage.address();
    let carried = tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("dialled");
        let far = TcpStream::connect(controller).await.expect("reached");
        let (from_agent, to_agent) = near.into_split();
        let (from_controller, to_controller) = far.into_split();
        tokio::select! {
            () = pass(from_agent, to_controller) => End::Agent,
            () = pass(from_controller, to_agent) => End::Controller,
        }
    });
    (address, carried)
}

/// Passes on all that comes, until that end is closed.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..read]).await.is_err() {
            // Closed by the other end, which the other direction sees.
            pending::<()>().await;
        }
    }
}

/// Who would rather stay keeps the stream, the connection and its certificate, and does not listen.
#[tokio::test]
async fn the_connection_of_a_revoked_host_is_cut_within_ten_seconds_and_it_stays_out() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    let (address, carried) = wire(&stage).await;
    let channel = dial(&address, &joined).await.expect("a channel");
    let (_agent, _) = Agent::over(channel.clone(), 0).await;
    assert!(!carried.is_finished());
    revoke(&mut stage.operator().await).await;
    let ended = tokio::time::timeout(CUT, carried).await;
    let ended = ended.expect("cut in time").expect("no panic");
    assert_eq!(ended, End::Controller);
    // A certificate that is not accepted shows at the first thing that is heard, or at the handshake.
    if let Ok(channel) = dial(&stage.address(), &joined).await {
        let (_sender, receiver) = mpsc::channel(1);
        let mut client = AgentServiceClient::new(channel);
        let session = client.session(ReceiverStream::new(receiver));
        let session = within("an answer", session).await;
        assert!(session.is_err(), "it is let in");
    }
}

/// A client has shaken hands before its certificate is judged, and speaks at once. Were the connection closed on what
/// it says, it would be reset: who then writes once more before it reads never hears why.
#[tokio::test]
async fn never_silent_a_revoked_host_hears_that_it_is_while_it_speaks() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    revoke(&mut stage.operator().await).await;
    let connector = TlsConnector::from(host_tls(&joined).config());
    let tcp = TcpStream::connect(stage.address()).await;
    let name = ServerName::try_from("controller").expect("a name");
    let tls = connector.connect(name, tcp.expect("connected"));
    let mut tls = within("its hello", tls).await.expect("shaken hands");
    // A host that is busy.
    for _ in 0..5 {
        tls.write_all(&[7; 512]).await.expect("it is listened to");
        tls.flush().await.expect("it is listened to");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let heard = within("the alert", tls.read(&mut [0; 16])).await;
    let error = heard.expect_err("it is let in");
    let said = error.get_ref().and_then(|it| it.downcast_ref());
    let revoked = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
    assert_eq!(said, Some(&revoked), "{error}");
}

/// Whether a call is answered, and a new connection accepted.
async fn answered(stage: &Stage, folder: &str) -> bool {
    let Ok(mut operator) = stage.operator_of(folder).await else {
        return false;
    };
    let asked = operator.get_status(v1::GetStatusRequest {});
    within("a status", asked).await.is_ok()
}

#[tokio::test]
async fn an_operator_that_is_revoked_is_cut_off_within_ten_seconds_and_others_are_not() {
    let mut stage = Stage::new().await;
    stage.issue("bob").await;
    stage.issue("carol").await;
    let mut operator = stage.operator_of("bob").await.expect("a channel");
    // A stream that waits for what may never come: only a cut ends it.
    let rollout = {
        let joined = stage.join("web-1").await;
        drop(known(&stage, &joined).await);
        let mut alice = stage.operator().await;
        offline(&mut alice, "web-1").await;
        start(&mut alice, "web-1", 60_000).await
    };
    let watched = v1::WatchRolloutRequest {
        rollout: rollout.id.clone(),
    };
    let mut stream = operator
        .watch_rollout(watched)
        .await
        .expect("watched")
        .into_inner();
    let neither = operators::revoke(&stage.data, "Bob!", "").await;
    assert!(neither.is_err(), "nobody can have that name");
    let revoked = operators::revoke(&stage.data, "bob", "stolen").await;
    assert_eq!(revoked.expect("revoked").certificates.len(), 1);
    let cut = async { while let Ok(Some(_)) = stream.message().await {} };
    tokio::time::timeout(CUT, cut).await.expect("cut in time");
    assert!(!answered(&stage, "bob").await, "it is let in again");
    assert!(answered(&stage, "carol").await && answered(&stage, "op").await);
    stage.stop().await;
    stage.start().await;
    assert!(
        !answered(&stage, "bob").await,
        "it is let in after a restart"
    );
    let mut alice = stage.operator().await;
    let record = v1::ListRecordRequest {
        limit: 100,
        ..v1::ListRecordRequest::default()
    };
    let entries = alice
        .list_record(record)
        .await
        .expect("a list")
        .into_inner()
        .entries;
    let of = |action: &str| -> Vec<String> {
        let entries = entries.iter().filter(|entry| entry.action == action);
        entries.map(|entry| entry.subject.clone()).collect()
    };
    // The certificate, and the name.
    assert_eq!(of("operator.revoked"), ["operator:bob"; 2]);
    assert_eq!(of("operator.issued"), ["operator:carol", "operator:bob"]);
}

#[tokio::test]
async fn a_name_is_revoked_with_what_is_not_listed_of_it_and_one_that_is_issued_anew_is_let_in() {
    let mut stage = Stage::new().await;
    // Made without a note, as before there was a list.
    assert!(answered(&stage, "op").await);
    let revoked = operators::revoke(&stage.data, "alice", "stolen").await;
    let revoked = revoked.expect("revoked");
    assert!(revoked.unlisted && revoked.by_name, "{revoked:?}");
    let refused = async { while answered(&stage, "op").await {} };
    tokio::time::timeout(CUT, refused)
        .await
        .expect("refused in time");
    std::fs::rename(
        stage.folder.path().join("op"),
        stage.folder.path().join("old"),
    )
    .expect("moved");
    stage.issue("alice").await;
    assert!(answered(&stage, "alice").await, "the new one is let in");
    stage.stop().await;
    stage.start().await;
    assert!(!answered(&stage, "old").await, "also after a restart");
    assert!(answered(&stage, "alice").await);
}

#[tokio::test]
async fn what_a_revoked_operator_left_ends_with_its_name_and_is_counted_with_its_serial() {
    let stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut alice = stage.operator().await;
    offline(&mut alice, "web-1").await;
    let rollout = start(&mut alice, "web-1", 60_000).await;
    let asked = v1::CreateJoinTokenRequest::default();
    let made = alice.create_join_token(asked).await.expect("a token");
    let token = made.into_inner().token.parse().expect("a token");
    let issued = pki::Issued {
        name: "alice".into(),
        role: Role::Admin,
        serial: format!("{:032x}", 7),
        issued_ms: 1,
        not_after_ms: i64::MAX,
    };
    operators::note(&stage.data, &issued).await.expect("noted");
    let serial = operators::revoke(&stage.data, &issued.serial, "").await;
    let serial = serial.expect("revoked");
    assert_eq!((serial.orders, serial.tokens), (1, 1));
    let text = operators::told(&issued.serial, &serial, 0);
    assert!(text.contains("left of its operator: 1 order"), "{text}");
    stage.issue("carol").await;
    let named = operators::revoke(&stage.data, "alice", "").await;
    let named = named.expect("revoked");
    assert_eq!((named.orders, named.tokens), (1, 1));
    let ended = enrol::join(&token, None, "machine", "test").await;
    assert!(ended.is_err(), "the token has ended");
    let mut carol = stage.operator_of("carol").await.expect("a channel");
    let shown = carol
        .get_rollout(v1::GetRolloutRequest {
            rollout: rollout.id,
        })
        .await
        .expect("shown")
        .into_inner();
    let order = shown.rollout.expect("there").waves[0].orders[0].clone();
    assert_eq!(order.outcome(), v1::Outcome::Refused);
    assert_eq!(order.problem.expect("a reason").code, "operator-revoked");
    let again = operators::revoke(&stage.data, "alice", "").await;
    let again = again.expect("revoked");
    assert_eq!((again.orders, again.tokens), (0, 0), "once");
}

#[tokio::test]
async fn commands_beside_a_controller_and_the_controller_write_one_record() {
    let stage = Stage::new().await;
    let mut operator = stage.operator().await;
    let tokens = async {
        for _ in 0..20 {
            let asked = v1::CreateJoinTokenRequest::default();
            operator
                .clone()
                .create_join_token(asked)
                .await
                .expect("a token");
        }
    };
    let issued = async {
        for number in 0..20 {
            let issued = pki::Issued {
                name: "bob".into(),
                role: Role::Viewer,
                serial: format!("{number:032x}"),
                issued_ms: 1,
                not_after_ms: i64::MAX,
            };
            operators::note(&stage.data, &issued).await.expect("noted");
        }
    };
    tokio::join!(tokens, issued);
    let verified = operator.verify_record(v1::VerifyRecordRequest {}).await;
    let verified = verified.expect("an answer").into_inner();
    assert_eq!((verified.entries, verified.broken_at), (41, 0));
    assert_eq!(
        operators::list(&stage.data)
            .await
            .expect("listed")
            .certificates
            .len(),
        20
    );
}

#[tokio::test]
async fn a_folder_without_its_database_is_not_copied() {
    let mut stage = Stage::new().await;
    stage.stop().await;
    let copy = stage.folder.path().join("copy");
    let database = stage.data.join("controller.db");
    std::fs::remove_file(&database).expect("removed");
    for _ in 0..2 {
        let refused = backup::backup(&stage.data, &copy).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains("there is no database"), "{refused}");
        assert!(!copy.exists(), "nothing is left of it");
        std::fs::write(&database, b"").expect("emptied");
    }
}

#[tokio::test]
async fn a_cluster_that_has_lost_its_database_is_not_run_on_an_empty_one() {
    let mut stage = Stage::new().await;
    stage.stop().await;
    let database = stage.data.join("controller.db");
    std::fs::remove_file(&database).expect("removed");
    for there in [false, true] {
        let refused = run(stage.settings(), CancellationToken::new()).await;
        let error: &dyn std::error::Error = &refused.expect_err("refused");
        let said = format!("{error}: {}", error.source().expect("why"));
        assert!(said.contains("there is no database"), "{said}");
        assert!(said.contains("put a backup"), "{said}");
        assert_eq!(database.exists(), there, "nothing is made");
        std::fs::write(&database, b"").expect("emptied");
    }
}

#[tokio::test]
async fn a_start_that_comes_to_nothing_raises_no_epoch_and_is_not_in_the_record() {
    let mut stage = Stage::new().await;
    stage.stop().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for key in ["listen", "listen_enrolment", "listen_metrics"] {
        let mut settings = stage.settings();
        match key {
            "listen" => settings.listen.clone_from(&address),
            "listen_enrolment" => settings.listen_enrolment.clone_from(&address),
            _ => settings.listen_metrics.clone_from(&address),
        }
        let refused = run(settings, CancellationToken::new()).await;
        let said = refused.expect_err("refused").to_string();
        assert!(said.contains(key), "{said}");
    }
    stage.start().await;
    let mut operator = stage.operator().await;
    let status = operator.get_status(v1::GetStatusRequest {}).await;
    assert_eq!(status.expect("an answer").into_inner().epoch, 2);
    let verified = operator.verify_record(v1::VerifyRecordRequest {}).await;
    assert_eq!(verified.expect("an answer").into_inner().entries, 2);
}

#[tokio::test]
async fn a_copy_that_was_made_beside_a_running_controller_is_one_to_go_on_from() {
    let mut stage = Stage::new().await;
    let joined = stage.join("web-1").await;
    drop(known(&stage, &joined).await);
    let mut operator = stage.operator().await;
    mark(&mut operator, "1", v1::Mark::Bad)
        .await
        .expect("marked");
    let copy = stage.folder.path().join("copy");
    backup::backup(&stage.data, &copy).await.expect("copied");
    let over = backup::backup(&stage.data, &copy).await;
    assert!(
        matches!(over, Err(backup::BackupError::Exists { .. })),
        "{over:?}"
    );
    for (name, mode) in [
        ("", 0o700),
        ("controller.db", 0o600),
        ("pki", 0o700),
        ("pki/control-key.pem", 0o600),
    ] {
        use std::os::unix::fs::PermissionsExt as _;
        let found = std::fs::metadata(copy.join(name))
            .expect("copied")
            .permissions();
        assert_eq!(found.mode() & 0o777, mode, "{name:?}");
    }
    // What the copy does not know: hosts have seen more orders than it has made.
    mark(&mut operator, "1", v1::Mark::Unspecified)
        .await
        .expect("taken away");
    stage.stop().await;
    stage.data = copy;
    stage.start().await;
    let (_agent, epoch) = stage.agent_that_saw(&joined, 7).await;
    assert_eq!(epoch, 8, "above what the host has seen");
    let mut operator = stage.operator().await;
    assert_eq!(bad(&mut operator, "a").await.len(), 1, "as it was copied");
    let verified = operator.verify_record(v1::VerifyRecordRequest {}).await;
    assert_eq!(verified.expect("an answer").into_inner().broken_at, 0);
}
