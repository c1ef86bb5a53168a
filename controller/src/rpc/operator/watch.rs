//! Following a rollout: what is stored, then what is new, without loss or repetition. A notification
//! only says that something changed; what changed is read from the store.

use std::{collections::HashMap, time::Duration};

use sternway_proto::v1::{self, RolloutState, rollout_event::Event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::{Operators, STREAM, Streamed, rollouts};
use crate::{
    fleet::watch::{PER_WATCHER, Watch},
    rpc::{caller::Caller, convert, fault},
    store::types::Rollout,
};

/// The store is read again after this long without a change: whether a host is online is no change of
/// the rollout.
const AGAIN: Duration = Duration::from_secs(5);

pub(super) async fn watch(
    service: &Operators,
    caller: &Caller,
    request: &v1::WatchRolloutRequest,
) -> Result<Streamed<v1::RolloutEvent>, Status> {
    let id = rollouts::find(service, &request.rollout).await?.id;
    // Before the first read: whatever is committed after that read is announced.
    let changes = service
        .fleet
        .watch(id, &caller.name)
        .ok_or_else(|| too_many(&caller.name))?;
    let (sender, receiver) = mpsc::channel(STREAM);
    let service = service.clone();
    tokio::spawn(async move {
        let mut watching = Watching {
            service,
            sender,
            last: None,
            events: HashMap::new(),
        };
        if let Err(status) = watching.run(id, changes).await {
            drop(watching.sender.send(Err(status)).await);
        }
    });
    Ok(ReceiverStream::new(receiver))
}

struct Watching {
    service: Operators,
    sender: mpsc::Sender<Result<v1::RolloutEvent, Status>>,
    /// The rollout as it was sent last.
    last: Option<v1::Rollout>,
    /// By order: the number of the event that was sent last.
    events: HashMap<Uuid, u64>,
}

impl Watching {
    async fn run(&mut self, id: Uuid, mut changes: Watch) -> Result<(), Status> {
        loop {
            changes.seen();
            let read = self.service.store.rollout_fetch(id).await;
            let Some(rollout) = read.map_err(fault::store)? else {
                return Ok(());
            };
            let over = rollout.state != RolloutState::Running;
            let first = self.last.is_none();
            // A rollout that is over is told after the events that led there.
            if (first || !over) && !self.tell(&rollout, first).await {
                return Ok(());
            }
            if !self.tell_events(&rollout).await? {
                return Ok(());
            }
            if over {
                self.tell(&rollout, true).await;
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.sender.closed() => return Ok(()),
                () = self.service.stopping.cancelled() => return Err(stopping(id)),
                _ = tokio::time::timeout(AGAIN, changes.changed()) => {},
            }
        }
    }

    /// Sends the rollout if it is news. False: nobody listens any more.
    async fn tell(&mut self, rollout: &Rollout, always: bool) -> bool {
        let rollout = convert::rollout(rollout, &self.service.fleet);
        if !always && self.last.as_ref() == Some(&rollout) {
            return true;
        }
        self.last = Some(rollout.clone());
        self.send(Event::Rollout(rollout)).await
    }

    async fn tell_events(&mut self, rollout: &Rollout) -> Result<bool, Status> {
        for order in &rollout.orders {
            loop {
                let after = self.events.get(&order.id).copied().unwrap_or_default();
                let page = self.service.store.order_event_list(order.id, after).await;
                let page = page.map_err(fault::store)?;
                if page.is_empty() {
                    break;
                }
                for event in page {
                    self.events.insert(order.id, event.number);
                    if !self.send(Event::OrderEvent(event)).await {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    async fn send(&self, event: Event) -> bool {
        let event = v1::RolloutEvent { event: Some(event) };
        self.sender.send(Ok(event)).await.is_ok()
    }
}

fn too_many(name: &str) -> Status {
    sternway_proto::fault::to_status(
        tonic::Code::ResourceExhausted,
        v1::Problem::new(
            "too-many-watches",
            format!("{name} watches {PER_WATCHER} rollouts at the same time already"),
            "end some of them first",
        ),
    )
}

fn stopping(id: Uuid) -> Status {
    sternway_proto::fault::to_status(
        tonic::Code::Unavailable,
        v1::Problem::new(
            "controller-stopping",
            "the controller is stopping; the rollout goes on",
            format!("`ctl rollout watch {id}` when it is back"),
        ),
    )
}
