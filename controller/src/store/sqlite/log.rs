//! The record in SQLite: entries are appended in the transaction of what they describe.

use async_trait::async_trait;

use super::{Sqlite, Tx, row::row, signed, unsigned};
use crate::{
    record::{Break, Draft, Entry, Hash, Head, Verifier},
    store::{
        RecordStore, StoreError,
        types::{Note, Verified},
    },
};

row! {
    struct EntryRow {
        number: i64,
        at_ms: i64,
        actor: String,
        action: String,
        subject: String,
        body: String,
        previous_hash: Vec<u8>,
        hash: Vec<u8>,
    }
}

/// A hash as it is stored. One of another length was tampered with: it becomes one that fits nothing.
fn hash(bytes: &[u8]) -> Hash {
    bytes.try_into().unwrap_or([0xff; 32])
}

impl From<EntryRow> for Entry {
    fn from(row: EntryRow) -> Self {
        Self {
            number: unsigned(row.number),
            at_ms: row.at_ms,
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            body: row.body,
            previous: hash(&row.previous_hash),
            hash: hash(&row.hash),
        }
    }
}

async fn head(executor: impl sqlx::SqliteExecutor<'_>) -> Result<Head, sqlx::Error> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT number, hash FROM record_head WHERE id = 1")
            .fetch_optional(executor)
            .await?;
    Ok(row.map_or(Head::EMPTY, |(number, bytes)| Head {
        number: unsigned(number),
        hash: hash(&bytes),
    }))
}

/// Appends an entry in the transaction of what it describes.
pub(super) async fn append(tx: &mut Tx<'_>, draft: &Draft) -> Result<(), sqlx::Error> {
    let entry = head(&mut **tx).await?.next(draft);
    sqlx::query(
        "INSERT INTO record (number, at_ms, actor, action, subject, body, previous_hash, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(signed(entry.number))
    .bind(entry.at_ms)
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject)
    .bind(&entry.body)
    .bind(entry.previous.as_slice())
    .bind(entry.hash.as_slice())
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO record_head (id, number, hash) VALUES (1, $1, $2)
         ON CONFLICT (id) DO UPDATE SET number = excluded.number, hash = excluded.hash",
    )
    .bind(signed(entry.number))
    .bind(entry.hash.as_slice())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) const RECORD_OLDER: &str =
    "SELECT * FROM record WHERE number < $1 ORDER BY number DESC LIMIT $2";
pub(super) const RECORD_FROM: &str =
    "SELECT * FROM record WHERE number >= $1 ORDER BY number LIMIT $2";

/// Entries read at a time while the whole record is followed.
const PAGE: u32 = 1000;

#[async_trait]
impl RecordStore for Sqlite {
    async fn record_append(&self, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let draft = Draft {
            at_ms: note.at_ms,
            actor: note.actor.clone(),
            action: note.action,
            subject: note.subject.clone(),
            body: note.body.clone(),
        };
        append(&mut tx, &draft).await?;
        Ok(super::commit(tx).await?)
    }

    async fn record_list(&self, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let before = if before == 0 {
            i64::MAX
        } else {
            signed(before)
        };
        let rows: Vec<EntryRow> = sqlx::query_as(RECORD_OLDER)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    async fn record_page(&self, from: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let rows: Vec<EntryRow> = sqlx::query_as(RECORD_FROM)
            .bind(signed(from))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    async fn record_verify(&self) -> Result<Verified, StoreError> {
        let mut verifier = Verifier::default();
        let mut walk = Walk::default();
        // Page by page, so that nobody who reads has to wait for all of it: what is written stands still.
        while !walk.broken() {
            let page = walk.page(&self.reader).await?;
            if walk.take(&mut verifier, page) < PAGE {
                break;
            }
        }
        // The end in one transaction: the last entries and the head of the same moment.
        let mut tx = self.reader.begin().await?;
        let kept = head(&mut *tx).await?;
        while !walk.broken() {
            let page = walk.page(&mut *tx).await?;
            if walk.take(&mut verifier, page) < PAGE {
                break;
            }
        }
        let broken = walk.broken.or_else(|| verifier.finish(kept).err());
        Ok(Verified {
            entries: walk.entries,
            head: kept.hash,
            broken,
        })
    }
}

/// Where a walk along the record is.
#[derive(Debug)]
struct Walk {
    after: i64,
    entries: u64,
    broken: Option<Break>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            after: i64::MIN,
            entries: 0,
            broken: None,
        }
    }
}

impl Walk {
    fn broken(&self) -> bool {
        self.broken.is_some()
    }

    async fn page(
        &self,
        executor: impl sqlx::SqliteExecutor<'_>,
    ) -> Result<Vec<EntryRow>, sqlx::Error> {
        sqlx::query_as("SELECT * FROM record WHERE number > $1 ORDER BY number LIMIT $2")
            .bind(self.after)
            .bind(i64::from(PAGE))
            .fetch_all(executor)
            .await
    }

    /// Follows a page, and answers with its length.
    fn take(&mut self, verifier: &mut Verifier, page: Vec<EntryRow>) -> u32 {
        let length = u32::try_from(page.len()).unwrap_or(u32::MAX);
        for row in page {
            self.after = row.number;
            self.entries += 1;
            if let Err(broken) = verifier.take(&row.into()) {
                self.broken = Some(broken);
                break;
            }
        }
        length
    }
}
