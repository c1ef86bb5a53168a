//! The shelf: package files that are kept so that a version can be installed again, whatever becomes of repositories. Each
//! is exactly the package that it is kept as, and what is read back is what was put in, or an error.

mod index;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sternway_proto::name::RevisionId;
use thiserror::Error;

use self::index::Index;
use super::{
    Dpkg, DpkgError, PackageId,
    deb::{self, DebError},
};
use crate::store::{
    artifacts::{ArtifactError, Artifacts, hash_of},
    files::{self, FileError},
};

/// Where apt keeps what it downloaded.
const CACHE: &str = "/var/cache/apt/archives";

/// Where a package file came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What apt had downloaded.
    Cache,
    Repository,
    /// Made of the installed files: what it installs is what was there, but it is not the file that its maintainer made.
    Rebuilt,
}

/// A package file that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub artifact: RevisionId,
    pub source: Source,
}

/// Where package files come from that are not in apt's cache. Both are work of their own, with a deadline: the shelf waits for
/// them, and whoever wants to keep another package waits too.
pub trait Supply: Send + Sync {
    /// The file of that package from a repository, by [`download_command`]; none: there is none to be had.
    fn fetch(&self, package: &PackageId) -> impl Future<Output = Option<PathBuf>> + Send;

    /// The package made of its installed files, by [`rebuild`](super::rebuild()); none: it cannot be.
    fn rebuild(&self, package: &PackageId) -> impl Future<Output = Option<PathBuf>> + Send;
}

/// Why a package file could not be kept, or not be had again.
#[derive(Debug, Error)]
pub enum ShelfError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Deb(#[from] DebError),
    #[error(transparent)]
    Dpkg(#[from] DpkgError),
    #[error("no file of {package} is kept")]
    NotKept { package: Box<PackageId> },
    /// Nor is it what is installed, of which it could be made.
    #[error(
        "{package} is neither in apt's cache nor to be had from a repository, and cannot be made of what is installed"
    )]
    NotToBeHad { package: Box<PackageId> },
    #[error("{} was changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error("the agent stops")]
    Stops,
}

/// The shelf. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
    artifacts: Artifacts,
    cache: PathBuf,
    index: Arc<Mutex<Index>>,
    /// One package is kept after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Shelf {
    /// The shelf in that folder, which may hold `budget` bytes. One process uses the folder.
    ///
    /// # Errors
    /// The folder cannot be made, or its index not be read.
    pub fn open(dir: &Path, budget: u64) -> Result<Self, ShelfError> {
        files::make_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            artifacts: Artifacts::open(&dir.join("files"), budget)?,
            cache: CACHE.into(),
            index: Arc::new(Mutex::new(Index::open(&dir.join("index.json"))?)),
            turn: Arc::default(),
        })
    }

    /// Where apt keeps what it downloaded, if it is set to keep it elsewhere.
    #[must_use]
    pub fn with_cache(self, cache: PathBuf) -> Self {
        Self { cache, ..self }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of a package. It may be damaged: see [`Self::verify`].
    #[must_use]
    pub fn find(&self, package: &PackageId) -> Option<Kept> {
        self.index().find(package).cloned()
    }

    fn kept(&self, package: &PackageId) -> Result<Kept, ShelfError> {
        self.find(package).ok_or_else(|| ShelfError::NotKept {
            package: Box::new(package.clone()),
        })
    }

    /// Reads what is kept of a package against its hash.
    ///
    /// # Errors
    /// Nothing is kept, or it is missing or damaged.
    pub async fn verify(&self, package: &PackageId) -> Result<(), ShelfError> {
        let (artifacts, kept) = (self.artifacts.clone(), self.kept(package)?);
        blocking(move || Ok(artifacts.verify(&kept.artifact)?)).await
    }

    /// Writes the file of a package into a folder, whole, for its owner only, and answers with its path. One of that name is
    /// replaced.
    ///
    /// # Errors
    /// Nothing is kept, it is missing or damaged, or cannot be written.
    pub async fn copy_to(&self, package: &PackageId, folder: &Path) -> Result<PathBuf, ShelfError> {
        let (artifacts, kept) = (self.artifacts.clone(), self.kept(package)?);
        let path = folder.join(package.file_name());
        blocking(move || {
            files::remove(&path)?;
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path);
            let mut file = file.map_err(|source| failed("make", &path, source))?;
            if let Err(error) = artifacts.copy_to(&kept.artifact, &mut file, &path) {
                // It is the first fault that counts.
                let _ = files::remove(&path);
                return Err(error.into());
            }
            Ok(path)
        })
        .await
    }

    /// Keeps a package: from apt's cache, from a repository or, where it is installed now, of its installed files. One that is
    /// kept and whole is not looked for again, unless it was rebuilt: the maintainer's own file takes its place.
    ///
    /// # Errors
    /// There is no file of it to be had, or no room in the budget.
    pub async fn keep(
        &self,
        dpkg: &Dpkg,
        package: &PackageId,
        supply: &impl Supply,
    ) -> Result<Kept, ShelfError> {
        let _turn = self.turn.lock().await;
        let kept = match self.verify(package).await {
            Ok(()) => self.find(package),
            Err(_) => None,
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.source != Source::Rebuilt) {
            return Ok(kept.clone());
        }
        let cached = Some(self.cache.join(package.file_name()));
        if let Some(kept) = self.try_to_take(package, cached, Source::Cache).await? {
            return Ok(kept);
        }
        let fetched = supply.fetch(package).await;
        if let Some(kept) = self
            .try_to_take(package, fetched, Source::Repository)
            .await?
        {
            return Ok(kept);
        }
        if let Some(kept) = kept {
            return Ok(kept);
        }
        if is_installed(dpkg, package).await? {
            let rebuilt = supply.rebuild(package).await;
            if let Some(kept) = self.try_to_take(package, rebuilt, Source::Rebuilt).await? {
                return Ok(kept);
            }
        }
        Err(ShelfError::NotToBeHad {
            package: Box::new(package.clone()),
        })
    }

    /// Takes in a file if it is there and is that package; there may be another elsewhere.
    async fn try_to_take(
        &self,
        package: &PackageId,
        file: Option<PathBuf>,
        source: Source,
    ) -> Result<Option<Kept>, ShelfError> {
        let Some(file) = file else { return Ok(None) };
        match self.take_in(package, &file, source).await {
            Ok(kept) => Ok(Some(kept)),
            Err(ShelfError::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(
                error @ (ShelfError::Deb(_) | ShelfError::File(_) | ShelfError::Changed { .. }),
            ) => {
                tracing::warn!(path = %file.display(), "{package} is not taken from there: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps a file that was found somewhere, if it is exactly that package. A rebuilt one takes no other's place.
    ///
    /// # Errors
    /// It cannot be read, is another package, or there is no room in the budget.
    pub async fn take(
        &self,
        package: &PackageId,
        file: &Path,
        source: Source,
    ) -> Result<Kept, ShelfError> {
        let _turn = self.turn.lock().await;
        if source == Source::Rebuilt
            && self.verify(package).await.is_ok()
            && let Some(kept) = self.find(package)
        {
            return Ok(kept);
        }
        self.take_in(package, file, source).await
    }

    async fn take_in(
        &self,
        package: &PackageId,
        file: &Path,
        source: Source,
    ) -> Result<Kept, ShelfError> {
        let (store, package, path) = (self.clone(), package.clone(), file.to_owned());
        blocking(move || {
            let mut file = open(&path)?;
            let held = store.artifacts.put_file(&mut file, &path)?;
            deb::check(&path, &package, &store.dir)?;
            // What was looked at is what was copied.
            let seen = hash_of(&mut open(&path)?, u64::MAX);
            if seen.map_err(|source| failed("read", &path, source))? != *held {
                return Err(ShelfError::Changed { path });
            }
            let kept = Kept {
                artifact: (*held).clone(),
                source,
            };
            store.index().insert(&package, kept.clone())?;
            Ok(kept)
        })
        .await
    }

    /// Lets go of these packages.
    ///
    /// # Errors
    /// The index cannot be written or a file not be removed.
    pub async fn let_go(&self, of: &BTreeSet<PackageId>) -> Result<(), ShelfError> {
        let _turn = self.turn.lock().await;
        let left = self.index().packages().difference(of).cloned().collect();
        self.retain(&left).await
    }

    /// Lets go of every package that is not named.
    ///
    /// # Errors
    /// The index cannot be written or a file not be removed.
    pub async fn retain(&self, named: &BTreeSet<PackageId>) -> Result<(), ShelfError> {
        let (store, named) = (self.clone(), named.clone());
        blocking(move || {
            let mut index = store.index();
            index.retain(&named)?;
            store.artifacts.retain(&index.artifacts())?;
            Ok(())
        })
        .await
    }
}

/// That version of it is what is installed, whole.
async fn is_installed(dpkg: &Dpkg, package: &PackageId) -> Result<bool, DpkgError> {
    let found = dpkg.packages(std::slice::from_ref(&package.name)).await?;
    Ok(found.iter().any(|one| one.is_whole(package)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShelfError> + Send + 'static,
) -> Result<T, ShelfError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(ShelfError::Stops))
}

/// A file, and nothing else that bears its name.
fn open(path: &Path) -> Result<File, FileError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = File::options();
    let options = options.read(true).custom_flags(flags.cast_signed());
    let file = options
        .open(path)
        .map_err(|source| failed("open", path, source))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(failed("open", path, io::Error::other("it is no file"))),
        Err(source) => Err(failed("look at", path, source)),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError {
        action,
        path: path.to_owned(),
        source,
    }
}

/// How a package file is had from a repository, as root, with the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where it is afterwards.
    pub file: PathBuf,
}

/// The command line by which apt downloads a package into a folder.
#[must_use]
pub fn download_command(package: &PackageId, folder: &Path) -> Download {
    let wanted = format!("{}={}", package.qualified_name(), package.version);
    let arguments = [
        // It writes where it stands.
        format!("--chdir={}", folder.display()),
        "LC_ALL=C.UTF-8".to_owned(),
        "apt-get".to_owned(),
        "--quiet".to_owned(),
        // A mirror that is away is not waited for: there are other ways to the package.
        "--option=Acquire::Retries=1".to_owned(),
        "--option=Acquire::http::Timeout=20".to_owned(),
        "--option=Acquire::https::Timeout=20".to_owned(),
        "download".to_owned(),
        wanted,
    ];
    Download {
        program: "/usr/bin/env".into(),
        arguments: arguments.into(),
        file: folder.join(package.file_name()),
    }
}

#[cfg(test)]
mod tests;
