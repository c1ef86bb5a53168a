//! The order ledger: every order that ever came, what is still to be told of it, and the fence that no
//! older order passes.
//!
//! `open/` holds the journals of orders that are not finished, or whose end the controller has not stored;
//! `done/` the others, for as long as a repeated delivery must be recognised.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sternway_proto::{
    name::TargetName,
    order::{self, Context, OrderError, VerifiedOrder},
    v1,
};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    engine::{
        event::{self, Event, Finish, Line},
        journal::{self, Journal, JournalError, file_name},
        machine::{Illegal, Run},
    },
    store::files::{self, FileError},
};

/// How long a finished order is remembered. Orders are valid for minutes or hours; a repetition after
/// months is a restored backup of a controller, and its epoch is refused anyway.
const REMEMBERED: Duration = Duration::from_hours(24 * 90);

/// How long after its acceptance an order without a journal is taken for one that was cut off. Far below
/// [`REMEMBERED`], so that it is never one whose journal was forgotten; and what such an order left is acted upon, which
/// is right only as long as nobody has gone on from there.
const LOST_WITHIN: Duration = Duration::from_hours(24);

/// Refusals, at the arrival or by the plan, that keep a journal within [`REFUSALS_WITHIN`], each a file that is kept for
/// [`REMEMBERED`]. A controller that is well has fewer refused; one that is not must not fill the host's disk.
const REFUSALS: u32 = 30;
const REFUSALS_WITHIN: Duration = Duration::from_hours(1);

/// Orders whose journals were not kept and that may be delivered again: each is a line of the fence, which is written with
/// every order. While there are so many no further one is accepted.
const LET_GO: usize = 1_000;

/// Lines that are told of such an order at most. A refusal without a plan has few.
const MOST_LINES: u64 = 100;

/// How long after its deadline such an order is still remembered: the estimate of the controller's clock moves.
const BEHIND_DEADLINE: Duration = Duration::from_hours(1);

/// Why the ledger could not be used.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal of order {order} tells an impossible story")]
    Story {
        order: Uuid,
        #[source]
        source: Illegal,
    },
    #[error("the fence cannot be read: {reason}")]
    Fence { reason: String },
}

impl LedgerError {
    /// There is no room on the disk.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File(error) => error.is_no_space(),
            Self::Journal(error) => error.is_no_space(),
            Self::Story { .. } | Self::Fence { .. } => false,
        }
    }
}

/// The highest that was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Fence {
    /// The host that the orders were for. A machine that has joined again is another, and takes orders of another
    /// controller, which counts from the beginning. None: written before this was noted.
    #[serde(default)]
    host: Option<Uuid>,
    epoch: u64,
    /// Per target: epoch and sequence of the newest order.
    newest: BTreeMap<TargetName, (u64, u64)>,
    /// The orders that were accepted within [`LOST_WITHIN`] and had their journal, and when that was, in milliseconds of
    /// this host's clock.
    #[serde(default)]
    accepted_at: BTreeMap<Uuid, i64>,
    /// The orders that were accepted, came to nothing, and whose journals are not kept, and until when one may be taken
    /// for a new one, in milliseconds of the controller's clock.
    #[serde(default)]
    let_go: BTreeMap<Uuid, i64>,
    /// How many lines their journals had, where that was noted: the number of their ends. Beside the others, so that an
    /// earlier version can read them.
    #[serde(default)]
    let_go_lines: BTreeMap<Uuid, u64>,
}

impl Fence {
    /// The number under which the end of an order was told whose journal was not kept. Most had no other line than their
    /// acceptance.
    fn end_of(&self, order: Uuid) -> u64 {
        self.let_go_lines.get(&order).copied().unwrap_or(2).max(2)
    }
}

/// What becomes of an order that arrived.
#[derive(Debug)]
pub enum Arrival {
    /// In the journal: carry it out.
    Accepted(Box<VerifiedOrder>, Journal),
    /// It came before; its events are told again.
    Repeated(Uuid),
    /// Not accepted; the refusal is journaled as its only line.
    Refused(Uuid, Vec<Line>),
    /// Not accepted, and one of so many that nothing was written: who took it in remembers what is told of it.
    RefusedUnkept(Uuid, Vec<v1::OrderEvent>),
    /// No order at all: nothing can be told of it.
    Unreadable(OrderError),
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    open: PathBuf,
    done: PathBuf,
    fence_path: PathBuf,
    fence: Fence,
    known: BTreeSet<Uuid>,
    host_id: Uuid,
    refusals: Refusals,
}

/// How many refusals were journaled since when, in milliseconds of this host's clock.
#[derive(Debug, Default)]
struct Refusals {
    since_ms: i64,
    count: u32,
}

impl Refusals {
    /// Whether one more may be journaled now.
    fn has_room(&mut self, now_ms: i64) -> bool {
        let within = u64::try_from(REFUSALS_WITHIN.as_millis()).unwrap_or(u64::MAX);
        // Also for a clock that was set back.
        if now_ms.abs_diff(self.since_ms) >= within {
            *self = Self {
                since_ms: now_ms,
                count: 0,
            };
        }
        self.count < REFUSALS
    }
}

/// An order that was found open at start.
#[derive(Debug)]
pub struct Found {
    pub order: Uuid,
    /// What it is for; where the journal cannot be read, as far as its beginning tells.
    pub target: Option<TargetName>,
    pub journal: Result<Journal, LedgerError>,
}

impl Ledger {
    /// Opens (or begins) the ledger in a folder, and answers with the orders that are open.
    ///
    /// # Errors
    /// A folder or the fence cannot be read.
    pub fn open(dir: &Path, host_id: Uuid, now_ms: i64) -> Result<(Self, Vec<Found>), LedgerError> {
        let (open, done) = (dir.join("open"), dir.join("done"));
        files::make_dir(&open)?;
        files::make_dir(&done)?;
        let fence_path = dir.join("fence.json");
        let before = match files::read(&fence_path)? {
            None => Fence::default(),
            Some(bytes) => {
                serde_json::from_slice::<Fence>(&bytes).map_err(|error| LedgerError::Fence {
                    reason: error.to_string(),
                })?
            }
        };
        let another = before.host.is_some_and(|host| host != host_id);
        let fence = Fence {
            host: Some(host_id),
            // No order for the host before can pass any more: it is for another.
            ..if another { Fence::default() } else { before }
        };
        forget_old(&done, now_ms)?;
        let mut found = Vec::new();
        for order in journals(&open)? {
            match read(&open, order) {
                // Never acknowledged: the order comes again, and is then new.
                Err(LedgerError::Journal(JournalError::Unborn { path })) => files::remove(&path)?,
                // Its end is for a controller that is not this host's any more.
                Ok(journal) if another && is_over(&journal) => put_away(&open, &done, order)?,
                journal => found.push(found_open(&open, order, journal)),
            }
        }
        let mut known: BTreeSet<Uuid> = found.iter().map(|found| found.order).collect();
        known.extend(journals(&done)?);
        let ledger = Self {
            open,
            done,
            fence_path,
            fence,
            known,
            host_id,
            refusals: Refusals::default(),
        };
        Ok((ledger, found))
    }

    /// The highest epoch of any accepted order.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.fence.epoch
    }

    /// Whether it came before, as far as the journals tell.
    #[must_use]
    pub fn knows(&self, order: Uuid) -> bool {
        self.known.contains(&order)
    }

    /// Whether the order was accepted here within the last day, and its journal is gone.
    #[must_use]
    pub fn lost(&self, order: Uuid, now_ms: i64) -> bool {
        let accepted = self.fence.accepted_at.get(&order);
        !self.knows(order) && accepted.is_some_and(|at| is_recent(*at, now_ms))
    }

    /// All such orders.
    #[must_use]
    pub fn all_lost(&self, now_ms: i64) -> Vec<Uuid> {
        let accepted = self.fence.accepted_at.keys().copied();
        accepted.filter(|order| self.lost(*order, now_ms)).collect()
    }

    /// Judges an order that arrived. `acceptable` says what else stands in its way, on this host, now.
    ///
    /// # Errors
    /// The disk failed: the order is neither accepted nor refused, and may be delivered again.
    pub fn arrive(
        &mut self,
        sealed: &v1::SealedOrder,
        now_ms: i64,
        controller_now_ms: i64,
        acceptable: impl FnOnce(&VerifiedOrder) -> Result<(), v1::Problem>,
    ) -> Result<Arrival, LedgerError> {
        let id = match order::parse(sealed) {
            Ok(order) => order.id(),
            Err(error) => return Ok(Arrival::Unreadable(error)),
        };
        // What a lost one did is not known: never twice.
        if self.known.contains(&id) || self.lost(id, now_ms) {
            return Ok(Arrival::Repeated(id));
        }
        if self.fence.let_go.contains_key(&id) {
            let told = came_to_nothing(sealed, id, self.fence.end_of(id), now_ms);
            return Ok(Arrival::RefusedUnkept(id, told));
        }
        let context = Context {
            host_id: self.host_id,
            highest_epoch: self.fence.epoch,
            now_ms: controller_now_ms,
        };
        let judged = order::verify(sealed, &context)
            .map_err(|error| refusal(&error))
            .and_then(|order| self.pass(&order).map(|()| order))
            .and_then(|order| self.has_memory(controller_now_ms).map(|()| order))
            .and_then(|order| {
                acceptable(&order)
                    .map(|()| order)
                    .map_err(|problem| (Finish::Refused, problem))
            });
        match judged {
            Ok(order) => {
                self.raise(&order)?;
                // The deadline is the controller's clock; the journal's is the host's.
                let ahead = now_ms - controller_now_ms;
                let line = Line {
                    at_ms: now_ms,
                    event: Event::Accepted {
                        order: sealed.order.clone(),
                        not_after_ms: order.order().not_after_ms.saturating_add(ahead),
                    },
                };
                let journal = Journal::create(&self.open, id, line)?;
                self.known.insert(id);
                // Behind its journal: an order that dies before it has one is new when it comes again.
                if let Err(error) = self.remember(id, now_ms, controller_now_ms) {
                    tracing::warn!(order.id = %id, "should the journal of order {id} be lost, nobody will know: {error}");
                }
                Ok(Arrival::Accepted(Box::new(order), journal))
            }
            Err((outcome, problem)) => {
                let line = Line {
                    at_ms: now_ms,
                    event: Event::Finished {
                        outcome,
                        problem: Some(problem),
                        running: None,
                    },
                };
                if !self.refusals.has_room(now_ms) {
                    return Ok(Arrival::RefusedUnkept(id, event::wire(id, &[line])));
                }
                let journal = Journal::create(&self.open, id, line)?;
                self.refusals.count += 1;
                self.known.insert(id);
                Ok(Arrival::Refused(id, journal.lines().to_vec()))
            }
        }
    }

    /// An older order never takes effect after a newer one for the same target.
    fn pass(&self, order: &VerifiedOrder) -> Result<(), (Finish, v1::Problem)> {
        let wire = order.order();
        match self.fence.newest.get(order.target()) {
            Some(newest) if (wire.epoch, wire.sequence) < *newest => Err((
                Finish::Refused,
                v1::Problem::new(
                    "order-superseded",
                    format!(
                        "a newer order for {} was accepted before this one",
                        order.target()
                    ),
                    "start the rollback again if it is still wanted",
                ),
            )),
            _ => Ok(()),
        }
    }

    /// An order that nothing would be known of any more could be taken for a new one.
    fn has_memory(&self, controller_now_ms: i64) -> Result<(), (Finish, v1::Problem)> {
        let until = self.fence.let_go.values();
        if until.filter(|until| **until > controller_now_ms).count() < LET_GO {
            return Ok(());
        }
        Err((
            Finish::Refused,
            v1::Problem::new(
                "too-many-refused",
                format!(
                    "this host refused more than {LET_GO} orders that may still be delivered again, and remembers no more"
                ),
                "see what gives so many orders (`ctl record ls`); they are taken again an hour after the others' deadlines",
            ),
        ))
    }

    fn raise(&mut self, order: &VerifiedOrder) -> Result<(), LedgerError> {
        let wire = order.order();
        let mut fence = self.fence.clone();
        fence.epoch = fence.epoch.max(wire.epoch);
        fence
            .newest
            .insert(order.target().clone(), (wire.epoch, wire.sequence));
        self.replace(fence)
    }

    fn remember(
        &mut self,
        order: Uuid,
        now_ms: i64,
        controller_now_ms: i64,
    ) -> Result<(), LedgerError> {
        let mut fence = self.fence.clone();
        fence.accepted_at.retain(|_, at| is_recent(*at, now_ms));
        fence.let_go.retain(|_, until| *until > controller_now_ms);
        let let_go = &fence.let_go;
        fence
            .let_go_lines
            .retain(|order, _| let_go.contains_key(order));
        fence.accepted_at.insert(order, now_ms);
        self.replace(fence)
    }

    fn replace(&mut self, fence: Fence) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec(&fence).map_err(|error| LedgerError::Fence {
            reason: error.to_string(),
        })?;
        files::replace(&self.fence_path, &bytes)?;
        self.fence = fence;
        Ok(())
    }

    /// Where the journal of an order lies that is open.
    #[must_use]
    pub fn path(&self, order: Uuid) -> PathBuf {
        self.open.join(file_name(order))
    }

    /// An order that is open, read from its journal anew.
    #[must_use]
    pub fn find(&self, order: Uuid) -> Found {
        found_open(&self.open, order, read(&self.open, order))
    }

    /// The lines of an order that came before, wherever its journal stands.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn lines(&self, order: Uuid) -> Result<Vec<Line>, LedgerError> {
        Ok(Journal::open(self.dir_of(order), order)?.lines().to_vec())
    }

    /// Where the journal of an order stands.
    fn dir_of(&self, order: Uuid) -> &Path {
        if self.path(order).exists() {
            &self.open
        } else {
            &self.done
        }
    }

    /// An order that was accepted is over. One that was refused before it had a plan, and before anything was looked at,
    /// counts as a refusal: of too many no journal is kept, only that they came. Answers with the lines of such a one then:
    /// who took it in remembers them.
    ///
    /// # Errors
    /// Its journal cannot be read or removed: it is kept.
    pub fn ended(
        &mut self,
        order: Uuid,
        now_ms: i64,
        controller_now_ms: i64,
    ) -> Result<Option<Vec<Line>>, LedgerError> {
        let path = self.dir_of(order).join(file_name(order));
        let journal = Journal::open(self.dir_of(order), order)?;
        let Some(deadline_ms) = refused_at_once(&journal) else {
            return Ok(None);
        };
        if self.refusals.has_room(now_ms) {
            self.refusals.count += 1;
            return Ok(None);
        }
        let behind = i64::try_from(BEHIND_DEADLINE.as_millis()).unwrap_or(i64::MAX);
        let longest = i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX);
        let until = deadline_ms.saturating_add(behind);
        // First: one that was accepted and has no journal is taken for lost, and one that is not known for new.
        let mut fence = self.fence.clone();
        fence.accepted_at.remove(&order);
        fence
            .let_go
            .insert(order, until.min(controller_now_ms.saturating_add(longest)));
        let lines = journal.lines().len();
        fence
            .let_go_lines
            .insert(order, u64::try_from(lines).unwrap_or(u64::MAX));
        self.replace(fence)?;
        files::remove(&path)?;
        self.known.remove(&order);
        Ok(Some(journal.lines().to_vec()))
    }

    /// The controller has stored the end of the order: nothing is to be told of it any more.
    ///
    /// # Errors
    /// The journal cannot be moved.
    pub fn settle(&self, order: Uuid) -> Result<(), LedgerError> {
        put_away(&self.open, &self.done, order)
    }

    /// Orders that have begun and are not over, of a ledger that nobody has open.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn unfinished(dir: &Path) -> Result<Vec<Uuid>, LedgerError> {
        let open = dir.join("open");
        if !open.exists() {
            return Ok(Vec::new());
        }
        let mut unfinished = journals(&open)?;
        unfinished.retain(|order| match read(&open, *order) {
            Ok(journal) => !is_over(&journal),
            Err(LedgerError::Journal(JournalError::Unborn { .. })) => false,
            // What it did is not known.
            Err(_) => true,
        });
        Ok(unfinished)
    }
}

fn is_over(journal: &Journal) -> bool {
    journal
        .events()
        .any(|event| matches!(event, Event::Finished { .. }))
}

/// The deadline, by the controller's clock, of an order that was refused without a plan and without evidence. None: it
/// was not, or is not over.
fn refused_at_once(journal: &Journal) -> Option<i64> {
    let mut deadline_ms = None;
    let mut refused = false;
    for event in journal.events() {
        match event {
            Event::Accepted { order, .. } => {
                deadline_ms = Some(read_again(order)?.order().not_after_ms);
            }
            Event::Planned { .. } | Event::Evidence { .. } => return None,
            Event::Finished { outcome, .. } => {
                refused = matches!(outcome, Finish::Refused | Finish::Expired);
            }
            _ => {}
        }
    }
    deadline_ms.filter(|_| refused)
}

/// The order that a journal is of.
pub(super) fn ordered(lines: &[Line]) -> Option<VerifiedOrder> {
    lines.iter().find_map(|line| match &line.event {
        Event::Accepted { order, .. } => read_again(order),
        _ => None,
    })
}

/// An order as it stands in a journal.
fn read_again(order: &[u8]) -> Option<VerifiedOrder> {
    let sealed = v1::SealedOrder {
        order: order.to_vec(),
    };
    order::parse(&sealed).ok()
}

/// What an order is answered with that was refused after it was accepted, and came again to an agent that has not kept
/// why. `end`: the number of its end, so that it is told what a controller still waits for; what stood between is not
/// known any more.
fn came_to_nothing(
    sealed: &v1::SealedOrder,
    id: Uuid,
    end: u64,
    now_ms: i64,
) -> Vec<v1::OrderEvent> {
    let accepted = Line {
        at_ms: now_ms,
        event: Event::Accepted {
            order: sealed.order.clone(),
            not_after_ms: now_ms,
        },
    };
    let mut told = event::wire(id, &[accepted, refused_before(now_ms)]);
    if let Some(last) = told.pop() {
        let unknown = |number| v1::OrderEvent {
            number,
            event: None,
            ..last.clone()
        };
        told.extend((last.number..end.min(MOST_LINES)).map(unknown));
        told.push(v1::OrderEvent {
            number: end,
            ..last
        });
    }
    told
}

fn refused_before(now_ms: i64) -> Line {
    Line {
        at_ms: now_ms,
        event: Event::Finished {
            outcome: Finish::Refused,
            problem: Some(v1::Problem::new(
                "order-refused-before",
                "the order came before and was refused, with too many others to keep why",
                "see what it was answered with then (`ctl record ls`), and start the rollback again if it is still wanted",
            )),
            running: None,
        },
    }
}

fn put_away(open: &Path, done: &Path, order: Uuid) -> Result<(), LedgerError> {
    let (from, to) = (open.join(file_name(order)), done.join(file_name(order)));
    match fs::rename(&from, &to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(FileError {
                action: "move",
                path: from,
                source,
            }
            .into());
        }
        Ok(()) => {}
    }
    files::sync_dir(done)?;
    files::sync_dir(open)?;
    Ok(())
}

fn refusal(error: &OrderError) -> (Finish, v1::Problem) {
    let (outcome, next) = match error {
        OrderError::Expired { .. } => (Finish::Expired, "start the rollback again"),
        OrderError::Stale { .. } | OrderError::EpochJump { .. } => (
            Finish::Refused,
            "give the order through the controller that is in charge",
        ),
        OrderError::Future { .. } => (Finish::Refused, "set the clocks of controller and host"),
        _ => (Finish::Refused, ""),
    };
    (
        outcome,
        v1::Problem::new(error.code(), error.to_string(), next),
    )
}

fn read(dir: &Path, order: Uuid) -> Result<Journal, LedgerError> {
    let journal = Journal::open(dir, order)?;
    Run::replay(journal.events()).map_err(|source| LedgerError::Story { order, source })?;
    Ok(journal)
}

fn found_open(dir: &Path, order: Uuid, journal: Result<Journal, LedgerError>) -> Found {
    let first = match &journal {
        Ok(journal) => journal.lines().first().cloned(),
        Err(_) => journal::first_line(dir, order),
    };
    let order_of = first.and_then(|line| ordered(&[line]));
    let target = order_of.map(|order| order.target().clone());
    Found {
        order,
        target,
        journal,
    }
}

fn is_recent(accepted_ms: i64, now_ms: i64) -> bool {
    let limit = u64::try_from(LOST_WITHIN.as_millis()).unwrap_or(u64::MAX);
    // Also for a clock that was ahead then.
    now_ms.abs_diff(accepted_ms) <= limit
}

fn journals(dir: &Path) -> Result<Vec<Uuid>, LedgerError> {
    let entries = fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| FileError {
            action: "list folder",
            path: dir.to_owned(),
            source,
        })?;
    let mut ids: Vec<Uuid> = entries
        .iter()
        .filter_map(|entry| {
            let name = entry.file_name();
            Uuid::try_parse(name.to_str()?.strip_suffix(".journal")?).ok()
        })
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

fn forget_old(done: &Path, now_ms: i64) -> Result<(), LedgerError> {
    let limit = i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX);
    for order in journals(done)? {
        let path = done.join(file_name(order));
        let changed_ms = fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        if changed_ms.is_some_and(|changed| now_ms.saturating_sub(changed) > limit) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
