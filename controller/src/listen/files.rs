//! How many files this process may have open, and how many of them connections of strangers may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More would only make each handshake slower than its time-out: it costs some 1.4 ms of processor time.
const PLACES_AT_MOST: usize = 4096;
const PLACES_AT_LEAST: usize = 16;

/// Raises the soft limit of open files to the hard one. A connection is a file; most systems start processes
/// with 1024.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

/// Places for the strangers of one listener: a quarter of the files, so that both listeners together leave
/// half to those who are known and to the database.
pub(super) fn places() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 4)
        .unwrap_or(usize::MAX)
        .clamp(PLACES_AT_LEAST, PLACES_AT_MOST)
}
