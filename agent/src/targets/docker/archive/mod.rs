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

use serde_json::Value;
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

pub(super) use self::choose::{Image, ImageId};
use self::{
    choose::{Held, Wanted, Wish, make_room},
    pipe::Piece,
    shelf::{Room, Shelf, ShelfError},
};
use super::{
    DockerSettings,
    client::{Engine, EngineError, EngineErrorKind},
    normalise::{list, text},
    registry,
};
use crate::store::files::{self, Space};

/// What stays free on a disk whatever the budget allows: a tenth of it, of a large one that many bytes.
const FLOOR_SHARE: u64 = 10;
/// See [`FLOOR_SHARE`].
const FLOOR_BYTES: u64 = 4 << 30;

/// After a failure that waiting may mend, an image is tried again behind that.
const AGAIN: Duration = Duration::from_hours(1);
/// A registry that had an image is asked again behind that.
const ASKED_AGAIN: Duration = Duration::from_hours(24);
/// How long the registries of an image are asked, all together.
const ASKED: Duration = Duration::from_secs(10);

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
    /// See [`DockerSettings::registry_config`](super::DockerSettings).
    registry_config: Option<PathBuf>,
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
            warn!("the archive of images does not know what it is for: {error}");
            Wanted::default()
        });
        let shared = Arc::new(Shared {
            engine,
            store,
            dir: dir.to_owned(),
            registry_config: settings.registry_config.clone(),
            budget: settings.image_archive_mib.saturating_mul(1024 * 1024),
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

    /// Sets what a target has use for, the newest revision's image first. Of these, the ones that no registry has are
    /// taken. Returns at once.
    pub(super) fn want(&self, target: &TargetName, images: Vec<Image>) {
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
        let mut known = Known::default();
        loop {
            // Behind that time also by itself: files may have been lost, and what was put off is due.
            let _ = timeout(AGAIN, self.changed.notified()).await;
            let settled = self.round(&mut known).await.unwrap_or_else(|error| {
                warn!("the archive of images cannot be kept: {error}");
                false
            });
            self.settled.store(settled, Ordering::Release);
        }
    }

    /// Lets go of what nobody wants, and takes what is wanted. Answers with whether nothing is left to do.
    async fn round(&self, known: &mut Known) -> Result<bool, ArchiveError> {
        let info = match self.engine.info().await {
            Err(error) if error.kind == EngineErrorKind::Unreachable => return Ok(false),
            info => info?,
        };
        // Most engines know what a registry has: an image has a digest once it was pulled or pushed. One whose images
        // are containerd's gives a digest to every image: there the registries are asked, each image's in its turn.
        if !is_containerds(&info) {
            let wishes = self.wanted().wishes();
            for wish in wishes.iter().filter(|wish| !wish.digests.is_empty()) {
                known.note(&wish.id, Why::Elsewhere);
            }
        }
        let tidied = self.tidy(known).await?;
        loop {
            let wishes = known.of_no_registry(self.wanted().wishes());
            let Some((wish, held)) = self.next(&wishes, known).await? else {
                return Ok(tidied);
            };
            match self.take(&wish, held, &info).await {
                Ok(Taken::ElsewhereAlready) => {
                    known.note(&wish.id, Why::Elsewhere);
                }
                Ok(Taken::Now) => info!(
                    target = %wish.target,
                    "image {} of {} is in no registry: a copy is in the archive of this host", wish.id, wish.target
                ),
                Err(ArchiveError::InUse) => return Ok(false),
                Err(ArchiveError::Engine(error)) if error.kind == EngineErrorKind::Unreachable => {
                    return Ok(false);
                }
                // Gone before it was taken: readiness tells.
                Err(ArchiveError::Engine(error)) if error.is_not_found() => {
                    known.note(&wish.id, Why::Failed);
                }
                Err(error) => {
                    if known.note(&wish.id, Why::Failed) {
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
    async fn tidy(&self, known: &mut Known) -> Result<bool, ArchiveError> {
        let wanted = self.wanted().clone();
        let wishes = wanted.wishes();
        known.forget_others(&wishes);
        let wishes = known.of_no_registry(wishes);
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
            let held = store.held(&wishes)?;
            let unwanted = held.iter().filter(|one| one.rank == usize::MAX);
            let unwanted: Vec<ImageId> = unwanted.map(|one| one.id.clone()).collect();
            store.let_go(&unwanted)?;
            for id in &unwanted {
                info!("image {id} is archived no longer");
            }
            while store.used()? > budget {
                let held = store.held(&wishes)?;
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
        known: &Known,
    ) -> Result<Option<(Wish, Vec<Held>)>, ArchiveError> {
        let open: Vec<Wish> = wishes
            .iter()
            .filter(|wish| !known.is(&wish.id))
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

    async fn take(
        &self,
        wish: &Wish,
        held: Vec<Held>,
        info: &Value,
    ) -> Result<Taken, ArchiveError> {
        if self.is_elsewhere(&wish.digests).await {
            return Ok(Taken::ElsewhereAlready);
        }
        let image = self.engine.image(wish.id.as_str()).await?;
        let bytes = image["Size"].as_u64().unwrap_or(0);
        let layers: Vec<String> = list(&image["RootFS"]["Layers"])
            .iter()
            .filter_map(|layer| layer.as_str().map(str::to_owned))
            .collect();
        let engine_dir = text(info, "DockerRootDir");
        let store = self.store.clone();
        let (known, used) = spawn_blocking(move || {
            let known = store.known(layers.iter().map(String::as_str));
            store.used().map(|used| (known, used))
        })
        .await??;
        let needed = bytes.saturating_sub(known);
        self.engine_has_room(engine_dir, bytes).await?;
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
        self.export(&wish.id, room).await?;
        Ok(Taken::Now)
    }

    /// Whether a registry says that it has the image.
    async fn is_elsewhere(&self, digests: &[String]) -> bool {
        let config = self.registry_config.as_deref();
        let asked = async {
            for digest in digests {
                let credentials = registry::credentials(config, digest).await;
                if self.engine.distribution(digest, credentials).await.is_ok() {
                    return true;
                }
            }
            false
        };
        timeout(ASKED, asked).await.unwrap_or(false)
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

/// Whether the engine leaves its images to containerd.
fn is_containerds(info: &Value) -> bool {
    let status = list(&info["DriverStatus"]).iter();
    let mut types = status.filter(|pair| pair[0] == "driver-type");
    types.any(|pair| pair[1] == "io.containerd.snapshotter.v1")
}

/// What became of an image that was to be taken.
enum Taken {
    Now,
    /// A registry has it: it is not taken.
    ElsewhereAlready,
}

/// Why an image is not taken for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Failed,
    Elsewhere,
}

/// Images that are not taken for a while.
#[derive(Debug, Default)]
struct Known(BTreeMap<ImageId, (Instant, Why)>);

impl Known {
    /// Notes one. Answers with whether that is news.
    fn note(&mut self, id: &ImageId, why: Why) -> bool {
        let pause = match why {
            Why::Failed => AGAIN,
            Why::Elsewhere => ASKED_AGAIN,
        };
        let before = self.0.insert(id.clone(), (Instant::now() + pause, why));
        before.is_none_or(|(_, before)| before != why)
    }

    fn is(&self, id: &ImageId) -> bool {
        let known = self.0.get(id);
        known.is_some_and(|(until, _)| Instant::now() < *until)
    }

    /// The wishes without those that a registry fulfils. One whose registry has to be asked again is among these until
    /// it was.
    fn of_no_registry(&self, mut wishes: Vec<Wish>) -> Vec<Wish> {
        wishes.retain(|wish| {
            let known = self.0.get(&wish.id);
            !(self.is(&wish.id) && known.is_some_and(|(_, why)| *why == Why::Elsewhere))
        });
        wishes
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
    fn what_is_not_taken_is_told_once_and_waits_for_as_long_as_it_is_wanted() {
        let id = |digit: char| -> ImageId {
            let text = format!("sha256:{}", digit.to_string().repeat(64));
            text.parse().expect("an id")
        };
        let mut wanted = Wanted::default();
        let images = ['1', '2', '3'].map(|digit| Image {
            id: id(digit),
            digests: Vec::new(),
        });
        wanted.set(&"docker/web".parse().expect("a target"), images.into());
        let mut known = Known::default();
        assert!(known.note(&id('1'), Why::Failed));
        assert!(!known.note(&id('1'), Why::Failed));
        known.note(&id('2'), Why::Elsewhere);
        assert!(known.is(&id('1')) && known.is(&id('2')) && !known.is(&id('3')));
        let wishes = known.of_no_registry(wanted.wishes());
        let left: Vec<ImageId> = wishes.into_iter().map(|wish| wish.id).collect();
        assert_eq!(left, [id('1'), id('3')]);
        known.forget_others(&[]);
        assert!(!known.is(&id('1')));
    }

    #[test]
    fn an_engine_says_whether_its_images_are_containerds() {
        let info = |kind: &str| serde_json::json!({"DriverStatus": [["Backing Filesystem", "extfs"], ["driver-type", kind]]});
        assert!(is_containerds(&info("io.containerd.snapshotter.v1")));
        assert!(!is_containerds(&info("overlay2")));
        assert!(!is_containerds(&Value::Null));
    }
}
