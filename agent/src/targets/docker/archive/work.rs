//! The work on the archive, in the background: what no registry has is taken, one image at a time, and what nobody wants
//! or what there is no room for is let go. The only one who changes what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_stream::StreamExt as _;
use tracing::{info, warn};

use super::{
    super::{
        client::{EngineError, QUICK},
        normalise::{list, text},
        registry::{self, InRegistry},
    },
    ArchiveError, ImageId, Shared,
    choose::{self, Held, Wish, make_room},
    pipe::{self, Piece},
    shelf::{Room, ShelfError},
};
use crate::store::files::{self, Space};

/// What stays free on a disk whatever the budget allows: a tenth of it, of a large one that many bytes.
const FLOOR_SHARE: u64 = 10;
/// See [`FLOOR_SHARE`].
const FLOOR_BYTES: u64 = 4 << 30;

/// After a failure that waiting may mend, an image is tried again behind that.
pub(super) const AGAIN: Duration = Duration::from_hours(1);
/// What the tar of a small image has beside its files, bytes.
const TAR_BYTES: u64 = 256 * 1024;

/// After an export that broke off although the engine is there, once: then as after any failure.
const SOON: Duration = Duration::from_secs(5);
/// A registry that had an image is asked again behind that.
const ASKED_AGAIN: Duration = Duration::from_hours(24);

/// Works until it is dropped.
pub(super) async fn work(shared: Arc<Shared>) {
    let mut known = Known::default();
    loop {
        // Behind that time also by itself: files may have been lost, and what was put off is due.
        let _ = timeout(AGAIN, shared.changed.notified()).await;
        let settled = shared.round(&mut known).await.unwrap_or_else(|error| {
            warn!("the archive of images cannot be kept: {error}");
            false
        });
        shared.settled.store(settled, Ordering::Release);
    }
}

/// What became of an image that was to be taken.
enum Taken {
    Now,
    /// A registry has it: it is not taken.
    ElsewhereAlready,
}

impl Shared {
    /// Lets go of what nobody wants, and takes what is wanted. Answers with whether nothing is left to do.
    async fn round(&self, known: &mut Known) -> Result<bool, ArchiveError> {
        let info = match self.engine.info().await {
            Err(error) if error.is_transient() => return Ok(false),
            info => info?,
        };
        let mut tidied = false;
        loop {
            let wishes = self.wanted().wishes();
            known.forget_others(&wishes);
            // Most engines know what a registry has: an image has a digest once it was pulled or pushed. One whose
            // images are containerd's gives a digest to every image: there the registries are asked, each image's in
            // its turn.
            if !is_containerds(&info) {
                for wish in wishes.iter().filter(|wish| !wish.digests.is_empty()) {
                    known.note(&wish.id, Why::Elsewhere);
                }
            }
            let wishes = known.of_no_registry(wishes);
            if !tidied {
                tidied = self.tidy(&wishes).await?;
            }
            if self.budget == 0 {
                return Ok(tidied);
            }
            let Some((wish, held)) = self.next(&wishes, known).await? else {
                return Ok(tidied && !known.is_soon_again());
            };
            match self.take(&wish, held, &info).await {
                Ok(Taken::ElsewhereAlready) => {
                    known.note(&wish.id, Why::Elsewhere);
                }
                Ok(Taken::Now) => {
                    known.forget(&wish.id);
                    info!(
                        target = %wish.target,
                        "image {} of {} is in no registry: a copy is in the archive of this host",
                        wish.id, wish.target
                    );
                }
                Err(ArchiveError::InUse) => return Ok(false),
                // Gone before it was taken: readiness tells.
                Err(ArchiveError::Engine(error)) if error.is_not_found() => {
                    known.note(&wish.id, Why::Failed);
                }
                // That it is away has nothing to do with this image; where it is there, the image may have.
                Err(ArchiveError::Engine(error))
                    if error.is_transient() && self.engine.ping(QUICK).await.is_err() =>
                {
                    return Ok(false);
                }
                Err(ArchiveError::Engine(error))
                    if error.is_transient() && !known.has_broken_off(&wish.id) =>
                {
                    known.note(&wish.id, Why::BrokeOff);
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

    /// Lets go of what nobody wants and of what is beyond the budget. False: not now, one is just given out.
    async fn tidy(&self, wishes: &[Wish]) -> Result<bool, ArchiveError> {
        let (store, wishes) = (self.store.clone(), wishes.to_vec());
        let held = spawn_blocking(move || store.held(&wishes)).await??;
        let stay = self.nothing_goes_before;
        let unwanted_stay = stay.is_some_and(|until| Instant::now() < until);
        let (unwanted, wanted): (Vec<Held>, Vec<Held>) = held
            .into_iter()
            .partition(|one| one.rank == Held::UNWANTED && !unwanted_stay);
        let unwanted: Vec<ImageId> = unwanted.into_iter().map(|one| one.id).collect();
        let beyond = if choose::size(&wanted) > self.budget {
            choose::beyond(self.budget, self.replaceable(wanted, 0).await?)
        } else {
            Vec::new()
        };
        let done = self
            .let_go(unwanted, "nobody wants it any more")
            .await
            .and(self.let_go(beyond, "the budget is smaller than it").await);
        match done {
            Err(ArchiveError::InUse) => Ok(false),
            done => done.map(|()| true),
        }
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
        let mut only_free_room = false;
        if !wish.digests.is_empty() {
            let config = self.registry_config.as_deref();
            match registry::asked(&self.engine, config, &wish.digests).await {
                InRegistry::Yes => return Ok(Taken::ElsewhereAlready),
                // What is not let in gets nothing there on the day either.
                InRegistry::No | InRegistry::Denied => {}
                // It may well have it: nothing goes for that.
                InRegistry::Silent | InRegistry::Unknown(_) => only_free_room = true,
            }
        }
        let image = self.engine.image(wish.id.as_str()).await?;
        let bytes = image["Size"].as_u64().unwrap_or(0);
        let layers: Vec<String> = list(&image["RootFS"]["Layers"])
            .iter()
            .filter_map(|layer| layer.as_str().map(str::to_owned))
            .collect();
        let store = self.store.clone();
        let known = move || store.known(layers.iter().map(String::as_str));
        let needed = bytes.saturating_sub(spawn_blocking(known).await?);
        // A tar has more than the files that the engine counts: their heads, and what fills their blocks.
        let needed = needed + needed / 8 + TAR_BYTES;
        // What containerd exports is compressed, and bears other names than the layers: how much of it is there already
        // is seen when it is written.
        let may_fit = needed <= self.free(&held) || is_containerds(info);
        self.disks_have_room(text(info, "DockerRootDir"), bytes, needed)
            .await?;
        if may_fit {
            match self.export(&wish.id, &held).await {
                Err(ArchiveError::Shelf(ShelfError::NoRoom)) => {}
                done => return done.map(|()| Taken::Now),
            }
        }
        let held = if only_free_room {
            Vec::new()
        } else {
            self.replaceable(held, wish.rank).await?
        };
        let free = self.free(&self.held().await?);
        // It was seen that this much is too little.
        let needed = if may_fit {
            needed.max(free + 1)
        } else {
            needed
        };
        let gone = make_room(needed, wish.rank, free, held).ok_or_else(|| {
            let (budget, free) = (self.budget / 1024 / 1024, free / 1_000_000);
            let place =
                format!("of the {budget} MiB of `docker.image_archive_mib` {free} MB are free");
            ArchiveError::NoRoom { needed, place }
        })?;
        self.let_go(gone, "another one needs its room").await?;
        self.export(&wish.id, &self.held().await?).await?;
        Ok(Taken::Now)
    }

    /// Those that rank behind and are in the engine's store, too, as they are; the others rank first: what is the last
    /// copy does not go for another one's sake.
    async fn replaceable(&self, held: Vec<Held>, rank: usize) -> Result<Vec<Held>, ArchiveError> {
        let mut all = Vec::new();
        for mut one in held {
            if one.rank > rank {
                match self.engine.image(one.id.as_str()).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => one.rank = 0,
                    Err(error) => return Err(error.into()),
                }
            }
            all.push(one);
        }
        Ok(all)
    }

    async fn held(&self) -> Result<Vec<Held>, ArchiveError> {
        let (store, wishes) = (self.store.clone(), self.wanted().wishes());
        Ok(spawn_blocking(move || store.held(&wishes)).await??)
    }

    /// What is left of the budget, bytes.
    fn free(&self, held: &[Held]) -> u64 {
        self.budget.saturating_sub(choose::size(held))
    }

    /// The engine writes an export to its own disk, all of it, before the first byte is to be read; then it is written
    /// here. Both stay free of what else is on their disks, also where these are one.
    async fn disks_have_room(
        &self,
        engine_dir: &str,
        there: u64,
        here: u64,
    ) -> Result<(), ArchiveError> {
        let paths = [PathBuf::from(engine_dir), self.dir.clone()];
        let needed = spawn_blocking(move || needed_on(&paths, there, here)).await?;
        for (path, needed) in needed {
            let Some(free) = above_floor(&path).await else {
                continue;
            };
            if free < needed {
                let place = format!(
                    "{}, where it is written, has {} MB above what stays free of its disk",
                    path.display(),
                    free / 1_000_000
                );
                return Err(ArchiveError::NoRoom { needed, place });
            }
        }
        Ok(())
    }

    async fn let_go(&self, images: Vec<ImageId>, why: &'static str) -> Result<(), ArchiveError> {
        if images.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        // Never waited for: it would keep the next rollback from reading meanwhile.
        let _nobody_reads = self.giving.try_write().map_err(|_| ArchiveError::InUse)?;
        spawn_blocking(move || {
            store.let_go(&images)?;
            for id in &images {
                info!("image {id} is archived no longer: {why}");
            }
            Ok(())
        })
        .await?
    }

    async fn export(&self, id: &ImageId, held: &[Held]) -> Result<(), ArchiveError> {
        let space = files::space(&self.dir);
        let room = Room {
            budget: self.free(held),
            floor: space.map_or(0, floor),
        };
        let mut pieces = pin!(self.engine.export_image(id.as_str()).await?);
        let (sender, source) = pipe::source();
        let (store, wanted) = (self.store.clone(), id.clone());
        let taking = spawn_blocking(move || store.take(&wanted, source, room));
        let mut falls_silent = pin!(self.engine.falls_silent());
        let broken = loop {
            let piece = tokio::select! {
                biased;
                piece = pieces.next() => piece,
                () = &mut falls_silent => {
                    let what = format!("export image {id}");
                    break Some(EngineError::silent(&what, QUICK));
                }
            };
            // Who reads has ended where it takes nothing more, with an error of its own or with all it needs.
            match piece {
                Some(Ok(bytes)) => {
                    if sender.send(Piece::Bytes(bytes)).await.is_err() {
                        break None;
                    }
                }
                Some(Err(error)) => break Some(error),
                None => {
                    drop(sender.send(Piece::End).await);
                    break None;
                }
            }
        };
        drop(sender);
        let taken = taking.await?;
        match (taken, broken) {
            (Err(ShelfError::Export(_)), Some(error)) => Err(error.into()),
            (taken, _) => Ok(taken?),
        }
    }
}

/// How much is needed where: at both places, or together where they are on one disk.
fn needed_on(paths: &[PathBuf; 2], there: u64, here: u64) -> Vec<(PathBuf, u64)> {
    let disk = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let [engine, own] = paths;
    if disk(engine).is_some() && disk(engine) == disk(own) {
        return vec![(own.clone(), there.saturating_add(here))];
    }
    vec![(engine.clone(), there), (own.clone(), here)]
}

fn floor(space: Space) -> u64 {
    (space.total / FLOOR_SHARE).min(FLOOR_BYTES)
}

/// What is free on the disk of that path beyond what always stays so. None: nobody can say.
async fn above_floor(path: &Path) -> Option<u64> {
    let path = path.to_owned();
    let space = spawn_blocking(move || files::space(&path)).await.ok()??;
    Some(space.free.saturating_sub(floor(space)))
}

/// Whether the engine leaves its images to containerd.
fn is_containerds(info: &Value) -> bool {
    let status = list(&info["DriverStatus"]).iter();
    let mut types = status.filter(|pair| pair[0] == "driver-type");
    types.any(|pair| pair[1] == "io.containerd.snapshotter.v1")
}

/// Why an image is not taken for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Its export did, once.
    BrokeOff,
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
            Why::BrokeOff => SOON,
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

    fn forget(&mut self, id: &ImageId) {
        self.0.remove(id);
    }

    fn has_broken_off(&self, id: &ImageId) -> bool {
        let known = self.0.get(id);
        known.is_some_and(|(_, why)| *why == Why::BrokeOff)
    }

    /// Whether one is to be tried again with the next occasion.
    fn is_soon_again(&self) -> bool {
        self.0.values().any(|(_, why)| *why == Why::BrokeOff)
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
    use super::{
        super::choose::{Image, Wanted},
        *,
    };

    #[test]
    fn a_tenth_of_a_small_disk_stays_free_and_some_gib_of_a_large_one() {
        let floor = |total| floor(Space { free: 0, total });
        assert_eq!(floor(20 << 20), 2 << 20);
        assert_eq!(floor(2 << 40), 4 << 30);
    }

    #[test]
    fn what_is_written_to_one_disk_twice_needs_room_for_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().to_owned();
        let one = needed_on(&[own.clone(), own.clone()], 5, 3);
        assert_eq!(one, [(own.clone(), 8)]);
        let proc = PathBuf::from("/proc");
        let two = needed_on(&[proc.clone(), own.clone()], 5, 3);
        assert_eq!(two, [(proc, 5), (own.clone(), 3)]);
        let nowhere = PathBuf::from("/nonexistent-folder");
        assert_eq!(needed_on(&[nowhere, own], 5, 3).len(), 2);
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
        known.note(&id('3'), Why::BrokeOff);
        assert!(known.has_broken_off(&id('3')) && known.is_soon_again());
        assert!(known.note(&id('3'), Why::Failed) && !known.is_soon_again());
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
