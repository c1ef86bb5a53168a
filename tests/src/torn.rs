//! Deaths of a controller in the middle of what SQLite writes: `torn.c`, which says how, built and preloaded.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::binary;

/// Where the calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On the write-ahead log: commits.
    Log,
    /// Of these the syncs: the last moment of a commit in which a power cut takes it away.
    Sync,
    /// On the log and the database, from the first write to the database on: a checkpoint, and what follows.
    Checkpoint,
    /// Of these the ones on the log, which begins anew after a checkpoint.
    Restart,
}

/// What is left of what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All of it: `kill -9`.
    Kill,
    /// What was synced: a power cut.
    Power,
}

/// A death in the N-th call; N counts from 1.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    pub place: Where,
    pub call: u32,
    pub how: How,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Where::Log => "log",
            Where::Sync => "sync",
            Where::Checkpoint => "checkpoint",
            Where::Restart => "restart",
        };
        let how = match self.how {
            How::Kill => "kill",
            How::Power => "power",
        };
        write!(f, "{place}:{}:{how}", self.call)
    }
}

/// The library that is preloaded.
#[derive(Debug)]
pub struct Torn {
    library: PathBuf,
}

impl Torn {
    /// Builds it into that folder, with the compiler that has built SQLite.
    ///
    /// # Panics
    /// There is none, or it finds fault with the source.
    pub fn build(folder: &Path) -> Self {
        let library = folder.join("torn.so");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1"])
            .arg("-o")
            .arg(&library)
            .arg(binary::script("tests/src/torn.c"))
            .output()
            .expect("cc, which builds the workspace, is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cc: {said}");
        Self { library }
    }

    /// The environment of a controller that is to die so.
    pub fn environment(&self, death: Death) -> [(&'static str, String); 2] {
        let library = self.library.display().to_string();
        [
            ("LD_PRELOAD", library),
            ("STERNWAY_TORN", death.to_string()),
        ]
    }
}

/// What a process of that log died in, the last time: `FILE sync`, or `FILE DONE of ALL` bytes of a write.
pub fn died_in(log: &str) -> Option<&str> {
    log.lines()
        .rev()
        .find_map(|line| line.strip_prefix("torn: "))
}
