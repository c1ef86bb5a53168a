//! Why the store could not do something. Refusals that belong to one operation are that operation's
//! own enum; this is for the store itself.

use sqlx::migrate::MigrateError;
use thiserror::Error;
use uuid::Uuid;

use crate::cluster::Unreadable;

/// The store failed, or holds something it cannot hold.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("failed to open the database {path}: it {}; {}", Trouble::of(source).what(), Trouble::of(source).next_step())]
    Open {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("failed to bring the database controller.db in data_dir up to date")]
    Migrate(#[from] MigrateError),
    #[error("the database controller.db in data_dir {}; {}", Trouble::of(.0).what(), Trouble::of(.0).next_step())]
    Database(#[from] sqlx::Error),
    #[error("the database holds {what} that cannot be read")]
    Corrupt { what: &'static str },
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("failed to use {path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{name} was revoked at a time that this machine's clock has not come to: what is issued now would be refused; \
         set the clock right, then issue it again"
    )]
    RevokedLater { name: String },
    #[error("another controller runs on the data directory {path}")]
    InUse { path: String },
    #[error(
        "the controller that runs on {path} is of another version; restart it with this one, then try again"
    )]
    OtherVersion { path: String },
    #[error(
        "the database in {path} is of another version of sternway-controller: if of an older one, start the controller \
         with this one, which brings it up to date; if of a newer one, use that"
    )]
    OtherSchema { path: String },
    #[error(
        "there is no database in {path}, or an empty one: is that the controller's data_dir? `sternway-controller config \
         show` says which it is; if the database was lost, put a backup of the data_dir in place; without one, move the folder \
         away and make a new cluster with `sternway-controller init`, which its hosts have to join anew"
    )]
    NoDatabase { path: String },
}

/// What a person can do about a store that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No space left.
    Full,
    ReadOnly,
    /// The file is damaged, or no database at all.
    Corrupt,
    /// Somebody else holds it.
    Locked,
    /// We have more to do with it than it takes in time.
    Busy,
    /// Reading or writing failed.
    Io,
    Other,
}

impl Trouble {
    /// Of an error of the database. By its primary result code: the low byte of what SQLite answers.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Self {
        // SQLITE_IOERR_SHMSIZE: the file beside the database could not grow.
        const NO_ROOM: i32 = 4874;
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Io(_) => Self::Io,
            sqlx::Error::Database(error) => {
                let code: i32 = error
                    .code()
                    .and_then(|code| code.parse().ok())
                    .unwrap_or_default();
                match (code, code & 0xff) {
                    (NO_ROOM, _) | (_, 13) => Self::Full,
                    (_, 8) => Self::ReadOnly,
                    (_, 11 | 26) => Self::Corrupt,
                    (_, 5 | 6) => Self::Locked,
                    (_, 10 | 14) => Self::Io,
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }

    /// Stable, for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Full => "store-full",
            Self::ReadOnly => "store-read-only",
            Self::Corrupt => "store-corrupt",
            Self::Locked => "store-locked",
            Self::Busy => "store-busy",
            Self::Io | Self::Other => "store-failed",
        }
    }

    /// What happened, as the end of a sentence about the file.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Full => "cannot grow: the disk is full",
            Self::ReadOnly => "cannot be written: it is read-only",
            Self::Corrupt => "is damaged",
            Self::Locked => "is held by another process",
            Self::Busy => "does not keep up: too much waits for it",
            Self::Io => "cannot be read or written",
            Self::Other => "did not take a statement",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Full => "make room on the controller's data_dir; it goes on by itself then",
            Self::ReadOnly => {
                "make data_dir writable for the controller's user: mount options, owner and mode"
            }
            Self::Corrupt => "stop the controller and put a backup of its data_dir in place",
            Self::Locked => {
                "a controller that is busy lets go of it by itself, so try again in a moment; if that goes on, end what \
                 else has the file open"
            }
            Self::Busy => {
                "try again; if it goes on, the disk of the controller's data_dir is too slow for its hosts"
            }
            Self::Io => "see the controller's log, and the system's for errors of the disk",
            Self::Other => "see the controller's log",
        }
    }
}

impl StoreError {
    /// What a person can do about it.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Open { source, .. }
            | Self::Database(source)
            | Self::Migrate(MigrateError::Execute(source)) => Trouble::of(source),
            Self::Corrupt { .. } => Trouble::Corrupt,
            Self::File { .. } | Self::Unreadable(_) => Trouble::Io,
            Self::InUse { .. } => Trouble::Locked,
            Self::Migrate(_)
            | Self::OtherVersion { .. }
            | Self::OtherSchema { .. }
            | Self::NoDatabase { .. }
            | Self::RevokedLater { .. } => Trouble::Other,
        }
    }
}

/// Why a join token was not accepted.
#[derive(Debug, Error)]
pub enum RedeemError {
    #[error("the join token is not known")]
    Unknown,
    #[error("the join token was used already")]
    Used,
    #[error("the join token has expired")]
    Expired,
    #[error("a host named {name} exists already")]
    NameTaken { name: String },
    #[error("the name {name} reads as the id of a host")]
    NameIsId { name: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RedeemError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why a rollout was not started.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the plan is not known")]
    PlanUnknown,
    #[error("the plan has expired")]
    PlanExpired,
    #[error("the plan was made for {operator}")]
    PlanNotYours { operator: String },
    #[error("the plan was carried out already, by rollout {rollout}")]
    PlanUsed { rollout: Uuid },
    #[error("the request's id was used already, for rollout {rollout}")]
    RequestIdUsed { rollout: Uuid },
    #[error("the host was revoked")]
    HostRevoked,
    #[error("revision #{number} was marked bad since the plan was made")]
    RevisionBad {
        number: u32,
        target: String,
        /// May be empty.
        reason: String,
    },
    #[error("rollout {rollout} is restoring the target")]
    TargetBusy { rollout: Uuid },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for StartError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_of_our_own_is_not_called_another_process() {
        let error = StoreError::from(sqlx::Error::PoolTimedOut);
        assert_eq!(error.trouble().code(), "store-busy");
        let said = error.to_string();
        assert!(said.contains("too much waits for it"), "{said}");
        assert!(!said.contains("another process"), "{said}");
    }
}
