//! Why files could not be read or put back.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use crate::store::{artifacts::ArtifactError, files::FileError};

/// Why files could not be read or put back.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is neither a file nor a folder nor a link", path.display())]
    Unsupported { path: PathBuf },
    #[error("{} is not an absolute path of plain names in UTF-8", path.display())]
    Path { path: PathBuf },
    /// Somebody else may lead root to wherever they like with it.
    #[error("the link {} on the way is, or lies, in the hands of others than root", path.display())]
    LinkOfOthers { path: PathBuf },
    #[error("{} was changed while it was read", path.display())]
    Changing { path: PathBuf },
    #[error("{}: {bytes} bytes are more than the {limit} that are kept", path.display())]
    TooLarge {
        path: PathBuf,
        bytes: u64,
        limit: u64,
    },
    #[error("at {} there are more than {limit} files", path.display())]
    TooMany { path: PathBuf, limit: usize },
    #[error("a folder, or what is in it, is in the way at {}", path.display())]
    InTheWay { path: PathBuf },
    /// Root may not change it: `chattr -i` makes that possible.
    #[error("{} is immutable", path.display())]
    Immutable { path: PathBuf },
    /// Something is mounted at the very path.
    #[error("{} is in use by the kernel, as a mount is", path.display())]
    MountPoint { path: PathBuf },
    #[error("cannot keep or find the content of {}", path.display())]
    Artifact {
        path: PathBuf,
        #[source]
        source: ArtifactError,
    },
}

impl SnapshotError {
    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| {
            Self::File(FileError {
                action,
                path,
                source: source.into(),
            })
        }
    }

    pub(super) fn artifact(path: &Path) -> impl FnOnce(ArtifactError) -> Self {
        let path = path.to_owned();
        move |source| Self::Artifact { path, source }
    }

    /// Nothing stands there: not even the folder, or a file stands where that would be.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOENT | Errno::NOTDIR))
    }

    /// What the kernel said, where it did.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::File(error) => Errno::from_io_error(&error.source),
            _ => None,
        }
    }

    /// The same may go well in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Changing { .. })
    }

    /// For programs: stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(error) if error.is_no_space() => "no-disk-space",
            Self::File(error) => match error.source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => "read-only",
                io::ErrorKind::PermissionDenied => "not-permitted",
                _ => "file-failed",
            },
            Self::Unsupported { .. } => "not-a-file",
            Self::Path { .. } => "path-invalid",
            Self::LinkOfOthers { .. } => "link-untrusted",
            Self::Changing { .. } => "changing",
            Self::TooLarge { .. } | Self::TooMany { .. } => "too-large",
            Self::InTheWay { .. } => "in-the-way",
            Self::Immutable { .. } => "immutable",
            Self::MountPoint { .. } => "mount-point",
            Self::Artifact { source, .. } => match source {
                ArtifactError::Missing { .. } => "artifact-missing",
                ArtifactError::Damaged { .. } => "artifact-damaged",
                ArtifactError::Budget { .. } => "disk-budget",
                ArtifactError::File(error) if error.is_no_space() => "no-disk-space",
                ArtifactError::File(_) => "artifact-failed",
            },
        }
    }
}
