//! The cluster's id and the epoch.

use async_trait::async_trait;
use serde_json::json;

use super::{Sqlite, Tx, log::append};
use crate::{
    record::{Actor, Draft},
    store::{MetaStore, StoreError},
};

async fn read(
    executor: impl sqlx::SqliteExecutor<'_>,
    key: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE key = $1")
        .bind(key)
        .fetch_optional(executor)
        .await
}

async fn write(tx: &mut Tx<'_>, key: &str, value: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO meta (key, value) VALUES ($1, $2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
    .bind(key)
    .bind(value)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The epoch that holds now.
pub(super) async fn epoch(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    read(&mut **tx, "epoch").await?.map_or(Ok(0), |text| {
        text.parse()
            .map_err(|_| StoreError::Corrupt { what: "an epoch" })
    })
}

#[async_trait]
impl MetaStore for Sqlite {
    async fn cluster_set(&self, id: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        write(&mut tx, "cluster_id", id).await?;
        Ok(super::commit(tx).await?)
    }

    async fn cluster_fetch(&self) -> Result<Option<String>, StoreError> {
        Ok(read(&self.reader, "cluster_id").await?)
    }

    async fn epoch_raise(&self, now_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let next = epoch(&mut tx).await? + 1;
        write(&mut tx, "epoch", &next.to_string()).await?;
        let draft = Draft {
            at_ms: now_ms,
            actor: Actor::Controller,
            action: "controller.started",
            subject: "controller".into(),
            body: json!({ "epoch": next, "version": env!("CARGO_PKG_VERSION") }),
        };
        append(&mut tx, &draft).await?;
        super::commit(tx).await?;
        Ok(next)
    }

    async fn epoch_jump(&self, above: u64, host: &str, now_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let now = epoch(&mut tx).await?;
        if now > above {
            return Ok(now);
        }
        let next = above.saturating_add(1);
        write(&mut tx, "epoch", &next.to_string()).await?;
        let draft = Draft {
            at_ms: now_ms,
            actor: Actor::Agent(host.to_owned()),
            action: "epoch.jumped",
            subject: "controller".into(),
            body: json!({ "from": now, "to": next, "seen": above }),
        };
        append(&mut tx, &draft).await?;
        super::commit(tx).await?;
        Ok(next)
    }
}
