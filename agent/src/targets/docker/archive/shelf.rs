//! The archive on disk. An image is kept as what the engine's export of it holds: its files, each under its hash and
//! once for all images, and a list of them, from which the same archive is made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use thiserror::Error;

use super::choose::{Held, ImageId, Wanted, Wish};
use crate::store::files::{self, FileError};

/// The layout of the lists.
const SCHEMA: u32 = 1;
/// Files in the export of one image, at most. An image has at most some hundred layers.
const ENTRIES: usize = 10_000;
/// A configuration or list within an export that is read as a whole, bytes at most.
const TEXT_BYTES: u64 = 8 * 1024 * 1024;
/// The name of a file that is just written.
const TEMPORARY: &str = "new";
/// Read and written at a time.
const BUFFER: usize = 256 * 1024;
/// After that many bytes of a file they are brought to disk, and the room is looked at again: so that no single wait for
/// the disk is long, and others that write there are seen.
const SYNC_BYTES: u64 = 32 * 1024 * 1024;

/// Why an image could not be taken, given out or let go.
#[derive(Debug, Error)]
pub(in super::super) enum ShelfError {
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine's archive ended before its end, or could not be read.
    #[error("the engine's export of it: {0}")]
    Export(io::Error),
    /// It is whole, and not that image.
    #[error("the engine's export of it: {0}")]
    NotIt(String),
    /// It is larger than the room there is.
    #[error("there is no room for it")]
    NoRoom,
    #[error("it is not in the archive")]
    Missing,
    /// A later version wrote its list.
    #[error("its list is of another version")]
    OtherVersion,
    /// A file is not what was put in.
    #[error("what the archive of this host has of it is damaged: {0}")]
    Damaged(String),
    /// Whoever asked for it reads no further.
    #[error("it was not read to its end: {0}")]
    Unread(io::Error),
}

/// How much may be added, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) budget: u64,
    /// What stays free on the disk, at any moment: what is there already is written once more before its hash is known.
    pub(super) floor: u64,
}

/// A SHA-256, 64 digits.
type Blob = String;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    Folder,
    File { blob: Blob, bytes: u64 },
    Link { to: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: String,
    part: Part,
}

/// What an image is made of, in the order of its export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Listing {
    schema: u32,
    entries: Vec<Entry>,
}

impl Listing {
    fn blobs(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().filter_map(|entry| match &entry.part {
            Part::File { blob, bytes } => Some((blob.as_str(), *bytes)),
            _ => None,
        })
    }

    /// The hash of the file at that path, by way of links.
    fn at(&self, path: &str) -> Option<&str> {
        let mut path = resolved("", path)?;
        // One link leads to a file; more in a row are nobody's layout.
        for _ in 0..3 {
            let entry = self
                .entries
                .iter()
                .find(|entry| entry.path.trim_end_matches('/') == path)?;
            match &entry.part {
                Part::File { blob, .. } => return Some(blob),
                Part::Link { to } => path = resolved(&entry.path, to)?,
                Part::Folder => return None,
            }
        }
        None
    }
}

/// Where a link at `from` leads, both within the export. None: out of it.
fn resolved(from: &str, to: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The archive's folder. One process and one writer at a time.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// The archive in that folder; what an interrupted write left is removed.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(super) fn open(dir: &Path) -> Result<Self, ShelfError> {
        let shelf = Self {
            dir: dir.to_owned(),
        };
        files::make_dir(&shelf.blobs())?;
        files::make_dir(&shelf.listings())?;
        shelf.sweep()?;
        Ok(shelf)
    }

    /// What was written down last of who wants what. None: nothing was.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn wanted(&self) -> Result<Option<Wanted>, ShelfError> {
        read_json(&self.dir.join("wanted.json"))
    }

    /// Writes down who wants what.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn want(&self, wanted: &Wanted) -> Result<(), ShelfError> {
        let bytes = serde_json::to_vec(wanted).unwrap_or_default();
        Ok(files::replace(&self.dir.join("wanted.json"), &bytes)?)
    }

    /// Takes an image out of the engine's export of it. Nothing of it stays where that fails.
    ///
    /// # Errors
    /// The export is broken or of another image; it needs more than the room; a file cannot be written.
    pub(super) fn take(
        &self,
        id: &ImageId,
        export: impl Read,
        room: Room,
    ) -> Result<(), ShelfError> {
        let taken = self.take_in(id, export, room);
        if taken.is_err() {
            self.sweep()?;
        }
        taken
    }

    fn take_in(&self, id: &ImageId, export: impl Read, room: Room) -> Result<(), ShelfError> {
        let mut export = tar::Archive::new(export);
        let mut left = room.budget;
        let mut entries = Vec::new();
        for entry in export.entries().map_err(ShelfError::Export)? {
            let mut entry = entry.map_err(ShelfError::Export)?;
            if entries.len() == ENTRIES {
                return Err(not_it("it has too many files"));
            }
            let path = text(&entry.path_bytes())?;
            let part = match entry.header().entry_type() {
                EntryType::Directory => Part::Folder,
                EntryType::Symlink => {
                    let to = entry.link_name_bytes().unwrap_or_default();
                    Part::Link { to: text(&to)? }
                }
                EntryType::Regular => {
                    let (blob, bytes) = self.put(&mut entry, &mut left, room.floor)?;
                    Part::File { blob, bytes }
                }
                other => return Err(not_it(&format!("it has an entry of kind {other:?}"))),
            };
            entries.push(Entry { path, part });
        }
        let listing = Listing {
            schema: SCHEMA,
            entries,
        };
        self.verify(id, &listing)?;
        files::sync_dir(&self.blobs())?;
        let bytes = serde_json::to_vec(&listing).unwrap_or_default();
        Ok(files::replace(&self.listing_path(id), &bytes)?)
    }

    /// Keeps a file under its hash. `left`: what may be added for good, less what was.
    fn put(
        &self,
        from: &mut impl Read,
        left: &mut u64,
        floor: u64,
    ) -> Result<(Blob, u64), ShelfError> {
        let temporary = self.blobs().join(TEMPORARY);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("write", &temporary))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        let mut synced = 0;
        let largest = self.largest()?;
        self.is_above(floor)?;
        loop {
            let count = from.read(&mut buffer).map_err(ShelfError::Export)?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            // None that is there already is as large, so that it can be no other one.
            if bytes > *left && bytes > largest {
                return Err(ShelfError::NoRoom);
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count])
                .map_err(failed("write", &temporary))?;
            if bytes - synced >= SYNC_BYTES {
                file.sync_data().map_err(failed("write", &temporary))?;
                synced = bytes;
                self.is_above(floor)?;
            }
        }
        let blob = hex::encode(hash.finalize());
        let path = self.blob_path(&blob);
        // One that is there is replaced: it may be damaged, and this is not.
        if size(&path) != Some(bytes) {
            *left = left.checked_sub(bytes).ok_or(ShelfError::NoRoom)?;
        }
        file.sync_all().map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("write", &path))?;
        Ok((blob, bytes))
    }

    /// The bytes of the largest file.
    fn largest(&self) -> Result<u64, ShelfError> {
        let names = names(&self.blobs())?;
        let kept = names.iter().filter(|name| *name != TEMPORARY);
        let sizes = kept.filter_map(|name| size(&self.blobs().join(name)));
        Ok(sizes.max().unwrap_or(0))
    }

    fn is_above(&self, floor: u64) -> Result<(), ShelfError> {
        match files::space(&self.dir) {
            Some(space) if space.free < floor => Err(ShelfError::NoRoom),
            _ => Ok(()),
        }
    }

    /// Whether those files are that image: its id is the hash of one of them, and its layers are those that its
    /// configuration names by their hashes.
    fn verify(&self, id: &ImageId, listing: &Listing) -> Result<(), ShelfError> {
        if !listing.blobs().any(|(blob, _)| blob == id.digits()) {
            return Err(not_it("it is not of that image"));
        }
        let manifest = self.json(listing, "manifest.json")?;
        let image = &manifest[0];
        let config = image["Config"].as_str().unwrap_or_default();
        let config = self.json(listing, config)?;
        let hashes = config["rootfs"]["diff_ids"].as_array();
        let layers = image["Layers"].as_array();
        let (hashes, layers) = hashes
            .zip(layers)
            .filter(|(hashes, layers)| hashes.len() == layers.len())
            .ok_or_else(|| not_it("it does not say what its layers are"))?;
        for (hash, layer) in hashes.iter().zip(layers) {
            let path = layer.as_str().unwrap_or_default();
            let blob = listing
                .at(path)
                .ok_or_else(|| not_it("a layer of it is missing"))?;
            let plain = hash.as_str().and_then(|hash| hash.strip_prefix("sha256:"));
            // A compressed one is named after its own hash, by the layout of OCI images.
            if plain != Some(blob) && path.strip_prefix("blobs/sha256/") != Some(blob) {
                return Err(not_it("a layer of it has another hash"));
            }
        }
        Ok(())
    }

    fn json(&self, listing: &Listing, path: &str) -> Result<Value, ShelfError> {
        let missing = || not_it(&format!("it has no readable {path:?}"));
        let blob = listing.at(path).ok_or_else(missing)?;
        let path = self.blob_path(blob);
        if size(&path).is_none_or(|size| size > TEXT_BYTES) {
            return Err(missing());
        }
        let bytes = files::read(&path)?.ok_or_else(missing)?;
        serde_json::from_slice(&bytes).map_err(|_| missing())
    }

    /// Whether the image is there, all its files with it. Their content is looked at when it is given out.
    pub(super) fn holds(&self, id: &ImageId) -> bool {
        self.listing(id).is_ok_and(|listing| {
            listing
                .blobs()
                .all(|(blob, bytes)| size(&self.blob_path(blob)) == Some(bytes))
        })
    }

    /// Writes an archive that the engine loads the image from. A file that is damaged is removed, so that whoever asks
    /// next whether the image is there is told the truth.
    ///
    /// # Errors
    /// `Missing`; `Damaged`: then what was written is of no use; `Unread`.
    pub(super) fn give(&self, id: &ImageId, out: impl Write) -> Result<(), ShelfError> {
        let listing = self.listing(id)?;
        let mut out = tar::Builder::new(out);
        for entry in &listing.entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_size(0);
            let added = match &entry.part {
                Part::Folder => {
                    header.set_mode(0o755);
                    header.set_entry_type(EntryType::Directory);
                    out.append_data(&mut header, &entry.path, io::empty())
                }
                Part::Link { to } => {
                    header.set_entry_type(EntryType::Symlink);
                    out.append_link(&mut header, &entry.path, to)
                }
                Part::File { blob, bytes } => {
                    let path = self.blob_path(blob);
                    let file = File::open(&path).map_err(failed("read", &path))?;
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(*bytes);
                    let mut hashing = Hashing::new(file.take(*bytes));
                    let added = out.append_data(&mut header, &entry.path, &mut hashing);
                    let damage = match hashing.failed.take() {
                        Some(error) => Some(error.to_string()),
                        None if added.is_ok() && hashing.digits() != *blob => {
                            Some("it has another hash".to_owned())
                        }
                        None => None,
                    };
                    if let Some(damage) = damage {
                        files::remove(&path)?;
                        let name: String = blob.chars().take(12).collect();
                        return Err(ShelfError::Damaged(format!("file {name}: {damage}")));
                    }
                    added
                }
            };
            added.map_err(ShelfError::Unread)?;
        }
        let mut out = out.into_inner().map_err(ShelfError::Unread)?;
        out.flush().map_err(ShelfError::Unread)
    }

    /// Lets go of images, and of every file that no other has.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub(super) fn let_go(&self, images: &[ImageId]) -> Result<(), ShelfError> {
        if images.is_empty() {
            return Ok(());
        }
        for id in images {
            files::remove(&self.listing_path(id))?;
        }
        files::sync_dir(&self.listings())?;
        self.sweep()
    }

    /// The images there are.
    ///
    /// # Errors
    /// A folder or a list cannot be read.
    pub(super) fn held(&self, wishes: &[Wish]) -> Result<Vec<Held>, ShelfError> {
        let ranks: BTreeMap<&ImageId, usize> =
            wishes.iter().map(|wish| (&wish.id, wish.rank)).collect();
        let held = self.all()?.images.into_iter().map(|(id, listing)| Held {
            rank: ranks.get(&id).copied().unwrap_or(Held::UNWANTED),
            files: listing
                .blobs()
                .map(|(blob, bytes)| (blob.to_owned(), bytes))
                .collect(),
            id,
        });
        Ok(held.collect())
    }

    /// Of these hashes, the bytes that are there already.
    pub(super) fn known<'a>(&self, hashes: impl Iterator<Item = &'a str>) -> u64 {
        hashes
            .filter_map(|hash| hash.parse::<ImageId>().ok())
            .filter_map(|hash| size(&self.blob_path(hash.digits())))
            .sum()
    }

    /// Removes files that no image has, and lists that are none. Nothing where a later version wrote a list: what that
    /// needs nobody here knows.
    fn sweep(&self) -> Result<(), ShelfError> {
        let all = self.all()?;
        if all.of_other_version {
            return Ok(());
        }
        let kept: BTreeSet<&str> = all
            .images
            .values()
            .flat_map(Listing::blobs)
            .map(|(blob, _)| blob)
            .collect();
        for name in names(&self.blobs())? {
            if !kept.contains(name.as_str()) {
                files::remove(&self.blobs().join(name))?;
            }
        }
        let lists: BTreeSet<PathBuf> = all.images.keys().map(|id| self.listing_path(id)).collect();
        for name in names(&self.listings())? {
            let path = self.listings().join(name);
            if !lists.contains(&path) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<All, ShelfError> {
        let mut all = All::default();
        for name in names(&self.listings())? {
            let id = name
                .strip_suffix(".json")
                .and_then(|digits| format!("sha256:{digits}").parse::<ImageId>().ok());
            let Some(id) = id else {
                continue;
            };
            match self.listing(&id) {
                Ok(listing) => drop(all.images.insert(id, listing)),
                Err(ShelfError::OtherVersion) => all.of_other_version = true,
                Err(ShelfError::Damaged(_)) => {}
                // That it cannot be read now does not mean that it is nothing.
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn listing(&self, id: &ImageId) -> Result<Listing, ShelfError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let path = self.listing_path(id);
        let version: Version = read_json(&path)?.ok_or(ShelfError::Missing)?;
        if version.schema != SCHEMA {
            return Err(ShelfError::OtherVersion);
        }
        read_json(&path)?.ok_or(ShelfError::Missing)
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    fn listings(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// `blob` is of our own making, or of a list of ours: 64 digits.
    fn blob_path(&self, blob: &str) -> PathBuf {
        self.blobs().join(blob)
    }

    fn listing_path(&self, id: &ImageId) -> PathBuf {
        self.listings().join(format!("{}.json", id.digits()))
    }
}

/// What the lists say.
#[derive(Debug, Default)]
struct All {
    images: BTreeMap<ImageId, Listing>,
    /// Of some a later version says it.
    of_other_version: bool,
}

/// Reads on, and remembers the hash of what it read.
struct Hashing<R> {
    from: R,
    hash: Sha256,
    /// Why it could not be read on: whoever reads by it tells that from an error of what it writes to.
    failed: Option<io::Error>,
}

impl<R> Hashing<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            hash: Sha256::new(),
            failed: None,
        }
    }

    fn digits(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.from.read(buffer) {
            Ok(count) => {
                self.hash.update(&buffer[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("a file of the archive cannot be read"))
            }
        }
    }
}

fn not_it(why: &str) -> ShelfError {
    ShelfError::NotIt(why.to_owned())
}

fn text(bytes: &[u8]) -> Result<String, ShelfError> {
    let text = str::from_utf8(bytes).map_err(|_| not_it("a name in it is no text"))?;
    Ok(text.to_owned())
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ShelfError + 'a {
    move |source| {
        ShelfError::File(FileError {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

fn names(dir: &Path) -> Result<Vec<String>, ShelfError> {
    let listed = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(dir)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    listed().map_err(failed("list folder", dir))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ShelfError> {
    let Some(bytes) = files::read(path)? else {
        return Ok(None);
    };
    let damaged = |error| ShelfError::Damaged(format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests;
