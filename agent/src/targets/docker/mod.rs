//! Plain Docker containers. What a person asked for when a container was created is its revision; a
//! restore creates it again.

mod alone;
mod archive;
pub mod checks;
pub mod client;
mod collect;
mod connections;
mod conntrack;
pub mod discover;
mod drain;
pub mod fields;
pub mod images;
pub mod keep;
mod kind;
pub mod labels;
mod localnet;
pub mod normalise;
mod plan;
mod ports;
mod reach;
pub mod readiness;
pub mod record;
pub mod recreate;
mod redirect;
mod registry;
mod serving;
pub mod settings;
mod sharers;
mod steps;
mod warm;
pub mod watch;

use std::{collections::BTreeSet, path::Path, sync::Mutex};

use sternway_proto::v1;

pub use settings::{DockerSettings, SettingsError};

use archive::Archive;
use client::Engine;
use images::ImageCache;
use settings::Names;

use crate::targets::KindError;

/// The kind `docker`.
#[derive(Debug)]
pub struct DockerKind {
    pub(crate) engine: Engine,
    settings: DockerSettings,
    names: Names,
    images: ImageCache,
    /// Copies of images that no registry has. None: nothing is archived.
    archive: Option<Archive>,
    /// Keeping is a look and then a change: one target at a time.
    keeping: tokio::sync::Mutex<()>,
    /// Containers that were told of once in the log.
    told: Mutex<BTreeSet<String>>,
}

impl DockerKind {
    /// What stands before the slash in the names of its targets.
    pub const LABEL: &'static str = "docker";

    /// The kind on the engine of these settings. Does not connect yet.
    ///
    /// # Errors
    /// A pattern for names is none.
    pub fn new(settings: DockerSettings) -> Result<Self, SettingsError> {
        Ok(Self {
            engine: Engine::new(&settings.socket),
            names: Names::new(&settings)?,
            images: ImageCache::default(),
            archive: None,
            keeping: tokio::sync::Mutex::new(()),
            told: Mutex::new(BTreeSet::new()),
            settings,
        })
    }

    /// Begins an archive of images in that folder, as large as the settings say. To be called within a runtime: it works
    /// in the background, until the kind is dropped.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn archive_in(&mut self, dir: &Path) -> Result<(), KindError> {
        let archive = Archive::open(self.engine.clone(), dir, &self.settings);
        self.archive = Some(archive.map_err(|error| KindError::Failed {
            what: format!("failed to open the archive of images in {}", dir.display()),
            reason: error.to_string(),
        })?);
        Ok(())
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the host's facts say of the engine.
    pub async fn describe(&self, facts: &mut v1::HostFacts) {
        match self.engine.version().await {
            Ok(version) => {
                normalise::text(&version, "Version").clone_into(&mut facts.engine_version);
                facts.engine_api = match self.engine.api().await {
                    Ok(api) => api.to_string(),
                    Err(_) => String::new(),
                };
                facts.engine_problem.clear();
            }
            Err(error) => {
                facts.engine_version.clear();
                facts.engine_api.clear();
                facts.engine_problem = error.to_string();
            }
        }
    }

    /// Whether this was not told before: what is looked at every few seconds is logged once.
    fn tell_once(&self, what: String) -> bool {
        /// Beyond this many, names are only there to flood.
        const TOLD: usize = 1_000;
        let Ok(mut told) = self.told.lock() else {
            return false;
        };
        told.len() < TOLD && told.insert(what)
    }
}
