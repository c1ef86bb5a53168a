//! The write-ahead journal: one append-only file an order, on disk before its event takes effect.
//!
//! Layout: an eight-byte header, then records of: length (u32, little endian), CRC-32C of the chain
//! value and the payload (u32), chain value (32 bytes: SHA-256 of the previous chain value and the
//! payload), payload (a [`Line`] as JSON). A record that was cut by a power failure can only be the last
//! one, and was never acknowledged: it is cut off. Damage anywhere else is refused, never skipped.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;

use super::event::{Event, Line};
use crate::fault::{self, Moment};

const HEADER: [u8; 8] = *b"STWJRNL1";
const FRAME: usize = 4 + 4 + 32;

/// Set aside on the disk when a journal is created, bytes: a disk that fills up in the middle of a restore
/// must not keep the restore, or its undo, from being written down. A restore writes some 50 KiB.
const SET_ASIDE: u64 = 512 * 1024;

/// The longest payload, bytes: the plan of a container with very many settings has some 100 KiB.
const PAYLOAD_LIMIT: usize = 8 * 1024 * 1024;

/// Why a journal could not be written or read.
#[derive(Debug, Error)]
pub enum JournalError {
    #[error("failed to {action} journal {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Not a torn tail: somebody or something changed what had been acknowledged.
    #[error("journal {} is damaged at byte {offset}: {reason}", path.display())]
    Damaged {
        path: PathBuf,
        offset: usize,
        reason: &'static str,
    },
    /// It was created and the agent died before its first record was on disk: nothing was acknowledged.
    #[error("journal {} holds nothing yet", path.display())]
    Unborn { path: PathBuf },
    /// An earlier write failed in a way that leaves unknown what is on disk. Never synced again: the kernel
    /// may have dropped the dirty pages, and a second fsync would then report success for nothing.
    /// [`Journal::mend`] writes anew behind what was acknowledged.
    #[error("journal {} is closed after a failed write", path.display())]
    Poisoned { path: PathBuf },
    #[error("an event of {bytes} bytes is too long for journal {}", path.display())]
    TooLong { path: PathBuf, bytes: usize },
}

impl JournalError {
    /// Why, without where.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// There is no room on the disk (or in the quota).
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// The open journal of one order.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    order_id: Uuid,
    file: File,
    length: u64,
    chain: [u8; 32],
    lines: Vec<Line>,
    poisoned: bool,
}

/// The file name of an order's journal.
#[must_use]
pub fn file_name(order_id: Uuid) -> String {
    format!("{order_id}.journal")
}

impl Journal {
    /// Creates the journal of an order with its first event. When this returns, file and folder entry
    /// are on disk.
    ///
    /// # Errors
    /// The file exists already, or cannot be written; then nothing of it is left.
    pub fn create(dir: &Path, order_id: Uuid, first: Line) -> Result<Self, JournalError> {
        let path = dir.join(file_name(order_id));
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io {
                action,
                path,
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("create"))?;
        let mut journal = Self {
            path: path.clone(),
            order_id,
            file,
            length: 0,
            chain: Sha256::digest(order_id.as_bytes()).into(),
            lines: Vec::new(),
            poisoned: false,
        };
        let written = set_aside(&journal.file)
            .and_then(|()| journal.file.write_all(&HEADER))
            .map_err(io("write"))
            .and_then(|()| {
                journal.length = HEADER.len() as u64;
                journal.append(first)?;
                sync_dir(dir).map_err(io("sync the folder of"))
            });
        if let Err(error) = written {
            // Not acknowledged, and a half journal would block the order's redelivery.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(journal)
    }

    /// Opens the journal of an order and reads it. A torn last record is cut off.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or belongs to another order.
    pub fn open(dir: &Path, order_id: Uuid) -> Result<Self, JournalError> {
        let path = dir.join(file_name(order_id));
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io {
                action,
                path,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let read =
            read_lines(&bytes, order_id).map_err(|(offset, reason)| JournalError::Damaged {
                path: path.clone(),
                offset,
                reason,
            })?;
        if read.lines.is_empty() {
            return Err(JournalError::Unborn { path });
        }
        let mut journal = Self {
            path: path.clone(),
            order_id,
            file,
            length: read.length as u64,
            chain: read.chain,
            lines: read.lines,
            poisoned: false,
        };
        if read.length < bytes.len() {
            tracing::warn!(order.id = %order_id, "journal of order {order_id} ends in a torn record, cut off");
            journal.cut().map_err(io("truncate"))?;
        } else {
            journal.file.seek(SeekFrom::End(0)).map_err(io("seek in"))?;
        }
        Ok(journal)
    }

    /// Appends an event; when this returns it is on disk. Returns its number, from 1.
    ///
    /// # Errors
    /// It could not be written. After [`JournalError::Io`] on a write the journal holds what it held
    /// before; after one on the sync it is poisoned.
    pub fn append(&mut self, line: Line) -> Result<u64, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned {
                path: self.path.clone(),
            });
        }
        let payload =
            serde_json::to_vec(&line).map_err(|error| self.io("encode for", error.into()))?;
        if payload.len() > PAYLOAD_LIMIT {
            return Err(JournalError::TooLong {
                path: self.path.clone(),
                bytes: payload.len(),
            });
        }
        let chain = link(&self.chain, &payload);
        let record = frame(&chain, &payload);
        fault::journal(Moment::Before);
        if let Err(source) = self.write(&record) {
            self.poisoned = self.cut().is_err();
            return Err(self.io("write", source));
        }
        fault::journal(Moment::In);
        if let Err(source) = self.file.sync_data() {
            self.poisoned = true;
            return Err(self.io("sync", source));
        }
        fault::journal(Moment::After);
        self.length += record.len() as u64;
        self.chain = chain;
        if matches!(line.event, Event::Finished { .. }) {
            // Gives back what was set aside. If not, some blocks stay unused until the file is removed.
            let _ = self.file.set_len(self.length);
        }
        self.lines.push(line);
        Ok(self.lines.len() as u64)
    }

    /// Makes the journal writable again after an append has failed. What was not acknowledged is cut off, and
    /// what was is read back: the journal goes on behind exactly those lines. Through a handle of its own,
    /// because the one that failed may know no more of what is on disk.
    ///
    /// # Errors
    /// The disk still fails, or somebody changed what had been acknowledged; then it may be tried again.
    pub fn mend(&mut self) -> Result<(), JournalError> {
        self.poisoned = true;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|source| self.io("open", source))?;
        let damaged = |(offset, reason)| JournalError::Damaged {
            path: self.path.clone(),
            offset,
            reason,
        };
        let gone = "what was acknowledged is there no more";
        match file.metadata() {
            // A cut to more than there is would fill up with zeros.
            Ok(found) if found.len() < self.length => return Err(damaged((0, gone))),
            Ok(_) => {}
            Err(source) => return Err(self.io("look at", source)),
        }
        file.set_len(self.length)
            .and_then(|()| file.sync_all())
            .map_err(|source| self.io("truncate", source))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|source| self.io("read", source))?;
        let read = read_lines(&bytes, self.order_id).map_err(damaged)?;
        if read.length as u64 != self.length || read.chain != self.chain {
            return Err(damaged((read.length, gone)));
        }
        // The cut gave back what was set aside. Without it appends are checked all the same.
        let _ = set_aside(&file);
        self.file = file;
        self.poisoned = false;
        Ok(())
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        if let Err(full) = fault::disk(&self.path) {
            self.file.write_all(&record[..record.len() / 2])?;
            return Err(full);
        }
        self.file.write_all(fault::torn(record))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every line so far.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Every event so far.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.lines.iter().map(|line| &line.event)
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.sync_data()
    }

    fn io(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// The first line of a journal of which the rest may be damaged.
#[must_use]
pub fn first_line(dir: &Path, order_id: Uuid) -> Option<Line> {
    let bytes = std::fs::read(dir.join(file_name(order_id))).ok()?;
    let rest = bytes.strip_prefix(&HEADER)?;
    let chain = Sha256::digest(order_id.as_bytes()).into();
    match read_record(rest, &chain) {
        Record::Whole { line, .. } => Some(*line),
        Record::Torn | Record::Damaged(_) => None,
    }
}

fn set_aside(file: &File) -> io::Result<()> {
    use rustix::{fs::FallocateFlags, io::Errno};
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, SET_ASIDE) {
        // A file system that cannot set aside is no reason to refuse: writes are checked anyway.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn link(previous: &[u8; 32], payload: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(previous)
        .chain_update(payload)
        .finalize()
        .into()
}

fn frame(chain: &[u8; 32], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let crc = crc32c::crc32c_append(crc32c::crc32c(chain), payload);
    let mut record = Vec::with_capacity(FRAME + payload.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&crc.to_le_bytes());
    record.extend_from_slice(chain);
    record.extend_from_slice(payload);
    record
}

struct Reading {
    lines: Vec<Line>,
    chain: [u8; 32],
    /// Bytes that hold the header and whole records.
    length: usize,
}

/// The lines of a journal, up to a torn tail.
fn read_lines(bytes: &[u8], order_id: Uuid) -> Result<Reading, (usize, &'static str)> {
    let unborn = HEADER.starts_with(bytes) || bytes.iter().all(|byte| *byte == 0);
    if !unborn && bytes.get(..HEADER.len()) != Some(HEADER.as_slice()) {
        return Err((0, "it does not begin as a journal"));
    }
    let mut reading = Reading {
        lines: Vec::new(),
        chain: Sha256::digest(order_id.as_bytes()).into(),
        length: HEADER.len(),
    };
    while !unborn && reading.length < bytes.len() {
        let rest = &bytes[reading.length..];
        match read_record(rest, &reading.chain) {
            Record::Whole { line, chain, size } => {
                reading.lines.push(*line);
                reading.chain = chain;
                reading.length += size;
            }
            Record::Torn if a_record_follows(&rest[1..]) => {
                return Err((reading.length, "a whole record follows one that is cut"));
            }
            Record::Torn => break,
            Record::Damaged(reason) => return Err((reading.length, reason)),
        }
    }
    Ok(reading)
}

enum Record {
    Whole {
        line: Box<Line>,
        chain: [u8; 32],
        size: usize,
    },
    Torn,
    Damaged(&'static str),
}

/// Whether a whole record begins anywhere in these bytes: then what stands before it was not torn by a
/// power failure, which can only hit the last one.
fn a_record_follows(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| split(&bytes[at..]).is_some_and(|record| record.intact()))
}

struct Parts<'a> {
    crc: u32,
    chain: [u8; 32],
    payload: &'a [u8],
}

impl Parts<'_> {
    fn intact(&self) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&self.chain), self.payload) == self.crc
    }
}

/// The parts of the record that begins here, if so many bytes are there.
fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (chain, rest) = rest.split_first_chunk::<32>()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length > 0).then_some(())?;
    Some(Parts {
        crc: u32::from_le_bytes(*crc),
        chain: *chain,
        payload: rest.get(..length)?,
    })
}

fn read_record(rest: &[u8], previous: &[u8; 32]) -> Record {
    // A power failure may leave the file longer than what was written, filled with zeros.
    if rest.iter().all(|byte| *byte == 0) {
        return Record::Torn;
    }
    let Some(parts) = split(rest) else {
        return Record::Torn;
    };
    let size = FRAME + parts.payload.len();
    if !parts.intact() {
        let last = rest[size..].iter().all(|byte| *byte == 0);
        return if last {
            Record::Torn
        } else {
            Record::Damaged("a record does not match its checksum")
        };
    }
    let Parts { chain, payload, .. } = parts;
    if link(previous, payload) != chain {
        return Record::Damaged("a record does not follow the one before it");
    }
    match serde_json::from_slice(payload) {
        Ok(line) => Record::Whole {
            line: Box::new(line),
            chain,
            size,
        },
        Err(_) => Record::Damaged("a record cannot be read by this version"),
    }
}

#[cfg(test)]
mod tests;
