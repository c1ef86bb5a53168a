//! Names of units.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// The longest name, in bytes: `UNIT_NAME_MAX` of systemd is 256 with its terminator.
const LONGEST: usize = 255;

/// What a unit may be: the last part of its name.
const TYPES: [&str; 11] = [
    "service",
    "socket",
    "timer",
    "target",
    "path",
    "mount",
    "automount",
    "swap",
    "slice",
    "scope",
    "device",
];

/// The name of a unit that can be loaded, for instance `billing.service` or `worker@1.service`. No template, and nothing
/// that systemd would refuse or read as something else (`systemd.unit(5)`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(String);

/// Why a text is no name of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no name of a unit: {reason}")]
pub struct InvalidUnitName {
    name: String,
    reason: &'static str,
}

impl UnitName {
    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is: `service`, `socket`, …
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(_, kind)| kind)
    }

    /// The template that it is an instance of: `worker@.service`.
    #[must_use]
    pub fn template(&self) -> Option<String> {
        let (prefix, _) = self.0.split_once('@')?;
        Some(format!("{prefix}@.{}", self.kind()))
    }
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.len() > LONGEST {
        return Err("it is longer than 255 bytes");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if !name.bytes().all(allowed) {
        return Err("only letters, digits and :-_.\\@ may be in it");
    }
    let Some((stem, kind)) = name.rsplit_once('.') else {
        return Err("it does not end in what it is, such as .service");
    };
    if !TYPES.contains(&kind) {
        return Err("it does not end in what it is, such as .service");
    }
    if stem.is_empty() || stem.starts_with('@') {
        return Err("nothing stands before what it is");
    }
    if stem.ends_with('@') {
        return Err("it is a template: name an instance of it");
    }
    Ok(())
}

impl FromStr for UnitName {
    type Err = InvalidUnitName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match check(name) {
            Ok(()) => Ok(Self(name.to_owned())),
            Err(reason) => Err(InvalidUnitName {
                name: name.chars().take(LONGEST).collect(),
                reason,
            }),
        }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_systemd_takes() {
        for (name, template) in [
            ("billing.service", None),
            ("worker@1.service", Some("worker@.service")),
            ("dev-disk\\x2dby.device", None),
            ("a.b:c-d_e.socket", None),
        ] {
            let unit: UnitName = name.parse().expect("valid");
            assert_eq!(unit.as_str(), name);
            assert_eq!(unit.template().as_deref(), template);
        }
    }

    #[test]
    fn names_that_it_does_not() {
        for name in [
            "",
            "billing",
            "billing.conf",
            ".service",
            "@1.service",
            "worker@.service",
            "../billing.service",
            "bill ing.service",
            "billing.service\n",
            "billing\u{1b}.service",
            "*.service",
        ] {
            let refused = name.parse::<UnitName>().expect_err(name).to_string();
            assert!(!refused.contains(['\n', '\u{1b}']), "{refused}");
        }
    }

    #[test]
    fn a_name_has_a_longest_length() {
        let longest = format!("{}.service", "a".repeat(LONGEST - ".service".len()));
        assert!(longest.parse::<UnitName>().is_ok());
        assert!(format!("a{longest}").parse::<UnitName>().is_err());
    }
}
