//! The record of a unit's revision: what is hashed, stored and restored.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sternway_proto::v1::RestoreScope;

use crate::{
    dpkg::PackageId,
    snapshot::{Snapshot, Thing},
    targets::FieldValue,
};

/// The layout of the record.
const SCHEMA: u32 = 1;

/// What a unit ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnitRecord {
    pub(super) schema: u32,
    pub(super) unit: String,
    /// `enabled`, `disabled`, `static`, …
    pub(super) enablement: String,
    /// The packages that belong to it.
    pub(super) packages: BTreeSet<PackageId>,
    /// What is run.
    pub(super) programs: Snapshot,
    /// How it is run: unit files, drop-ins, environment files, configuration.
    pub(super) configuration: Snapshot,
}

/// Where configuration is.
const CONFIGURATION: [&str; 2] = ["/etc", "/usr/local/etc"];

impl UnitRecord {
    /// The record of what was found there.
    pub(super) fn new(
        unit: &str,
        enablement: &str,
        packages: BTreeSet<PackageId>,
        found: Snapshot,
        environment: &BTreeSet<PathBuf>,
    ) -> Self {
        let is_configuration = |path: &Path| {
            environment.contains(path) || CONFIGURATION.iter().any(|one| path.starts_with(one))
        };
        let all = found.0.into_iter();
        let (configuration, programs) = all.partition(|(path, _)| is_configuration(path));
        Self {
            schema: SCHEMA,
            unit: unit.to_owned(),
            enablement: enablement.to_owned(),
            packages,
            programs: Snapshot(programs),
            configuration: Snapshot(configuration),
        }
    }

    /// That of a unit of which there is nothing.
    pub(super) fn nothing(unit: &str) -> Self {
        let nothing = Snapshot::default();
        Self::new(unit, "", BTreeSet::new(), nothing, &BTreeSet::new())
    }

    /// Canonical: equal records have equal bytes.
    ///
    /// # Errors
    /// A path in it is no text.
    pub(super) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is none, or of another layout.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if record.schema == SCHEMA {
            Ok(record)
        } else {
            Err(format!(
                "its layout is {}, this version reads {SCHEMA}",
                record.schema
            ))
        }
    }

    /// What runs after a restore of that scope.
    pub(super) fn compose(from: Option<&Self>, to: &Self, scope: RestoreScope) -> Self {
        match (scope, from) {
            (RestoreScope::Image, Some(from)) => Self {
                configuration: from.configuration.clone(),
                enablement: from.enablement.clone(),
                ..to.clone()
            },
            (RestoreScope::Config, Some(from)) => Self {
                configuration: to.configuration.clone(),
                enablement: to.enablement.clone(),
                ..from.clone()
            },
            _ => to.clone(),
        }
    }

    /// Everything that stands in files.
    pub(super) fn files(&self) -> Snapshot {
        let both = self.programs.0.iter().chain(&self.configuration.0);
        Snapshot(
            both.map(|(path, thing)| (path.clone(), thing.clone()))
                .collect(),
        )
    }

    /// For a person, in a word or two: its packages with their versions, else where its program leads to.
    pub(super) fn summary(&self) -> String {
        if !self.packages.is_empty() {
            let versions = self.packages.iter();
            let versions = versions.map(|one| format!("{} {}", one.name, one.version));
            return versions.collect::<Vec<_>>().join(", ");
        }
        let link = self.programs.0.values().find_map(|thing| match thing {
            Some(Thing::Link { to }) => Some(to.clone()),
            _ => None,
        });
        let program = || {
            let mut files = self.programs.0.iter();
            let file = files.find(|(_, thing)| matches!(thing, Some(Thing::File { .. })));
            file.map(|(path, _)| path.display().to_string())
        };
        link.or_else(program).unwrap_or_default()
    }

    /// Everything comparable. What stands in files is private; where a link leads, and who may read it, is not.
    pub(super) fn fields(&self) -> Vec<FieldValue> {
        let public = |path: String, value: String| FieldValue {
            path,
            value,
            private: false,
        };
        let mut fields = vec![public(
            "unit.enablement".to_owned(),
            self.enablement.clone(),
        )];
        for package in &self.packages {
            let path = format!("package.{}", package.qualified_name());
            fields.push(public(path, package.version.to_string()));
        }
        for (path, thing) in &self.files().0 {
            let path = format!("file.{}", path.display());
            match thing {
                None => fields.push(public(path, "absent".to_owned())),
                Some(Thing::Link { to }) => fields.push(public(path, format!("→ {to}"))),
                Some(Thing::Folder { meta }) => fields.push(public(path, meta.to_string())),
                Some(Thing::File { content, meta }) => {
                    fields.push(public(format!("{path}.mode"), meta.to_string()));
                    fields.push(FieldValue {
                        path,
                        value: content.to_string(),
                        private: true,
                    });
                }
            }
        }
        fields
    }
}

/// The paths that were looked at, without what is in folders among them.
pub(super) fn roots(snapshot: &Snapshot) -> BTreeSet<PathBuf> {
    let paths = snapshot.0.keys();
    let below = |path: &&PathBuf| {
        path.parent()
            .is_some_and(|above| matches!(snapshot.0.get(above), Some(Some(Thing::Folder { .. }))))
    };
    paths.filter(|path| !below(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(to: &str) -> Thing {
        Thing::Link { to: to.to_owned() }
    }

    fn record(program: &str, configuration: &str) -> UnitRecord {
        let found = [
            ("/opt/app/current".into(), Some(link(program))),
            ("/etc/app".into(), Some(link(configuration))),
            ("/opt/app/env".into(), None),
        ];
        let environment = BTreeSet::from(["/opt/app/env".into()]);
        UnitRecord::new(
            "app.service",
            "enabled",
            BTreeSet::new(),
            Snapshot(found.into()),
            &environment,
        )
    }

    #[test]
    fn a_scope_takes_the_program_of_one_and_the_configuration_of_the_other() {
        let (now, then) = (record("v2", "b"), record("v1", "a"));
        let of = |scope| UnitRecord::compose(Some(&now), &then, scope);
        assert_eq!(of(RestoreScope::Both), then);
        assert_eq!(of(RestoreScope::Image), record("v1", "b"));
        assert_eq!(of(RestoreScope::Config), record("v2", "a"));
        assert_eq!(UnitRecord::compose(None, &then, RestoreScope::Config), then);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_other_layout_is() {
        let one = record("v1", "a");
        let bytes = one.to_bytes().expect("written");
        assert_eq!(UnitRecord::from_bytes(&bytes), Ok(one.clone()));
        let other = UnitRecord { schema: 2, ..one };
        let refused = UnitRecord::from_bytes(&other.to_bytes().expect("written"));
        assert!(refused.expect_err("refused").contains('2'));
    }

    #[test]
    fn its_summary_is_its_packages_or_where_its_link_leads() {
        let mut one = record("releases/42", "a");
        assert_eq!(one.summary(), "releases/42");
        let name = "app".parse().expect("valid");
        let version = "1.0-1".parse().expect("valid");
        let app = PackageId::new(name, version, "all").expect("valid");
        one.packages.insert(app);
        assert_eq!(one.summary(), "app 1.0-1");
    }
}
