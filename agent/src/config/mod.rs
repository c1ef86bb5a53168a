//! The agent's settings: defaults, then the file, then the environment, then flags; the later wins. A key
//! that does not exist is refused, with the nearest right one and where it stands.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sternway_proto::{
    limits::REVISIONS_KEPT,
    service::LogFormat,
    settings::{self, Schema, Sources, duration},
};

use crate::targets::{docker::DockerSettings, systemd::UnitSettings};

/// What the environment's keys begin with: `STERNWAY_AGENT__LOG`, `STERNWAY_AGENT__DOCKER__SOCKET`.
pub const PREFIX: &str = "STERNWAY_AGENT__";

/// Everything that can be set. Durations read like `10m` or `1h 30m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The identity, the journals, the revisions and their artifacts.
    pub data_dir: PathBuf,
    pub log_format: LogFormat,
    /// A filter as of `tracing`: `info`, `sternway_agent=debug,info`.
    pub log: String,
    /// Revisions kept per target: from 2 to [`REVISIONS_KEPT`].
    pub keep: usize,
    /// What the artifacts may take on the disk, MiB.
    pub disk_budget_mib: u64,
    /// A restore that takes longer is undone; the time that its checks may take comes on top.
    #[serde(with = "duration")]
    pub order_timeout: Duration,
    /// How often the checks of each target run although nothing changed.
    #[serde(with = "duration")]
    pub check_interval: Duration,
    /// How often readiness is looked at, and leftovers are collected, although nothing changed.
    #[serde(with = "duration")]
    pub readiness_interval: Duration,
    /// A target that was seen gone for that long is forgotten with its revisions.
    #[serde(with = "duration")]
    pub forget_after: Duration,
    /// What the files of packages may take on the disk, MiB.
    pub package_archive_mib: u64,
    pub docker: DockerSettings,
    /// Units that are looked after.
    #[serde(default)]
    pub unit: Vec<UnitSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/sternway-agent".into(),
            log_format: LogFormat::Human,
            log: "info".into(),
            keep: 10,
            disk_budget_mib: 2048,
            order_timeout: Duration::from_mins(10),
            check_interval: Duration::from_mins(1),
            readiness_interval: Duration::from_mins(5),
            forget_after: Duration::from_hours(168),
            package_archive_mib: 2048,
            docker: DockerSettings::default(),
            unit: Vec::new(),
        }
    }
}

pub use sternway_proto::settings::{Flags, SettingsError};

impl Settings {
    /// Every key with a dot between levels, as the file has them.
    #[must_use]
    pub fn keys() -> Vec<String> {
        let defaults = Self {
            docker: DockerSettings {
                // Unset, it would not be written.
                registry_config: Some(PathBuf::new()),
                ..DockerSettings::default()
            },
            ..Self::default()
        };
        settings::keys_of(&defaults)
    }

    /// What they look like, for whoever reads them.
    #[must_use]
    pub fn schema() -> Schema {
        Schema {
            prefix: "STERNWAY_AGENT",
            keys: Self::keys(),
            lists: &["docker.include", "docker.exclude"],
        }
    }

    /// Reads them: flags before the environment before the file before the defaults.
    ///
    /// # Errors
    /// The file cannot be read, a key does not exist, or a value is not valid.
    pub fn load(
        file: Option<&Path>,
        environment: HashMap<String, String>,
        flags: Flags,
    ) -> Result<Self, SettingsError> {
        let settings: Self = Self::schema().load(Sources {
            file,
            environment,
            flags,
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// The settings as a file that says the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), SettingsError> {
        let invalid = |key: &str, message: &str| {
            Err(SettingsError::Invalid {
                key: key.to_owned(),
                message: message.to_owned(),
            })
        };
        for (key, duration) in [
            ("order_timeout", self.order_timeout),
            ("check_interval", self.check_interval),
            ("readiness_interval", self.readiness_interval),
            ("forget_after", self.forget_after),
        ] {
            if duration < Duration::from_millis(100) {
                return invalid(key, "it is shorter than 100 ms");
            }
        }
        if self.keep < 2 {
            return invalid("keep", "with fewer than 2 there is nothing to go back to");
        }
        if self.keep > REVISIONS_KEPT {
            let most = format!("a controller takes at most {REVISIONS_KEPT} revisions of a target");
            return invalid("keep", &most);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
            .collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn flags_go_before_the_environment_before_the_file_before_the_defaults() {
        let file = file("log = \"file\"\nkeep = 3\n[docker]\ninclude = [\"a-*\"]\n");
        let settings = Settings::load(
            Some(file.path()),
            environment(&[("LOG", "environment"), ("DOCKER__EXCLUDE", "x,y")]),
            vec![("data_dir", "/flag".into())],
        )
        .expect("valid");
        assert_eq!((settings.log.as_str(), settings.keep), ("environment", 3));
        assert_eq!(settings.docker.include, ["a-*"]);
        assert_eq!(settings.docker.exclude, ["x", "y"]);
        assert_eq!(settings.data_dir, Path::new("/flag"));
        assert_eq!(settings.order_timeout, Duration::from_mins(10));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_right_one_and_its_place() {
        for (text, hint) in [
            ("datadir = \"/x\"", "data_dir"),
            ("[docker]\nincludes = []", "docker.include"),
            ("docker = 1", "docker"),
        ] {
            let wrong = file(text);
            let said = Settings::load(Some(wrong.path()), HashMap::new(), Vec::new())
                .expect_err("unknown")
                .to_string();
            assert!(said.contains(hint), "{said}");
        }
        let said = Settings::load(None, environment(&[("DOCKER__SOKET", "/x")]), Vec::new())
            .expect_err("unknown")
            .to_string();
        assert!(said.contains("STERNWAY_AGENT__DOCKER__SOCKET"), "{said}");
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        for (text, key) in [
            ("order_timeout = \"soon\"", "order_timeout"),
            ("keep = 1", "keep"),
            ("keep = 101", "keep"),
            ("[docker]\ninclude = 3", "docker.include"),
        ] {
            let file = file(text);
            let said = Settings::load(Some(file.path()), HashMap::new(), Vec::new())
                .expect_err("wrong")
                .to_string();
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn the_example_says_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/agent.toml");
        let read = Settings::load(Some(&path), HashMap::new(), Vec::new()).expect("valid");
        assert_eq!(read, Settings::default());
    }
}
