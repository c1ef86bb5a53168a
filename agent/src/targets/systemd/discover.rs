//! Which units are targets, and what one is right now. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use sternway_proto::{
    name::{TargetName, clean_text},
    v1::{Problem, TargetState},
};
use tokio::task::spawn_blocking;

use super::{
    LIMITS, SystemdKind,
    belongs::{Belongings, belongings, own_folder},
    lock,
    packages::package_id,
    record::UnitRecord,
    state::{self, idles},
};
use crate::{
    chain::chain,
    dpkg::{DpkgError, Package, PackageName},
    snapshot::{self, Captured, SnapshotError},
    systemd::{BusError, Load, UnitName, UnitState},
    targets::{Content, Discovered, KindError, Observed},
};

/// The names of the agent's own transient units.
pub(super) const OWN_UNITS: &str = "sternway-";

/// What starts units, and has files of its own that belong to them.
pub(super) const STARTERS: [&str; 3] = [".socket", ".timer", ".path"];

/// A unit as it is, in our words.
pub(super) struct Inspected {
    pub(super) state: UnitState,
    pub(super) record: UnitRecord,
    pub(super) captured: Captured,
}

impl SystemdKind {
    /// All units of this host that are looked after. One that cannot be read is left out and named.
    pub(super) async fn discover(&self) -> Result<Discovered, KindError> {
        let mut all = Discovered {
            made: self.half_made(),
            ..Discovered::default()
        };
        for target in self.targets().await? {
            match self.observe(&target).await {
                Ok(one) if one.state == TargetState::Gone => {
                    if self.tell_once(target.to_string()) {
                        tracing::warn!(%target, "{target} is looked after, and there is no such unit");
                    }
                }
                Ok(one) => all.seen.push(one),
                Err(error) => {
                    tracing::warn!(%target, "{target} cannot be read and is left as it was known: {error}");
                    all.unread.insert(target);
                }
            }
        }
        Ok(all)
    }

    pub(super) async fn targets(&self) -> Result<BTreeSet<TargetName>, KindError> {
        let patterns = self.sections.iter().filter(|one| one.unit().is_none());
        let patterns: Vec<&str> = patterns.map(|one| one.settings.unit.as_str()).collect();
        let matching = self.bus.matching(&patterns).await?;
        let named = self.sections.iter().filter_map(|one| one.unit().cloned());
        let units = matching
            .into_iter()
            .filter(|unit| !unit.as_str().starts_with(OWN_UNITS))
            .chain(named);
        Ok(units.filter_map(|unit| self.target_of(&unit)).collect())
    }

    /// The target that a unit is, if it is one of ours.
    pub(super) fn target_of(&self, unit: &UnitName) -> Option<TargetName> {
        self.section(unit.as_str())?;
        match format!("{}/{unit}", Self::LABEL).parse() {
            Ok(target) => Some(target),
            Err(error) => {
                if self.tell_once(clean_text(unit.as_str())) {
                    tracing::warn!("a unit is left alone because of its name: {error}");
                }
                None
            }
        }
    }

    /// One target as it is.
    pub(super) async fn observe(&self, target: &TargetName) -> Result<Observed, KindError> {
        let unit = unit_of(target)?;
        if self.section(unit.as_str()).is_none() {
            return Ok(Observed::gone(target));
        }
        let state = self.bus.state(&unit).await?;
        if state::of(&state) == TargetState::Gone {
            return Ok(Observed::gone(target));
        }
        // Of itself it keeps nothing: it is refused in any case.
        if let Some(refused) = self.itself(&unit, &state) {
            return Ok(unread(target, &state, refused));
        }
        let inspected = match self.inspect(&unit, state.clone()).await {
            Err(KindError::Unkept { problem }) => return Ok(unread(target, &state, problem)),
            inspected => inspected?,
        };
        if let Some(refused) = self.holds_itself(&unit, &inspected.record).await? {
            return Ok(unread(target, &state, refused));
        }
        Ok(Observed {
            target: target.clone(),
            state: state::of(&inspected.state),
            made: self.mended_as(target, &inspected.state.instance()),
            instance: inspected.state.instance(),
            ended_well: idles(&inspected.state),
            // One whose files cannot be loaded says by that that they are not what runs, or ran.
            settled: inspected.state.runs()
                || matches!(inspected.state.load, Load::Loaded | Load::Masked),
            content: Some(content(target, &inspected.record, inspected.captured)?),
            unsupported: None,
        })
    }

    /// A unit of that state, and everything that belongs to it, which is in the store then.
    pub(super) async fn inspect(
        &self,
        unit: &UnitName,
        state: UnitState,
    ) -> Result<Inspected, KindError> {
        let found = self.found(unit, &state).await?;
        let packages = self.packages(unit, &found).await?;
        let mut paths = found.paths;
        for package in &packages {
            paths.extend(self.configuration_of(unit, package).await?);
        }
        let captured = self.capture(unit, paths).await?;
        let versions = packages.iter().filter_map(package_id);
        let record = UnitRecord::new(
            unit.as_str(),
            &state.enablement,
            versions.collect(),
            captured.snapshot.clone(),
            &found.environment,
        );
        Ok(Inspected {
            state,
            record,
            captured,
        })
    }

    async fn found(&self, unit: &UnitName, state: &UnitState) -> Result<Belongings, KindError> {
        let mut starters = Vec::new();
        let names = state.triggered_by.iter();
        for name in names.filter(|name| STARTERS.iter().any(|one| name.ends_with(one))) {
            if let Ok(starter) = name.parse::<UnitName>() {
                let state = self.bus.state(&starter).await?;
                starters.push((starter, state));
            }
        }
        let declared = self.section(unit.as_str());
        let declared = declared.map_or_else(Vec::new, |section| section.settings.files.clone());
        let (unit, state) = (unit.clone(), state.clone());
        // A path may lead to a server that is away.
        let found =
            spawn_blocking(move || belongings(&unit, &state, &starters, &declared, trusted_link));
        found.await.map_err(|error| KindError::Failed {
            what: "failed to look for what belongs to a unit".to_owned(),
            reason: error.to_string(),
        })
    }

    /// The packages that own what was found, and those that are declared.
    async fn packages(
        &self,
        unit: &UnitName,
        found: &Belongings,
    ) -> Result<Vec<Package>, KindError> {
        let paths: Vec<PathBuf> = found.owned.iter().cloned().collect();
        let owners = self
            .dpkg
            .owners(&paths)
            .await
            .map_err(|error| dpkg_failed(&error))?;
        let mut names: BTreeSet<PackageName> = owners.into_values().flatten().collect();
        if let Some(section) = self.section(unit.as_str()) {
            names.extend(section.packages.iter().cloned());
        }
        let names: Vec<PackageName> = names.into_iter().collect();
        let packages = self
            .dpkg
            .packages(&names)
            .await
            .map_err(|error| dpkg_failed(&error))?;
        Ok(packages
            .into_iter()
            .filter(|one| !one.version.is_empty())
            .collect())
    }

    /// The configuration files of a package, and the folder that it has for this unit.
    async fn configuration_of(
        &self,
        unit: &UnitName,
        package: &Package,
    ) -> Result<BTreeSet<PathBuf>, KindError> {
        let files = self
            .dpkg
            .files(package)
            .await
            .map_err(|error| dpkg_failed(&error))?;
        let conffiles = package.conffiles.iter().filter(|file| !file.obsolete);
        let mut paths: BTreeSet<PathBuf> = conffiles.map(|file| file.path.clone()).collect();
        paths.extend(own_folder(unit, package.name.as_str(), &files));
        Ok(paths)
    }

    /// What stands there, with its content in the store.
    pub(super) async fn capture(
        &self,
        unit: &UnitName,
        paths: BTreeSet<PathBuf>,
    ) -> Result<Captured, KindError> {
        let key = unit.to_string();
        let mut seen = lock(&self.seen).remove(&key).unwrap_or_default();
        let store = self.artifacts.clone();
        let work = spawn_blocking(move || {
            let paths = covered(&paths);
            let captured = snapshot::capture(&paths, &store, LIMITS, &mut seen);
            (captured, seen)
        });
        let failed = |reason: String| KindError::Failed {
            what: format!("failed to read the files of {unit}"),
            reason,
        };
        let (captured, seen) = work.await.map_err(|error| failed(error.to_string()))?;
        lock(&self.seen).insert(key, seen);
        captured.map_err(|error| match error {
            changing if changing.is_transient() => failed(chain(&changing)),
            error => KindError::Unkept {
                problem: unkept(unit, &error),
            },
        })
    }

    /// Why a unit is the agent's own, if it is.
    fn itself(&self, unit: &UnitName, state: &UnitState) -> Option<Problem> {
        let program = &self.itself.program;
        if self.itself.unit.as_deref() == Some(unit.as_str()) {
            let why = "is the agent itself: it would end in the middle of its own restore";
            return Some(own(unit, why));
        }
        let runs = state.commands.iter().any(|one| one.program == *program);
        runs.then(|| {
            own(
                unit,
                &format!("runs the agent's own program {}", program.display()),
            )
        })
    }

    /// As [`Self::itself`], by the files and packages that belong to it.
    async fn holds_itself(
        &self,
        unit: &UnitName,
        record: &UnitRecord,
    ) -> Result<Option<Problem>, KindError> {
        let program = &self.itself.program;
        if record.files().0.contains_key(program) {
            let why = format!(
                "has the agent's own program {} among its files",
                program.display()
            );
            return Ok(Some(own(unit, &why)));
        }
        if record.packages.is_empty() {
            return Ok(None);
        }
        let owners = self.dpkg.owners(std::slice::from_ref(program)).await;
        let owners = owners.map_err(|error| dpkg_failed(&error))?;
        let owners: BTreeSet<PackageName> = owners.into_values().flatten().collect();
        let ours = record
            .packages
            .iter()
            .find(|one| owners.contains(&one.name));
        Ok(ours.map(|ours| {
            own(
                unit,
                &format!("is of the agent's own package {}", ours.name),
            )
        }))
    }
}

fn own(unit: &UnitName, why: &str) -> Problem {
    Problem::new(
        "own-unit",
        format!("{unit} {why}"),
        "take it out of `[[unit]]` in the agent's configuration; an earlier agent is installed by hand, as the README \
         says of upgrades",
    )
}

/// A unit of which nothing is kept, and why.
fn unread(target: &TargetName, state: &UnitState, problem: Problem) -> Observed {
    Observed {
        state: state::of(state),
        unsupported: Some(problem),
        ..Observed::gone(target)
    }
}

fn unkept(unit: &UnitName, error: &SnapshotError) -> Problem {
    let next = match error.code() {
        "disk-budget" => {
            "raise `disk_budget_mib` in the agent's configuration, or keep fewer revisions (`keep`)"
        }
        "too-large" => "declare less of it in `files`: no data",
        "no-disk-space" => "make room on the disk of the agent's state",
        "link-untrusted" => "make the link, and its folder, root's, or declare what it leads to",
        _ => {
            "see what stands there on the host; it is looked at again with the next start of the unit"
        }
    };
    let message = format!("what {unit} runs cannot be kept: {}", chain(error));
    Problem::new(error.code(), message, next)
}

/// Where a link leads that is root's, in a folder that is root's; or that of another, where what is at its end is the
/// same one's: nobody leads root to what is not theirs.
fn trusted_link(path: &Path) -> Option<PathBuf> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let to = std::fs::read_link(path).ok()?;
    let link = path.symlink_metadata().ok()?;
    let folder = path.parent()?.metadata().ok()?;
    let roots = link.uid() == 0 && folder.uid() == 0 && folder.mode() & WRITABLE_BY_OTHERS == 0;
    let theirs = || {
        let end = path.metadata().ok()?;
        Some(end.uid() == link.uid() && link.uid() != 0)
    };
    (roots || theirs() == Some(true)).then_some(to)
}

/// Without what is in folders among them.
fn covered(paths: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let above = |path: &&PathBuf| {
        path.ancestors()
            .skip(1)
            .any(|above| paths.contains(above) && above.is_dir())
    };
    paths.iter().filter(|path| !above(path)).cloned().collect()
}

/// The unit of a target.
pub(super) fn unit_of(target: &TargetName) -> Result<UnitName, KindError> {
    target.local().parse().map_err(|_| KindError::NotFound {
        target: target.clone(),
    })
}

/// The content of a revision, which holds its artifacts.
pub(super) fn content(
    target: &TargetName,
    record: &UnitRecord,
    captured: Captured,
) -> Result<Content, KindError> {
    let bytes = record.to_bytes().map_err(|error| KindError::Record {
        target: target.to_string(),
        reason: error.to_string(),
    })?;
    Ok(Content {
        record: bytes,
        attachments: BTreeMap::new(),
        artifacts: captured.held,
        fields: record.fields(),
        hints: serde_json::Value::Null,
        image: clean_text(&record.summary()),
        image_id: String::new(),
        image_digest: String::new(),
    })
}

pub(super) fn dpkg_failed(error: &DpkgError) -> KindError {
    KindError::Failed {
        what: "failed to look at the packages of the host".to_owned(),
        reason: error.to_string(),
    }
}

impl From<BusError> for KindError {
    fn from(error: BusError) -> Self {
        let what = "failed to ask the service manager".to_owned();
        let reason = error.to_string();
        if error.is_transient() {
            Self::Unreachable { what, reason }
        } else {
            Self::Failed { what, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn nobody_leads_root_to_what_is_not_theirs() {
        const OTHER: Option<u32> = Some(12_345);
        let dir = TempDir::new().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("secret"), "root's").expect("written");
        std::fs::write(path("theirs"), "a program").expect("written");
        symlink("secret", path("link")).expect("linked");
        assert_eq!(trusted_link(&path("link")), Some("secret".into()));
        if chown(path("theirs"), OTHER, None).is_err() {
            // Only root can give files away: the rest is shown where the tests are root.
            return;
        }
        let give = |name: &str| std::os::unix::fs::lchown(path(name), OTHER, None).expect("given");
        give("link");
        assert_eq!(trusted_link(&path("link")), None, "it leads to root's");
        symlink("theirs", path("current")).expect("linked");
        give("current");
        assert_eq!(trusted_link(&path("current")), Some("theirs".into()));
        // Root's own, in a folder in which others can exchange it.
        symlink("secret", path("again")).expect("linked");
        chown(dir.path(), OTHER, None).expect("given");
        assert_eq!(trusted_link(&path("again")), None);
    }
}
