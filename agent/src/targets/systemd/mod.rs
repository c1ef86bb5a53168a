//! Units of systemd: packages, binaries and configuration. What stands in the files of a unit when it is started is its
//! revision; a restore puts them back and starts it again.

mod belongs;
mod checks;
mod discover;
mod kind;
mod note;
mod packages;
mod plan;
mod record;
mod rescue;
mod settings;
mod state;
mod steps;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sternway_proto::name::TargetName;

use thiserror::Error;
use uuid::Uuid;

use self::settings::Section;
pub use self::{
    checks::CheckSettings,
    settings::{UnitSettings, UnitSettingsError},
};
use crate::{
    dpkg::{Dpkg, PackageId, Shelf, ShelfError},
    snapshot::{Limits, Seen},
    store::{
        artifacts::{Artifacts, Held},
        files::FileError,
    },
    systemd::Bus,
    work::Works,
};

/// What is kept of the files of one unit at most.
const LIMITS: Limits = Limits {
    file_bytes: 1024 * 1024 * 1024,
    paths: 20_000,
};

/// The kind `systemd`.
#[derive(Debug)]
pub struct SystemdKind {
    bus: Arc<Bus>,
    dpkg: Dpkg,
    works: Works,
    artifacts: Artifacts,
    /// Where the artifacts are, for the works.
    artifacts_dir: PathBuf,
    sections: Vec<Section>,
    /// Files of packages.
    shelf: Shelf,
    /// Which packages each target's revisions need, and which could not be had, and when that was tried last.
    needed: Mutex<BTreeMap<TargetName, BTreeSet<PackageId>>>,
    not_had: Mutex<BTreeMap<PackageId, Instant>>,
    /// What orders put aside of the host's files: held for as long as they are open.
    asides: Mutex<BTreeMap<Uuid, Vec<Held>>>,
    /// Works under way that are no order's.
    errands: Mutex<BTreeSet<Uuid>>,
    /// This agent.
    itself: Itself,
    /// What was read of each unit's files.
    seen: Mutex<BTreeMap<String, Seen>>,
    /// What was started for orders whose journal is gone, by its instance: no deployment of somebody's.
    mended: Mutex<BTreeMap<TargetName, (String, Uuid)>>,
    /// What was told of once in the log.
    told: Mutex<BTreeSet<String>>,
}

/// Where the kind keeps what it needs.
#[derive(Debug, Clone)]
pub struct Places {
    /// The folder of the artifacts, for works.
    pub artifacts: PathBuf,
    pub works: PathBuf,
    pub packages: PathBuf,
    /// What package files may take, bytes.
    pub packages_budget: u64,
}

/// This agent, which is no target.
#[derive(Debug, Clone, Default)]
struct Itself {
    /// The unit that it runs in, where it does.
    unit: Option<String>,
    program: PathBuf,
}

/// Why the kind cannot be used.
#[derive(Debug, Error)]
pub enum SystemdError {
    #[error(transparent)]
    Settings(#[from] UnitSettingsError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl SystemdKind {
    /// What stands before the slash in the names of its targets.
    pub const LABEL: &'static str = "systemd";

    /// The kind on the service manager of the host. Does not connect yet.
    ///
    /// # Errors
    /// A section cannot be read, or the folder of its works cannot be made.
    pub fn new(
        settings: &[UnitSettings],
        artifacts: Artifacts,
        places: &Places,
    ) -> Result<Self, SystemdError> {
        let sections = settings.iter().map(UnitSettings::read);
        let itself = Itself::find();
        let bus = Arc::new(Bus::system());
        let kind = Self {
            works: Works::open(bus.clone(), &places.works, &itself.program)?,
            bus,
            dpkg: Dpkg::default(),
            artifacts,
            artifacts_dir: places.artifacts.clone(),
            shelf: Shelf::open(&places.packages, places.packages_budget)?,
            needed: Mutex::default(),
            not_had: Mutex::default(),
            asides: Mutex::default(),
            errands: Mutex::default(),
            mended: Mutex::default(),
            sections: sections.collect::<Result<_, _>>()?,
            itself,
            seen: Mutex::default(),
            told: Mutex::default(),
        };
        kind.hold_again();
        Ok(kind)
    }

    /// The section about that unit: the first one that covers it.
    fn section(&self, unit: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.covers(unit))
    }

    /// Whether this was not told before: what is looked at every few minutes is logged once.
    fn tell_once(&self, what: String) -> bool {
        /// Beyond this many, names are only there to flood.
        const TOLD: usize = 1_000;
        let mut told = lock(&self.told);
        told.len() < TOLD && told.insert(what)
    }
}

impl Itself {
    fn find() -> Self {
        // `0::/system.slice/sternway-agent.service`
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unit = groups.lines().find_map(|line| {
            let last = line.rsplit('/').next()?;
            last.ends_with(".service").then(|| last.to_owned())
        });
        Self {
            unit,
            program: std::env::current_exe().unwrap_or_default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
