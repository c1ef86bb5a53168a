//! The agents' service: one bidirectional stream.

use std::sync::Arc;

use sternway_proto::v1::{AgentMessage, ControllerMessage, agent_service_server::AgentService};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{caller, fault};
use crate::{fleet::Fleet, select, store::SharedStore};

/// The agents' service.
pub struct Agents {
    pub store: SharedStore,
    pub fleet: Arc<Fleet>,
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let id = caller::host(request.extensions())?;
        let host = self.store.host_fetch(id).await.map_err(fault::store)?;
        let host =
            host.ok_or_else(|| fault::not_found(select::unknown_host(&id.to_string(), [])))?;
        if host.revoked_ms.is_some() {
            return Err(sternway_proto::fault::to_status(
                tonic::Code::PermissionDenied,
                fault::host_revoked(&host.name),
            ));
        }
        let outgoing = self.fleet.open(host, request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
