//! Where the controller listens, and how others reach it.

use std::{net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::RunError;
use crate::config::Settings;

/// The addresses of a running controller; also in `run/addresses.toml` of its data folder, for whoever
/// configured port 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub listen: SocketAddr,
    pub listen_enrolment: SocketAddr,
    /// None: off.
    pub listen_metrics: Option<SocketAddr>,
    pub advertise: String,
    pub advertise_enrolment: String,
}

/// `host:port` for others: as configured, else the address listened on, else this machine's name.
pub(crate) fn advertised(configured: &str, bound: SocketAddr) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{name}:{}", bound.port())
}

impl Addresses {
    pub(super) fn of(
        settings: &Settings,
        main: &TcpListener,
        enrolment: &TcpListener,
        metrics: Option<&TcpListener>,
    ) -> Result<Self, RunError> {
        let bound = |key, listener: &TcpListener| {
            listener.local_addr().map_err(|source| RunError::Listen {
                key,
                address: String::new(),
                source,
            })
        };
        let listen = bound("listen", main)?;
        let listen_enrolment = bound("listen_enrolment", enrolment)?;
        let listen_metrics = metrics
            .map(|listener| bound("listen_metrics", listener))
            .transpose()?;
        Ok(Self {
            listen,
            listen_enrolment,
            listen_metrics,
            advertise: advertised(&settings.advertise, listen),
            advertise_enrolment: advertised(&settings.advertise_enrolment, listen_enrolment),
        })
    }

    /// Writes `run/addresses.toml`, whole or not at all.
    pub(super) fn write(&self, data_dir: &Path) -> Result<(), RunError> {
        let folder = data_dir.join("run");
        let path = folder.join("addresses.toml");
        let write = || {
            std::fs::create_dir_all(&folder)?;
            let file = tempfile::NamedTempFile::new_in(&folder)?;
            std::fs::write(file.path(), toml::to_string(self).unwrap_or_default())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| RunError::Write {
            path: path.display().to_string(),
            source,
        })
    }
}
