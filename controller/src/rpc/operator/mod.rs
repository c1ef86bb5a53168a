//! The operators' service, one file a noun.

mod deployments;
mod earlier;
mod fit;
mod hosts;
mod migrations;
mod plan;
mod record;
mod rollouts;
mod targets;
mod watch;

use std::{sync::Arc, time::Duration};

use sternway_proto::{
    limits,
    name::clean_text,
    v1::{self, operator_service_server::OperatorService},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{caller, fault};
use crate::{clock::now_ms, fleet::Fleet, store::SharedStore};

/// What the operators' service needs of the certificate authority and the listeners.
pub trait Authority: Send + Sync + 'static {
    /// A new join token: the text for the person, and the SHA-256 of its secret.
    ///
    /// # Errors
    /// No randomness, or no authority to pin: a reason for the person.
    fn mint_token(&self) -> Result<(String, [u8; 32]), v1::Problem>;

    /// Refuses the host's certificates from now on, and cuts its connections in a moment. Does not wait.
    fn revoke_host(&self, host: Uuid);
}

/// How long things may last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    pub plan: Duration,
    pub token: Duration,
    /// How long an order waits for its host where the operator says nothing, and at most.
    pub order: Duration,
    pub order_at_most: Duration,
}

/// The operators' service.
#[derive(Clone)]
pub struct Operators {
    pub store: SharedStore,
    pub fleet: Arc<Fleet>,
    pub authority: Arc<dyn Authority>,
    pub lifetimes: Lifetimes,
    /// One turn: whoever follows the whole record has it.
    pub verifying: Arc<tokio::sync::Semaphore>,
    /// Ends the streams when the controller stops.
    pub stopping: tokio_util::sync::CancellationToken,
}

/// Texts of people are refused where they are too long, rather than cut without a word.
fn text(what: &str, text: &str) -> Result<String, Status> {
    if text.len() > limits::TEXT_BYTES {
        return Err(fault::invalid(
            "text-too-long",
            format!("{what} is longer than {} bytes", limits::TEXT_BYTES),
            "say it in fewer words",
        ));
    }
    Ok(clean_text(text))
}

/// Does what changes something to its end, with what must follow. In a task of its own: whoever called may be gone
/// before the store answers, and nobody does by halves what stands.
async fn to_its_end<T: Send + 'static>(
    doing: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(doing).await {
        Ok(done) => done,
        // Asked again, it finds what stands.
        Err(_) => Err(Status::internal("what was asked for ended by itself")),
    }
}

/// Items that may wait for a slow reader of a stream.
const STREAM: usize = 64;

type Streamed<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl OperatorService for Operators {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        let cluster = self.store.cluster_fetch().await.map_err(fault::store)?;
        Ok(Response::new(v1::GetStatusResponse {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: cluster.unwrap_or_default(),
            epoch: self.fleet.epoch(),
            caller_name: caller.name,
            caller_role: caller.role.to_string(),
            clock_ms: now_ms(),
        }))
    }

    async fn list_hosts(
        &self,
        _: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        hosts::list(self).await.map(Response::new)
    }

    async fn get_host(
        &self,
        request: Request<v1::GetHostRequest>,
    ) -> Result<Response<v1::GetHostResponse>, Status> {
        hosts::get(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        hosts::token(self, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn revoke_host(
        &self,
        request: Request<v1::RevokeHostRequest>,
    ) -> Result<Response<v1::RevokeHostResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        hosts::revoke(self, &caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_targets(
        &self,
        request: Request<v1::ListTargetsRequest>,
    ) -> Result<Response<v1::ListTargetsResponse>, Status> {
        targets::list(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_target(
        &self,
        request: Request<v1::GetTargetRequest>,
    ) -> Result<Response<v1::GetTargetResponse>, Status> {
        targets::get(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn diff_revisions(
        &self,
        request: Request<v1::DiffRevisionsRequest>,
    ) -> Result<Response<v1::DiffRevisionsResponse>, Status> {
        targets::diff(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn mark_revision(
        &self,
        request: Request<v1::MarkRevisionRequest>,
    ) -> Result<Response<v1::MarkRevisionResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        targets::mark(self, &caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn plan_rollback(
        &self,
        request: Request<v1::PlanRollbackRequest>,
    ) -> Result<Response<v1::PlanRollbackResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        plan::plan(self, &caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn start_rollback(
        &self,
        request: Request<v1::StartRollbackRequest>,
    ) -> Result<Response<v1::StartRollbackResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        rollouts::start(self, &caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        rollouts::list(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_rollout(
        &self,
        request: Request<v1::GetRolloutRequest>,
    ) -> Result<Response<v1::GetRolloutResponse>, Status> {
        rollouts::get(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    type WatchRolloutStream = Streamed<v1::RolloutEvent>;

    async fn watch_rollout(
        &self,
        request: Request<v1::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let caller = caller::of(request.extensions())?;
        watch::watch(self, &caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn record_deployment(
        &self,
        request: Request<v1::RecordDeploymentRequest>,
    ) -> Result<Response<v1::RecordDeploymentResponse>, Status> {
        let caller = caller::of(request.extensions())?;
        deployments::record(self, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn check_deployment(
        &self,
        request: Request<v1::CheckDeploymentRequest>,
    ) -> Result<Response<v1::CheckDeploymentResponse>, Status> {
        deployments::check(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_record(
        &self,
        request: Request<v1::ListRecordRequest>,
    ) -> Result<Response<v1::ListRecordResponse>, Status> {
        record::list(self, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn verify_record(
        &self,
        _: Request<v1::VerifyRecordRequest>,
    ) -> Result<Response<v1::VerifyRecordResponse>, Status> {
        record::verify(&self.store, &self.verifying)
            .await
            .map(Response::new)
    }

    type ExportRecordStream = Streamed<v1::RecordEntry>;

    async fn export_record(
        &self,
        request: Request<v1::ExportRecordRequest>,
    ) -> Result<Response<Self::ExportRecordStream>, Status> {
        Ok(Response::new(record::export(self, request.into_inner())))
    }
}
