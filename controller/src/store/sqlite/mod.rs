//! SQLite behind the store. One connection writes, others read: SQLite has one writer anyway, and a
//! queue in front of it is fairer than `SQLITE_BUSY`.
//!
//! `synchronous = FULL`: an agent drops its journal's copy of an event once it is told that it is
//! stored, and an operator is told that an order stands. With NORMAL a power cut could take back commits
//! of the WAL that were acknowledged; with FULL it cannot. What is not acknowledged is batched instead.

mod budget;
mod hosts;
mod log;
mod meta;
mod migrations;
mod operators;
mod orders;
mod rollouts;
mod row;
mod targets;
#[cfg(test)]
mod tests;

use std::{fs::File, path::Path, sync::Mutex, time::Duration};

use prost::Message;
use sqlx::{
    Connection as _, Sqlite as Db, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use uuid::Uuid;

use self::budget::Budget;
use super::{Store, StoreError};
use crate::{
    cluster::Unreadable,
    fault::{self, Moment},
};

/// How long a connection waits for another process that holds the database, and a caller for a
/// connection.
const BUSY: Duration = Duration::from_secs(10);

/// As long for a command: a controller that is busy writes for longer than a person minds to wait.
const COMMAND_BUSY: Duration = Duration::from_secs(30);

/// How long a controller that starts waits for a command that holds the data directory.
const HELD: Duration = Duration::from_secs(1);

/// Connections that read. More than cores help nobody.
const READERS: u32 = 4;

type Tx<'a> = Transaction<'a, Db>;

/// A store in one SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    reader: SqlitePool,
    budget: Mutex<Budget>,
    /// Held for as long as the store of a controller lives: two on one directory would both be right.
    _lock: Option<File>,
}

impl Store for Sqlite {}

impl Sqlite {
    /// Opens the database in a data directory for a controller, and brings the schema up to date. It makes none: an
    /// empty one knows neither what was revoked nor which epochs there were.
    ///
    /// # Errors
    /// The directory cannot be used, another controller uses it, there is no database, or it cannot be opened.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        there(data_dir)?;
        let until = tokio::time::Instant::now() + HELD;
        let lock = loop {
            match lock(data_dir) {
                // By a command, for a moment.
                Err(StoreError::InUse { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(HELD / 20).await;
                }
                other => break other?,
            }
        };
        let store = Self::connect(data_dir, BUSY, Some(lock)).await?;
        migrations::all().run(&store.writer).await?;
        Ok(store)
    }

    /// Makes the database of a new cluster, and its data directory, for the command that makes it.
    ///
    /// # Errors
    /// The directory cannot be used, a controller uses it, or the database cannot be made.
    pub async fn new(data_dir: &Path) -> Result<Self, StoreError> {
        let lock = lock(data_dir)?;
        let store = Self::connect(data_dir, COMMAND_BUSY, None).await?;
        migrations::all().run(&store.writer).await?;
        // From here on a controller may start.
        drop(lock);
        Ok(store)
    }

    /// Opens the database for a command that writes, also while a controller runs on it: whoever writes takes the
    /// database's own lock, and reads within it what must be true. Where none runs, the schema is brought up to date
    /// first.
    ///
    /// # Errors
    /// As [`Sqlite::open`]; there is no database, or the controller that runs is of another version.
    pub async fn beside(data_dir: &Path) -> Result<Self, StoreError> {
        // Nothing is made, nor brought up to date, where there is none.
        let store = Self::as_it_is(data_dir).await?;
        match lock(data_dir) {
            Ok(lock) => {
                migrations::all().run(&store.writer).await?;
                drop(lock);
                Ok(store)
            }
            Err(StoreError::InUse { path }) => {
                if migrations::is_current(&store.reader).await? {
                    Ok(store)
                } else {
                    Err(StoreError::OtherVersion { path })
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the database for a command that only reads, also while a controller runs on it.
    ///
    /// # Errors
    /// There is no database, it is of another version, or it cannot be opened.
    pub async fn reading(data_dir: &Path) -> Result<Self, StoreError> {
        let store = Self::as_it_is(data_dir).await?;
        if migrations::is_current(&store.reader).await? {
            return Ok(store);
        }
        Err(StoreError::OtherSchema {
            path: data_dir.display().to_string(),
        })
    }

    /// Opens the database of whatever version, for a command that copies it.
    ///
    /// # Errors
    /// There is no database, or it cannot be opened.
    pub async fn as_it_is(data_dir: &Path) -> Result<Self, StoreError> {
        there(data_dir)?;
        let store = Self::connect(data_dir, COMMAND_BUSY, None).await?;
        let held: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM sqlite_master WHERE name IN ('_sqlx_migrations', 'record')",
        )
        .fetch_one(&store.reader)
        .await?;
        if held == 2 {
            Ok(store)
        } else {
            Err(no_database(data_dir))
        }
    }

    /// Writes the whole database, as it stands at one moment, into a new file, and waits until it is on disk. Others
    /// read and write meanwhile.
    ///
    /// # Errors
    /// The file cannot be written, or is there already and not empty.
    pub async fn copy_into(&self, path: &Path) -> Result<(), StoreError> {
        let file = |source| StoreError::File {
            path: path.display().to_string(),
            source,
        };
        // Made here for its owner only: SQLite writes into an empty file.
        private(path).map_err(file)?;
        sqlx::query("VACUUM INTO $1")
            .bind(path.display().to_string())
            .execute(&self.writer)
            .await?;
        let written = File::open(path).map_err(file)?;
        written.sync_all().map_err(file)
    }

    /// Opens the file, which is there.
    async fn connect(
        data_dir: &Path,
        busy: Duration,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let path = data_dir.join("controller.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(busy);
        let open = |source| StoreError::Open {
            path: path.display().to_string(),
            source,
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(busy)
            .after_release(|connection, _| Box::pin(usable(connection)))
            .connect_with(options.clone())
            .await
            .map_err(open)?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(busy)
            .after_release(|connection, _| Box::pin(usable(connection)))
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(open)?;
        Ok(Self {
            writer,
            reader,
            budget: Mutex::default(),
            _lock: lock,
        })
    }

    /// Waits for what is being written and closes the file.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// A transaction that may write. Takes the write lock at once, so that nothing it read changes
    /// before it writes; rolled back when it is dropped.
    async fn begin(&self) -> Result<Tx<'static>, sqlx::Error> {
        let started = std::time::Instant::now();
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await;
        metrics::histogram!(crate::metrics::STORE_WAIT).record(started.elapsed().as_secs_f64());
        tx
    }
}

/// Whether a connection that comes back to its pool can be used again. On a full disk, or when reading or
/// writing fails, SQLite rolls the transaction back by itself; the driver's own rollback then fails, and it
/// counts the transaction as open for ever: every later `BEGIN` on this connection would be refused.
async fn usable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Answered after the rollback of a transaction that was dropped, which may still be on its way.
    connection.ping().await?;
    let open = connection.is_in_transaction();
    if open {
        tracing::warn!("a transaction ended by itself: its database connection is opened again");
    }
    Ok(!open)
}

/// Commits: behind this line it is acknowledged.
async fn commit(tx: Tx<'_>) -> Result<(), sqlx::Error> {
    fault::commit(Moment::Before);
    tx.commit().await?;
    fault::commit(Moment::After);
    Ok(())
}

fn no_database(data_dir: &Path) -> StoreError {
    StoreError::NoDatabase {
        path: data_dir.join("controller.db").display().to_string(),
    }
}

/// Refuses a data directory that has no database, or an empty file for it.
fn there(data_dir: &Path) -> Result<(), StoreError> {
    let path = data_dir.join("controller.db");
    match std::fs::metadata(&path) {
        Ok(file) if file.len() > 0 => Ok(()),
        Ok(_) => Err(no_database(data_dir)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(no_database(data_dir)),
        Err(source) => Err(StoreError::Unreadable(Unreadable { path, source })),
    }
}

fn lock(data_dir: &Path) -> Result<File, StoreError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let file = |source| StoreError::File {
        path: data_dir.display().to_string(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(file)?;
    // The database inherits its mode from nothing: it is made here, readable by its owner only.
    for name in ["controller.db", "lock"] {
        let path = data_dir.join(name);
        private(&path).map_err(|source| StoreError::File {
            path: path.display().to_string(),
            source,
        })?;
    }
    let lock = File::open(data_dir.join("lock")).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: data_dir.display().to_string(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(file(source)),
    }
}

/// Makes a file for its owner only, if it is not there.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Numbers of the wire are unsigned, columns are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn uuid(text: &str, what: &'static str) -> Result<Uuid, StoreError> {
    Uuid::try_parse(text).map_err(|_| StoreError::Corrupt { what })
}

fn decode<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|_| StoreError::Corrupt { what })
}
