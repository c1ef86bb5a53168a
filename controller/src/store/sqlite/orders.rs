//! Orders and their events.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use prost::Message as _;
use serde_json::json;
use sqlx::SqliteConnection;
use sternway_proto::{
    limits, order,
    v1::{self, order_event::Event},
};
use uuid::Uuid;

use super::{
    Sqlite, Tx,
    budget::{Budget, Room},
    decode,
    log::append,
    meta, rollouts,
    row::row,
    signed, small,
    targets::limited,
    unsigned, uuid,
};
use crate::{
    record::{Actor, Draft},
    rollout::order::{Applied, Ending, Input, Lost, Phase, Progress, Unsent, apply},
    store::{
        RolloutStore, StartError, StoreError,
        types::{
            Appended, DueOrder, Effects, EndedOrder, Host, LastOrder, NewRollout, Order, Rollout,
            Sending, SentOrder, StoredPlan,
        },
    },
};

pub(super) const FINISHED: i64 = v1::OrderState::Finished as i64;

/// Events of one order that are kept, and their size in bytes: two of the largest messages. A restore writes some
/// fifty small ones; one that writes more than this is not honest.
const EVENTS_PER_ORDER: u64 = 5000;
const EVENT_BYTES_PER_ORDER: u64 = 2 * limits::MESSAGE_BYTES as u64;

// Queries that are asked all the time. `state <> 4` stands in each of them, also where it follows from the
// rest: without it SQLite does not use the partial indexes; `+` and `INDEXED BY` keep it from walking a host's
// whole past. A test holds them against the planner.

/// Open orders of a host whose wave has begun.
pub(super) const ORDERS_OPEN: &str =
    "SELECT o.* FROM orders o INDEXED BY orders_one_active JOIN rollouts r ON r.id = o.rollout_id
     WHERE o.host_id = $1 AND o.state <> 4 AND o.wave <= r.wave ORDER BY +o.sequence";

/// Orders of a host that were given up as lost. Sent again, they bring the truth: the agent tells what became of
/// them, or refuses them as expired.
pub(super) const ORDERS_LOST: &str =
    "SELECT * FROM orders WHERE host_id = $1 AND lost = 1 ORDER BY +sequence";

/// Orders that end with their host.
pub(super) const ORDERS_OF_REVOKED: &str =
    "SELECT id FROM orders INDEXED BY orders_one_active WHERE host_id = $1 AND state <> 4";

/// Orders of an operator's rollouts that were never sent.
pub(super) const ORDERS_OF_OPERATOR: &str =
    "SELECT o.id FROM orders o JOIN rollouts r ON r.id = o.rollout_id
     WHERE o.state = 1 AND o.state <> 4 AND r.operator = $1";

/// Orders that were never sent and whose deadline has passed.
pub(super) const ORDERS_DUE: &str = "SELECT id, host_id, not_after_ms FROM orders WHERE state = 1 AND state <> 4 AND not_after_ms <= $1 LIMIT 500";

/// Orders that were sent, with their hosts, where both the deadline and the last sign of the host are older than
/// that.
pub(super) const ORDERS_OVERDUE: &str = "SELECT o.id, o.host_id FROM orders o
     JOIN hosts h ON h.id = o.host_id
     WHERE o.state IN (2, 3) AND o.state <> 4 AND o.not_after_ms <= $1 AND h.last_seen_ms <= $1
     LIMIT 500";

/// Orders that were sent and are not finished.
pub(super) const ORDERS_SENT: &str =
    "SELECT id, rollout_id, host_id, target, last_event, not_after_ms FROM orders
     WHERE state IN (2, 3) AND state <> 4";

/// Restores of a target that were begun and did not succeed, newest first.
pub(super) const ORDERS_FAILED: &str =
    "SELECT rollout_id, outcome, problem, finished_ms, plan FROM orders
     WHERE host_id = $1 AND target = $2 AND state = 4 AND outcome IN (3, 6)
     ORDER BY sequence DESC LIMIT 100";

/// When each revision of a target was last restored, or found to pass its checks.
pub(super) const ORDERS_PASSED: &str = "SELECT running_revision, MAX(finished_ms) FROM orders
     WHERE host_id = $1 AND target = $2 AND state = 4 AND outcome IN (1, 2)
     GROUP BY running_revision";

/// The finished orders of a target among the newest of its host, newest first. Bounded, however long the past of a host.
pub(super) const ORDERS_ENDED: &str =
    "SELECT rollout_id, outcome, running_revision, finished_ms, plan FROM orders
     WHERE host_id = $1 AND sequence > (SELECT MAX(sequence) FROM orders WHERE host_id = $1) - 200
         AND target = $2 AND state = 4
     ORDER BY sequence DESC";

/// The newest of them, with the target as its host told it last.
pub(super) const ORDER_LAST: &str =
    "SELECT o.running_revision, o.finished_ms, t.updated_ms, t.body FROM orders o
         JOIN targets t ON t.host_id = o.host_id AND t.name = o.target
     WHERE o.host_id = $1 AND o.sequence > (SELECT MAX(sequence) FROM orders WHERE host_id = $1) - 200
         AND o.target = $2 AND o.state = 4
     ORDER BY o.sequence DESC LIMIT 1";

/// Events answered at once.
const EVENT_PAGE: i64 = 500;

row! {
    struct OrderRow {
        id: String,
        rollout_id: String,
        wave: i64,
        host_id: String,
        host_name: String,
        target: String,
        sequence: i64,
        state: i64,
        outcome: i64,
        problem: Option<Vec<u8>>,
        running_revision: String,
        last_event: i64,
        proven: i64,
        lost: i64,
        sent_ms: i64,
        not_after_ms: i64,
        plan: Vec<u8>,
        sealed: Vec<u8>,
    }
}

pub(super) fn outcome(number: i64) -> v1::Outcome {
    i32::try_from(number)
        .ok()
        .and_then(|number| v1::Outcome::try_from(number).ok())
        .unwrap_or(v1::Outcome::Unspecified)
}

impl TryFrom<OrderRow> for Order {
    type Error = StoreError;

    fn try_from(row: OrderRow) -> Result<Self, StoreError> {
        let state = i32::try_from(row.state)
            .ok()
            .and_then(|number| v1::OrderState::try_from(number).ok());
        let phase = match state {
            Some(v1::OrderState::Queued) => Phase::Queued,
            Some(v1::OrderState::Sent) => Phase::Sent,
            Some(v1::OrderState::Accepted) => Phase::Accepted,
            Some(v1::OrderState::Finished) => Phase::Finished(Ending {
                outcome: outcome(row.outcome),
                problem: row
                    .problem
                    .map(|bytes| decode(&bytes, "a problem"))
                    .transpose()?,
                running_revision: row.running_revision,
            }),
            Some(v1::OrderState::Unspecified) | None => {
                return Err(StoreError::Corrupt {
                    what: "an order's state",
                });
            }
        };
        Ok(Self {
            id: uuid(&row.id, "an order's id")?,
            rollout_id: uuid(&row.rollout_id, "a rollout's id")?,
            wave: small(row.wave),
            host_id: uuid(&row.host_id, "a host's id")?,
            host_name: row.host_name,
            target: row.target,
            sequence: unsigned(row.sequence),
            progress: Progress {
                phase,
                last_event: unsigned(row.last_event),
                proven: row.proven != 0,
                lost: row.lost != 0,
            },
            sent_ms: row.sent_ms,
            not_after_ms: row.not_after_ms,
            plan: decode(&row.plan, "a plan")?,
            sealed: v1::SealedOrder { order: row.sealed },
        })
    }
}

fn all(rows: Vec<OrderRow>) -> Result<Vec<Order>, StoreError> {
    rows.into_iter().map(Order::try_from).collect()
}

fn with_hosts(rows: &[(String, String)]) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    rows.iter()
        .map(|(order, host)| Ok((uuid(order, "an order's id")?, uuid(host, "a host's id")?)))
        .collect()
}

pub(super) async fn fetch(tx: &mut Tx<'_>, id: Uuid) -> Result<Option<Order>, StoreError> {
    let row: Option<OrderRow> = sqlx::query_as("SELECT * FROM orders WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.map(Order::try_from).transpose()
}

pub(super) async fn of_rollout(
    connection: &mut SqliteConnection,
    id: Uuid,
) -> Result<Vec<Order>, StoreError> {
    all(sqlx::query_as(
        "SELECT * FROM orders WHERE rollout_id = $1 ORDER BY wave, host_name, target",
    )
    .bind(id.to_string())
    .fetch_all(connection)
    .await?)
}

/// Why the revision that a plan leads to is marked bad, in the words of whoever marked it. None: it is not.
pub(super) async fn bad(
    tx: &mut Tx<'_>,
    host: Uuid,
    plan: &v1::Plan,
) -> Result<Option<String>, sqlx::Error> {
    // 2 is MARK_BAD.
    sqlx::query_scalar(
        "SELECT reason FROM marks WHERE host_id = $1 AND target = $2 AND revision = $3 AND mark = 2",
    )
    .bind(host.to_string())
    .bind(&plan.target)
    .bind(&plan.to_revision)
    .fetch_optional(&mut **tx)
    .await
}

/// Orders that wait in the waves behind this one.
pub(super) async fn held_after(
    tx: &mut Tx<'_>,
    rollout: Uuid,
    wave: usize,
) -> Result<Vec<Order>, StoreError> {
    all(
        sqlx::query_as("SELECT * FROM orders WHERE rollout_id = $1 AND wave > $2 AND state <> 4")
            .bind(rollout.to_string())
            .bind(i64::try_from(wave).unwrap_or(i64::MAX))
            .fetch_all(&mut **tx)
            .await?,
    )
}

pub(super) async fn hosts_of_wave(
    tx: &mut Tx<'_>,
    rollout: Uuid,
    wave: usize,
) -> Result<Vec<Uuid>, StoreError> {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT host_id FROM orders WHERE rollout_id = $1 AND wave = $2",
    )
    .bind(rollout.to_string())
    .bind(i64::try_from(wave).unwrap_or(i64::MAX))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|id| uuid(id, "a host's id")).collect()
}

pub(super) async fn insert(tx: &mut Tx<'_>, order: &Order, now_ms: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO orders (id, rollout_id, wave, host_id, host_name, target, sequence, state,
             created_ms, not_after_ms, plan, sealed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(order.id.to_string())
    .bind(order.rollout_id.to_string())
    .bind(i64::from(order.wave))
    .bind(order.host_id.to_string())
    .bind(&order.host_name)
    .bind(&order.target)
    .bind(signed(order.sequence))
    .bind(i64::from(i32::from(order.progress.state())))
    .bind(now_ms)
    .bind(order.not_after_ms)
    .bind(order.plan.encode_to_vec())
    .bind(&order.sealed.order)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes what may change of an order. A finished one that is not lost is never written again: the statement
/// itself refuses.
pub(super) async fn update(tx: &mut Tx<'_>, order: &Order, now_ms: i64) -> Result<(), sqlx::Error> {
    let progress = &order.progress;
    let ending = match &progress.phase {
        Phase::Finished(ending) => Some(ending),
        _ => None,
    };
    sqlx::query(
        "UPDATE orders SET state = $2, outcome = $3, problem = $4, running_revision = $5,
             last_event = $6, proven = $7, lost = $9,
             sent_ms = CASE WHEN $2 = 2 THEN $8 ELSE sent_ms END,
             accepted_ms = CASE WHEN $2 = 3 AND accepted_ms = 0 THEN $8 ELSE accepted_ms END,
             finished_ms = CASE WHEN $2 = 4 THEN $8 ELSE finished_ms END
         WHERE id = $1 AND (state <> 4 OR lost = 1)",
    )
    .bind(order.id.to_string())
    .bind(i64::from(i32::from(progress.state())))
    .bind(ending.map_or(0, |e| i64::from(i32::from(e.outcome))))
    .bind(
        ending
            .and_then(|e| e.problem.as_ref())
            .map(prost::Message::encode_to_vec),
    )
    .bind(ending.map_or("", |e| e.running_revision.as_str()))
    .bind(signed(progress.last_event))
    .bind(i64::from(progress.proven))
    .bind(now_ms)
    .bind(i64::from(progress.lost))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// An order that was never sent, as it travels: sealed anew where the epoch has risen since. The controller that sends it
/// is not the superseded one, and its host may have seen higher epochs than there were when it was made.
async fn of_now(tx: &mut Tx<'_>, order: Order, now_ms: i64) -> Result<v1::SealedOrder, StoreError> {
    let epoch = meta::epoch(tx).await?;
    let made: v1::Order = decode(&order.sealed.order, "an order")?;
    if made.epoch >= epoch {
        return Ok(order.sealed);
    }
    let draft = Draft {
        at_ms: now_ms,
        actor: Actor::Controller,
        action: "order.resealed",
        subject: format!("order:{}", order.id),
        body: json!({ "from_epoch": made.epoch, "epoch": epoch }),
    };
    append(tx, &draft).await?;
    let sealed = order::seal(&v1::Order { epoch, ..made });
    sqlx::query("UPDATE orders SET sealed = $2 WHERE id = $1")
        .bind(order.id.to_string())
        .bind(&sealed.order)
        .execute(&mut **tx)
        .await?;
    Ok(sealed)
}

/// Stores one event of an order that is this host's. False: it came with a gap.
async fn append_event(
    tx: &mut Tx<'_>,
    order: &Order,
    event: &v1::OrderEvent,
    now_ms: i64,
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    let endless;
    let new = order.progress.last_event < event.number;
    let event = if new && (event.number >= EVENTS_PER_ORDER || too_large(tx, order, event).await?) {
        endless = too_many(event);
        &endless
    } else {
        event
    };
    match apply(&order.progress, &Input::Agent(event)) {
        Applied::Gap { .. } => return Ok(false),
        Applied::Same => return Ok(true),
        Applied::Changed(_) => {}
    }
    sqlx::query("INSERT INTO order_events (order_id, number, body) VALUES ($1, $2, $3)")
        .bind(order.id.to_string())
        .bind(signed(event.number))
        .bind(event.encode_to_vec())
        .execute(&mut **tx)
        .await?;
    if let Some(Event::Planned(plan)) = &event.event {
        sqlx::query("UPDATE orders SET plan = $2 WHERE id = $1")
            .bind(order.id.to_string())
            .bind(plan.encode_to_vec())
            .execute(&mut **tx)
            .await?;
    }
    if let Some(draft) = noted(order, event, now_ms) {
        append(tx, &draft).await?;
    }
    effects.merge(rollouts::input(tx, order.id, &Input::Agent(event), now_ms).await?);
    Ok(true)
}

/// Whether there are more bytes of events with this one than are kept of one order.
async fn too_large(
    tx: &mut Tx<'_>,
    order: &Order,
    event: &v1::OrderEvent,
) -> Result<bool, StoreError> {
    let stored: i64 = sqlx::query_scalar(
        "SELECT COALESCE(SUM(LENGTH(body)), 0) FROM order_events WHERE order_id = $1",
    )
    .bind(order.id.to_string())
    .fetch_one(&mut **tx)
    .await?;
    let bytes = u64::try_from(event.encoded_len()).unwrap_or(u64::MAX);
    Ok(unsigned(stored).saturating_add(bytes) > EVENT_BYTES_PER_ORDER)
}

/// What stands in the place of the event that was one too many.
fn too_many(event: &v1::OrderEvent) -> v1::OrderEvent {
    v1::OrderEvent {
        event: Some(Event::Finished(v1::OrderFinished {
            outcome: v1::Outcome::NeedsHuman.into(),
            problem: Some(v1::Problem::new(
                "too-many-events",
                format!(
                    "the agent reported more than {EVENTS_PER_ORDER} events, or {EVENT_BYTES_PER_ORDER} bytes of \
                     them, for one order"
                ),
                "look at the host itself",
            )),
            running_revision: String::new(),
        })),
        ..event.clone()
    }
}

/// Notes, once, how an order ended that nothing is known of. That is nobody's lie where the database is an older copy:
/// its host tells it until it is acknowledged.
async fn unknown(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    host: &Host,
    event: &v1::OrderEvent,
    now_ms: i64,
) -> Result<(), StoreError> {
    let Some(Event::Finished(end)) = &event.event else {
        return Ok(());
    };
    let noted: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM orders_unknown WHERE id = $1)")
            .bind(&event.order_id)
            .fetch_one(&mut **tx)
            .await?;
    if noted {
        return Ok(());
    }
    let room = budget
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(host.id, now_ms);
    match room {
        Room::Entry => {}
        Room::Full => {
            let told = limited((host.id, &host.name), "order.unknown", now_ms);
            return Ok(append(tx, &told).await?);
        }
        Room::None => return Ok(()),
    }
    sqlx::query("INSERT INTO orders_unknown (id, host_id, noted_ms) VALUES ($1, $2, $3)")
        .bind(&event.order_id)
        .bind(host.id.to_string())
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    let problem = end.problem.clone().unwrap_or_default();
    let draft = Draft {
        at_ms: now_ms,
        actor: Actor::Agent(host.name.clone()),
        action: "order.unknown",
        subject: format!("order:{}", event.order_id),
        body: json!({
            "host": host.name,
            "host_id": host.id,
            "outcome": end.outcome().as_str_name(),
            "running_revision": end.running_revision,
            "problem": problem.code,
            "message": problem.message,
            "host_at_ms": event.at_ms,
        }),
    };
    Ok(append(tx, &draft).await?)
}

/// What of an event goes into the record besides the order's own transitions: everything that was done
/// and everything that was seen. When it was, by the host's own clock, stands in the body.
fn noted(order: &Order, event: &v1::OrderEvent, now_ms: i64) -> Option<Draft> {
    let (action, mut body) = match event.event.as_ref()? {
        Event::Evidence(e) => (
            "evidence.seen",
            json!({
                "check": e.check, "subject": e.subject, "expected": e.expected,
                "observed": e.observed, "attempts": e.attempts, "duration_ms": e.duration_ms,
                "verdict": e.verdict().as_str_name(), "instance": e.instance,
            }),
        ),
        Event::Step(step) if step.state() != v1::StepState::Started => (
            "step.changed",
            json!({
                "step": step.step, "index": step.index, "state": step.state().as_str_name(),
                "message": step.message,
            }),
        ),
        Event::Recovered(r) => (
            "order.recovered",
            json!({ "attempt": r.attempt, "decision": r.decision }),
        ),
        Event::Note(note) => (
            "order.noted",
            json!({ "code": note.code, "message": note.message }),
        ),
        Event::Accepted(_) | Event::Planned(_) | Event::Step(_) | Event::Finished(_) => {
            return None;
        }
    };
    body["host_at_ms"] = event.at_ms.into();
    body["rollout"] = order.rollout_id.to_string().into();
    body["host"] = order.host_name.clone().into();
    body["target"] = order.target.clone().into();
    Some(Draft {
        at_ms: now_ms,
        actor: Actor::Agent(order.host_name.clone()),
        action,
        subject: format!("order:{}", order.id),
        body,
    })
}

#[async_trait]
impl RolloutStore for Sqlite {
    async fn plan_insert(&self, plan: &StoredPlan) -> Result<(), StoreError> {
        self.plan_keep(plan).await
    }

    async fn rollout_start(&self, new: &NewRollout) -> Result<Rollout, StartError> {
        self.start(new).await
    }

    async fn rollout_list(
        &self,
        host: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Rollout>, StoreError> {
        self.rollouts_newest(host, limit).await
    }

    async fn rollout_find(&self, prefix: &str) -> Result<Vec<Rollout>, StoreError> {
        self.rollouts_by_prefix(prefix).await
    }

    async fn rollout_fetch(&self, id: Uuid) -> Result<Option<Rollout>, StoreError> {
        Ok(self.rollouts_by_prefix(&id.to_string()).await?.pop())
    }

    async fn order_active_list(&self, host: Uuid) -> Result<Vec<Order>, StoreError> {
        let mut orders = Vec::new();
        for query in [ORDERS_OPEN, ORDERS_LOST] {
            let rows = sqlx::query_as(query)
                .bind(host.to_string())
                .fetch_all(&self.reader)
                .await?;
            orders.extend(all(rows)?);
        }
        orders.sort_by_key(|order| order.sequence);
        Ok(orders)
    }

    async fn order_sending(&self, id: Uuid, now_ms: i64) -> Result<Sending, StoreError> {
        let stays = Ok(Sending::Stays(Effects::default()));
        let mut tx = self.begin().await?;
        let Some(order) = fetch(&mut tx, id).await? else {
            return stays;
        };
        if order.progress.is_finished() && !order.progress.lost {
            return stays;
        }
        if order.progress.phase == Phase::Queued {
            // Past its deadline an order that was never sent is the expiry's, not ours.
            if now_ms >= order.not_after_ms {
                return stays;
            }
            if let Some(reason) = bad(&mut tx, order.host_id, &order.plan).await? {
                let input = Input::RevisionBad {
                    number: order.plan.to_number,
                    reason,
                };
                let effects = rollouts::input(&mut tx, id, &input, now_ms).await?;
                super::commit(tx).await?;
                return Ok(Sending::Stays(effects));
            }
        }
        let sealed = if order.progress.phase == Phase::Queued {
            of_now(&mut tx, order, now_ms).await?
        } else {
            order.sealed
        };
        rollouts::input(&mut tx, id, &Input::Sending, now_ms).await?;
        super::commit(tx).await?;
        Ok(Sending::Goes(sealed))
    }

    async fn order_events_append(
        &self,
        host: &Host,
        events: &[v1::OrderEvent],
        now_ms: i64,
    ) -> Result<Appended, StoreError> {
        let mut tx = self.begin().await?;
        let mut appended = Appended::default();
        for event in events {
            let order = match Uuid::try_parse(&event.order_id) {
                Ok(id) => fetch(&mut tx, id).await?,
                Err(_) => None,
            };
            match order {
                Some(order) if order.host_id == host.id => {
                    if !append_event(&mut tx, &order, event, now_ms, &mut appended.effects).await? {
                        appended.gap = Some(order.id.to_string());
                        break;
                    }
                }
                Some(_) => {
                    appended.foreign += 1;
                    continue;
                }
                None => unknown(&mut tx, &self.budget, host, event, now_ms).await?,
            }
            // What comes after the end, or again, is settled: it is acknowledged as it came.
            let up_to = event.number;
            match appended
                .stored
                .iter_mut()
                .find(|s| s.order_id == event.order_id)
            {
                Some(stored) => stored.up_to = stored.up_to.max(up_to),
                None => appended.stored.push(v1::EventsStored {
                    order_id: event.order_id.clone(),
                    up_to,
                }),
            }
        }
        super::commit(tx).await?;
        Ok(appended)
    }

    async fn order_due_list(&self, now_ms: i64) -> Result<Vec<DueOrder>, StoreError> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(ORDERS_DUE)
            .bind(now_ms)
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter()
            .map(|(id, host, not_after_ms)| {
                Ok(DueOrder {
                    id: uuid(&id, "an order's id")?,
                    host: uuid(&host, "a host's id")?,
                    not_after_ms,
                })
            })
            .collect()
    }

    async fn order_expired(
        &self,
        orders: &[(Uuid, Unsent)],
        now_ms: i64,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut tx = self.begin().await?;
        for (id, why) in orders {
            let input = Input::DeadlinePassed(*why);
            effects.merge(rollouts::input(&mut tx, *id, &input, now_ms).await?);
        }
        super::commit(tx).await?;
        Ok(effects)
    }

    async fn order_overdue_list(&self, before_ms: i64) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        let rows = sqlx::query_as(ORDERS_OVERDUE).bind(before_ms);
        with_hosts(&rows.fetch_all(&self.reader).await?)
    }

    async fn order_sent_list(&self) -> Result<Vec<SentOrder>, StoreError> {
        let rows: Vec<(String, String, String, String, i64, i64)> =
            sqlx::query_as(ORDERS_SENT).fetch_all(&self.reader).await?;
        rows.into_iter()
            .map(|(id, rollout, host, target, last_event, not_after_ms)| {
                Ok(SentOrder {
                    id: uuid(&id, "an order's id")?,
                    rollout: uuid(&rollout, "a rollout's id")?,
                    host: uuid(&host, "a host's id")?,
                    target,
                    last_event: unsigned(last_event),
                    not_after_ms,
                })
            })
            .collect()
    }

    async fn order_failed_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::FailedRestore>, StoreError> {
        let rows: Vec<(String, i64, Option<Vec<u8>>, i64, Vec<u8>)> = sqlx::query_as(ORDERS_FAILED)
            .bind(host.to_string())
            .bind(target)
            .fetch_all(&self.reader)
            .await?;
        let mut failed = Vec::with_capacity(rows.len());
        for (rollout, number, problem, at_ms, plan) in rows {
            let plan: v1::Plan = decode(&plan, "a plan")?;
            // Half of a revision says nothing of the whole.
            if plan.scope() != v1::RestoreScope::Both {
                continue;
            }
            failed.push(v1::FailedRestore {
                revision: plan.to_revision,
                rollout,
                at_ms,
                outcome: outcome(number).into(),
                problem: problem
                    .map(|bytes| decode(&bytes, "a problem"))
                    .transpose()?,
            });
        }
        Ok(failed)
    }

    async fn order_passed_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<HashMap<String, i64>, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(ORDERS_PASSED)
            .bind(host.to_string())
            .bind(target)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().collect())
    }

    async fn order_ended_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<EndedOrder>, StoreError> {
        let rows: Vec<(String, i64, String, i64, Vec<u8>)> = sqlx::query_as(ORDERS_ENDED)
            .bind(host.to_string())
            .bind(target)
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter()
            .map(|(rollout, number, running_revision, finished_ms, plan)| {
                let plan: v1::Plan = decode(&plan, "a plan")?;
                Ok(EndedOrder {
                    from_revision: plan.from_revision,
                    rollout: uuid(&rollout, "a rollout's id")?,
                    outcome: outcome(number),
                    running_revision,
                    finished_ms,
                })
            })
            .collect()
    }

    async fn order_last(&self, host: Uuid, target: &str) -> Result<Option<LastOrder>, StoreError> {
        let row: Option<(String, i64, i64, Vec<u8>)> = sqlx::query_as(ORDER_LAST)
            .bind(host.to_string())
            .bind(target)
            .fetch_optional(&self.reader)
            .await?;
        let Some((running_revision, finished_ms, told_ms, body)) = row else {
            return Ok(None);
        };
        let target: v1::Target = decode(&body, "a target")?;
        Ok(Some(LastOrder {
            running_revision,
            finished_ms,
            current_revision: target.current_revision,
            told_ms,
        }))
    }

    async fn order_lost(
        &self,
        orders: &[(Uuid, Lost)],
        now_ms: i64,
    ) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        let mut tx = self.begin().await?;
        for (id, why) in orders {
            let input = Input::Lost(why.clone());
            effects.merge(rollouts::input(&mut tx, *id, &input, now_ms).await?);
        }
        super::commit(tx).await?;
        Ok(effects)
    }

    async fn order_event_list(
        &self,
        order: Uuid,
        after: u64,
    ) -> Result<Vec<v1::OrderEvent>, StoreError> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT body FROM order_events WHERE order_id = $1 AND number > $2
             ORDER BY number LIMIT $3",
        )
        .bind(order.to_string())
        .bind(signed(after))
        .bind(EVENT_PAGE)
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(|body| decode(body, "an event")).collect()
    }
}
