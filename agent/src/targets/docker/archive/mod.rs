//! The archive of images: copies on the agent's own disk of images that no registry is known to have. The engine keeps
//! none of them from `docker system prune -a`, which takes stopped containers and then the images in one go; what is
//! here is loaded again when a rollback needs it.

mod choose;
mod pipe;
mod shelf;
mod work;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use sternway_proto::name::TargetName;
use thiserror::Error;
use tokio::{
    sync::{Mutex as Turn, Notify, RwLock},
    task::{JoinError, spawn_blocking},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

pub(super) use self::choose::{Image, ImageId};
use self::{
    choose::Wanted,
    shelf::{Shelf, ShelfError},
};
use super::{
    DockerSettings,
    client::{Engine, EngineError},
};

/// Why an image is not in the archive, or not out of it.
#[derive(Debug, Error)]
pub(super) enum ArchiveError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    #[error("it takes {} MB, and {place}", needed / 1_000_000)]
    NoRoom { needed: u64, place: String },
    #[error("one is just given out")]
    InUse,
    #[error("the work on it ended by itself: {0}")]
    Died(#[from] JoinError),
}

/// The archive of one host. What is wanted is taken in the background, one image at a time; that ends with this.
#[derive(Debug)]
pub(super) struct Archive {
    shared: Arc<Shared>,
    _work: AbortOnDropHandle<()>,
}

/// What the archive and the work on it have in common.
#[derive(Debug)]
struct Shared {
    engine: Engine,
    store: Shelf,
    dir: PathBuf,
    /// See [`DockerSettings::registry_config`].
    registry_config: Option<PathBuf>,
    /// What all files together may take, bytes.
    budget: u64,
    wanted: Mutex<Wanted>,
    /// Who writes down what is wanted.
    writing: Turn<()>,
    /// Until then nothing is let go because nobody wants it: what was wanted is not known, and is told bit by bit.
    nothing_goes_before: Option<Instant>,
    changed: Notify,
    /// Nothing is left to do until something changes, or for a while.
    settled: std::sync::atomic::AtomicBool,
    /// Held for reading while an image is given out: nothing is let go meanwhile.
    giving: RwLock<()>,
}

impl Archive {
    /// The archive in that folder.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(super) fn open(
        engine: Engine,
        dir: &Path,
        settings: &DockerSettings,
    ) -> Result<Self, ArchiveError> {
        let store = Shelf::open(dir)?;
        let wanted = store.wanted().unwrap_or_else(|error| {
            warn!("what the archive of images is for cannot be read: {error}");
            None
        });
        // Something is there that is in nobody's list, be it that the list was lost, now or before the last end.
        let wishes = wanted.clone().unwrap_or_default().wishes();
        let held = store.held(&wishes)?;
        let is_unknown = held.iter().any(|one| one.rank == choose::Held::UNWANTED);
        let shared = Arc::new(Shared {
            engine,
            store,
            dir: dir.to_owned(),
            registry_config: settings.registry_config.clone(),
            budget: settings.image_archive_mib.saturating_mul(1024 * 1024),
            nothing_goes_before: is_unknown.then(|| Instant::now() + work::AGAIN),
            wanted: Mutex::new(wanted.unwrap_or_default()),
            writing: Turn::new(()),
            changed: Notify::new(),
            settled: false.into(),
            giving: RwLock::new(()),
        });
        let work = tokio::spawn(work::work(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _work: AbortOnDropHandle::new(work),
        })
    }

    /// Sets what a target has use for, what matters most first. Of these, the images that no registry has are taken, in
    /// the background. When this returns it is written down: who is forgotten is not wanted for again.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) async fn want(
        &self,
        target: &TargetName,
        images: Vec<Image>,
    ) -> Result<(), ArchiveError> {
        let shared = &self.shared;
        let _in_turn = shared.writing.lock().await;
        let is_news = shared.wanted().set(target, images);
        if is_news || !shared.settled.load(Ordering::Acquire) {
            shared.changed.notify_one();
        }
        let (store, wanted) = (shared.store.clone(), shared.wanted().clone());
        spawn_blocking(move || {
            // Also what is no news may not stand there yet.
            if store.wanted().ok().flatten().as_ref() != Some(&wanted) {
                store.want(&wanted)?;
            }
            Ok(())
        })
        .await?
    }

    /// Whether the image is there.
    pub(super) async fn holds(&self, id: &ImageId) -> bool {
        let (store, id) = (self.shared.store.clone(), id.clone());
        let held = spawn_blocking(move || store.holds(&id)).await;
        held.unwrap_or(false)
    }

    /// Loads the image into the engine. False: it is not there.
    ///
    /// # Errors
    /// It is damaged; the engine does not take it.
    pub(super) async fn load(&self, id: &ImageId) -> Result<bool, ArchiveError> {
        let shared = &self.shared;
        let _nothing_goes = shared.giving.read().await;
        if !self.holds(id).await {
            return Ok(false);
        }
        let (mut sink, pieces) = pipe::sink();
        let (store, wanted) = (shared.store.clone(), id.clone());
        let giving = spawn_blocking(move || {
            let gave = store.give(&wanted, &mut sink);
            if let Err(error) = &gave {
                sink.broken(&error.to_string());
            }
            gave
        });
        let what = format!("load image {id} from the archive of this host");
        let loaded = shared.engine.load_image(&what, ReceiverStream::new(pieces));
        let loaded = loaded.await;
        match giving.await? {
            Ok(()) => {}
            // What the engine said is why nobody read on.
            Err(ShelfError::Unread(error)) => {
                loaded?;
                return Err(ShelfError::Unread(error).into());
            }
            Err(error) => return Err(error.into()),
        }
        loaded?;
        Ok(true)
    }
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
