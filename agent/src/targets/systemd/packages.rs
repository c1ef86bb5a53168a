//! The packages of units: kept so that they can be installed again, and installed in another version.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use sternway_proto::{name::TargetName, v1::Problem};
use uuid::Uuid;

use super::{
    SystemdKind,
    discover::dpkg_failed,
    lock,
    note::{Exchange, PackageChange},
    record::UnitRecord,
    steps::{PACKAGES, PACKAGES_BACK, broken},
};
use crate::{
    chain::chain,
    dpkg::{
        Install, Package, PackageId, PackageName, ShelfError, Source, Supply, Want,
        download_command,
    },
    engine::step::{StepContext, StepError},
    store::files,
    systemd::{UnitName, Work, WorkState},
    targets::{KindError, Recorded},
    work::{PACKAGES_TAKE, Task, WorkError},
};

/// How long a repository may take to give one package.
const FETCH: Duration = Duration::from_secs(45);

/// How long a package may take to be made of its installed files.
const REBUILD: Duration = Duration::from_secs(45);

/// What could not be had is asked for again after that time.
const AGAIN: Duration = Duration::from_hours(6);

/// Which way packages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Back,
    Forward,
}

/// A package as it is installed; none: its name or version is none that could be kept.
pub(super) fn package_id(package: &Package) -> Option<PackageId> {
    let version = package.version.parse().ok()?;
    PackageId::new(package.name.clone(), version, &package.architecture).ok()
}

impl SystemdKind {
    /// Keeps the packages of these revisions, and lets go of those that no revision of any target needs any more.
    pub(super) async fn keep_packages(
        &self,
        target: &TargetName,
        kept: &[Recorded],
    ) -> Result<(), KindError> {
        let records = kept
            .iter()
            .filter_map(|one| UnitRecord::from_bytes(&one.record).ok());
        let mut now = BTreeSet::new();
        let mut wanted: Vec<PackageId> = records.flat_map(|record| record.packages).collect();
        // Each once, in the order in which they matter.
        wanted.retain(|package| now.insert(package.clone()));
        let unneeded = {
            let mut needed = lock(&self.needed);
            let before = needed.insert(target.clone(), now).unwrap_or_default();
            let all: BTreeSet<&PackageId> = needed.values().flatten().collect();
            let unneeded = before.into_iter().filter(|one| !all.contains(one));
            unneeded.collect::<BTreeSet<PackageId>>()
        };
        let failed = |error: &ShelfError| KindError::Failed {
            what: "failed to keep packages".to_owned(),
            reason: chain(error),
        };
        if !unneeded.is_empty() {
            let retained = self.shelf.let_go(&unneeded).await;
            retained.map_err(|error| failed(&error))?;
        }
        let mut result = Ok(());
        for package in wanted {
            if let Err(error) = self.keep_package(&package).await {
                result = Err(failed(&error));
            }
        }
        result
    }

    async fn keep_package(&self, package: &PackageId) -> Result<(), ShelfError> {
        let tried = lock(&self.not_had).get(package).copied();
        let asks = tried.is_none_or(|tried| tried.elapsed() > AGAIN);
        let supplier = Supplier {
            kind: self,
            asks,
            errands: Mutex::default(),
        };
        let kept = self.shelf.keep(&self.dpkg, package, &supplier).await;
        let whole = matches!(&kept, Ok(kept) if kept.source != Source::Rebuilt);
        let mut not_had = lock(&self.not_had);
        if whole {
            not_had.remove(package);
        } else if asks {
            not_had.insert(package.clone(), Instant::now());
        }
        kept.map(drop)
    }

    /// What would have to be installed in another version, and is not kept.
    pub(super) async fn packages_lost(&self, record: &UnitRecord) -> Vec<Problem> {
        let names: Vec<PackageName> = record.packages.iter().map(|one| one.name.clone()).collect();
        let installed = self.dpkg.packages(&names).await.unwrap_or_default();
        let installed: BTreeSet<PackageId> = installed.iter().filter_map(package_id).collect();
        let mut problems = Vec::new();
        for package in record.packages.difference(&installed) {
            if let Err(error) = self.shelf.verify(package).await {
                problems.push(Problem::new(
                    "package-lost",
                    format!("package {package} cannot be installed again: {}", chain(&error)),
                    "put its file into /var/cache/apt/archives on the host (`apt-get download`), or choose another \
                     revision with `ctl history`",
                ));
            }
        }
        problems
    }

    /// The packages that are installed in another version than the result has.
    pub(super) async fn package_changes(
        &self,
        now: Option<&UnitRecord>,
        result: &UnitRecord,
    ) -> Result<Vec<PackageChange>, KindError> {
        let before = now.map(|now| now.packages.clone()).unwrap_or_default();
        let mut changes = Vec::new();
        for to in result.packages.difference(&before) {
            let found = self.dpkg.packages(std::slice::from_ref(&to.name)).await;
            let found = found.map_err(|error| dpkg_failed(&error))?;
            let same = |one: &&Package| one.architecture == to.architecture();
            let found = found.iter().find(same).or(found.first());
            let from = found.and_then(package_id);
            let on_hold = found.is_some_and(|found| found.want == Want::Hold);
            // What goes forward is to be upgraded further.
            let hold = match &from {
                Some(from) => {
                    let older = self.dpkg.is_older(&to.version, &from.version).await;
                    older.map_err(|error| dpkg_failed(&error))?
                }
                None => false,
            };
            changes.push(PackageChange {
                to: to.clone(),
                hold,
                from,
                held: on_hold,
            });
        }
        Ok(changes)
    }

    /// Whether all packages are kept that both ways need.
    pub(super) async fn packages_whole(&self, exchange: &Exchange) -> Result<(), StepError> {
        for change in &exchange.packages {
            if let Some(from) = &change.from
                && self.shelf.verify(from).await.is_err()
            {
                // Deployed a moment ago, or never started: nobody has kept it yet. What comes of it is seen below.
                let _ = self.keep_package(from).await;
            }
            for package in [Some(&change.to), change.from.as_ref()]
                .into_iter()
                .flatten()
            {
                self.shelf.verify(package).await.map_err(|error| StepError {
                    code: "package-lost".to_owned(),
                    message: format!("package {package} is not kept whole: {}", chain(&error)),
                    next_step: "put its file into /var/cache/apt/archives on the host, or choose another revision \
                                with `ctl history`"
                        .to_owned(),
                    transient: false,
                })?;
            }
        }
        Ok(())
    }

    /// Has the packages of that way installed.
    pub(super) async fn install(
        &self,
        context: &StepContext<'_>,
        exchange: &Exchange,
        way: Way,
    ) -> Result<String, StepError> {
        let order = context.order_id;
        let name = match way {
            Way::Forward => PACKAGES,
            Way::Back => PACKAGES_BACK,
        };
        let folder = self.works.folder(order).map_err(WorkError::from)?;
        let folder = folder.join(format!("{name}.files"));
        files::make_dir(&folder).map_err(WorkError::from)?;
        let mut install = Install {
            packages: Vec::new(),
            hold: BTreeMap::new(),
        };
        for change in &exchange.packages {
            let (package, hold) = match way {
                Way::Forward => (Some(&change.to), change.hold),
                Way::Back => (change.from.as_ref(), change.held),
            };
            // What was not installed before is left: nothing asks for it.
            let Some(package) = package else { continue };
            let file = self.file_of(package, &folder).await?;
            install.packages.push((package.clone(), file));
            install.hold.insert(package.name.clone(), hold);
        }
        if install.packages.is_empty() {
            return Ok("nothing was installed before".to_owned());
        }
        let task = Task::Packages(install);
        Ok(self
            .works
            .carry_out(order, name, &task, PACKAGES_TAKE)
            .await?)
    }

    async fn file_of(&self, package: &PackageId, folder: &Path) -> Result<PathBuf, StepError> {
        match self.shelf.copy_to(package, folder).await {
            Ok(file) => Ok(file),
            Err(ShelfError::File(error)) if error.is_no_space() => {
                Err(WorkError::File(error).into())
            }
            Err(error) => Err(broken(&chain(&error))),
        }
    }
}

/// Works that are no order's: what they leave is let go of with what orders leave, once they are over.
struct Errand<'a>(Uuid, &'a SystemdKind);

impl<'a> Errand<'a> {
    fn begin(kind: &'a SystemdKind) -> Self {
        let id = Uuid::new_v4();
        lock(&kind.errands).insert(id);
        Self(id, kind)
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        lock(&self.1.errands).remove(&self.0);
    }
}

/// Where packages come from that apt has not kept.
struct Supplier<'a> {
    kind: &'a SystemdKind,
    /// Repositories are asked.
    asks: bool,
    /// What they brought is there for as long as this is.
    errands: Mutex<Vec<Errand<'a>>>,
}

impl Supplier<'_> {
    /// Begins an errand, and answers with its id.
    fn errand(&self) -> Uuid {
        let errand = Errand::begin(self.kind);
        let id = errand.0;
        lock(&self.errands).push(errand);
        id
    }
}

impl Supply for Supplier<'_> {
    async fn fetch(&self, package: &PackageId) -> Option<PathBuf> {
        if !self.asks {
            return None;
        }
        let order = self.errand();
        let folder = self.kind.works.folder(order).ok()?;
        let download = download_command(package, &folder);
        let unit: UnitName = format!("sternway-fetch-{order}.service").parse().ok()?;
        let bus = &self.kind.bus;
        bus.begin(&Work {
            unit: unit.clone(),
            description: format!("Sternway keeps {package}"),
            program: download.program,
            arguments: download.arguments,
            environment: Vec::new(),
            user: None,
            deadline: FETCH,
            memory: None,
            tasks: None,
        })
        .await
        .ok()?;
        let ended = bus.finished(&unit, FETCH).await;
        let _ = bus.forget(&unit).await;
        // Its folder goes with those of orders that are over.
        matches!(ended, Ok(WorkState::Succeeded)).then_some(download.file)
    }

    async fn rebuild(&self, package: &PackageId) -> Option<PathBuf> {
        let (works, order) = (&self.kind.works, self.errand());
        let into = works.folder(order).ok()?.join("made");
        files::make_dir(&into).ok()?;
        let task = Task::Rebuild {
            package: package.clone(),
            into: into.clone(),
        };
        match works.carry_out(order, "rebuild", &task, REBUILD).await {
            Ok(said) => {
                tracing::info!("{said}: neither apt's cache nor a repository has it");
                Some(into.join(package.file_name()))
            }
            Err(error) => {
                tracing::warn!(
                    "{package} cannot be made of what is installed: {}",
                    chain(&error)
                );
                None
            }
        }
    }
}
