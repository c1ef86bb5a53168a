//! The fleet over a real store that fails for a while.

use std::collections::BTreeMap;

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use sternway_proto::{
    identity::{Identity, PeerCertificate, Role},
    order,
    v1::{
        ControllerMessage, controller_message::Message,
        operator_service_server::OperatorService as _, order_event,
    },
};
use tonic::Status;

use super::*;
use crate::listen::Peer;
use crate::rollout::order::{Ending, Phase};
use crate::rpc::operator;
use crate::store::{
    HostStore as _, MetaStore as _, RecordStore as _, RolloutStore as _, Sqlite, StartError,
    TargetStore as _,
    types::{NewMark, NewRollout, NewToken, Redeem, Rollout, StoredPlan},
};

const WAIT: Duration = Duration::from_mins(1);
const TARGET: &str = "docker/shop";

struct NoRenewal;

#[async_trait]
impl Renew for NoRenewal {
    async fn renew(
        &self,
        _: &Host,
        _: &[u8],
    ) -> Result<(v1::RenewedCertificate, Certified), v1::Problem> {
        Err(v1::Problem::default())
    }
}

/// A fleet of one host.
struct Stage {
    _folder: tempfile::TempDir,
    store: Arc<Sqlite>,
    fleet: Arc<Fleet>,
    host: Host,
    /// Another connection to the database, for what goes wrong in it.
    database: SqliteConnection,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Sqlite::new(folder.path()).await.expect("made"));
        let options = SqliteConnectOptions::new().filename(folder.path().join("controller.db"));
        let database = SqliteConnection::connect_with(&options).await;
        let token = NewToken {
            hash: [1; 32],
            host_name: "web-1".into(),
            labels: BTreeMap::new(),
            created_ms: now_ms(),
            created_by: "alice".into(),
            expires_ms: now_ms() + 1_000_000,
        };
        store.token_insert(&token).await.expect("a token");
        let redeem = Redeem {
            hash: token.hash,
            host_id: Uuid::from_u128(7),
            hostname: "web-1".into(),
            agent_version: String::new(),
            certificate: Certified {
                serial: "1".into(),
                not_after_ms: now_ms() + 1_000_000,
            },
            now_ms: now_ms(),
        };
        let timing = Timing {
            heartbeat: WAIT,
            plan: WAIT,
            lost: WAIT,
        };
        Self {
            host: store.token_redeem(&redeem).await.expect("a host"),
            fleet: Fleet::new(store.clone(), Arc::new(NoRenewal), timing, 1),
            store,
            database: database.expect("a second connection"),
            _folder: folder,
        }
    }

    async fn does(&mut self, statement: &'static str) {
        let done = sqlx::raw_sql(statement).execute(&mut self.database).await;
        done.expect("done");
    }

    /// What its host says of that target.
    fn saw(&self, target: v1::Target) -> Observation {
        Observation {
            host_id: self.host.id,
            host_name: self.host.name.clone(),
            at_ms: now_ms(),
            seen: crate::store::types::Seen::Target(Box::new(target)),
        }
    }

    /// A session of the host, and what it is sent.
    fn session(&self) -> (Arc<Session>, Outgoing) {
        let (session, receiver) = self.session_since(now_ms());
        session.greeted.store(true, Ordering::Release);
        (session, receiver)
    }

    /// One that began then, and of which the agent has not been told the marks.
    fn session_since(&self, began_ms: i64) -> (Arc<Session>, Outgoing) {
        let (sender, receiver) = mpsc::channel(8);
        let (id, name) = (self.host.id, self.host.name.clone());
        let session = Arc::new(Session::new(1, id, name, sender, began_ms));
        self.fleet.register(&session);
        (session, receiver)
    }

    /// How the only order of a rollout ended.
    async fn ending(&self, rollout: &Rollout) -> Ending {
        let found = self.store.rollout_fetch(rollout.id).await.expect("read");
        let phase = found.expect("there").orders.remove(0).progress.phase;
        let Phase::Finished(ending) = phase else {
            panic!("not finished: {phase:?}");
        };
        ending
    }

    async fn order(&self, deadline_ms: i64) -> Rollout {
        let new = self.planned(deadline_ms).await;
        self.store.rollout_start(&new).await.expect("started")
    }

    async fn planned(&self, deadline_ms: i64) -> NewRollout {
        let plan = StoredPlan {
            id: Uuid::new_v4(),
            host_id: self.host.id,
            made_for: "alice".into(),
            scope: v1::RestoreScope::Both,
            swap: v1::Swap::Unspecified,
            created_ms: now_ms(),
            expires_ms: now_ms() + 1_000_000,
            plan: v1::Plan {
                target: TARGET.into(),
                to_revision: "a".repeat(64),
                to_number: 3,
                ..v1::Plan::default()
            },
        };
        self.store.plan_insert(&plan).await.expect("a plan");
        NewRollout {
            id: Uuid::now_v7(),
            order_id: Uuid::now_v7(),
            request_id: Uuid::new_v4(),
            plan_id: plan.id,
            operator: "alice".into(),
            reason: String::new(),
            epoch: 1,
            now_ms: now_ms(),
            not_after_ms: now_ms() + deadline_ms,
        }
    }

    async fn mark(&self, mark: v1::Mark, reason: &str) {
        let new = NewMark {
            host_id: self.host.id,
            host_name: self.host.name.clone(),
            target: TARGET.into(),
            revision: "a".repeat(64),
            mark,
            reason: reason.into(),
            operator: "alice".into(),
            at_ms: now_ms(),
        };
        self.store.mark_set(&new).await.expect("marked");
    }
}

type Outgoing = mpsc::Receiver<Result<ControllerMessage, Status>>;

async fn next(outgoing: &mut Outgoing) -> Message {
    let sent = tokio::time::timeout(WAIT, outgoing.recv()).await;
    let sent = sent.expect("in time").expect("open").expect("a message");
    sent.message.expect("something")
}

/// What a store does that is full or busy at that moment.
const NOT_SENT: &str = "CREATE TRIGGER not_sent BEFORE UPDATE ON orders WHEN NEW.state = 2
     BEGIN SELECT RAISE(ABORT, 'not now'); END";

#[tokio::test]
async fn an_order_that_could_not_be_sent_when_it_was_made_is_sent_while_its_host_stays() {
    let mut stage = Stage::new().await;
    let (_session, mut outgoing) = stage.session();
    let rollout = stage.order(1_000_000).await;
    stage.does(NOT_SENT).await;
    let failed = stage.fleet.dispatch(stage.host.id).await;
    assert!(failed.is_err(), "{failed:?}");
    stage.does("DROP TRIGGER not_sent").await;
    stage.fleet.look(now_ms()).await;
    let sent = next(&mut outgoing).await;
    let Message::Order(sealed) = sent else {
        panic!("no order: {sent:?}");
    };
    assert_eq!(sealed, rollout.orders[0].sealed);
}

#[tokio::test]
async fn nothing_is_sent_to_an_agent_that_has_not_been_told_the_marks() {
    let stage = Stage::new().await;
    let (session, mut outgoing) = stage.session_since(now_ms());
    stage.order(1_000_000).await;
    for _ in 0..2 {
        stage.fleet.look(now_ms()).await;
        let sent = stage.fleet.dispatch(stage.host.id).await;
        sent.expect("nothing to do");
    }
    stage.fleet.push_marks(stage.host.id).await.expect("told");
    assert!(matches!(next(&mut outgoing).await, Message::Marks(_)));
    session.greeted.store(true, Ordering::Release);
    let sent = stage.fleet.dispatch(stage.host.id).await;
    sent.expect("sent");
    assert!(matches!(next(&mut outgoing).await, Message::Order(_)));
}

#[tokio::test]
async fn an_order_whose_revision_is_marked_bad_before_it_is_sent_is_refused() {
    let stage = Stage::new().await;
    let rollout = stage.order(1_000_000).await;
    stage.mark(v1::Mark::Bad, "500s").await;
    let mut watch = stage.fleet.watch(rollout.id, "alice").expect("a place");
    watch.seen();
    let (_session, mut outgoing) = stage.session();
    stage.fleet.dispatch(stage.host.id).await.expect("read");
    assert!(outgoing.try_recv().is_err(), "nothing is sent");
    let ending = stage.ending(&rollout).await;
    assert_eq!(ending.outcome, v1::Outcome::Refused);
    let problem = ending.problem.expect("a reason");
    assert_eq!(problem.code, "revision-bad");
    assert!(problem.message.contains("#3"), "{problem:?}");
    assert!(problem.message.contains("500s"), "{problem:?}");
    let told = tokio::time::timeout(WAIT, watch.changed()).await;
    told.expect("who watches hears");
}

#[tokio::test]
async fn the_end_of_an_order_that_nothing_is_known_of_is_noted_once_and_anothers_is_foreign() {
    let stage = Stage::new().await;
    let rollout = stage.order(1_000_000).await;
    let accepted = order_event::Event::Accepted(v1::OrderAccepted {});
    let finished = order_event::Event::Finished(v1::OrderFinished {
        outcome: v1::Outcome::Restored.into(),
        ..v1::OrderFinished::default()
    });
    let event = |order: Uuid, number, event: &order_event::Event| v1::OrderEvent {
        order_id: order.to_string(),
        number,
        at_ms: 1,
        event: Some(event.clone()),
    };
    let unknown = Uuid::from_u128(77);
    // From where it was acknowledged before the database was copied.
    let told = [event(unknown, 4, &accepted), event(unknown, 5, &finished)];
    for _ in 0..3 {
        let appended = stage
            .store
            .order_events_append(&stage.host, &told, now_ms())
            .await
            .expect("stored");
        assert_eq!(
            appended.stored,
            [v1::EventsStored {
                order_id: unknown.to_string(),
                up_to: 5,
            }]
        );
        assert_eq!((appended.foreign, appended.gap), (0, None));
    }
    let other = Host {
        id: Uuid::from_u128(8),
        ..stage.host.clone()
    };
    let told = [event(rollout.orders[0].id, 1, &accepted)];
    let appended = stage
        .store
        .order_events_append(&other, &told, now_ms())
        .await
        .expect("stored");
    assert_eq!((appended.foreign, appended.stored.len()), (1, 0));
    let entries = stage.store.record_list(0, 100).await.expect("listed");
    let noted: Vec<_> = entries
        .iter()
        .filter(|entry| entry.action == "order.unknown")
        .collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!(noted[0].subject, format!("order:{unknown}"));
    assert!(noted[0].body.contains("OUTCOME_RESTORED"), "{:?}", noted[0]);
}

#[tokio::test]
async fn an_order_that_was_never_sent_says_whether_its_host_was_there() {
    let stage = Stage::new().await;
    let now = now_ms();
    for (began_ms, said) in [
        (None, "not connected"),
        (Some(now), "not connected"),
        (Some(now - 60_000), "which is connected"),
    ] {
        let session = began_ms.map(|began_ms| stage.session_since(began_ms));
        let rollout = stage.order(-1000).await;
        stage.fleet.look(now_ms()).await;
        let ending = stage.ending(&rollout).await;
        assert_eq!(ending.outcome, v1::Outcome::Expired);
        let problem = ending.problem.expect("a reason");
        assert_eq!(problem.code, "order-expired");
        assert!(problem.message.contains(said), "{problem:?}");
        drop(session);
    }
}

#[tokio::test]
async fn marks_that_could_not_be_read_are_told_while_their_host_stays() {
    let mut stage = Stage::new().await;
    let (_session, mut outgoing) = stage.session();
    stage.mark(v1::Mark::Bad, "500s").await;
    stage.does("ALTER TABLE marks RENAME TO away").await;
    let failed = stage.fleet.push_marks(stage.host.id).await;
    assert!(failed.is_err(), "{failed:?}");
    stage.does("ALTER TABLE away RENAME TO marks").await;
    stage.fleet.look(now_ms()).await;
    let sent = next(&mut outgoing).await;
    let Message::Marks(told) = sent else {
        panic!("no marks: {sent:?}");
    };
    let reasons: Vec<&str> = told.marks.iter().map(|mark| mark.reason.as_str()).collect();
    assert_eq!(reasons, ["500s"]);
    // Told once.
    stage.fleet.look(now_ms()).await;
    stage.fleet.tasks.close();
    stage.fleet.tasks.wait().await;
    assert!(outgoing.try_recv().is_err());
}

#[tokio::test]
async fn whoever_waits_for_its_turn_to_tell_the_marks_reads_them_when_it_comes() {
    let stage = Stage::new().await;
    let (session, mut outgoing) = stage.session();
    let turn = session.marks.lock().await;
    let tells = (
        stage.fleet.push_marks(stage.host.id),
        stage.fleet.push_marks(stage.host.id),
    );
    let goes_on = async {
        stage.mark(v1::Mark::Bad, "500s").await;
        drop(turn);
    };
    let (one, other, ()) = tokio::join!(tells.0, tells.1, goes_on);
    one.and(other).expect("told");
    let Message::Marks(told) = next(&mut outgoing).await else {
        panic!("no marks");
    };
    assert_eq!(told.marks.len(), 1, "what stood when it was its turn");
    assert!(
        outgoing.try_recv().is_err(),
        "the second had nothing to add"
    );
}

#[tokio::test]
async fn a_plan_to_a_revision_that_was_marked_bad_meanwhile_is_not_started() {
    let stage = Stage::new().await;
    let new = stage.planned(1_000_000).await;
    stage.mark(v1::Mark::Bad, "500s").await;
    let refused = stage.store.rollout_start(&new).await;
    assert!(
        matches!(&refused, Err(StartError::RevisionBad { number: 3, reason, .. }) if reason == "500s"),
        "{refused:?}"
    );
    stage.mark(v1::Mark::Unspecified, "").await;
    stage.store.rollout_start(&new).await.expect("started");
}

#[tokio::test]
async fn a_plan_is_started_by_whom_it_was_made_for_and_by_nobody_else() {
    let stage = Stage::new().await;
    let new = stage.planned(1_000_000).await;
    let mallory = NewRollout {
        operator: "mallory".into(),
        ..new.clone()
    };
    let refused = stage.store.rollout_start(&mallory).await;
    assert!(
        matches!(&refused, Err(StartError::PlanNotYours { operator }) if operator == "alice"),
        "{refused:?}"
    );
    stage.store.rollout_start(&new).await.expect("started");
}

#[tokio::test]
async fn marks_whose_telling_was_given_up_half_way_are_told_while_their_host_stays() {
    let stage = Stage::new().await;
    let (session, mut outgoing) = stage.session();
    stage.mark(v1::Mark::Bad, "500s").await;
    // Its queue is full: whoever tells the marks waits for a place, and goes away.
    let reply = || Message::Heartbeat(v1::HeartbeatReply::default());
    for _ in 0..8 {
        assert!(session.send(reply()).await);
    }
    let told = stage.fleet.push_marks(stage.host.id);
    let gave_up = tokio::time::timeout(Duration::from_millis(200), told).await;
    assert!(gave_up.is_err(), "there was a place");
    for _ in 0..8 {
        next(&mut outgoing).await;
    }
    stage.fleet.look(now_ms()).await;
    let sent = tokio::time::timeout(Duration::from_secs(10), next(&mut outgoing)).await;
    let sent = sent.expect("told in the end");
    assert!(matches!(sent, Message::Marks(_)), "{sent:?}");
}

/// Counts the hosts that it is told are revoked.
#[derive(Default)]
struct Revoked(AtomicU64);

impl operator::Authority for Revoked {
    fn mint_token(&self) -> Result<(String, [u8; 32]), v1::Problem> {
        Err(v1::Problem::default())
    }

    fn revoke_host(&self, _: Uuid) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

fn by_alice<T>(message: T) -> tonic::Request<T> {
    let certificate = PeerCertificate {
        identity: Identity {
            cluster: Uuid::from_u128(1),
            role: Role::Admin,
            name: "alice".into(),
        },
        serial: String::new(),
        not_before_ms: 0,
        not_after_ms: i64::MAX,
    };
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(Peer {
        certificate: Some(Arc::new(certificate)),
        address: None,
        crowded: false,
    });
    request
}

#[tokio::test]
async fn what_a_caller_began_who_did_not_wait_for_it_is_done_with_all_that_follows() {
    let mut stage = Stage::new().await;
    let (session, mut outgoing) = stage.session();
    let rollout = stage.order(1_000_000).await;
    let revoked = Arc::new(Revoked::default());
    let service = operator::Operators {
        store: stage.store.clone(),
        fleet: Arc::clone(&stage.fleet),
        authority: revoked.clone(),
        lifetimes: operator::Lifetimes {
            plan: WAIT,
            token: WAIT,
            order: WAIT,
            order_at_most: WAIT,
        },
        verifying: Arc::new(tokio::sync::Semaphore::new(1)),
        stopping: tokio_util::sync::CancellationToken::new(),
    };
    let target = v1::Target {
        name: TARGET.into(),
        revisions: vec![v1::Revision {
            id: rollout.orders[0].plan.to_revision.clone(),
            number: 3,
            ..v1::Revision::default()
        }],
        ..v1::Target::default()
    };
    let seen = stage.saw(target);
    let stored = stage.store.observations_store(&[seen]).await;
    stored.expect("stored");
    // While the store waits for its turn, whoever called goes away.
    let soon = Duration::from_millis(300);
    stage.does("BEGIN IMMEDIATE").await;
    let mark = v1::MarkRevisionRequest {
        host: "web-1".into(),
        target: TARGET.into(),
        revision: "3".into(),
        mark: v1::Mark::Bad.into(),
        reason: "500s".into(),
    };
    let marked = service.mark_revision(by_alice(mark));
    assert!(tokio::time::timeout(soon, marked).await.is_err());
    stage.does("ROLLBACK").await;
    let sent = next(&mut outgoing).await;
    let Message::Marks(told) = sent else {
        panic!("no marks: {sent:?}");
    };
    assert_eq!(told.marks[0].reason, "500s");
    stage.does("BEGIN IMMEDIATE").await;
    let revoke = v1::RevokeHostRequest {
        host: "web-1".into(),
        reason: "stolen".into(),
    };
    let answered = service.revoke_host(by_alice(revoke));
    assert!(tokio::time::timeout(soon, answered).await.is_err());
    stage.does("ROLLBACK").await;
    let ended = tokio::time::timeout(WAIT, session.ended.cancelled()).await;
    ended.expect("the session ends");
    assert_eq!(session.why(), End::Revoked);
    assert_eq!(stage.ending(&rollout).await.outcome, v1::Outcome::Refused);
    let told = async {
        while revoked.0.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(WAIT, told).await;
    told.expect("the authority refuses it");
}

#[tokio::test]
async fn an_order_that_waited_while_the_epoch_rose_is_sent_with_the_epoch_of_now() {
    let stage = Stage::new().await;
    let rollout = stage.order(1_000_000).await;
    let before = order::parse(&rollout.orders[0].sealed).expect("sealed");
    // Its host has seen an epoch that this controller had not: of a copy that is older than what it has done.
    let epoch = stage.store.epoch_jump(40, "web-1", now_ms()).await;
    assert_eq!(epoch.expect("jumped"), 41);
    let (session, mut outgoing) = stage.session();
    let mut sent = Vec::new();
    for _ in 0..2 {
        session.sent.lock().await.clear();
        stage.fleet.dispatch(stage.host.id).await.expect("sent");
        let Message::Order(sealed) = next(&mut outgoing).await else {
            panic!("no order");
        };
        sent.push(sealed);
        // What was sent once is what it is.
        let epoch = stage.store.epoch_raise(now_ms()).await;
        epoch.expect("raised");
    }
    assert_eq!(sent[0], sent[1]);
    let sent = order::parse(&sent[0]).expect("sealed");
    let wanted = v1::Order {
        epoch: 41,
        ..before.order().clone()
    };
    assert_eq!(*sent.order(), wanted);
    let entries = stage.store.record_list(0, 100).await.expect("listed");
    let noted = entries.iter().filter(|one| one.action == "order.resealed");
    assert_eq!(noted.count(), 1);
}

#[tokio::test]
async fn the_end_of_an_order_waits_until_what_its_host_said_before_is_stored() {
    let mut stage = Stage::new().await;
    let says = |stage: &Stage| {
        let seen = stage.saw(v1::Target {
            name: TARGET.into(),
            ..v1::Target::default()
        });
        let fleet = Arc::clone(&stage.fleet);
        async move { fleet.observe(seen).await }
    };
    stage.does("BEGIN IMMEDIATE").await;
    says(&stage).await;
    let soon = Duration::from_millis(300);
    let waits = tokio::time::timeout(soon, stage.fleet.observed()).await;
    assert!(waits.is_err(), "nothing is stored yet");
    stage.does("ROLLBACK").await;
    let stored = tokio::time::timeout(WAIT, stage.fleet.observed()).await;
    stored.expect("it goes on");
    let host = Some(stage.host.id);
    let targets = stage.store.target_list(host).await.expect("read");
    assert_eq!(targets.len(), 1);
    // And not for ever.
    stage.does("BEGIN IMMEDIATE").await;
    says(&stage).await;
    let given_up = tokio::time::timeout(WAIT, stage.fleet.observed()).await;
    given_up.expect("it goes on");
    stage.does("ROLLBACK").await;
}
