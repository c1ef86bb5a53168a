//! Why the store could not do something. Refusals that belong to one operation are that operation's
//! own enum; this is for the store itself.

use thiserror::Error;
use uuid::Uuid;

/// The store failed, or holds something it cannot hold.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("failed to open the database {path}")]
    Open {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("failed to bring the database up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a database statement failed")]
    Database(#[from] sqlx::Error),
    #[error("the database holds {what} that cannot be read")]
    Corrupt { what: &'static str },
    #[error("failed to use {path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("another controller runs on the data directory {path}")]
    InUse { path: String },
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
    #[error("the plan was carried out already, by rollout {rollout}")]
    PlanUsed { rollout: Uuid },
    #[error("the host was revoked")]
    HostRevoked,
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
