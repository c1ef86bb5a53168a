//! Why a work did not go well.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    chain::chain, dpkg::InstallError, engine::step::StepError, snapshot::SnapshotError,
    store::files::FileError, systemd::BusError,
};

/// Why it did not go, in the words of whoever did it: written down with the work's end.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// For programs: stable.
    pub code: String,
    pub message: String,
    /// What a person can do.
    pub next_step: String,
    /// The same may go well in a moment.
    pub transient: bool,
    /// What was said besides and may hold what is private: for the journal of the host, and nowhere else.
    #[serde(skip)]
    pub aside: String,
}

impl Failure {
    /// With all that was said as its message.
    #[must_use]
    pub(super) fn whole(mut self) -> Self {
        if !self.aside.is_empty() {
            self.message = std::mem::take(&mut self.aside);
        }
        self
    }
}

/// Why a work did not go well, or is not known to have.
#[derive(Debug, Error)]
pub enum WorkError {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    File(#[from] FileError),
    /// It ended without a word: it was killed, or could not write.
    #[error("{unit} ended ({how}) and did not say what it did")]
    Died { unit: String, how: String },
    #[error("{unit} did not end in its time")]
    Late { unit: String },
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let next = match error.code() {
            "no-disk-space" => "make room on that disk of the host, then roll back again",
            "read-only" => "mount it to be written, or roll back what stands elsewhere",
            "immutable" => "`chattr -i` it, or its folder, on the host, then roll back again",
            "mount-point" => "unmount it: what is mounted there is not put back",
            "artifact-missing" | "artifact-damaged" | "artifact-failed" => {
                "what was kept of it is lost: choose another revision with `ctl history`"
            }
            "in-the-way" => "see what stands there, and move it away",
            "link-untrusted" => {
                "make the link, and its folder, root's, or declare what it leads to"
            }
            _ => "see what stands there on the host",
        };
        Self {
            code: error.code().to_owned(),
            message: chain(&error),
            next_step: next.to_owned(),
            transient: error.is_transient(),
            aside: String::new(),
        }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        let (code, next) = match &error {
            InstallError::Locked { .. } => (
                "dpkg-locked",
                "let whoever is at it end (or end it), then roll back again",
            ),
            InstallError::Failed { .. } | InstallError::NotInstalled { .. } => (
                "dpkg-failed",
                "see what the maintainer script said: `journalctl -u 'sternway-*'` on the host, and `dpkg --audit`",
            ),
            InstallError::Deb(_) => (
                "artifact-damaged",
                "what was kept of it is not that package: choose another revision with `ctl history`",
            ),
            InstallError::File(error) if error.is_no_space() => (
                "no-disk-space",
                "make room on the disk of the host, then roll back again",
            ),
            InstallError::Run(_) | InstallError::Dpkg(_) | InstallError::File(_) => (
                "dpkg-unusable",
                "see whether dpkg works on the host: `dpkg --audit`",
            ),
        };
        let transient = matches!(error, InstallError::Locked { .. });
        let message = match &error {
            // A maintainer script may quote what it read.
            InstallError::Failed { own, .. } => format!("dpkg failed: {own}"),
            error => chain(error),
        };
        Self {
            code: code.to_owned(),
            message,
            next_step: next.to_owned(),
            transient,
            aside: chain(&error),
        }
    }
}

impl From<&BusError> for StepError {
    fn from(error: &BusError) -> Self {
        let (code, next) = match error {
            BusError::Unreachable { .. } | BusError::Unanswered { .. } => (
                "service-manager-unreachable",
                "look at the service manager of the host: `systemctl is-system-running`",
            ),
            BusError::NoSuchUnit { .. } => {
                ("unit-gone", "see where its unit file is: `systemctl cat`")
            }
            BusError::Masked { .. } => ("unit-masked", "`systemctl unmask` it, if it is to run"),
            BusError::Refused { .. } | BusError::Unreadable { .. } => (
                "service-manager-refused",
                "see the log of the host: `journalctl -b -p warning`",
            ),
        };
        Self {
            code: code.to_owned(),
            message: error.to_string(),
            next_step: next.to_owned(),
            transient: error.is_transient(),
        }
    }
}

impl From<WorkError> for StepError {
    fn from(error: WorkError) -> Self {
        let message = chain(&error);
        match error {
            WorkError::Failed(failure) => Self {
                code: failure.code,
                message: failure.message,
                next_step: failure.next_step,
                transient: failure.transient,
            },
            WorkError::Bus(error) => Self::from(&error),
            WorkError::File(error) => {
                let (code, next) = if error.is_no_space() {
                    (
                        "no-disk-space",
                        "make room on the disk of the agent's state",
                    )
                } else {
                    ("state-folder", "see the agent's state folder, and its disk")
                };
                Self {
                    code: code.to_owned(),
                    message,
                    next_step: next.to_owned(),
                    transient: false,
                }
            }
            WorkError::Died { ref unit, .. } | WorkError::Late { ref unit } => Self {
                code: "work-died".to_owned(),
                next_step: format!("see its log on the host: `journalctl -u {unit}`"),
                message,
                transient: matches!(error, WorkError::Died { .. }),
            },
        }
    }
}
