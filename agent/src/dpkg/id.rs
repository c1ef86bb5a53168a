//! One version of one package, and the names of its files.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{InvalidName, PackageName, Version};

/// A package in one version, for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Plain", into = "Plain")]
pub struct PackageId {
    pub name: PackageName,
    pub version: Version,
    architecture: String,
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Plain {
    name: PackageName,
    version: Version,
    architecture: String,
}

impl TryFrom<Plain> for PackageId {
    type Error = InvalidName;

    fn try_from(plain: Plain) -> Result<Self, InvalidName> {
        Self::new(plain.name, plain.version, &plain.architecture)
    }
}

impl From<PackageId> for Plain {
    fn from(id: PackageId) -> Self {
        Self {
            name: id.name,
            version: id.version,
            architecture: id.architecture,
        }
    }
}

impl PackageId {
    /// That package.
    ///
    /// # Errors
    /// The architecture is none.
    pub fn new(
        name: PackageName,
        version: Version,
        architecture: &str,
    ) -> Result<Self, InvalidName> {
        let valid = (1..=50).contains(&architecture.len())
            && !architecture.starts_with('-')
            && architecture
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if valid {
            Ok(Self {
                name,
                version,
                architecture: architecture.to_owned(),
            })
        } else {
            Err(InvalidName::new(architecture, "architecture"))
        }
    }

    /// `amd64`, `all`, …
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// How dpkg's tools are told which package is meant where there are others of that name.
    #[must_use]
    pub fn qualified_name(&self) -> String {
        qualified(&self.name, &self.architecture)
    }

    /// What apt calls its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        let [name, version] = [self.name.as_str(), self.version.as_str()].map(quoted);
        format!("{name}_{version}_{}.deb", self.architecture)
    }
}

/// A package of that name among those of other architectures. Of one for all architectures there is no other.
pub(super) fn qualified(name: &PackageName, architecture: &str) -> String {
    match architecture {
        "" | "all" => name.to_string(),
        _ => format!("{name}:{architecture}"),
    }
}

/// What means something in the name of such a file is written as its number.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '_' | ':') {
            // Into a text: it cannot fail.
            let _ = write!(quoted, "%{:02x}", u32::from(letter));
        } else {
            quoted.push(letter);
        }
    }
    quoted
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} ({})", self.name, self.version, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str, architecture: &str) -> Result<PackageId, InvalidName> {
        PackageId::new(name.parse()?, version.parse()?, architecture)
    }

    #[test]
    fn a_file_is_named_as_apt_names_it() {
        for (name, version, architecture, file) in [
            (
                "nginx",
                "1.22.1-9+deb12u1",
                "amd64",
                "nginx_1.22.1-9+deb12u1_amd64.deb",
            ),
            (
                "docker-ce",
                "5:24.0.1~rc1-1",
                "all",
                "docker-ce_5%3a24.0.1~rc1-1_all.deb",
            ),
            ("my_App", "1", "all", "my%5fApp_1_all.deb"),
        ] {
            let id = id(name, version, architecture).expect(name);
            assert_eq!(id.file_name(), file);
        }
    }

    #[test]
    fn it_is_written_down_and_what_is_read_back_is_checked() {
        let nginx = id("nginx", "1:2-3", "amd64").expect("valid");
        assert_eq!(nginx.to_string(), "nginx=1:2-3 (amd64)");
        assert_eq!(nginx.qualified_name(), "nginx:amd64");
        let text = serde_json::to_string(&nginx).expect("written");
        assert_eq!(
            serde_json::from_str::<PackageId>(&text).expect("read"),
            nginx
        );
        for bad in ["../x", "-x", "", "AMD64"] {
            assert!(id("nginx", "1", bad).is_err(), "{bad:?}");
            let text = text.replace("amd64", bad);
            assert!(serde_json::from_str::<PackageId>(&text).is_err(), "{bad:?}");
        }
    }
}
