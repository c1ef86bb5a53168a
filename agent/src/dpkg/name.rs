//! Names and versions of packages, as dpkg takes them: more than Debian Policy allows (5.6.7 and 5.6.12).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// No name or version in Debian is nearly as long.
const LONGEST: usize = 200;

/// The name of a binary package, without its architecture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageName(String);

/// A version: `[epoch:]upstream[-revision]`. Which is older is for dpkg alone to say: the order here is that of texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

/// Why a text is no name or no version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no {what} of a package")]
pub struct InvalidName {
    text: String,
    what: &'static str,
}

impl InvalidName {
    pub(super) fn new(text: &str, what: &'static str) -> Self {
        Self {
            text: text.chars().take(LONGEST).collect(),
            what,
        }
    }
}

impl FromStr for PackageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        let valid = (1..=LONGEST).contains(&text.len())
            && text.bytes().next().is_some_and(plain)
            && text
                .bytes()
                .all(|byte| plain(byte) || b"+-._".contains(&byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(text, "name"))
        }
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=LONGEST).contains(&text.len())
            && text
                .bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_digit())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".+-:~".contains(&byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(text, "version"))
        }
    }
}

impl TryFrom<String> for PackageName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PackageName> for String {
    fn from(name: PackageName) -> Self {
        name.0
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl PackageName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// The version.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_of_debian_are_taken_and_nothing_else() {
        for name in [
            "nginx",
            "libstdc++6",
            "g++",
            "0ad",
            "python3.11-minimal",
            "my_App",
        ] {
            assert_eq!(name.parse::<PackageName>().expect(name).as_str(), name);
        }
        for name in [
            "",
            "-nginx",
            "--all",
            "nginx:amd64",
            "nginx_*",
            "n x",
            "nginx*",
            "n\nx",
        ] {
            assert!(name.parse::<PackageName>().is_err(), "{name:?}");
        }
        for version in ["1.22.1-9+deb12u1", "1:2.3~rc1-4", "0", "2.42.0+ds-5+b5"] {
            assert_eq!(version.parse::<Version>().expect(version).as_str(), version);
        }
        for version in ["", "v1", "-1", "1 2", "1\n", "1;2", "1/2"] {
            assert!(version.parse::<Version>().is_err(), "{version:?}");
        }
    }
}
