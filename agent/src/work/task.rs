//! What is done, by whoever runs as root outside of the agent's sandbox.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{WorkError, error::Failure};
use crate::{
    chain::chain,
    dpkg::{Install, PackageId, Rebuilt, install, rebuild},
    snapshot::{Change, Restored, restore},
    store::{artifacts::Artifacts, files},
};

/// How long another may be at dpkg, an unattended upgrade for instance, and how long dpkg may take then.
const LOCK_PATIENCE: Duration = Duration::from_mins(3);
const DPKG: Duration = Duration::from_mins(10);

/// What both take together, with the questions around them.
pub const PACKAGES_TAKE: Duration = Duration::from_mins(14);

/// The files of a work in its folder.
pub(super) const INSTRUCTION: &str = "instruction.json";
pub(super) const END: &str = "end.json";

/// What is to be done. Everything in it is the host's own: nothing of it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Puts files back, one after the other.
    Files {
        /// The folder of the artifacts.
        artifacts: PathBuf,
        /// In the names of what is written beside: the order's, there and back.
        tag: String,
        changes: Vec<Change>,
    },
    /// Installs packages, whatever is installed of them.
    Packages(Install),
    /// Makes the file of a package of what is installed, in a folder that is empty.
    Rebuild { package: PackageId, into: PathBuf },
}

/// How it ended, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// For a person: what was done.
    Done(String),
    Failed(Failure),
}

/// Does what the instruction in that folder says, and writes down how it ended.
///
/// # Errors
/// It failed, there is no instruction, or its end cannot be written down.
pub fn carry_out(folder: &Path) -> Result<(), WorkError> {
    let path = folder.join(INSTRUCTION);
    let instruction = files::read(&path)?.unwrap_or_default();
    let task: Task = serde_json::from_slice(&instruction).map_err(|error| Failure {
        code: "instruction-unreadable".to_owned(),
        message: format!("there is nothing to do in {}: {error}", path.display()),
        next_step: "leave this to the agent, which begins its works by itself".to_owned(),
        transient: false,
        aside: String::new(),
    })?;
    let (end, result) = match task.perform() {
        Ok(done) => (End::Done(done), Ok(())),
        // The journal of the host has it all.
        Err(failure) => (End::Failed(failure.clone()), Err(failure.whole().into())),
    };
    let end = serde_json::to_vec(&end).unwrap_or_default();
    files::replace(&folder.join(END), &end)?;
    result
}

impl Task {
    /// Does it.
    pub(super) fn perform(&self) -> Result<String, Failure> {
        match self {
            Self::Files {
                artifacts,
                tag,
                changes,
            } => put_back(&Artifacts::to_read(artifacts), tag, changes),
            Self::Packages(order) => packages(order),
            Self::Rebuild { package, into } => match rebuild(package, into) {
                Ok(Rebuilt { missing: 0, .. }) => Ok(format!("{package} is made")),
                Ok(Rebuilt { missing, .. }) => Ok(format!(
                    "{package} is made, without {missing} files that are not there"
                )),
                Err(error) => Err(Failure {
                    code: "rebuild-failed".to_owned(),
                    message: chain(&error),
                    next_step: "see `dpkg --audit` and `dpkg -V` on the host".to_owned(),
                    transient: false,
                    aside: String::new(),
                }),
            },
        }
    }
}

fn packages(order: &Install) -> Result<String, Failure> {
    let done = install(order, LOCK_PATIENCE, DPKG)?;
    let names = |ids: &[PackageId]| {
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    Ok(match (done.installed.as_slice(), done.already.as_slice()) {
        (installed, []) => format!("installed {}", names(installed)),
        ([], already) => format!("{} was installed already", names(already)),
        (installed, already) => {
            format!(
                "installed {}; {} was so already",
                names(installed),
                names(already)
            )
        }
    })
}

fn put_back(store: &Artifacts, tag: &str, changes: &[Change]) -> Result<String, Failure> {
    let mut put = 0;
    for change in changes {
        match restore(change, tag, store)? {
            Restored::Changed => put += 1,
            Restored::Already => {}
        }
    }
    let already = changes.len() - put;
    Ok(match (put, already) {
        (0, _) => "everything stood there already".to_owned(),
        (put, 0) => format!("{put} put back"),
        (put, already) => format!("{put} put back, {already} stood there already"),
    })
}
