//! Hosts, join tokens, and what agents say about their hosts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;
use sternway_proto::name::HostName;
use uuid::Uuid;

use super::{
    Sqlite, Tx, decode, log::append, orders, rollouts, row::row, small, targets, unsigned, uuid,
};
use crate::{
    record::{Actor, Draft},
    rollout::order::Input,
    store::{
        HostStore, RedeemError, StoreError,
        types::{Certified, Effects, Host, NewToken, Observation, Redeem, Seen},
    },
};

/// By its id first: it is one host's for ever, and a name is what its machine says.
pub(super) const HOST_BY_NAME_OR_ID: &str = "SELECT id FROM hosts WHERE name = $1 OR id = $1
     ORDER BY id = $1 DESC, revoked_ms IS NOT NULL, revoked_ms DESC LIMIT 1";

/// Tokens that nobody used.
pub(super) const TOKENS_STALE: &str =
    "DELETE FROM join_tokens WHERE used_ms IS NULL AND expires_ms < $1";

/// Tokens of an operator that can still be used.
pub(super) const TOKENS_OF_OPERATOR: &str = "SELECT hash, host_name FROM join_tokens
     WHERE used_ms IS NULL AND expires_ms > $2 AND created_by = $1";

row! {
    struct HostRow {
        id: String,
        name: String,
        labels: String,
        joined_ms: i64,
        last_seen_ms: i64,
        revoked_ms: Option<i64>,
        revoke_reason: String,
        facts: Option<Vec<u8>>,
        agent_version: String,
        clock_offset_ms: i64,
        certificate_not_after_ms: i64,
        target_count: i64,
        targets_ready: i64,
        targets_without_predecessor: i64,
    }
}

impl TryFrom<HostRow> for Host {
    type Error = StoreError;

    fn try_from(row: HostRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: uuid(&row.id, "a host's id")?,
            name: row.name,
            labels: labels(&row.labels)?,
            joined_ms: row.joined_ms,
            last_seen_ms: row.last_seen_ms,
            revoked_ms: row.revoked_ms,
            revoke_reason: row.revoke_reason,
            facts: row
                .facts
                .map(|bytes| decode(&bytes, "a host's facts"))
                .transpose()?,
            agent_version: row.agent_version,
            clock_offset_ms: row.clock_offset_ms,
            certificate_not_after_ms: row.certificate_not_after_ms,
            target_count: small(row.target_count),
            targets_ready: small(row.targets_ready),
            targets_without_predecessor: small(row.targets_without_predecessor),
        })
    }
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt { what: "labels" })
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::Value::from_iter(labels.clone()).to_string()
}

macro_rules! select_hosts {
    ($rest:literal) => {
        concat!(
            "SELECT h.*, COALESCE(t.total, 0) AS target_count, COALESCE(t.ready, 0) AS targets_ready,
                 COALESCE(t.first, 0) AS targets_without_predecessor
             FROM hosts h LEFT JOIN (
                 SELECT host_id, COUNT(*) AS total, COUNT(CASE WHEN ready = 1 THEN 1 END) AS ready,
                     COUNT(CASE WHEN ready = 2 THEN 1 END) AS first
                 FROM targets GROUP BY host_id) t ON t.host_id = h.id ",
            $rest
        )
    };
}

async fn fetch(
    executor: impl sqlx::SqliteExecutor<'_>,
    id: Uuid,
) -> Result<Option<Host>, StoreError> {
    let row: Option<HostRow> = sqlx::query_as(
        "SELECT h.*,
            (SELECT COUNT(*) FROM targets t WHERE t.host_id = h.id) AS target_count,
            (SELECT COUNT(*) FROM targets t WHERE t.host_id = h.id AND t.ready = 1) AS targets_ready,
            (SELECT COUNT(*) FROM targets t WHERE t.host_id = h.id AND t.ready = 2)
                AS targets_without_predecessor
         FROM hosts h WHERE h.id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(executor)
    .await?;
    row.map(Host::try_from).transpose()
}

#[async_trait]
impl HostStore for Sqlite {
    async fn host_list(&self) -> Result<Vec<Host>, StoreError> {
        let rows: Vec<HostRow> = sqlx::query_as(select_hosts!(
            "ORDER BY h.revoked_ms IS NOT NULL, h.name, h.revoked_ms DESC"
        ))
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(Host::try_from).collect()
    }

    async fn host_count(&self) -> Result<(u64, u64), StoreError> {
        let (living, revoked): (i64, i64) =
            sqlx::query_as("SELECT COUNT(*) - COUNT(revoked_ms), COUNT(revoked_ms) FROM hosts")
                .fetch_one(&self.reader)
                .await?;
        Ok((unsigned(living), unsigned(revoked)))
    }

    async fn host_revoked_list(&self) -> Result<Vec<Uuid>, StoreError> {
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM hosts WHERE revoked_ms IS NOT NULL")
                .fetch_all(&self.reader)
                .await?;
        ids.iter().map(|id| uuid(id, "a host's id")).collect()
    }

    async fn host_fetch(&self, id: Uuid) -> Result<Option<Host>, StoreError> {
        fetch(&self.reader, id).await
    }

    async fn host_find(&self, name_or_id: &str) -> Result<Option<Host>, StoreError> {
        let id: Option<String> = sqlx::query_scalar(HOST_BY_NAME_OR_ID)
            .bind(name_or_id)
            .fetch_optional(&self.reader)
            .await?;
        match id {
            Some(id) => fetch(&self.reader, uuid(&id, "a host's id")?).await,
            None => Ok(None),
        }
    }

    async fn host_revoke(
        &self,
        id: Uuid,
        reason: &str,
        operator: &str,
        now_ms: i64,
    ) -> Result<Option<(Host, Effects)>, StoreError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query(
            "UPDATE hosts SET revoked_ms = $2, revoke_reason = $3
             WHERE id = $1 AND revoked_ms IS NULL",
        )
        .bind(id.to_string())
        .bind(now_ms)
        .bind(reason)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let Some(host) = fetch(&mut *tx, id).await? else {
            return Ok(None);
        };
        if changed == 0 {
            return Ok(None);
        }
        let draft = Draft {
            at_ms: now_ms,
            actor: Actor::Operator(operator.to_owned()),
            action: "host.revoked",
            subject: format!("host:{}", host.name),
            body: json!({ "host_id": id, "reason": reason }),
        };
        append(&mut tx, &draft).await?;
        let orders: Vec<String> = sqlx::query_scalar(orders::ORDERS_OF_REVOKED)
            .bind(id.to_string())
            .fetch_all(&mut *tx)
            .await?;
        let mut effects = Effects::default();
        for order in orders {
            let id = uuid(&order, "an order's id")?;
            effects.merge(rollouts::input(&mut tx, id, &Input::HostRevoked, now_ms).await?);
        }
        super::commit(tx).await?;
        Ok(Some((host, effects)))
    }

    async fn host_certified(
        &self,
        id: Uuid,
        certificate: &Certified,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let certified = certified(&mut tx, id, certificate, now_ms).await?;
        super::commit(tx).await?;
        Ok(certified)
    }

    async fn token_insert(&self, token: &NewToken) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        // A token that nobody used is of no interest a week after it expired.
        sqlx::query(TOKENS_STALE)
            .bind(token.created_ms - 7 * 24 * 3_600_000)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO join_tokens (hash, host_name, labels, created_ms, created_by, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.hash.as_slice())
        .bind(&token.host_name)
        .bind(labels_text(&token.labels))
        .bind(token.created_ms)
        .bind(&token.created_by)
        .bind(token.expires_ms)
        .execute(&mut *tx)
        .await?;
        let draft = Draft {
            at_ms: token.created_ms,
            actor: Actor::Operator(token.created_by.clone()),
            action: "token.created",
            subject: format!("host:{}", token.host_name),
            body: json!({ "labels": token.labels, "expires_ms": token.expires_ms }),
        };
        append(&mut tx, &draft).await?;
        Ok(super::commit(tx).await?)
    }

    async fn token_redeem(&self, redeem: &Redeem) -> Result<Host, RedeemError> {
        let mut tx = self.begin().await?;
        let token: Option<(String, String, i64, Option<i64>)> = sqlx::query_as(
            "SELECT host_name, labels, expires_ms, used_ms FROM join_tokens WHERE hash = $1",
        )
        .bind(redeem.hash.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
        let (named, label_text, expires_ms, used_ms) = token.ok_or(RedeemError::Unknown)?;
        if used_ms.is_some() {
            return Err(RedeemError::Used);
        }
        if redeem.now_ms >= expires_ms {
            return Err(RedeemError::Expired);
        }
        let name = if named.is_empty() {
            redeem.hostname.clone()
        } else {
            named
        };
        if name.parse().is_ok_and(|name: HostName| name.reads_as_id()) {
            return Err(RedeemError::NameIsId { name });
        }
        insert(&mut tx, redeem, &name, &label_text).await?;
        sqlx::query("UPDATE join_tokens SET used_ms = $2, used_by = $3 WHERE hash = $1")
            .bind(redeem.hash.as_slice())
            .bind(redeem.now_ms)
            .bind(redeem.host_id.to_string())
            .execute(&mut *tx)
            .await?;
        let inherited = targets::inherit(&mut tx, redeem.host_id, &name).await?;
        let host = fetch(&mut *tx, redeem.host_id)
            .await?
            .ok_or(StoreError::Corrupt { what: "a new host" })?;
        let draft = Draft {
            at_ms: redeem.now_ms,
            actor: Actor::Agent(name.clone()),
            action: "host.joined",
            subject: format!("host:{name}"),
            body: json!({
                "host_id": host.id,
                "labels": host.labels,
                "marks_taken_over": inherited.marks,
                "deployments_taken_over": inherited.deployments,
            }),
        };
        append(&mut tx, &draft).await?;
        certified(&mut tx, redeem.host_id, &redeem.certificate, redeem.now_ms).await?;
        super::commit(tx).await?;
        Ok(host)
    }

    async fn observations_store(&self, observations: &[Observation]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for observation in observations {
            match &observation.seen {
                Seen::Alive {
                    facts,
                    agent_version,
                    clock_offset_ms,
                } => {
                    sqlx::query(
                        "UPDATE hosts SET last_seen_ms = $2, facts = COALESCE($3, facts),
                             agent_version = CASE WHEN $4 = '' THEN agent_version ELSE $4 END,
                             clock_offset_ms = $5
                         WHERE id = $1",
                    )
                    .bind(observation.host_id.to_string())
                    .bind(observation.at_ms)
                    .bind(facts.as_ref().map(prost::Message::encode_to_vec))
                    .bind(agent_version)
                    .bind(*clock_offset_ms)
                    .execute(&mut *tx)
                    .await?;
                }
                Seen::Inventory { targets, also } => {
                    let told = (targets.as_slice(), also.as_slice());
                    targets::replace(&mut tx, &self.budget, observation, told).await?;
                }
                Seen::Target(target) => {
                    let mut held = targets::Held::default();
                    targets::upsert(&mut tx, &self.budget, &mut held, observation, target).await?;
                }
                Seen::TargetRemoved(name) => {
                    targets::remove(&mut tx, observation.host_id, name).await?;
                }
            }
        }
        Ok(super::commit(tx).await?)
    }
}

/// Notes a certificate of a living host, and says so in the record. False: no such host lives.
async fn certified(
    tx: &mut Tx<'_>,
    id: Uuid,
    certificate: &Certified,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let name: Option<String> = sqlx::query_scalar(
        "UPDATE hosts SET certificate_not_after_ms = $2
         WHERE id = $1 AND revoked_ms IS NULL RETURNING name",
    )
    .bind(id.to_string())
    .bind(certificate.not_after_ms)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(name) = name else { return Ok(false) };
    let draft = Draft {
        at_ms: now_ms,
        actor: Actor::Controller,
        action: "certificate.issued",
        subject: format!("host:{name}"),
        body: json!({
            "host_id": id,
            "serial": certificate.serial,
            "not_after_ms": certificate.not_after_ms,
        }),
    };
    append(tx, &draft).await?;
    Ok(true)
}

async fn insert(
    tx: &mut Tx<'_>,
    redeem: &Redeem,
    name: &str,
    label_text: &str,
) -> Result<(), RedeemError> {
    let inserted = sqlx::query(
        "INSERT INTO hosts (id, name, labels, joined_ms, agent_version)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(redeem.host_id.to_string())
    .bind(name)
    .bind(label_text)
    .bind(redeem.now_ms)
    .bind(&redeem.agent_version)
    .execute(&mut **tx)
    .await;
    match inserted {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(RedeemError::NameTaken {
                name: name.to_owned(),
            })
        }
        other => Ok(other.map(drop)?),
    }
}
