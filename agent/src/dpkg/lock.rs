//! dpkg's locks: the one that a front end holds while it works, and the one that dpkg itself takes.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    process::{Flock, FlockType, fcntl_getlk},
};
use serde::{Deserialize, Serialize};
use sternway_proto::name::clean_text;

use super::run::pause;
use crate::store::files::FileError;

const FRONTEND: &str = "/var/lib/dpkg/lock-frontend";
const INNER: &str = "/var/lib/dpkg/lock";

/// Between two tries.
const TICK: Duration = Duration::from_millis(100);

/// Who uses dpkg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: i32,
    /// What the program is called; empty: it is gone again.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program.as_str() {
            "" => write!(f, "process {}", self.pid),
            program => write!(f, "{program} (process {})", self.pid),
        }
    }
}

/// The front end's lock. It goes when this goes, or its process.
#[derive(Debug)]
pub(super) struct FrontendLock {
    _file: File,
}

/// Why a lock was not to be had.
#[derive(Debug)]
pub(super) enum Refused {
    /// None: whoever had it cannot be seen from here, or has let go of it since.
    Held(Option<Holder>),
    File(FileError),
}

impl FrontendLock {
    /// Takes it as soon as nobody uses dpkg, also not without it.
    pub(super) fn take(patience: Duration) -> Result<Self, Refused> {
        let until = Instant::now() + patience;
        let file = open(FRONTEND)?;
        // It is a process's: closing the file anywhere in it lets go of it.
        wait(until, &file, || {
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(false),
                Err(error) => Err(failed("lock", FRONTEND, error.into())),
            }
        })?;
        // A dpkg whose front end was killed goes on.
        let inner = open(INNER)?;
        wait(until, &inner, || {
            let holder = fcntl_getlk(&inner, &Flock::from(FlockType::WriteLock));
            let holder = holder.map_err(|error| failed("look at", INNER, error.into()))?;
            Ok(holder.is_none())
        })?;
        Ok(Self { _file: file })
    }
}

/// Who has dpkg's own lock.
pub(super) fn holder_of_inner() -> Option<Holder> {
    holder(&open(INNER).ok()?)
}

fn wait(
    until: Instant,
    file: &File,
    mut is_free: impl FnMut() -> Result<bool, Refused>,
) -> Result<(), Refused> {
    while !is_free()? {
        if Instant::now() >= until {
            return Err(Refused::Held(holder(file)));
        }
        pause(TICK);
    }
    Ok(())
}

fn open(path: &str) -> Result<File, Refused> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options
        .mode(0o640)
        .open(path)
        .map_err(|source| failed("open", path, source))
}

fn failed(action: &'static str, path: &str, source: io::Error) -> Refused {
    Refused::File(FileError {
        action,
        path: path.into(),
        source,
    })
}

fn holder(file: &File) -> Option<Holder> {
    let lock = fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??;
    // One of another namespace has no number here.
    let pid = lock.pid?.as_raw_nonzero().get();
    let program = fs::read(Path::new("/proc").join(pid.to_string()).join("comm"));
    let program = String::from_utf8_lossy(&program.unwrap_or_default()).into_owned();
    Some(Holder {
        pid,
        program: clean_text(program.trim_end()),
    })
}
