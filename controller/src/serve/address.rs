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

/// Where machines join: as configured, else under the name by which the controller is reached otherwise.
fn join_at(settings: &Settings, bound: SocketAddr) -> String {
    match settings.advertise.rsplit_once(':') {
        Some((host, _)) if settings.advertise_enrolment.is_empty() => {
            format!("{host}:{}", bound.port())
        }
        _ => advertised(&settings.advertise_enrolment, bound),
    }
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
            advertise_enrolment: join_at(settings, listen_enrolment),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_join_where_the_controller_is_reached_unless_they_are_told_otherwise() {
        let join = |advertise: &str, advertise_enrolment: &str| {
            let settings = Settings {
                advertise: advertise.to_owned(),
                advertise_enrolment: advertise_enrolment.to_owned(),
                ..Settings::default()
            };
            join_at(&settings, ([127, 0, 0, 1], 7543).into())
        };
        assert_eq!(join("", ""), "127.0.0.1:7543");
        assert_eq!(join("ctl.example:443", ""), "ctl.example:7543");
        assert_eq!(join("[::1]:443", ""), "[::1]:7543");
        assert_eq!(join("ctl.example:443", "join.example:1"), "join.example:1");
    }
}
