//! Where a test may kill the agent, or take its disk away: compiled in only with the feature `faults`, which no
//! release has (and into unit tests).
//!
//! - `STERNWAY_FAULT=journal:N:before|in|after` kills the process (SIGKILL, nothing is unwound or flushed)
//!   before the N-th append to any order's journal, when half of the record is written, or after it was synced.
//!   (Between a whole write and its sync a death reads as after it, because the kernel lives on.)
//! - `STERNWAY_FAULT=journal:N:fail:FILE` makes appends fail as on a full disk from the N-th on, for as long as
//!   `FILE` exists. Half of the record is written first.
//! - `STERNWAY_NFT=PROGRAM` runs that program instead of `nft`.
//!
//! N counts from 1 over the life of the process.

use std::{io, path::Path};

/// A moment in an append to a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    In,
    After,
}

/// Dies here if a test asked for it.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn journal(_moment: Moment) {}

/// Dies here if a test asked for it.
#[cfg(feature = "faults")]
pub fn journal(moment: Moment) {
    armed::journal(moment);
}

/// What of a record is written: all of it, but for a test that dies in the middle.
#[cfg(not(feature = "faults"))]
#[inline]
#[must_use]
pub fn torn(record: &[u8]) -> &[u8] {
    record
}

/// What of a record is written: all of it, but for a test that dies in the middle.
#[cfg(feature = "faults")]
#[must_use]
pub fn torn(record: &[u8]) -> &[u8] {
    if armed::dies(Moment::In) {
        record.get(..record.len() / 2).unwrap_or(record)
    } else {
        record
    }
}

/// What stands in for `nft`, if a test wants that.
#[cfg(not(feature = "faults"))]
#[inline]
#[must_use]
pub fn nft() -> Option<&'static Path> {
    None
}

/// What stands in for `nft`, if a test wants that.
#[cfg(feature = "faults")]
#[must_use]
pub fn nft() -> Option<&'static Path> {
    armed::nft()
}

/// Why this journal cannot be written, if a test wants that.
///
/// # Errors
/// A test wants it.
#[cfg(not(any(test, feature = "faults")))]
#[inline]
pub fn disk(_journal: &Path) -> io::Result<()> {
    Ok(())
}

/// Why this journal cannot be written, if a test wants that.
///
/// # Errors
/// A test wants it.
#[cfg(any(test, feature = "faults"))]
pub fn disk(journal: &Path) -> io::Result<()> {
    #[cfg(feature = "faults")]
    armed::disk()?;
    #[cfg(test)]
    full::disk(journal)?;
    let _ = journal;
    Ok(())
}

/// No space is left on the device.
#[cfg(any(test, feature = "faults"))]
fn no_space() -> io::Error {
    io::Error::from(rustix::io::Errno::NOSPC)
}

#[cfg(feature = "faults")]
mod armed {
    use std::{
        io,
        path::{Path, PathBuf},
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::Moment;

    #[derive(Debug, PartialEq)]
    enum Fault {
        Dies(Moment),
        Fails(PathBuf),
    }

    static ARMED: LazyLock<Option<(u64, Fault)>> = LazyLock::new(|| {
        let text = std::env::var("STERNWAY_FAULT").ok()?;
        let (number, what) = text.strip_prefix("journal:")?.split_once(':')?;
        let fault = match what {
            "before" => Fault::Dies(Moment::Before),
            "in" => Fault::Dies(Moment::In),
            "after" => Fault::Dies(Moment::After),
            _ => Fault::Fails(what.strip_prefix("fail:")?.into()),
        };
        Some((number.parse().ok()?, fault))
    });
    static NFT: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("STERNWAY_NFT").map(PathBuf::from));
    static APPENDS: AtomicU64 = AtomicU64::new(0);

    /// Whether it dies at that moment of the append that is on its way.
    pub(super) fn dies(moment: Moment) -> bool {
        *ARMED == Some((APPENDS.load(Ordering::SeqCst), Fault::Dies(moment)))
    }

    pub(super) fn journal(moment: Moment) {
        if moment == Moment::Before {
            APPENDS.fetch_add(1, Ordering::SeqCst);
        }
        if dies(moment) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }

    pub(super) fn nft() -> Option<&'static Path> {
        NFT.as_deref()
    }

    pub(super) fn disk() -> io::Result<()> {
        match &*ARMED {
            Some((number, Fault::Fails(file)))
                if APPENDS.load(Ordering::SeqCst) >= *number && file.exists() =>
            {
                Err(super::no_space())
            }
            _ => Ok(()),
        }
    }
}

/// Disks that are full, for unit tests: every journal below a folder.
#[cfg(test)]
pub(crate) mod full {
    use std::{
        collections::BTreeMap,
        io,
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError},
    };

    /// Folders, and how many appends there still succeed.
    static FULL: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());

    /// Appends to journals below that folder fail, but for the next `spared`.
    pub(crate) fn after(dir: &Path, spared: u32) {
        FULL.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(dir.to_owned(), spared);
    }

    /// There is room again.
    pub(crate) fn no_longer(dir: &Path) {
        FULL.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(dir);
    }

    pub(super) fn disk(journal: &Path) -> io::Result<()> {
        let mut full = FULL.lock().unwrap_or_else(PoisonError::into_inner);
        match full.iter_mut().find(|(dir, _)| journal.starts_with(dir)) {
            Some((_, 0)) => Err(super::no_space()),
            Some((_, spared)) => {
                *spared -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}
