//! Rollouts: starting one, reading them, and carrying out what the engine says when an order changes.

use std::collections::BTreeMap;

use prost::Message as _;
use serde_json::json;
use sternway_proto::{order, v1};
use uuid::Uuid;

use super::{Sqlite, Tx, decode, log::append, orders, row::row, uuid};
use crate::{
    record::{Actor, Draft},
    rollout::{
        Command, Tally, advance,
        order::{Applied, Input, Phase},
    },
    store::{
        StartError, StoreError,
        types::{Effects, NewRollout, Order, Rollout, StoredPlan},
    },
};

pub(super) const ROLLOUTS_NEWEST: &str =
    "SELECT * FROM rollouts ORDER BY created_ms DESC, id DESC LIMIT $1";

/// By the host's newest orders, rather than by all rollouts there ever were.
pub(super) const ROLLOUTS_OF_HOST: &str = "SELECT * FROM rollouts WHERE id IN (
         SELECT rollout_id FROM orders WHERE host_id = $1 ORDER BY sequence DESC LIMIT $2)
     ORDER BY +created_ms DESC, id DESC";

/// Ids are lower-case hexadecimal digits and dashes: everything with the prefix comes before the prefix and `g`.
pub(super) const ROLLOUTS_BY_PREFIX: &str =
    "SELECT * FROM rollouts WHERE id >= $1 AND id < $1 || 'g' ORDER BY id LIMIT 2";

/// The rollouts of the orders with the prefix.
pub(super) const ROLLOUTS_BY_ORDER: &str = "SELECT * FROM rollouts WHERE id IN (
         SELECT DISTINCT rollout_id FROM orders WHERE id >= $1 AND id < $1 || 'g' LIMIT 2)
     ORDER BY id";

row! {
    struct RolloutRow {
        id: String,
        plan_id: String,
        operator: String,
        reason: String,
        state: i64,
        created_ms: i64,
        finished_ms: i64,
    }
}

fn state(number: i64) -> v1::RolloutState {
    i32::try_from(number)
        .ok()
        .and_then(|number| v1::RolloutState::try_from(number).ok())
        .unwrap_or(v1::RolloutState::Unspecified)
}

/// Reads the orders of a rollout's row.
async fn whole(
    connection: &mut sqlx::SqliteConnection,
    row: RolloutRow,
) -> Result<Rollout, StoreError> {
    let id = uuid(&row.id, "a rollout's id")?;
    Ok(Rollout {
        id,
        state: state(row.state),
        operator: row.operator,
        reason: row.reason,
        created_ms: row.created_ms,
        finished_ms: row.finished_ms,
        orders: orders::of_rollout(connection, id).await?,
    })
}

/// Applies an input to one order and everything that follows from it: the order's row, the record, the
/// next wave, the end of the rollout.
pub(super) async fn input(
    tx: &mut Tx<'_>,
    order_id: Uuid,
    input: &Input<'_>,
    now_ms: i64,
) -> Result<Effects, StoreError> {
    let Some(order) = orders::fetch(tx, order_id).await? else {
        return Ok(Effects::default());
    };
    let Applied::Changed(next) = crate::rollout::order::apply(&order.progress, input) else {
        return Ok(Effects::default());
    };
    let changed = Order {
        progress: next,
        ..order.clone()
    };
    orders::update(tx, &changed, now_ms).await?;
    let mut effects = Effects {
        rollouts: vec![order.rollout_id],
        ..Effects::default()
    };
    // The agent has told what became of an order that was given up as lost.
    let truth = order.progress.lost && !changed.progress.lost;
    if truth || order.progress.state() != changed.progress.state() {
        append(tx, &transition(&changed, input, now_ms)).await?;
    }
    let answered = matches!(input, Input::Agent(_))
        && order.progress.last_event == 0
        && !order.progress.is_finished();
    if answered && order.sent_ms > 0 {
        effects.accepted_after_ms.push(now_ms - order.sent_ms);
    }
    if let Phase::Finished(ending) = &changed.progress.phase
        && (truth || !order.progress.is_finished())
    {
        effects.ended.push(ending.outcome);
        effects.merge(settle(tx, order.rollout_id, now_ms).await?);
    }
    Ok(effects)
}

fn transition(order: &Order, input: &Input<'_>, now_ms: i64) -> Draft {
    let actor = match input {
        Input::Agent(_) => Actor::Agent(order.host_name.clone()),
        _ => Actor::Controller,
    };
    let place = json!({
        "rollout": order.rollout_id,
        "host": order.host_name,
        "host_id": order.host_id,
        "target": order.target,
    });
    let (action, mut body) = match &order.progress.phase {
        Phase::Queued => ("order.queued", place),
        Phase::Sent => ("order.sent", place),
        Phase::Accepted => ("order.accepted", place),
        Phase::Finished(ending) => {
            let mut body = place;
            body["outcome"] = ending.outcome.as_str_name().into();
            body["running_revision"] = ending.running_revision.clone().into();
            if let Some(problem) = &ending.problem {
                body["problem"] = problem.code.clone().into();
                body["message"] = problem.message.clone().into();
            }
            ("order.finished", body)
        }
    };
    body["sequence"] = order.sequence.into();
    Draft {
        at_ms: now_ms,
        actor,
        action,
        subject: format!("order:{}", order.id),
        body,
    }
}

/// Asks the engine what follows for the rollout, until it has to wait.
async fn settle(tx: &mut Tx<'_>, id: Uuid, now_ms: i64) -> Result<Effects, StoreError> {
    let mut effects = Effects::default();
    loop {
        let wave: i64 = sqlx::query_scalar("SELECT wave FROM rollouts WHERE id = $1")
            .bind(id.to_string())
            .fetch_one(&mut **tx)
            .await?;
        let current = usize::try_from(wave).unwrap_or_default();
        match advance(&tallies(tx, id).await?, current) {
            Command::Wait => return Ok(effects),
            Command::StartWave(next) => {
                sqlx::query("UPDATE rollouts SET wave = $2 WHERE id = $1")
                    .bind(id.to_string())
                    .bind(i64::try_from(next).unwrap_or(i64::MAX))
                    .execute(&mut **tx)
                    .await?;
                effects
                    .hosts
                    .extend(orders::hosts_of_wave(tx, id, next).await?);
                return Ok(effects);
            }
            Command::StopAfter(wave) => {
                for held in orders::held_after(tx, id, wave).await? {
                    if let Applied::Changed(progress) =
                        crate::rollout::order::apply(&held.progress, &Input::WaveStopped)
                    {
                        let stopped = Order { progress, ..held };
                        orders::update(tx, &stopped, now_ms).await?;
                        append(tx, &transition(&stopped, &Input::WaveStopped, now_ms)).await?;
                    }
                }
            }
            Command::Finish(state) => {
                finish(tx, id, state, now_ms).await?;
                return Ok(effects);
            }
        }
    }
}

async fn finish(
    tx: &mut Tx<'_>,
    id: Uuid,
    state: v1::RolloutState,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE rollouts SET state = $2, finished_ms = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(i64::from(i32::from(state)))
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    let draft = Draft {
        at_ms: now_ms,
        actor: Actor::Controller,
        action: "rollout.finished",
        subject: format!("rollout:{id}"),
        body: json!({ "state": state.as_str_name() }),
    };
    Ok(append(tx, &draft).await?)
}

/// How each wave stands, counted by the database: a wave may have thousands of orders.
async fn tallies(tx: &mut Tx<'_>, id: Uuid) -> Result<Vec<Tally>, StoreError> {
    let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT wave, state, outcome, COUNT(*) FROM orders WHERE rollout_id = $1
         GROUP BY wave, state, outcome",
    )
    .bind(id.to_string())
    .fetch_all(&mut **tx)
    .await?;
    let mut waves: BTreeMap<i64, Tally> = BTreeMap::new();
    for (wave, state, outcome, count) in rows {
        let tally = waves.entry(wave).or_default();
        let count = super::unsigned(count);
        if state == orders::FINISHED {
            tally.count(orders::outcome(outcome), count);
        } else {
            tally.open += count;
        }
    }
    Ok(waves.into_values().collect())
}

impl Sqlite {
    pub(super) async fn plan_keep(&self, plan: &StoredPlan) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM plans WHERE expires_ms < $1")
            .bind(plan.created_ms - 24 * 3_600_000)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO plans
                 (id, host_id, made_for, scope, swap, created_ms, expires_ms, body)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(plan.id.to_string())
        .bind(plan.host_id.to_string())
        .bind(&plan.made_for)
        .bind(i64::from(i32::from(plan.scope)))
        .bind(i64::from(i32::from(plan.swap)))
        .bind(plan.created_ms)
        .bind(plan.expires_ms)
        .bind(plan.plan.encode_to_vec())
        .execute(&mut *tx)
        .await?;
        Ok(super::commit(tx).await?)
    }

    pub(super) async fn start(&self, new: &NewRollout) -> Result<Rollout, StartError> {
        let mut tx = self.begin().await?;
        let earlier: Option<RolloutRow> =
            sqlx::query_as("SELECT * FROM rollouts WHERE request_id = $1")
                .bind(new.request_id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(row) = earlier {
            return repeated(&mut tx, row, new).await;
        }
        let (plan, host_name) = plan_for(&mut tx, new).await?;
        let sequence: i64 = sqlx::query_scalar(
            "UPDATE hosts SET order_sequence = order_sequence + 1 WHERE id = $1
             RETURNING order_sequence",
        )
        .bind(plan.host_id.to_string())
        .fetch_one(&mut *tx)
        .await?;
        insert(&mut tx, new).await?;
        let sealed = order::seal(&wire_order(new, &plan, super::unsigned(sequence)));
        let order = Order {
            id: new.order_id,
            rollout_id: new.id,
            wave: 0,
            host_id: plan.host_id,
            host_name,
            target: plan.plan.target.clone(),
            sequence: super::unsigned(sequence),
            progress: crate::rollout::order::Progress::NEW,
            sent_ms: 0,
            not_after_ms: new.not_after_ms,
            plan: plan.plan,
            sealed,
        };
        orders::insert(&mut tx, &order, new.now_ms).await?;
        for draft in started(new, &order) {
            append(&mut tx, &draft).await?;
        }
        super::commit(tx).await?;
        Ok(Rollout {
            id: new.id,
            state: v1::RolloutState::Running,
            operator: new.operator.clone(),
            reason: new.reason.clone(),
            created_ms: new.now_ms,
            finished_ms: 0,
            orders: vec![order],
        })
    }

    pub(super) async fn rollouts_newest(
        &self,
        host: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Rollout>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let query = match host {
            None => sqlx::query_as(ROLLOUTS_NEWEST),
            Some(host) => sqlx::query_as(ROLLOUTS_OF_HOST).bind(host.to_string()),
        };
        let rows: Vec<RolloutRow> = query.bind(i64::from(limit)).fetch_all(&mut *tx).await?;
        let mut rollouts = Vec::with_capacity(rows.len());
        for row in rows {
            rollouts.push(whole(&mut tx, row).await?);
        }
        Ok(rollouts)
    }

    pub(super) async fn rollouts_by_prefix(
        &self,
        prefix: &str,
    ) -> Result<Vec<Rollout>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let mut rows: Vec<RolloutRow> = Vec::new();
        for query in [ROLLOUTS_BY_PREFIX, ROLLOUTS_BY_ORDER] {
            rows = sqlx::query_as(query)
                .bind(prefix)
                .fetch_all(&mut *tx)
                .await?;
            if !rows.is_empty() {
                break;
            }
        }
        let mut rollouts = Vec::with_capacity(rows.len());
        for row in rows {
            rollouts.push(whole(&mut tx, row).await?);
        }
        Ok(rollouts)
    }
}

/// The rollout that stands under the request's id, where this is the same request.
async fn repeated(
    tx: &mut Tx<'_>,
    row: RolloutRow,
    new: &NewRollout,
) -> Result<Rollout, StartError> {
    if row.plan_id != new.plan_id.to_string() || row.operator != new.operator {
        return Err(StartError::RequestIdUsed {
            rollout: uuid(&row.id, "a rollout's id")?,
        });
    }
    Ok(whole(tx, row).await?)
}

async fn insert(tx: &mut Tx<'_>, new: &NewRollout) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO rollouts (id, request_id, plan_id, operator, reason, state, wave, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7)",
    )
    .bind(new.id.to_string())
    .bind(new.request_id.to_string())
    .bind(new.plan_id.to_string())
    .bind(&new.operator)
    .bind(&new.reason)
    .bind(i64::from(i32::from(v1::RolloutState::Running)))
    .bind(new.now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The plan to carry out, and its host's name, if it may be carried out.
async fn plan_for(tx: &mut Tx<'_>, new: &NewRollout) -> Result<(StoredPlan, String), StartError> {
    row! {
        struct PlanRow {
            host_id: String,
            made_for: String,
            scope: i64,
            swap: i64,
            created_ms: i64,
            expires_ms: i64,
            body: Vec<u8>,
            name: String,
            revoked_ms: Option<i64>,
        }
    }
    let used: Option<String> = sqlx::query_scalar("SELECT id FROM rollouts WHERE plan_id = $1")
        .bind(new.plan_id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(rollout) = used {
        return Err(StartError::PlanUsed {
            rollout: uuid(&rollout, "a rollout's id")?,
        });
    }
    let row: PlanRow = sqlx::query_as(
        "SELECT p.*, h.name, h.revoked_ms FROM plans p JOIN hosts h ON h.id = p.host_id
         WHERE p.id = $1",
    )
    .bind(new.plan_id.to_string())
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StartError::PlanUnknown)?;
    if new.now_ms >= row.expires_ms {
        return Err(StartError::PlanExpired);
    }
    // Whoever says yes has been shown what to: an id that was overheard starts nothing.
    if row.made_for != new.operator {
        return Err(StartError::PlanNotYours {
            operator: row.made_for,
        });
    }
    if row.revoked_ms.is_some() {
        return Err(StartError::HostRevoked);
    }
    let plan: v1::Plan = decode(&row.body, "a plan")?;
    // Marked between the plan and now: nobody else would see it.
    let host_id = uuid(&row.host_id, "a host's id")?;
    if let Some(reason) = orders::bad(tx, host_id, &plan).await? {
        return Err(StartError::RevisionBad {
            number: plan.to_number,
            target: plan.target,
            reason,
        });
    }
    let busy: Option<String> = sqlx::query_scalar(
        "SELECT rollout_id FROM orders WHERE host_id = $1 AND target = $2 AND state <> 4",
    )
    .bind(&row.host_id)
    .bind(&plan.target)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(rollout) = busy {
        return Err(StartError::TargetBusy {
            rollout: uuid(&rollout, "a rollout's id")?,
        });
    }
    let stored = StoredPlan {
        id: new.plan_id,
        host_id,
        made_for: row.made_for,
        scope: i32::try_from(row.scope)
            .ok()
            .and_then(|n| v1::RestoreScope::try_from(n).ok())
            .unwrap_or_default(),
        swap: i32::try_from(row.swap)
            .ok()
            .and_then(|n| v1::Swap::try_from(n).ok())
            .unwrap_or_default(),
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
        plan,
    };
    Ok((stored, row.name))
}

fn wire_order(new: &NewRollout, plan: &StoredPlan, sequence: u64) -> v1::Order {
    v1::Order {
        order_id: new.order_id.to_string(),
        rollout_id: new.id.to_string(),
        host_id: plan.host_id.to_string(),
        epoch: new.epoch,
        sequence,
        target: plan.plan.target.clone(),
        expected_revision: plan.plan.from_revision.clone(),
        revision: plan.plan.to_revision.clone(),
        scope: plan.scope.into(),
        swap: plan.swap.into(),
        issued_at_ms: new.now_ms,
        not_after_ms: new.not_after_ms,
        operator: new.operator.clone(),
        reason: new.reason.clone(),
    }
}

fn started(new: &NewRollout, order: &Order) -> [Draft; 2] {
    let entry = |action, subject, body| Draft {
        at_ms: new.now_ms,
        actor: Actor::Operator(new.operator.clone()),
        action,
        subject,
        body,
    };
    [
        entry(
            "rollout.started",
            format!("rollout:{}", new.id),
            json!({ "plan": new.plan_id, "reason": new.reason }),
        ),
        entry(
            "order.created",
            format!("order:{}", order.id),
            json!({
                "rollout": new.id,
                "host": order.host_name,
                "host_id": order.host_id,
                "target": order.target,
                "from_revision": order.plan.from_revision,
                "from_number": order.plan.from_number,
                "to_revision": order.plan.to_revision,
                "to_number": order.plan.to_number,
                "scope": order.plan.scope().as_str_name(),
                "epoch": new.epoch,
                "sequence": order.sequence,
                "not_after_ms": order.not_after_ms,
            }),
        ),
    ]
}
