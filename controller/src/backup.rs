//! A copy of the data folder from which a controller can be started: the database as it stands at one moment, and the
//! certificate authority.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sternway_proto::tls::{self, CredentialsError};
use thiserror::Error;

use crate::{
    cluster::{self, PKI, Unreadable},
    store::{Sqlite, StoreError},
};

/// Why there is no copy.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("there is no cluster in {}", data_dir.display())]
    NoCluster { data_dir: PathBuf },
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("{} is there already; name a folder that is not", path.display())]
    Exists { path: PathBuf },
    #[error("failed to {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to copy the database into {}", path.display())]
    Copy {
        path: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error(transparent)]
    Write(#[from] CredentialsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Copies what a controller keeps in its data folder into a new folder, for its owner only. A controller may run on it
/// meanwhile. The copy is whole once this returns; what is left of one that failed has no `controller.db`.
///
/// # Errors
/// There is no cluster, the folder is there already, or something cannot be read or written.
pub async fn backup(data_dir: &Path, to: &Path) -> Result<(), BackupError> {
    let pki = data_dir.join(PKI);
    if !cluster::there(&pki.join("cluster"))? {
        return Err(BackupError::NoCluster {
            data_dir: data_dir.to_owned(),
        });
    }
    if cluster::there(to)? {
        return Err(BackupError::Exists {
            path: to.to_owned(),
        });
    }
    let store = Sqlite::as_it_is(data_dir).await?;
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File {
            action,
            path,
            source,
        }
    };
    for entry in fs::read_dir(&pki).map_err(failed("read", &pki))? {
        let path = entry.map_err(failed("read", &pki))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // What is written at this moment has such a name.
        if name.starts_with('.') || !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        tls::write_private(&to.join(PKI), &name, &bytes)?;
    }
    restrict(to).map_err(failed("restrict", to))?;
    let (part, whole) = (to.join("controller.db.part"), to.join("controller.db"));
    let copied = store.copy_into(&part).await;
    store.close().await;
    copied.map_err(|source| BackupError::Copy {
        path: part.clone(),
        source,
    })?;
    fs::rename(&part, &whole).map_err(failed("rename", &part))?;
    let folder = fs::File::open(to).and_then(|folder| folder.sync_all());
    folder.map_err(failed("sync", to))
}

fn restrict(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}
