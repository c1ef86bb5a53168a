//! Why the service manager could not be asked, or would not.

use thiserror::Error;

use super::UnitName;

/// What systemd calls its refusals (`org.freedesktop.systemd1(5)` and its sources).
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const LOAD_FAILED: &str = "org.freedesktop.systemd1.LoadFailed";
const MASKED: &str = "org.freedesktop.systemd1.UnitMasked";
pub(super) const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
pub(super) const NO_SUCH_JOB: &str = "org.freedesktop.systemd1.NoSuchJob";

/// Why it did not go.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// The bus or the service manager is not there. Nothing was asked.
    #[error("the service manager cannot be asked: {reason}")]
    Unreachable { reason: String },
    /// It was asked and did not answer, or not in time: it may have done it.
    #[error("the service manager did not answer to {what}: {reason}")]
    Unanswered { what: String, reason: String },
    #[error("there is no unit {unit}")]
    NoSuchUnit { unit: UnitName },
    /// Somebody linked it to `/dev/null`, so that nothing starts it.
    #[error("{unit} is masked")]
    Masked { unit: UnitName },
    /// It said no, in its own words.
    #[error("the service manager refused {what}: {reason} ({code})")]
    Refused {
        what: String,
        code: String,
        reason: String,
    },
    /// It said something that this version cannot read.
    #[error("what the service manager said to {what} cannot be read: {reason}")]
    Unreadable { what: String, reason: String },
}

impl BusError {
    /// The same may go well in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unanswered { .. })
    }

    /// It refused with that error of its own.
    pub(super) fn is_refusal(&self, with: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == with)
    }

    /// What came of a call about a unit.
    pub(super) fn of(what: &str, unit: Option<&UnitName>, error: zbus::Error) -> Self {
        let what = what.to_owned();
        match error {
            zbus::Error::MethodError(name, reason, _) => {
                let reason = reason.unwrap_or_default();
                match (name.as_str(), unit) {
                    (NO_SUCH_UNIT, Some(unit)) => Self::NoSuchUnit { unit: unit.clone() },
                    (MASKED, Some(unit)) => Self::Masked { unit: unit.clone() },
                    // Before systemd 254 a masked unit that is not loaded fails to load.
                    (LOAD_FAILED, Some(unit)) if reason.contains("is masked") => {
                        Self::Masked { unit: unit.clone() }
                    }
                    (code, _) => Self::Refused {
                        what,
                        code: code.to_owned(),
                        reason,
                    },
                }
            }
            zbus::Error::FDO(error) => Self::of_the_bus(what, &error),
            error @ (zbus::Error::InputOutput(_) | zbus::Error::Failure(_)) => Self::Unanswered {
                what,
                reason: error.to_string(),
            },
            error => Self::Unreadable {
                what,
                reason: error.to_string(),
            },
        }
    }

    fn of_the_bus(what: String, error: &zbus::fdo::Error) -> Self {
        use zbus::fdo::Error;
        match error {
            Error::ServiceUnknown(_) | Error::NameHasNoOwner(_) => Self::Unreachable {
                reason: error.to_string(),
            },
            Error::NoReply(_) | Error::Disconnected(_) | Error::Timeout(_) | Error::TimedOut(_) => {
                Self::Unanswered {
                    what,
                    reason: error.to_string(),
                }
            }
            Error::ZBus(zbus::Error::InputOutput(_)) => Self::Unanswered {
                what,
                reason: error.to_string(),
            },
            _ => Self::Refused {
                what,
                code: "org.freedesktop.DBus.Error".to_owned(),
                reason: error.to_string(),
            },
        }
    }
}
