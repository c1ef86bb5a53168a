//! A scripted agent that does its duty: it carries out each order once, and tells each event until it is acknowledged,
//! and never again, however often its controller dies. What was acknowledged and then lost, it cannot mend.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sternway_proto::{
    order,
    v1::{
        self, Outcome, agent_message::Message as Up, controller_message::Message as Down,
        order_event::Event,
    },
};
use tokio::{task::JoinHandle, time::sleep};

use crate::scripted::{
    self, Host, Session, TARGET, accepted, order_event, passed, revision_id, target,
};

/// Before it dials again.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent of a host with one target; it ends with its owner.
#[derive(Debug)]
pub struct Agent {
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

/// What a host keeps on its disk: it outlives every session.
#[derive(Debug)]
struct Kept {
    /// The number of the revision that runs.
    running: u32,
    orders: Vec<Order>,
    /// How its orders end.
    outcome: Outcome,
}

#[derive(Debug)]
struct Order {
    id: String,
    events: Vec<Event>,
    /// The last event that the controller has acknowledged.
    stored: u64,
}

impl Agent {
    /// On a host where #2 runs, and every order ends so: restored, or undone.
    pub fn start(host: Host, outcome: Outcome) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            running: 2,
            orders: Vec::new(),
            outcome,
        }));
        let task = tokio::spawn(run(host, Arc::clone(&kept)));
        Self { kept, task }
    }

    /// The number of the revision that runs.
    pub fn running(&self) -> u32 {
        lock(&self.kept).running
    }

    /// The ids of the orders that it has carried out, each once, the oldest first.
    pub fn carried_out(&self) -> Vec<String> {
        let kept = lock(&self.kept);
        kept.orders.iter().map(|order| order.id.clone()).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().expect("nobody panics with it")
}

/// Of the two revisions that there are.
pub fn other(revision: u32) -> u32 {
    3 - revision
}

async fn run(host: Host, kept: Arc<Mutex<Kept>>) {
    loop {
        if let Ok(session) = host.try_session().await {
            serve(session, &kept).await;
        }
        sleep(PAUSE).await;
    }
}

async fn serve(mut session: Session, kept: &Mutex<Kept>) {
    let targets = vec![lock(kept).target()];
    session.say(Up::Inventory(v1::Inventory { targets })).await;
    tell(&session, kept).await;
    while let Ok(message) = session.next().await {
        match message {
            Down::Plan(request) => {
                let reply = lock(kept).plan(&request);
                session.say(Up::PlanReply(reply)).await;
            }
            Down::Order(sealed) => {
                lock(kept).carry_out(&sealed);
                tell(&session, kept).await;
                let target = lock(kept).target();
                session.say(Up::Target(target)).await;
            }
            Down::EventsStored(stored) => lock(kept).acknowledged(&stored),
            _ => {}
        }
    }
}

async fn tell(session: &Session, kept: &Mutex<Kept>) {
    let events = lock(kept).untold();
    for event in events {
        session.say(Up::OrderEvent(event)).await;
    }
}

impl Kept {
    fn target(&self) -> v1::Target {
        v1::Target {
            current_revision: revision_id(self.running),
            ..target(TARGET)
        }
    }

    fn plan(&self, request: &v1::PlanRequest) -> v1::PlanReply {
        let mut reply = scripted::plan(request);
        if let Some(v1::plan_reply::Result::Plan(plan)) = &mut reply.result {
            plan.from_number = self.running;
            plan.from_revision = revision_id(self.running);
            plan.to_number = other(self.running);
        }
        reply
    }

    fn carry_out(&mut self, sealed: &v1::SealedOrder) {
        let order = order::parse(sealed).expect("a good order");
        let id = order.id().to_string();
        if self.orders.iter().any(|order| order.id == id) {
            return;
        }
        if self.outcome == Outcome::Restored {
            self.running = other(self.running);
            let running = revision_id(self.running);
            assert_eq!(order.revision().to_string(), running, "it is planned so");
        }
        let finished = v1::OrderFinished {
            outcome: self.outcome.into(),
            running_revision: revision_id(self.running),
            ..v1::OrderFinished::default()
        };
        self.orders.push(Order {
            id,
            events: vec![accepted(), passed(), Event::Finished(finished)],
            stored: 0,
        });
    }

    fn acknowledged(&mut self, stored: &v1::EventsStored) {
        for order in &mut self.orders {
            if order.id == stored.order_id {
                order.stored = order.stored.max(stored.up_to);
            }
        }
    }

    /// Every event that is not acknowledged.
    fn untold(&self) -> Vec<v1::OrderEvent> {
        let mut events = Vec::new();
        for order in &self.orders {
            for (number, event) in (1..).zip(&order.events) {
                if number > order.stored {
                    events.push(order_event(&order.id, number, event.clone()));
                }
            }
        }
        events
    }
}
