//! An operator service that answers from a script.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures_util::{Stream, StreamExt as _, stream};
use sternway_proto::{
    fault::to_status,
    v1::{self, operator_service_server::OperatorService, order_event::Event, rollout_event},
};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

#[expect(clippy::struct_excessive_bools, reason = "each is one way to answer")]
pub(crate) struct Script {
    pub(crate) ends: v1::RolloutState,
    pub(crate) outcome: v1::Outcome,
    /// The first answers to StartRollback, RecordDeployment, RevokeHost and MarkRevision that are lost after it was done.
    pub(crate) lose_starts: usize,
    /// The first answers to StartRollback that say no, each time with this code.
    pub(crate) refuse_starts: (usize, &'static str),
    /// Why PlanRollback says that the agent is late; empty: it is not.
    pub(crate) agent_late: &'static str,
    /// The first streams that break off after two events.
    pub(crate) cut_watches: usize,
    /// The rollout never ends.
    pub(crate) hangs: bool,
    /// The plan has two steps; the second fails, and the first is undone.
    pub(crate) undoes: bool,
    /// Each event of a rollout waits for a permit. None: they come as fast as they can.
    pub(crate) pace: Option<Arc<Semaphore>>,
    /// The answer to StartRollback never comes.
    pub(crate) start_hangs: bool,
    pub(crate) blocker: bool,
    /// The host is offline; its order waits until that time, Unix milliseconds.
    pub(crate) offline_until_ms: i64,
    /// The labels of the host.
    pub(crate) labels: &'static [(&'static str, &'static str)],
    /// The state of the host.
    pub(crate) host_state: v1::HostState,
    /// Whether the host's target could be rolled back.
    pub(crate) ready: v1::ReadinessVerdict,
    /// The first entry of the record that does not fit; zero: none.
    pub(crate) broken_at: u64,
    /// The rollout that is at the host's target; empty: none.
    pub(crate) restoring: &'static str,
    /// The hosts that RevokeHost was asked to cut off.
    pub(crate) revoked: Mutex<Vec<String>>,
    /// The plans that StartRollback was asked to carry out.
    pub(crate) plans: Mutex<Vec<String>>,
    /// What MarkRevision was asked for.
    pub(crate) marked: Mutex<Vec<v1::MarkRevisionRequest>>,
    /// Answers say that parts of them are left out.
    pub(crate) thinned: bool,
    /// The request ids of StartRollback and of RecordDeployment.
    pub(crate) started: Mutex<Vec<String>>,
    pub(crate) watched: Mutex<usize>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            ends: v1::RolloutState::Succeeded,
            outcome: v1::Outcome::Restored,
            lose_starts: 0,
            refuse_starts: (0, ""),
            agent_late: "",
            cut_watches: 0,
            hangs: false,
            undoes: false,
            pace: None,
            start_hangs: false,
            blocker: false,
            offline_until_ms: 0,
            labels: &[],
            host_state: v1::HostState::Online,
            ready: v1::ReadinessVerdict::Ready,
            broken_at: 0,
            restoring: "",
            revoked: Mutex::default(),
            plans: Mutex::default(),
            marked: Mutex::default(),
            thinned: false,
            started: Mutex::default(),
            watched: Mutex::default(),
        }
    }
}

pub(crate) const ROLLOUT: &str = "0198a1b2-0000-7000-8000-000000000001";

/// The id of the only host, web-1.
pub(crate) const HOST_ID: &str = "0198a1b2-0000-7000-8000-00000000000a";

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Script {
    fn host(&self) -> v1::Host {
        let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        v1::Host {
            id: HOST_ID.into(),
            name: "web-1".into(),
            labels: self.labels.iter().map(label).collect(),
            state: self.host_state.into(),
            ..Default::default()
        }
    }

    fn target(&self) -> v1::HostTarget {
        let problem = v1::Problem::new("image-missing", "the image is gone", "push it again");
        let readiness = v1::Readiness {
            verdict: self.ready.into(),
            revision: "a".repeat(64),
            problems: match self.ready {
                v1::ReadinessVerdict::NotReady => vec![problem],
                _ => vec![],
            },
            ..Default::default()
        };
        let target = v1::Target {
            name: "docker/shop".into(),
            state: v1::TargetState::Running.into(),
            readiness: Some(readiness),
            active_rollout: self.restoring.into(),
            ..Default::default()
        };
        v1::HostTarget {
            host: Some(self.host()),
            target: Some(target),
        }
    }

    fn plan(&self) -> v1::Plan {
        let blocker = v1::Problem::new("image-missing", "the image is gone", "push it again");
        v1::Plan {
            target: "docker/shop".into(),
            from_revision: "b".repeat(64),
            from_number: 2,
            to_revision: "a".repeat(64),
            to_number: 1,
            swap: v1::Swap::Cold.into(),
            swap_reason: "a volume is writable".into(),
            steps: [
                ("docker.stop-old", "stop shop"),
                ("docker.start-new", "start shop"),
            ]
            .into_iter()
            .take(if self.undoes { 2 } else { 1 })
            .map(|(step, description)| v1::StepInfo {
                step: step.into(),
                description: description.into(),
            })
            .collect(),
            blockers: if self.blocker { vec![blocker] } else { vec![] },
            ..Default::default()
        }
    }

    fn rollout(&self, state: v1::RolloutState) -> v1::Rollout {
        v1::Rollout {
            id: ROLLOUT.into(),
            state: state.into(),
            waves: vec![v1::Wave {
                orders: vec![v1::RolloutOrder {
                    order_id: "o1".into(),
                    host_name: "web-1".into(),
                    target: "docker/shop".into(),
                    state: if self.offline_until_ms == 0 {
                        v1::OrderState::Sent.into()
                    } else {
                        v1::OrderState::Queued.into()
                    },
                    host_online: self.offline_until_ms == 0,
                    not_after_ms: self.offline_until_ms,
                    plan: Some(self.plan()),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        }
    }

    fn events(&self) -> Vec<v1::RolloutEvent> {
        let stored = |rollout| v1::RolloutEvent {
            event: Some(rollout_event::Event::Rollout(rollout)),
        };
        let order = |number, event| v1::RolloutEvent {
            event: Some(rollout_event::Event::OrderEvent(v1::OrderEvent {
                order_id: "o1".into(),
                number,
                at_ms: 1_000,
                event: Some(event),
            })),
        };
        let step_at = |index, state: v1::StepState| {
            Event::Step(v1::StepChanged {
                index,
                step: "docker.step".into(),
                state: state.into(),
                message: String::new(),
            })
        };
        let finished = v1::OrderFinished {
            outcome: self.outcome.into(),
            ..Default::default()
        };
        let step = |state| step_at(0, state);
        if self.undoes {
            let steps = [
                (0, v1::StepState::Started),
                (0, v1::StepState::Succeeded),
                (1, v1::StepState::Started),
                (1, v1::StepState::Failed),
                (1, v1::StepState::UndoStarted),
                (1, v1::StepState::Undone),
                (0, v1::StepState::UndoStarted),
                (0, v1::StepState::Undone),
            ];
            let steps = (1..).zip(steps);
            let mut events = vec![stored(self.rollout(v1::RolloutState::Running))];
            events
                .extend(steps.map(|(number, (index, state))| order(number, step_at(index, state))));
            events.push(order(9, Event::Finished(finished)));
            events.push(stored(self.rollout(self.ends)));
            return events;
        }
        vec![
            stored(self.rollout(v1::RolloutState::Running)),
            order(1, step(v1::StepState::Started)),
            order(2, step(v1::StepState::Succeeded)),
            order(3, Event::Finished(finished)),
            stored(self.rollout(self.ends)),
        ]
    }
}

fn unscripted<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the script"))
}

/// Calls that no test makes.
macro_rules! unscripted {
    ($($name:ident($message:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl OperatorService for Script {
            $(async fn $name(&self, _: Request<v1::$message>) -> Result<Response<v1::$answer>, Status> {
                unscripted()
            })*

            async fn list_hosts(
                &self,
                _: Request<v1::ListHostsRequest>,
            ) -> Result<Response<v1::ListHostsResponse>, Status> {
                Ok(Response::new(v1::ListHostsResponse {
                    hosts: vec![self.host()],
                    thinned: self.thinned,
                }))
            }

            async fn list_targets(
                &self,
                _: Request<v1::ListTargetsRequest>,
            ) -> Result<Response<v1::ListTargetsResponse>, Status> {
                let targets = vec![self.target()];
                Ok(Response::new(v1::ListTargetsResponse {
                    targets,
                    thinned: self.thinned,
                }))
            }

            async fn get_target(
                &self,
                _: Request<v1::GetTargetRequest>,
            ) -> Result<Response<v1::GetTargetResponse>, Status> {
                Ok(Response::new(v1::GetTargetResponse {
                    target: Some(self.target()),
                    thinned: self.thinned,
                    ..Default::default()
                }))
            }

            async fn mark_revision(
                &self,
                request: Request<v1::MarkRevisionRequest>,
            ) -> Result<Response<v1::MarkRevisionResponse>, Status> {
                let asked = request.into_inner();
                let revision = v1::Revision {
                    id: "a".repeat(64),
                    number: 1,
                    mark: asked.mark,
                    ..Default::default()
                };
                let answer = v1::MarkRevisionResponse {
                    revision: Some(revision),
                    host: asked.host.clone(),
                    target: "docker/shop".to_owned(),
                };
                let marked = {
                    let mut marked = self.marked.lock().expect("whole");
                    marked.push(asked);
                    marked.len()
                };
                if marked <= self.lose_starts {
                    return Err(Status::unavailable("connection reset"));
                }
                Ok(Response::new(answer))
            }

            async fn get_host(
                &self,
                request: Request<v1::GetHostRequest>,
            ) -> Result<Response<v1::GetHostResponse>, Status> {
                let mut host = self.host();
                match request.get_ref().host.as_str() {
                    "web-1" => {}
                    "web-0" => {
                        host.name = "web-0".into();
                        host.state = v1::HostState::Revoked.into();
                        host.labels.insert("env".into(), "production".into());
                    }
                    _ => {
                        let problem =
                            v1::Problem::new("host-unknown", "no host is named wbe-1", "did you mean web-1?");
                        return Err(to_status(Code::NotFound, problem));
                    }
                }
                Ok(Response::new(v1::GetHostResponse {
                    host: Some(host),
                    targets: self.target().target.into_iter().collect(),
                    thinned: self.thinned,
                }))
            }

            async fn revoke_host(
                &self,
                request: Request<v1::RevokeHostRequest>,
            ) -> Result<Response<v1::RevokeHostResponse>, Status> {
                let revoked = {
                    let mut revoked = self.revoked.lock().expect("whole");
                    revoked.push(request.into_inner().host);
                    revoked.len()
                };
                if revoked <= self.lose_starts {
                    return Err(Status::unavailable("connection reset"));
                }
                let host = Some(v1::Host {
                    state: v1::HostState::Revoked.into(),
                    ..self.host()
                });
                Ok(Response::new(v1::RevokeHostResponse { host }))
            }

            async fn diff_revisions(
                &self,
                request: Request<v1::DiffRevisionsRequest>,
            ) -> Result<Response<v1::DiffRevisionsResponse>, Status> {
                // What `previous` means moves on once that revision is marked.
                let marked = self.marked.lock().expect("whole").len();
                let id = if marked == 0 { "a" } else { "9" };
                let revision = (request.get_ref().after == "previous").then(|| v1::Revision {
                    id: id.repeat(64),
                    number: 1,
                    ..Default::default()
                });
                Ok(Response::new(v1::DiffRevisionsResponse {
                    after: revision,
                    ..Default::default()
                }))
            }

            async fn verify_record(
                &self,
                _: Request<v1::VerifyRecordRequest>,
            ) -> Result<Response<v1::VerifyRecordResponse>, Status> {
                let problem = v1::Problem::new("record-broken", "its hash does not fit", "keep it");
                Ok(Response::new(v1::VerifyRecordResponse {
                    entries: 9,
                    head_hash: "c".repeat(64),
                    problem: (self.broken_at > 0).then_some(problem),
                    broken_at: self.broken_at,
                }))
            }

            async fn create_join_token(
                &self,
                _: Request<v1::CreateJoinTokenRequest>,
            ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
                Ok(Response::new(v1::CreateJoinTokenResponse {
                    token: "swj1_token".into(),
                    expires_ms: 4_102_444_805_000,
                }))
            }

            async fn plan_rollback(
                &self,
                request: Request<v1::PlanRollbackRequest>,
            ) -> Result<Response<v1::PlanRollbackResponse>, Status> {
                if request.get_ref().host != "web-1" {
                    let problem =
                        v1::Problem::new("host-unknown", "no host is named wbe-1", "did you mean web-1?");
                    return Err(to_status(Code::NotFound, problem));
                }
                if !self.agent_late.is_empty() {
                    let problem = v1::Problem::new("agent-late", self.agent_late, "is it hanging?");
                    return Err(to_status(Code::DeadlineExceeded, problem));
                }
                Ok(Response::new(v1::PlanRollbackResponse {
                    plan_id: "plan".into(),
                    host: Some(self.host()),
                    plan: Some(self.plan()),
                    chosen_because: "newest known-good before #2".into(),
                    host_offline: false,
                }))
            }

            async fn start_rollback(
                &self,
                request: Request<v1::StartRollbackRequest>,
            ) -> Result<Response<v1::StartRollbackResponse>, Status> {
                let started = {
                    let mut started = self.started.lock().expect("whole");
                    let asked = request.into_inner();
                    self.plans.lock().expect("whole").push(asked.plan_id);
                    started.push(asked.request_id);
                    started.len()
                };
                if self.start_hangs {
                    std::future::pending::<()>().await;
                }
                if started <= self.lose_starts {
                    return Err(Status::unavailable("connection reset"));
                }
                let (refused, code) = self.refuse_starts;
                if started <= refused {
                    let problem = v1::Problem::new(code, "the database is full", "make room");
                    return Err(to_status(Code::Unavailable, problem));
                }
                let rollout = Some(self.rollout(v1::RolloutState::Running));
                Ok(Response::new(v1::StartRollbackResponse { rollout }))
            }

            async fn record_deployment(
                &self,
                request: Request<v1::RecordDeploymentRequest>,
            ) -> Result<Response<v1::RecordDeploymentResponse>, Status> {
                let asked = request.into_inner();
                let mut started = self.started.lock().expect("whole");
                started.push(asked.request_id);
                if started.len() <= self.lose_starts {
                    return Err(Status::unavailable("connection reset"));
                }
                let deployment = asked.deployment;
                Ok(Response::new(v1::RecordDeploymentResponse { deployment }))
            }

            type WatchRolloutStream = Boxed<v1::RolloutEvent>;
            async fn watch_rollout(
                &self,
                _: Request<v1::WatchRolloutRequest>,
            ) -> Result<Response<Self::WatchRolloutStream>, Status> {
                let mut watched = self.watched.lock().expect("whole");
                *watched += 1;
                // Nothing happens on a host that is away.
                let told = if self.offline_until_ms == 0 { usize::MAX } else { 1 };
                let events = stream::iter(self.events().into_iter().take(told).map(Ok));
                let pace = self.pace.clone();
                let events = events.then(move |event| {
                    let pace = pace.clone();
                    async move {
                        if let Some(pace) = pace {
                            pace.acquire().await.expect("open").forget();
                        }
                        event
                    }
                });
                Ok(Response::new(if self.hangs {
                    Box::pin(events.take(2).chain(stream::pending()))
                } else if *watched <= self.cut_watches {
                    let cut = stream::iter([Err(Status::unavailable("cut"))]);
                    Box::pin(events.take(2).chain(cut))
                } else {
                    Box::pin(events)
                }))
            }

            type ExportRecordStream = Boxed<v1::RecordEntry>;
            async fn export_record(
                &self,
                request: Request<v1::ExportRecordRequest>,
            ) -> Result<Response<Self::ExportRecordStream>, Status> {
                let entry = |number| Ok(v1::RecordEntry { number, ..Default::default() });
                let first = request.get_ref().from_number.max(1);
                Ok(Response::new(Box::pin(stream::iter((first..=100_000).map(entry)))))
            }
        }
    };
}

unscripted! {
    get_status(GetStatusRequest) -> GetStatusResponse;
    list_rollouts(ListRolloutsRequest) -> ListRolloutsResponse;
    get_rollout(GetRolloutRequest) -> GetRolloutResponse;
    check_deployment(CheckDeploymentRequest) -> CheckDeploymentResponse;
    list_record(ListRecordRequest) -> ListRecordResponse;
}
