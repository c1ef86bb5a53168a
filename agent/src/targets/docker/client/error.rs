//! What can go wrong between us and the engine, sorted by what can be done about it.

use thiserror::Error;

use crate::{engine::step::StepError, targets::KindError};

/// The code of [`EngineErrorKind::NoSpace`].
pub(crate) const NO_SPACE: &str = "no-disk-space";

/// A call to the engine that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("failed to {what}: {message}")]
pub struct EngineError {
    /// What was asked, for a person: `stop container shop`.
    pub what: String,
    pub kind: EngineErrorKind,
    /// The engine's own words, or what the connection did.
    pub message: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// The thing is not there.
    NotFound,
    /// The name is taken, the removal is in progress, …
    Conflict,
    /// Nobody listens, or the connection broke: the call may have taken effect.
    Unreachable,
    /// No answer in time: the call may have taken effect.
    Timeout,
    /// The engine's disk is full.
    NoSpace,
    /// The engine said no.
    Refused,
}

impl EngineError {
    /// An error of that kind.
    pub fn new(what: impl Into<String>, kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            kind,
            message: message.into(),
        }
    }

    /// The engine takes calls and answers none.
    pub(in super::super) fn silent(what: &str, waited: std::time::Duration) -> Self {
        let message = format!(
            "the engine does not answer: nothing came within {} s",
            waited.as_secs()
        );
        Self::new(what, EngineErrorKind::Timeout, message)
    }

    /// The engine answered with an error.
    pub(in super::super) fn of_status(what: &str, status: u16, message: String) -> Self {
        Self::new(what, classify(status, &message), message)
    }

    /// The thing is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == EngineErrorKind::NotFound
    }

    /// A registry that the engine asked does not let us in. The engine passes its words on with a status of its own.
    pub fn is_denied(&self) -> bool {
        let said = self.message.to_lowercase();
        let words = ["unauthorized", "denied", "no basic auth credentials"];
        words.iter().any(|word| said.contains(word))
    }

    /// The same call may succeed if it is repeated.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            EngineErrorKind::Unreachable | EngineErrorKind::Timeout
        )
    }

    /// The stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self.kind {
            EngineErrorKind::NotFound => "not-found",
            EngineErrorKind::Conflict => "conflict",
            EngineErrorKind::Unreachable => "engine-unreachable",
            EngineErrorKind::Timeout => "engine-timeout",
            EngineErrorKind::NoSpace => NO_SPACE,
            EngineErrorKind::Refused => "engine-refused",
        }
    }

    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self.kind {
            EngineErrorKind::Unreachable | EngineErrorKind::Timeout => {
                "see whether the Docker engine runs and answers: `docker info`"
            }
            EngineErrorKind::NoSpace => {
                "free space on the disk of the Docker engine: `docker system df`"
            }
            EngineErrorKind::NotFound => {
                "see what is there on the host (`docker ps -a`, `docker images`), and who removed it: `docker events \
                 --since 1h`"
            }
            EngineErrorKind::Conflict => {
                "see on the host what bears that name or is just being removed (`docker ps -a`), then try again"
            }
            EngineErrorKind::Refused => {
                "mend on the host what the engine says, for instance by the log of its service: `journalctl -u docker`"
            }
        }
    }
}

/// The kernel says the same of other things that have run out, which no room on a disk mends.
fn is_full_disk(message: &str) -> bool {
    let others = ["cgroup", "cpuset", "inotify", "tmpfs"];
    message.contains("no space left on device") && !others.iter().any(|it| message.contains(it))
}

fn classify(status: u16, message: &str) -> EngineErrorKind {
    if is_full_disk(message) {
        return EngineErrorKind::NoSpace;
    }
    match status {
        404 => EngineErrorKind::NotFound,
        409 => EngineErrorKind::Conflict,
        502..=504 => EngineErrorKind::Unreachable,
        _ => EngineErrorKind::Refused,
    }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            next_step: error.next_step().to_owned(),
            transient: error.is_transient(),
        }
    }
}

impl From<EngineError> for KindError {
    fn from(error: EngineError) -> Self {
        let what = format!("failed to {}", error.what);
        let reason = error.message;
        match error.kind {
            EngineErrorKind::Unreachable | EngineErrorKind::Timeout => {
                Self::Unreachable { what, reason }
            }
            _ => Self::Failed { what, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_refusal_whatever_the_status() {
        let full = "write /var/lib/docker/tmp/x: no space left on device";
        for (status, message, kind) in [
            (500, full, EngineErrorKind::NoSpace),
            (
                500,
                "mkdir /sys/fs/cgroup/memory/docker/x: no space left on device",
                EngineErrorKind::Refused,
            ),
            (500, "driver failed", EngineErrorKind::Refused),
            (404, "No such container: x", EngineErrorKind::NotFound),
            (409, "name in use", EngineErrorKind::Conflict),
            (503, "shutting down", EngineErrorKind::Unreachable),
        ] {
            assert_eq!(classify(status, message), kind, "{status} {message}");
        }
    }

    #[test]
    fn never_silent_every_error_says_what_to_do() {
        for status in [404, 409, 500, 503] {
            let error = EngineError::of_status("x", status, "y".to_owned());
            assert!(!error.next_step().is_empty(), "{error:?}");
        }
    }

    #[test]
    fn only_what_may_pass_by_itself_is_transient() {
        let error = |kind| EngineError::new("x", kind, "y").is_transient();
        assert!(error(EngineErrorKind::Timeout) && error(EngineErrorKind::Unreachable));
        assert!(!error(EngineErrorKind::Refused) && !error(EngineErrorKind::NoSpace));
    }
}
