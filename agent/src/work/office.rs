//! Has works done, and finds those that were begun.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    Task, WorkError,
    error::Failure,
    task::{END, End, INSTRUCTION},
};
use crate::{
    store::files::{self, FileError},
    systemd::{Bus, UnitName, Work, WorkState},
};

/// What a unit is given beyond the deadline of its work, to be ended and told.
const MARGIN: Duration = Duration::from_secs(15);

/// What an order did last is not looked at by others for so long.
const MOMENT: Duration = Duration::from_secs(5);

/// Processes of one work: maintainer scripts start many.
const TASKS: u64 = 2048;

/// Has works done in transient units, which are named by their order: one that was begun is found again, by this agent or
/// by the next.
#[derive(Debug)]
pub struct Works {
    bus: Arc<Bus>,
    /// A folder an order, in which there is a folder a work.
    dir: PathBuf,
    /// The agent's own program.
    program: PathBuf,
}

/// One work of an order.
struct Place {
    folder: PathBuf,
    unit: UnitName,
}

impl Works {
    /// Works with their files in that folder, done by that program.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(bus: Arc<Bus>, dir: &Path, program: &Path) -> Result<Self, FileError> {
        files::make_dir(dir)?;
        Ok(Self {
            bus,
            dir: dir.to_owned(),
            program: program.to_owned(),
        })
    }

    /// The orders that have begun works, and were not let go of.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn orders(&self) -> Result<Vec<Uuid>, FileError> {
        let names = names(&self.dir)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// As [`Self::orders`], without those that began something a moment ago: they may be younger than what the asker knows of
    /// open orders.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn settled_orders(&self) -> Result<Vec<Uuid>, FileError> {
        let mut orders = self.orders()?;
        orders.retain(|order| {
            let changed = fs::metadata(self.folder_of(*order)).and_then(|found| found.modified());
            changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > MOMENT))
        });
        Ok(orders)
    }

    /// The folder of an order, which is made: what its kind notes beside its works goes with them.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, order: Uuid) -> Result<PathBuf, FileError> {
        let folder = self.folder_of(order);
        if !folder.is_dir() {
            files::make_dir(&folder)?;
            files::sync_dir(&self.dir)?;
        }
        Ok(folder)
    }

    /// Where the folder of an order is, or would be.
    #[must_use]
    pub fn folder_of(&self, order: Uuid) -> PathBuf {
        self.dir.join(order.to_string())
    }

    /// Has it done, and waits for its end. What was done under that name is not done again, and what runs is waited for:
    /// `name` (small letters and hyphens) stands for one step and way of an order, and `task` for what is left of it. Of
    /// one order no two are under way: one of another name is waited for, and ended where it does not end.
    ///
    /// # Errors
    /// It failed, or nobody says how it ended: it may have been done in part.
    pub async fn carry_out(
        &self,
        order: Uuid,
        name: &'static str,
        task: &Task,
        deadline: Duration,
    ) -> Result<String, WorkError> {
        self.others_end(order, name, deadline).await?;
        let place = self.place(order, name)?;
        let end = place.end()?;
        if let Some(End::Done(done)) = end {
            return Ok(done);
        }
        let goes_on = end.is_none() && self.bus.work(&place.unit).await? == WorkState::Running;
        if !goes_on {
            self.bus.forget(&place.unit).await?;
            place.prepare(task)?;
            self.bus.begin(&self.work(&place, name, deadline)).await?;
        }
        let state = self.bus.finished(&place.unit, deadline + MARGIN).await?;
        let end = place.end()?;
        let unit = place.unit.to_string();
        if state != WorkState::Running {
            // Of its result nothing is needed any more.
            let _ = self.bus.forget(&place.unit).await;
        }
        match (end, state) {
            (Some(End::Done(done)), _) => Ok(done),
            (Some(End::Failed(failure)), _) => Err(failure.into()),
            (None, WorkState::Running) => Err(WorkError::Late { unit }),
            (None, WorkState::Failed { result, status }) => Err(WorkError::Died {
                unit,
                how: format!("{result} {status}"),
            }),
            (None, WorkState::Succeeded | WorkState::Unknown) => Err(WorkError::Died {
                unit,
                how: "nobody knows how".to_owned(),
            }),
        }
    }

    /// Notes, durably, that something of that name was begun, which is no work: see [`Self::has_begun`].
    ///
    /// # Errors
    /// It cannot be noted.
    pub fn note_begun(&self, order: Uuid, name: &str) -> Result<(), FileError> {
        let folder = self.folder(order)?;
        files::make_dir(&folder.join(name))?;
        files::sync_dir(&folder)
    }

    /// Whether any of these works of an order was ever begun.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn has_begun(&self, order: Uuid, works: &[&str]) -> Result<bool, FileError> {
        let begun = names(&self.folder_of(order))?;
        Ok(works.iter().any(|work| begun.iter().any(|one| one == work)))
    }

    /// Forgets what these works of an order did: they can be begun anew. One that runs has done nothing yet, and runs on.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn anew(&self, order: Uuid, works: &[&'static str]) -> Result<(), WorkError> {
        for name in works {
            files::remove(&self.place(order, name)?.folder.join(END))?;
        }
        Ok(())
    }

    /// What an order noted is let go of, and what of its works still runs is ended.
    ///
    /// # Errors
    /// The service manager does not answer, or the folder cannot be removed.
    pub async fn let_go(&self, order: Uuid) -> Result<(), WorkError> {
        let folder = self.folder_of(order);
        for name in self.works(order)? {
            if let Ok(unit) = unit_of(order, &name) {
                self.bus.forget(&unit).await?;
            }
        }
        let gone = spawn_blocking({
            let folder = folder.clone();
            move || fs::remove_dir_all(folder)
        });
        match gone
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
        {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError {
                action: "remove folder",
                path: folder,
                source,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// A step that took too long may have left its work behind, which would go on beside that of its undo.
    async fn others_end(
        &self,
        order: Uuid,
        name: &str,
        patience: Duration,
    ) -> Result<(), WorkError> {
        for other in self.works(order)? {
            let Ok(unit) = unit_of(order, &other) else {
                continue;
            };
            if other == name || self.bus.work(&unit).await? != WorkState::Running {
                continue;
            }
            self.bus.finished(&unit, patience / 2).await?;
            self.bus.forget(&unit).await?;
        }
        Ok(())
    }

    /// The names of an order's works: what else it noted is no unit.
    fn works(&self, order: Uuid) -> Result<Vec<String>, FileError> {
        let folder = self.folder_of(order);
        let mut names = names(&folder)?;
        names.retain(|name| folder.join(name).join(INSTRUCTION).exists());
        Ok(names)
    }

    fn place(&self, order: Uuid, name: &str) -> Result<Place, WorkError> {
        let unit = unit_of(order, name).map_err(|reason| Failure {
            code: "internal".to_owned(),
            message: reason,
            next_step: "tell the makers of Sternway".to_owned(),
            transient: false,
            aside: String::new(),
        })?;
        Ok(Place {
            folder: self.folder_of(order).join(name),
            unit,
        })
    }

    fn work(&self, place: &Place, name: &str, deadline: Duration) -> Work {
        Work {
            unit: place.unit.clone(),
            description: format!("Sternway restores: {name}"),
            program: self.program.clone(),
            arguments: vec![
                "work".to_owned(),
                place.folder.to_string_lossy().into_owned(),
            ],
            environment: Vec::new(),
            user: None,
            deadline,
            memory: None,
            tasks: Some(TASKS),
        }
    }
}

impl Place {
    fn end(&self) -> Result<Option<End>, FileError> {
        let bytes = files::read(&self.folder.join(END))?;
        // One that cannot be read says nothing.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn prepare(&self, task: &Task) -> Result<(), FileError> {
        files::make_dir(&self.folder)?;
        // That it was begun must be known after a power cut, if anything of it was done.
        if let Some(above) = self.folder.parent() {
            files::sync_dir(above)?;
        }
        files::remove(&self.folder.join(END))?;
        let path = self.folder.join(INSTRUCTION);
        let bytes = serde_json::to_vec(task).map_err(|error| FileError {
            action: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        files::replace(&path, &bytes)
    }
}

fn unit_of(order: Uuid, name: &str) -> Result<UnitName, String> {
    let unit = format!("sternway-{order}-{name}.service");
    unit.parse().map_err(|error| format!("{error}"))
}

/// What is in a folder; one that is not there has nothing in it.
fn names(folder: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.map_err(|source| FileError {
        action: "list folder",
        path: folder.to_owned(),
        source,
    })?;
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().ok();
    Ok(entries.iter().filter_map(name).collect())
}
