//! What the agent's configuration says of units: `[[unit]]`.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};
use sternway_proto::settings::duration;
use thiserror::Error;

use super::checks::{CheckSettings, LONGEST};
use crate::{dpkg::PackageName, systemd::UnitName};

/// How long the checks of a unit may take to pass, and how long they must hold then.
const TIMEOUT: Duration = Duration::from_mins(1);
const SOAK: Duration = Duration::from_secs(5);

/// A section `unit`: a unit, or all that a pattern means, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSettings {
    /// The name of a service, with its `.service`, or a pattern: `worker@*.service`.
    pub unit: String,
    /// Packages that belong to it, beside those that own its program and its unit file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Files and whole folders that belong to it, beside those that are found. Not data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// How long its checks may take to pass.
    #[serde(with = "duration", default = "timeout")]
    pub timeout: Duration,
    /// How long they must hold then.
    #[serde(with = "duration", default = "soak")]
    pub soak: Duration,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<CheckSettings>,
}

fn timeout() -> Duration {
    TIMEOUT
}

fn soak() -> Duration {
    SOAK
}

/// Why a section was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("of the section of unit {unit:?}: {reason}")]
pub struct UnitSettingsError {
    pub unit: String,
    pub reason: String,
}

/// A section that was read.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) settings: UnitSettings,
    pub(super) packages: BTreeSet<PackageName>,
    name: Name,
}

#[derive(Debug, Clone)]
enum Name {
    Unit(UnitName),
    Pattern(GlobMatcher),
}

impl UnitSettings {
    /// A section for that unit that says nothing else.
    #[must_use]
    pub fn of(unit: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            packages: Vec::new(),
            files: Vec::new(),
            timeout: TIMEOUT,
            soak: SOAK,
            check: Vec::new(),
        }
    }

    pub(super) fn read(&self) -> Result<Section, UnitSettingsError> {
        let refused = |reason: String| UnitSettingsError {
            unit: self.unit.chars().take(255).collect(),
            reason,
        };
        let name = self.name().map_err(refused)?;
        let packages = self.packages.iter().map(|name| name.parse());
        let packages = packages.collect::<Result<_, _>>();
        for path in &self.files {
            let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            if !path.is_absolute() || !path.components().all(plain) || path == Path::new("/") {
                let path = path.display();
                return Err(refused(format!(
                    "{path} is no absolute path of plain names"
                )));
            }
        }
        for (what, time) in [("timeout", self.timeout), ("soak", self.soak)] {
            if time > LONGEST {
                return Err(refused(format!(
                    "its {what} is longer than {} s",
                    LONGEST.as_secs()
                )));
            }
        }
        for check in &self.check {
            check.read().map_err(refused)?;
        }
        Ok(Section {
            settings: self.clone(),
            packages: packages.map_err(|error| refused(format!("{error}")))?,
            name,
        })
    }

    fn name(&self) -> Result<Name, String> {
        if !self.unit.ends_with(".service") {
            return Err("only services are restored: it does not end in .service".to_owned());
        }
        if self.unit.contains('\\') {
            return Err(
                "a name with \\ is none that a target can have: give the unit another one"
                    .to_owned(),
            );
        }
        if self.unit.contains(['*', '?', '[']) {
            let glob = Glob::new(&self.unit).map_err(|error| error.kind().to_string())?;
            return Ok(Name::Pattern(glob.compile_matcher()));
        }
        let unit = self.unit.parse::<UnitName>();
        unit.map(Name::Unit).map_err(|error| error.to_string())
    }
}

impl Section {
    /// Whether it is about that unit.
    pub(super) fn covers(&self, unit: &str) -> bool {
        match &self.name {
            Name::Unit(name) => name.as_str() == unit,
            Name::Pattern(pattern) => pattern.is_match(unit),
        }
    }

    /// The one unit that it names; none: it has a pattern.
    pub(super) fn unit(&self) -> Option<&UnitName> {
        match &self.name {
            Name::Unit(name) => Some(name),
            Name::Pattern(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_names_a_service_or_has_a_pattern_and_the_rest_is_refused_with_its_reason() {
        let worker = UnitSettings::of("worker@*.service").read().expect("valid");
        assert!(worker.covers("worker@1.service") && !worker.covers("worker.service"));
        assert_eq!(worker.unit(), None);
        let one = UnitSettings::of("billing.service").read().expect("valid");
        assert!(one.covers("billing.service") && one.unit().is_some());
        for (unit, reason) in [
            ("billing", ".service"),
            ("billing.socket", ".service"),
            ("dev-x\\x2d.service", "\\"),
            ("worker@.service", "template"),
            ("a b.service", "letters"),
            ("w[.service", "class"),
        ] {
            let refused = UnitSettings::of(unit).read().expect_err(unit).to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        let with = |change: fn(&mut UnitSettings)| {
            let mut settings = UnitSettings::of("billing.service");
            change(&mut settings);
            settings.read().expect_err("refused").reason
        };
        let path = "no absolute path";
        assert!(with(|one| one.files.push("etc/x".into())).contains(path));
        assert!(with(|one| one.files.push("/etc/../x".into())).contains(path));
        assert!(with(|one| one.files.push("/".into())).contains(path));
        assert!(with(|one| one.packages.push("a b".into())).contains("package"));
        assert!(with(|one| one.soak = Duration::from_hours(1)).contains("longer"));
        assert!(with(|one| one.check.push(CheckSettings::default())).contains("check"));
    }
}
