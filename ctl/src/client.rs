//! The operator service as `ctl` calls it: every call has a deadline, and its failure is an error for a
//! person.

use std::{sync::Arc, time::Duration};

use sternway_proto::{
    channel::Revoked,
    fault, limits,
    v1::{self, operator_service_client::OperatorServiceClient},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use crate::error::{CtlError, is_lost, is_transient};

/// For an answer that the controller has itself.
const CALL: Duration = Duration::from_secs(15);

/// For an answer that needs an agent: it asks its engine, which may be slow.
const CALL_WITH_AGENT: Duration = Duration::from_secs(45);

/// For the verification of the whole record: it reads every entry.
const CALL_OVER_RECORD: Duration = Duration::from_mins(5);

/// How often a lost answer to a repeatable call is asked for again.
const ATTEMPTS: u32 = 4;

/// The longest pause between two attempts; they begin at a quarter second and double.
const PAUSE: Duration = Duration::from_secs(5);

/// A connection to the controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    service: OperatorServiceClient<Channel>,
    refused: Arc<Refused>,
}

/// What the controller said of our certificate while it refused it, and how there are new ones.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) said: Revoked,
    pub(crate) renew: String,
}

impl Refused {
    /// It as a problem, where there is one.
    pub(crate) fn problem(&self) -> Option<v1::Problem> {
        let (code, message) = if self.said.take() {
            ("operator-revoked", "your certificate was revoked")
        } else if self.said.take_expired() {
            (
                "certificate-expired",
                "to the controller your certificate has expired",
            )
        } else {
            return None;
        };
        Some(v1::Problem::new(code, message, self.renew.as_str()))
    }

    /// A failed call whose answer that was, and nothing that may pass by itself.
    fn explained(&self, status: Status) -> Status {
        let problem = is_lost(&status).then(|| self.problem()).flatten();
        match problem {
            Some(problem) => fault::to_status(Code::Unauthenticated, problem),
            None => status,
        }
    }
}

/// The pause before a further attempt; `attempt` counts from 1.
pub(crate) fn pause(attempt: u32) -> Duration {
    let doubled = Duration::from_millis(250).saturating_mul(1 << attempt.saturating_sub(1).min(10));
    doubled.min(PAUSE)
}

fn request<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// What is said about a call that changes something and is repeated.
struct Words {
    /// Why a repetition does no harm.
    safe: &'static str,
    /// What may have happened where no answer came.
    unknown: &'static str,
    /// How that is found out.
    next: &'static str,
}

/// Makes a call that may be repeated, because all repetitions have one request id or lead to one state: again where the
/// answer is lost, and where the controller says that it is busy. `note` hears of it.
async fn repeat<T>(
    doing: &str,
    words: &Words,
    call: impl AsyncFn() -> Result<T, Status>,
    mut note: impl FnMut(&str),
) -> Result<T, CtlError> {
    let (mut attempt, mut lost) = (1, false);
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        lost |= is_lost(&status);
        if !is_transient(&status) || attempt == ATTEMPTS {
            let error = CtlError::from_status(doing, &status);
            // Refused under the same request id: nothing stands under it.
            return Err(if lost && status.code() != Code::FailedPrecondition {
                error
                    .out_of_reach()
                    .because(format!("an answer was lost: {}", words.unknown))
                    .next(words.next)
            } else {
                error
            });
        }
        let why = if is_lost(&status) {
            "no answer from the controller"
        } else {
            "the controller cannot take it at this moment"
        };
        note(&format!("{why}, asking again ({})", words.safe));
        tokio::time::sleep(pause(attempt)).await;
        attempt += 1;
    }
}

/// A call that is made once.
macro_rules! call {
    ($(#[$doc:meta])* $name:ident($message:ident) -> $answer:ident, $limit:ident) => {
        $(#[$doc])*
        pub(crate) async fn $name(&self, doing: &str, message: v1::$message) -> Result<v1::$answer, CtlError> {
            let mut service = self.service.clone();
            self.within($limit, service.$name(request(message, $limit)))
                .await
                .map_err(|status| CtlError::from_status(doing, &status))
        }
    };
}

impl Client {
    /// A client on a channel that is connected, or connects when it is used.
    pub(crate) fn new(channel: Channel, refused: Refused) -> Self {
        let refused = Arc::new(refused);
        let service = OperatorServiceClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        Self { service, refused }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.refused.explained(status)),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "the controller did not answer within {} s",
                limit.as_secs()
            ))),
        }
    }

    call!(get_status(GetStatusRequest) -> GetStatusResponse, CALL);
    call!(list_hosts(ListHostsRequest) -> ListHostsResponse, CALL);
    call!(get_host(GetHostRequest) -> GetHostResponse, CALL);
    call!(create_join_token(CreateJoinTokenRequest) -> CreateJoinTokenResponse, CALL);
    call!(list_targets(ListTargetsRequest) -> ListTargetsResponse, CALL);
    call!(get_target(GetTargetRequest) -> GetTargetResponse, CALL);
    call!(diff_revisions(DiffRevisionsRequest) -> DiffRevisionsResponse, CALL);
    call!(plan_rollback(PlanRollbackRequest) -> PlanRollbackResponse, CALL_WITH_AGENT);
    call!(list_rollouts(ListRolloutsRequest) -> ListRolloutsResponse, CALL);
    call!(get_rollout(GetRolloutRequest) -> GetRolloutResponse, CALL);
    call!(check_deployment(CheckDeploymentRequest) -> CheckDeploymentResponse, CALL);
    call!(list_record(ListRecordRequest) -> ListRecordResponse, CALL);
    call!(verify_record(VerifyRecordRequest) -> VerifyRecordResponse, CALL_OVER_RECORD);

    /// Starts a rollback; repeated as [`repeat`] says, under the same request id, so that nothing is started twice.
    pub(crate) async fn start_rollback(
        &self,
        doing: &str,
        message: v1::StartRollbackRequest,
        note: impl FnMut(&str),
    ) -> Result<v1::StartRollbackResponse, CtlError> {
        let words = Words {
            safe: "this starts nothing twice",
            unknown: "the rollback may have been started",
            next: "see with `ctl rollout ls` whether it was",
        };
        let call = async || {
            let mut service = self.service.clone();
            self.within(CALL, service.start_rollback(request(message.clone(), CALL)))
                .await
        };
        repeat(doing, &words, call, note).await
    }

    /// Records a deployment; repeated as [`repeat`] says, under the same request id, so that nothing is recorded twice.
    pub(crate) async fn record_deployment(
        &self,
        doing: &str,
        message: v1::RecordDeploymentRequest,
        note: impl FnMut(&str),
    ) -> Result<v1::RecordDeploymentResponse, CtlError> {
        let words = Words {
            safe: "this records nothing twice",
            unknown: "the deployment may have been recorded",
            next: "see with `ctl record ls` whether it was",
        };
        let call = async || {
            let mut service = self.service.clone();
            self.within(
                CALL,
                service.record_deployment(request(message.clone(), CALL)),
            )
            .await
        };
        repeat(doing, &words, call, note).await
    }

    /// Cuts a host off, by its id; repeated as [`repeat`] says: a host that is revoked already stays so.
    pub(crate) async fn revoke_host(
        &self,
        doing: &str,
        message: v1::RevokeHostRequest,
        note: impl FnMut(&str),
    ) -> Result<v1::RevokeHostResponse, CtlError> {
        let words = Words {
            safe: "a host is revoked once, however often that is asked",
            unknown: "the host may be revoked",
            next: "see with `ctl host ls` whether it is",
        };
        let call = async || {
            let mut service = self.service.clone();
            self.within(CALL, service.revoke_host(request(message.clone(), CALL)))
                .await
        };
        repeat(doing, &words, call, note).await
    }

    /// Marks a revision that is named by what it does not lose by the mark: its id or number; repeated as [`repeat`]
    /// says: the same mark again is the same mark.
    pub(crate) async fn mark_revision(
        &self,
        doing: &str,
        message: v1::MarkRevisionRequest,
        note: impl FnMut(&str),
    ) -> Result<v1::MarkRevisionResponse, CtlError> {
        let words = Words {
            safe: "the same mark again changes nothing",
            unknown: "the revision may be marked",
            next: "see with `ctl history` whether it is",
        };
        let call = async || {
            let mut service = self.service.clone();
            self.within(CALL, service.mark_revision(request(message.clone(), CALL)))
                .await
        };
        repeat(doing, &words, call, note).await
    }

    /// Opens the stream of a rollout's events.
    ///
    /// # Errors
    /// The plain status: whoever follows decides whether to come back.
    pub(crate) async fn watch_rollout(
        &self,
        rollout: &str,
    ) -> Result<Streaming<v1::RolloutEvent>, Status> {
        let mut service = self.service.clone();
        let message = v1::WatchRolloutRequest {
            rollout: rollout.to_owned(),
        };
        self.within(CALL, service.watch_rollout(Request::new(message)))
            .await
    }

    /// Opens the stream of the record's entries.
    pub(crate) async fn export_record(
        &self,
        doing: &str,
        from_number: u64,
    ) -> Result<Streaming<v1::RecordEntry>, CtlError> {
        let mut service = self.service.clone();
        let message = v1::ExportRecordRequest { from_number };
        self.within(CALL, service.export_record(Request::new(message)))
            .await
            .map_err(|status| CtlError::from_status(doing, &status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        assert_eq!(pause(1), Duration::from_millis(250));
        assert_eq!(pause(3), Duration::from_secs(1));
        assert_eq!(pause(u32::MAX), PAUSE);
    }
}
