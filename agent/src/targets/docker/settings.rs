//! What the agent's configuration says of this kind.

use std::path::PathBuf;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The section `docker` of the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerSettings {
    /// The engine's unix socket.
    pub socket: PathBuf,
    /// Globs of container names to look after. Empty: all.
    pub include: Vec<String>,
    /// Globs of container names to leave alone, also where `include` names them.
    pub exclude: Vec<String>,
    /// A Docker `config.json` whose `auths` are used to pull missing images. Credential helpers are
    /// programs and are not run.
    pub registry_config: Option<PathBuf>,
    /// How long a replaced container is kept, stopped, for the post-mortem.
    pub dwell_hours: u64,
    /// What copies of images that no registry has may take on the agent's disk, MiB. 0: none are made.
    pub image_archive_mib: u64,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            include: Vec::new(),
            exclude: Vec::new(),
            registry_config: None,
            dwell_hours: 24,
            image_archive_mib: 4096,
        }
    }
}

/// Why settings were refused.
#[derive(Debug, Error)]
#[error("docker.{key}: {pattern:?} is no pattern")]
pub struct SettingsError {
    key: &'static str,
    pattern: String,
    source: globset::Error,
}

/// Which container names are looked after.
#[derive(Debug)]
pub(super) struct Names {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Names {
    pub(super) fn new(settings: &DockerSettings) -> Result<Self, SettingsError> {
        let include = globs("include", &settings.include)?;
        Ok(Self {
            include: (!settings.include.is_empty()).then_some(include),
            exclude: globs("exclude", &settings.exclude)?,
        })
    }

    pub(super) fn cover(&self, name: &str) -> bool {
        let included = self.include.as_ref().is_none_or(|set| set.is_match(name));
        included && !self.exclude.is_match(name)
    }
}

fn globs(key: &'static str, patterns: &[String]) -> Result<GlobSet, SettingsError> {
    let refused = |pattern: &str, source| SettingsError {
        key,
        pattern: pattern.to_owned(),
        source,
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|source| refused(pattern, source))?);
    }
    set.build().map_err(|source| refused("", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_after_unless_a_pattern_says_otherwise() {
        let names = |include: &[&str], exclude: &[&str]| {
            let texts = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
            Names::new(&DockerSettings {
                include: texts(include),
                exclude: texts(exclude),
                ..DockerSettings::default()
            })
        };
        assert!(names(&[], &[]).expect("valid").cover("anything"));
        let some = names(&["web-*", "api"], &["*-tmp"]).expect("valid");
        assert!(some.cover("web-1") && some.cover("api"));
        assert!(!some.cover("db") && !some.cover("web-tmp"));
        let wrong = names(&["a{"], &[]).expect_err("no pattern").to_string();
        assert_eq!(wrong, "docker.include: \"a{\" is no pattern");
    }
}
