//! What is installed, by dpkg's own tools and database; what installs other versions, and where their files come from.
//!
//! [`Dpkg`] only reads. What changes packages ([`install()`]) or reads their files ([`rebuild()`]) blocks, and is for a process of its own that outlives the agent.
//! Names and versions that come from elsewhere are checked before they are part of a command line; no shell is involved.

mod ask;
mod deb;
mod id;
mod install;
mod lock;
mod name;
mod parse;
mod query;
mod rebuild;
mod run;
mod sequence;
mod shelf;

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

pub use self::{
    deb::DebError,
    id::PackageId,
    install::{Install, InstallError, Installed, install},
    lock::Holder,
    name::{InvalidName, PackageName, Version},
    query::Dpkg,
    rebuild::{RebuildError, Rebuilt, rebuild},
    run::RunError,
    shelf::{Download, Kept, Shelf, ShelfError, Source, Supply, download_command},
};

/// What the administrator wants of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Unknown,
    Install,
    /// As it is: neither upgraded nor removed by the package managers.
    Hold,
    Deinstall,
    Purge,
}

/// How far the package is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    NotInstalled,
    /// Removed; its conffiles are there.
    ConfigFiles,
    HalfInstalled,
    Unpacked,
    HalfConfigured,
    TriggersAwaited,
    TriggersPending,
    Installed,
}

/// A package as dpkg has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: PackageName,
    pub architecture: String,
    /// Empty where it is not installed.
    pub version: String,
    pub want: Want,
    pub status: Status,
    /// dpkg says that it has to be installed anew: an installation broke off.
    pub broken: bool,
    pub conffiles: Vec<Conffile>,
}

/// A file of a package that belongs to the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conffile {
    pub path: PathBuf,
    /// MD5 of what the package brought, hexadecimal; none: it is not installed yet.
    pub shipped: Option<String>,
    /// The installed version brings it no more.
    pub obsolete: bool,
}

impl Package {
    /// Whole: nothing is left to be done.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        self.status == Status::Installed && !self.broken
    }

    /// Whole, and in that version.
    #[must_use]
    pub fn is_whole(&self, wanted: &PackageId) -> bool {
        self.is_installed()
            && self.name == wanted.name
            && self.version == wanted.version.as_str()
            && self.architecture == wanted.architecture()
    }

    /// Neither whole nor away: something broke off.
    #[must_use]
    pub fn is_half_done(&self) -> bool {
        let settled = matches!(
            self.status,
            Status::NotInstalled | Status::ConfigFiles | Status::Installed
        );
        self.broken || !settled
    }
}

/// Why dpkg could not say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DpkgError {
    #[error("{program} cannot be run: {reason}")]
    Program {
        program: &'static str,
        reason: String,
    },
    #[error("{program} did not end within {} s", limit.as_secs())]
    Late {
        program: &'static str,
        limit: Duration,
    },
    /// In its own words.
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
    /// It said something that this version cannot read.
    #[error("what {program} said cannot be read: {line:?}")]
    Unreadable { program: &'static str, line: String },
}
