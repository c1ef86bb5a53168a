//! The archive of images: copies on the agent's own disk of images that no registry is known to have. The engine keeps
//! none of them from `docker system prune -a`, which takes stopped containers and then the images in one go; what is
//! here is loaded again when a rollback needs it.

mod choose;
mod pipe;
mod shelf;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sternway_proto::name::TargetName;
use thiserror::Error;
use tokio::{
    sync::{Notify, RwLock},
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(super) use self::choose::ImageId;
use self::{
    choose::{Held, Wanted, Wish, make_room},
    pipe::Piece,
    shelf::{Room, Shelf, ShelfError},
};
use super::{
    client::{Engine, EngineError, EngineErrorKind},
    normalise::{list, text},
};
use crate::store::files::{self, Space};

/// What stays free on a disk whatever the budget allows: a tenth of it, of a large one that many bytes.
const FLOOR_SHARE: u64 = 10;
/// See [`FLOOR_SHARE`].
const FLOOR_BYTES: u64 = 4 << 30;

/// After a failure that waiting may mend, an image is tried again behind that.
const AGAIN: Duration = Duration::from_hours(1);

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

#[derive(Debug)]
struct Shared {
    engine: Engine,
    store: Shelf,
    dir: PathBuf,
    /// What all files together may take, bytes.
    budget: u64,
    wanted: Mutex<Wanted>,
    changed: Notify,
    /// Nothing is left to do until something changes, or for a while.
    settled: AtomicBool,
    /// Held for reading while an image is given out: nothing is let go meanwhile.
    giving: RwLock<()>,
}

impl Archive {
    /// The archive in that folder, which may take `budget` bytes.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(super) fn open(engine: Engine, dir: &Path, budget: u64) -> Result<Self, ArchiveError> {
        let store = Shelf::open(dir)?;
        let wanted = store.wanted().unwrap_or_else(|error| {
            warn!("the archive of images does not know what it is for: {error}");
            Wanted::default()
        });
        let shared = Arc::new(Shared {
            engine,
            store,
            dir: dir.to_owned(),
            budget,
            wanted: Mutex::new(wanted),
            changed: Notify::new(),
            settled: AtomicBool::new(false),
            giving: RwLock::new(()),
        });
        let work = tokio::spawn(Arc::clone(&shared).work());
        Ok(Self {
            shared,
            _work: AbortOnDropHandle::new(work),
        })
    }

    /// Sets what is wanted for a target, the newest revision's image first. Returns at once.
    pub(super) fn want(&self, target: &TargetName, images: Vec<ImageId>) {
        let is_news = self.shared.wanted().set(target, images);
        if is_news || !self.shared.settled.load(Ordering::Acquire) {
            self.shared.changed.notify_one();
        }
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

    async fn work(self: Arc<Self>) {
        let mut put_off = PutOff::default();
        loop {
            // Behind that time also by itself: files may have been lost, and what was put off is due.
            let _ = timeout(AGAIN, self.changed.notified()).await;
            let settled = self.round(&mut put_off).await.unwrap_or_else(|error| {
                warn!("the archive of images cannot be kept: {error}");
                false
            });
            self.settled.store(settled, Ordering::Release);
        }
    }

    /// Lets go of what nobody wants, and takes what is wanted. Answers with whether nothing is left to do.
    async fn round(&self, put_off: &mut PutOff) -> Result<bool, ArchiveError> {
        let tidied = self.tidy().await?;
        loop {
            let wishes = self.wanted().wishes();
            put_off.forget_others(&wishes);
            let Some((wish, held)) = self.next(&wishes, put_off).await? else {
                return Ok(tidied);
            };
            match self.take(&wish, held).await {
                Ok(()) => info!(
                    target = %wish.target,
                    "image {} of {} is in no registry: a copy is in the archive of this host", wish.id, wish.target
                ),
                Err(ArchiveError::InUse) => return Ok(false),
                Err(ArchiveError::Engine(error)) if error.kind == EngineErrorKind::Unreachable => {
                    return Ok(false);
                }
                // Gone before it was taken: readiness tells.
                Err(ArchiveError::Engine(error)) if error.is_not_found() => {
                    put_off.note(&wish.id);
                }
                Err(error) => {
                    if put_off.note(&wish.id) {
                        warn!(
                            target = %wish.target,
                            "image {} of {} is in no registry, and no copy of it can be archived: {error}. A `docker system \
                             prune -a` may take it for good: push it to a registry, or mend that",
                            wish.id, wish.target
                        );
                    }
                }
            }
        }
    }

    /// Writes down what is wanted, and lets go of the rest and of what is beyond the budget. False: not now, one is just
    /// given out.
    async fn tidy(&self) -> Result<bool, ArchiveError> {
        let wanted = self.wanted().clone();
        let (store, budget) = (self.store.clone(), self.budget);
        let nobody_reads = self.giving.try_write();
        let may_go = nobody_reads.is_ok();
        spawn_blocking(move || {
            if store.wanted().ok().as_ref() != Some(&wanted) {
                store.want(&wanted)?;
            }
            if !may_go {
                return Ok(false);
            }
            let held = store.held(&wanted.wishes())?;
            let unwanted = held.iter().filter(|one| one.rank == usize::MAX);
            let unwanted: Vec<ImageId> = unwanted.map(|one| one.id.clone()).collect();
            store.let_go(&unwanted)?;
            for id in &unwanted {
                info!("image {id} is archived no longer");
            }
            while store.used()? > budget {
                let held = store.held(&wanted.wishes())?;
                let Some(last) = held.into_iter().max_by_key(|one| one.rank) else {
                    break;
                };
                store.let_go(std::slice::from_ref(&last.id))?;
                info!(
                    "image {} is archived no longer: the budget is smaller than before",
                    last.id
                );
            }
            Ok(true)
        })
        .await?
    }

    /// The next image to take, and what is held.
    async fn next(
        &self,
        wishes: &[Wish],
        put_off: &PutOff,
    ) -> Result<Option<(Wish, Vec<Held>)>, ArchiveError> {
        let open: Vec<Wish> = wishes
            .iter()
            .filter(|wish| !put_off.is(&wish.id))
            .cloned()
            .collect();
        let (store, wishes) = (self.store.clone(), wishes.to_vec());
        spawn_blocking(move || {
            let Some(next) = open.into_iter().find(|wish| !store.holds(&wish.id)) else {
                return Ok(None);
            };
            Ok(Some((next, store.held(&wishes)?)))
        })
        .await?
    }

    async fn take(&self, wish: &Wish, held: Vec<Held>) -> Result<(), ArchiveError> {
        let image = self.engine.image(wish.id.as_str()).await?;
        let bytes = image["Size"].as_u64().unwrap_or(0);
        let layers: Vec<String> = list(&image["RootFS"]["Layers"])
            .iter()
            .filter_map(|layer| layer.as_str().map(str::to_owned))
            .collect();
        let engine_dir = text(&self.engine.info().await?, "DockerRootDir").to_owned();
        let store = self.store.clone();
        let (known, used) = spawn_blocking(move || {
            let known = store.known(layers.iter().map(String::as_str));
            store.used().map(|used| (known, used))
        })
        .await??;
        let needed = bytes.saturating_sub(known);
        self.engine_has_room(&engine_dir, bytes).await?;
        let disk = above_floor(&self.dir).await.unwrap_or(u64::MAX);
        let budget = self.budget.saturating_sub(used);
        let gone = make_room(needed, wish.rank, budget.min(disk), held).ok_or_else(|| {
            let place = if budget < disk {
                format!(
                    "of the {} MiB of `docker.image_archive_mib` {} MB are free",
                    self.budget / 1024 / 1024,
                    budget / 1_000_000
                )
            } else {
                format!(
                    "{} has {} MB above what stays free of its disk",
                    self.dir.display(),
                    disk / 1_000_000
                )
            };
            ArchiveError::NoRoom { needed, place }
        })?;
        self.let_go(gone).await?;
        let store = self.store.clone();
        let used = spawn_blocking(move || store.used()).await??;
        let room = Room {
            budget: self.budget.saturating_sub(used),
            disk: above_floor(&self.dir).await.unwrap_or(u64::MAX),
        };
        self.export(&wish.id, room).await
    }

    /// The engine writes an export to its own disk before the first byte of it is to be read.
    async fn engine_has_room(&self, root: &str, needed: u64) -> Result<(), ArchiveError> {
        match above_floor(Path::new(root)).await {
            Some(free) if free < needed => Err(ArchiveError::NoRoom {
                needed,
                place: format!(
                    "{root}, where the engine writes it first, has {} MB above what stays free of its disk",
                    free / 1_000_000
                ),
            }),
            _ => Ok(()),
        }
    }

    async fn let_go(&self, images: Vec<ImageId>) -> Result<(), ArchiveError> {
        if images.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        // Never waited for: it would keep the next rollback from reading meanwhile.
        let _nobody_reads = self.giving.try_write().map_err(|_| ArchiveError::InUse)?;
        spawn_blocking(move || {
            store.let_go(&images)?;
            for id in &images {
                info!("image {id} is archived no longer: a newer one needs its room");
            }
            Ok(())
        })
        .await?
    }

    async fn export(&self, id: &ImageId, room: Room) -> Result<(), ArchiveError> {
        let mut pieces = std::pin::pin!(self.engine.export_image(id.as_str()).await?);
        let (sender, source) = pipe::source();
        let (store, wanted) = (self.store.clone(), id.clone());
        let taking = spawn_blocking(move || store.take(&wanted, source, room));
        let mut broken = None;
        let last = loop {
            let piece = match pieces.next().await {
                Some(Ok(bytes)) => Piece::Bytes(bytes),
                Some(Err(error)) => {
                    broken = Some(error);
                    break None;
                }
                None => break Some(Piece::End),
            };
            // Who reads has ended, with an error of its own or with all it needs.
            if sender.send(piece).await.is_err() {
                break None;
            }
        };
        if let Some(end) = last {
            drop(sender.send(end).await);
        }
        drop(sender);
        let taken = taking.await?;
        match (taken, broken) {
            (Err(ShelfError::Export(_)), Some(error)) => Err(error.into()),
            (taken, _) => Ok(taken?),
        }
    }
}

fn above(space: Space) -> u64 {
    let floor = (space.total / FLOOR_SHARE).min(FLOOR_BYTES);
    space.free.saturating_sub(floor)
}

/// What is free on the disk of that path beyond what always stays so. None: nobody can say.
async fn above_floor(path: &Path) -> Option<u64> {
    let path = path.to_owned();
    let space = spawn_blocking(move || files::space(&path)).await.ok()??;
    Some(above(space))
}

/// Images that could not be taken, and when they are tried again.
#[derive(Debug, Default)]
struct PutOff(BTreeMap<ImageId, Instant>);

impl PutOff {
    /// Puts one off. Answers with whether that is the first time.
    fn note(&mut self, id: &ImageId) -> bool {
        self.0.insert(id.clone(), Instant::now() + AGAIN).is_none()
    }

    fn is(&self, id: &ImageId) -> bool {
        self.0.get(id).is_some_and(|until| Instant::now() < *until)
    }

    fn forget_others(&mut self, wishes: &[Wish]) {
        let all: BTreeSet<&ImageId> = wishes.iter().map(|wish| &wish.id).collect();
        self.0.retain(|id, _| all.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_small_disk_stays_free_and_some_gib_of_a_large_one() {
        let above = |free, total| above(Space { free, total });
        assert_eq!(above(5 << 20, 20 << 20), 3 << 20);
        assert_eq!(above(1 << 20, 20 << 20), 0);
        assert_eq!(above(1 << 40, 2 << 40), (1 << 40) - (4 << 30));
    }

    #[test]
    fn what_could_not_be_taken_is_told_once_and_waits_for_as_long_as_it_is_wanted() {
        let id = |digit: char| -> ImageId {
            let text = format!("sha256:{}", digit.to_string().repeat(64));
            text.parse().expect("an id")
        };
        let mut put_off = PutOff::default();
        assert!(put_off.note(&id('1')));
        assert!(!put_off.note(&id('1')));
        assert!(put_off.is(&id('1')) && !put_off.is(&id('2')));
        put_off.forget_others(&[]);
        assert!(!put_off.is(&id('1')));
    }
}
