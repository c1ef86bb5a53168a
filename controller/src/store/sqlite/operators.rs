//! Certificates of operators. Issued and revoked by commands on the controller's machine, also beside a controller
//! that runs.

use async_trait::async_trait;
use serde_json::json;

use super::{Sqlite, Tx, hosts, log::append, orders, rollouts, row::row};
use crate::{
    record::{Actor, Draft},
    rollout::order::Input,
    store::{
        OperatorStore, StoreError,
        types::{IssuedOperator, Operator, Revocation, RevokedOperators, RevokedWho},
    },
};

row! {
    struct OperatorRow {
        serial: String,
        name: String,
        role: String,
        issued_ms: i64,
        not_after_ms: i64,
        revoked_ms: Option<i64>,
    }
}

impl From<OperatorRow> for Operator {
    fn from(row: OperatorRow) -> Self {
        Self {
            issued: IssuedOperator {
                serial: row.serial,
                name: row.name,
                role: row.role,
                issued_ms: row.issued_ms,
                not_after_ms: row.not_after_ms,
            },
            revoked_ms: row.revoked_ms,
        }
    }
}

/// What must be refused: of a certificate that has ended the handshake says so by itself.
pub(super) const OPERATORS_REVOKED: &str =
    "SELECT serial FROM operators WHERE revoked_ms IS NOT NULL AND not_after_ms > $1";

/// Until when what was issued to which names is refused.
const NAMES_REVOKED: &str = "SELECT name, revoked_ms FROM operator_names_revoked";

#[async_trait]
impl OperatorStore for Sqlite {
    async fn operator_issued(&self, issued: &IssuedOperator) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let revoked: bool = sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT 1 FROM operator_names_revoked WHERE name = $1 AND revoked_ms >= $2)",
        )
        .bind(&issued.name)
        .bind(issued.issued_ms)
        .fetch_one(&mut *tx)
        .await?;
        if revoked {
            return Err(StoreError::RevokedLater {
                name: issued.name.clone(),
            });
        }
        insert(&mut tx, issued).await?;
        let draft = Draft {
            at_ms: issued.issued_ms,
            actor: Actor::Controller,
            action: "operator.issued",
            subject: format!("operator:{}", issued.name),
            body: json!({
                "role": issued.role,
                "serial": issued.serial,
                "not_after_ms": issued.not_after_ms,
            }),
        };
        append(&mut tx, &draft).await?;
        Ok(super::commit(tx).await?)
    }

    async fn operator_list(&self) -> Result<Vec<Operator>, StoreError> {
        let rows: Vec<OperatorRow> =
            sqlx::query_as("SELECT * FROM operators ORDER BY name, issued_ms, serial")
                .fetch_all(&self.reader)
                .await?;
        Ok(rows.into_iter().map(Operator::from).collect())
    }

    async fn operator_revoke(
        &self,
        who: &RevokedWho,
        reason: &str,
        now_ms: i64,
    ) -> Result<Revocation, StoreError> {
        let mut tx = self.begin().await?;
        let (certificates, unlisted) = match who {
            RevokedWho::Name(name) => {
                let listed = of_name(&mut tx, name).await?;
                let unlisted = listed.is_empty();
                revoke_name(&mut tx, name, reason, now_ms).await?;
                (listed, unlisted)
            }
            RevokedWho::Serial(serial) => of_serial(&mut tx, serial).await?,
        };
        let name = match (who, certificates.first()) {
            (RevokedWho::Name(name), _) => name.clone(),
            (_, Some(one)) => one.issued.name.clone(),
            (_, None) => String::new(),
        };
        let mut revocation = Revocation {
            certificates,
            unlisted,
            by_name: matches!(who, RevokedWho::Name(_)),
            ..Revocation::default()
        };
        for one in &mut revocation.certificates {
            revoke(&mut tx, one, reason, now_ms).await?;
        }
        let left = Left::of(&mut tx, &name, now_ms).await?;
        (revocation.orders, revocation.tokens) = left.count();
        if revocation.by_name {
            left.end(&mut tx, &name, now_ms).await?;
        }
        super::commit(tx).await?;
        Ok(revocation)
    }

    async fn operator_revoked_list(&self, now_ms: i64) -> Result<RevokedOperators, StoreError> {
        let serials: Vec<String> = sqlx::query_scalar(OPERATORS_REVOKED)
            .bind(now_ms)
            .fetch_all(&self.reader)
            .await?;
        let names: Vec<(String, i64)> = sqlx::query_as(NAMES_REVOKED)
            .fetch_all(&self.reader)
            .await?;
        Ok(RevokedOperators {
            serials: serials.into_iter().collect(),
            names: names.into_iter().collect(),
        })
    }
}

async fn of_name(tx: &mut Tx<'_>, name: &str) -> Result<Vec<Operator>, sqlx::Error> {
    let rows: Vec<OperatorRow> =
        sqlx::query_as("SELECT * FROM operators WHERE name = $1 ORDER BY issued_ms, serial")
            .bind(name)
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows.into_iter().map(Operator::from).collect())
}

/// The certificate of that serial, which is put into the list where it is not there; and whether it was not.
async fn of_serial(tx: &mut Tx<'_>, serial: &str) -> Result<(Vec<Operator>, bool), sqlx::Error> {
    // Issued before there was a list: when it ends nobody knows, so it is refused for ever.
    let unlisted = IssuedOperator {
        serial: serial.to_owned(),
        name: String::new(),
        role: String::new(),
        issued_ms: 0,
        not_after_ms: i64::MAX,
    };
    insert(tx, &unlisted).await?;
    let rows: Vec<OperatorRow> = sqlx::query_as("SELECT * FROM operators WHERE serial = $1")
        .bind(serial)
        .fetch_all(&mut **tx)
        .await?;
    let listed: Vec<Operator> = rows.into_iter().map(Operator::from).collect();
    let unlisted = listed.iter().all(|one| one.issued.name.is_empty());
    Ok((listed, unlisted))
}

/// Refuses whatever was issued to a name until now. Said in the record each time, with the reason: there may be no
/// certificate to say it of, or none that was not revoked before.
async fn revoke_name(
    tx: &mut Tx<'_>,
    name: &str,
    reason: &str,
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO operator_names_revoked (name, revoked_ms, reason) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET revoked_ms = MAX(revoked_ms, excluded.revoked_ms),
             reason = excluded.reason",
    )
    .bind(name)
    .bind(now_ms)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    append(tx, &said(name, "", reason, now_ms)).await
}

/// Revokes a certificate that is listed, unless it was before.
async fn revoke(
    tx: &mut Tx<'_>,
    one: &mut Operator,
    reason: &str,
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    if one.revoked_ms.is_some() {
        return Ok(());
    }
    one.revoked_ms = Some(now_ms);
    sqlx::query("UPDATE operators SET revoked_ms = $2, revoke_reason = $3 WHERE serial = $1")
        .bind(&one.issued.serial)
        .bind(now_ms)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
    append(
        tx,
        &said(&one.issued.name, &one.issued.serial, reason, now_ms),
    )
    .await
}

fn said(name: &str, serial: &str, reason: &str, now_ms: i64) -> Draft {
    Draft {
        at_ms: now_ms,
        actor: Actor::Controller,
        action: "operator.revoked",
        subject: format!("operator:{name}"),
        body: json!({ "serial": serial, "reason": reason }),
    }
}

/// What an operator has begun and others would still carry out.
struct Left {
    orders: Vec<String>,
    tokens: Vec<(Vec<u8>, String)>,
}

impl Left {
    async fn of(tx: &mut Tx<'_>, name: &str, now_ms: i64) -> Result<Self, sqlx::Error> {
        Ok(Self {
            orders: sqlx::query_scalar(orders::ORDERS_OF_OPERATOR)
                .bind(name)
                .fetch_all(&mut **tx)
                .await?,
            tokens: sqlx::query_as(hosts::TOKENS_OF_OPERATOR)
                .bind(name)
                .bind(now_ms)
                .fetch_all(&mut **tx)
                .await?,
        })
    }

    fn count(&self) -> (u64, u64) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        (count(self.orders.len()), count(self.tokens.len()))
    }

    async fn end(self, tx: &mut Tx<'_>, name: &str, now_ms: i64) -> Result<(), StoreError> {
        for order in self.orders {
            let id = super::uuid(&order, "an order's id")?;
            // A controller that runs tells who watches: they look every few seconds.
            rollouts::input(tx, id, &Input::OperatorRevoked, now_ms).await?;
        }
        for (hash, host) in self.tokens {
            sqlx::query("UPDATE join_tokens SET expires_ms = $2 WHERE hash = $1")
                .bind(hash)
                .bind(now_ms)
                .execute(&mut **tx)
                .await?;
            let draft = Draft {
                at_ms: now_ms,
                actor: Actor::Controller,
                action: "token.ended",
                subject: format!("host:{host}"),
                body: json!({ "created_by": name, "because": "operator-revoked" }),
            };
            append(tx, &draft).await?;
        }
        Ok(())
    }
}

/// Lists a certificate, unless it is listed.
async fn insert(tx: &mut Tx<'_>, issued: &IssuedOperator) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO operators (serial, name, role, issued_ms, not_after_ms)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&issued.serial)
    .bind(&issued.name)
    .bind(&issued.role)
    .bind(issued.issued_ms)
    .bind(issued.not_after_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
