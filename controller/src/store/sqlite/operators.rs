//! Certificates of operators. Issued and revoked by commands on the controller's machine, also beside a controller
//! that runs.

use async_trait::async_trait;
use serde_json::json;

use super::{Sqlite, Tx, log::append, row::row};
use crate::{
    record::{Actor, Draft},
    store::{
        OperatorStore, StoreError,
        types::{IssuedOperator, Operator},
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

/// Whether a text has the form of a certificate's serial.
fn is_serial(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[async_trait]
impl OperatorStore for Sqlite {
    async fn operator_issued(&self, issued: &IssuedOperator) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
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
        name_or_serial: &str,
        reason: &str,
        now_ms: i64,
    ) -> Result<Vec<Operator>, StoreError> {
        let mut tx = self.begin().await?;
        if is_serial(name_or_serial) {
            // Issued before there was a list: what ends nobody knows is refused for ever.
            let unlisted = IssuedOperator {
                serial: name_or_serial.to_owned(),
                name: String::new(),
                role: String::new(),
                issued_ms: 0,
                not_after_ms: i64::MAX,
            };
            insert(&mut tx, &unlisted).await?;
        }
        let rows: Vec<OperatorRow> = sqlx::query_as(
            "SELECT * FROM operators WHERE serial = $1 OR (name = $1 AND name <> '')
             ORDER BY issued_ms, serial",
        )
        .bind(name_or_serial)
        .fetch_all(&mut *tx)
        .await?;
        let mut all: Vec<Operator> = rows.into_iter().map(Operator::from).collect();
        for one in all.iter_mut().filter(|one| one.revoked_ms.is_none()) {
            one.revoked_ms = Some(now_ms);
            sqlx::query(
                "UPDATE operators SET revoked_ms = $2, revoke_reason = $3 WHERE serial = $1",
            )
            .bind(&one.issued.serial)
            .bind(now_ms)
            .bind(reason)
            .execute(&mut *tx)
            .await?;
            let draft = Draft {
                at_ms: now_ms,
                actor: Actor::Controller,
                action: "operator.revoked",
                subject: format!("operator:{}", one.issued.name),
                body: json!({ "serial": one.issued.serial, "reason": reason }),
            };
            append(&mut tx, &draft).await?;
        }
        super::commit(tx).await?;
        Ok(all)
    }

    async fn operator_revoked_list(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(OPERATORS_REVOKED)
            .bind(now_ms)
            .fetch_all(&self.reader)
            .await?)
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
