use std::fs;

use tempfile::TempDir;

use super::*;
use crate::engine::step::Done;

const ORDER: Uuid = Uuid::from_u128(42);

fn line(at_ms: i64) -> Line {
    let event = match at_ms {
        1 => Event::Accepted {
            order: vec![0xab; 50],
            not_after_ms: 9,
        },
        _ => Event::StepSucceeded {
            index: 3,
            done: Done::said(format!("line {at_ms}")),
        },
    };
    Line { at_ms, event }
}

fn written(count: i64) -> (TempDir, Vec<u8>) {
    let dir = TempDir::new().expect("folder");
    let mut journal = Journal::create(dir.path(), ORDER, line(1)).expect("created");
    for at in 2..=count {
        assert_eq!(
            journal.append(line(at)).expect("appended"),
            at.unsigned_abs()
        );
    }
    let bytes = fs::read(dir.path().join(file_name(ORDER))).expect("read");
    (dir, bytes)
}

fn reopened(bytes: &[u8]) -> Result<Vec<i64>, JournalError> {
    let dir = TempDir::new().expect("folder");
    fs::write(dir.path().join(file_name(ORDER)), bytes).expect("written");
    let mut journal = Journal::open(dir.path(), ORDER)?;
    let read = journal.lines().iter().map(|line| line.at_ms).collect();
    // What was opened can be gone on with, and holds what was added.
    journal.append(line(99)).expect("appended");
    let again = Journal::open(dir.path(), ORDER).expect("opened again");
    assert_eq!(again.lines(), journal.lines());
    Ok(read)
}

#[test]
fn what_was_appended_is_read_back() {
    let (_dir, bytes) = written(4);
    assert_eq!(reopened(&bytes).expect("whole"), [1, 2, 3, 4]);
}

#[test]
fn a_journal_cut_at_any_byte_is_a_prefix_or_is_refused() {
    let (_dir, bytes) = written(4);
    let first = written(1).1.len();
    for cut in 0..bytes.len() {
        match reopened(&bytes[..cut]) {
            Ok(read) => {
                assert!(cut >= first, "cut at {cut}");
                assert!([1, 2, 3, 4].starts_with(&read), "cut at {cut}: {read:?}");
            }
            Err(JournalError::Unborn { .. }) => assert!(cut < first, "cut at {cut}"),
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
}

#[test]
fn a_tail_of_zeros_is_torn() {
    let (_dir, mut bytes) = written(3);
    bytes.extend_from_slice(&[0; 700]);
    assert_eq!(reopened(&bytes).expect("torn"), [1, 2, 3]);
    let end = written(2).1.len();
    bytes[end..].fill(0);
    assert_eq!(reopened(&bytes).expect("torn"), [1, 2]);
}

#[test]
fn a_flipped_bit_is_never_read_as_another_history() {
    let (_dir, bytes) = written(3);
    let last = written(2).1.len();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            match reopened(&damaged) {
                // Only the last record can have been torn; its loss is a prefix.
                Ok(read) => {
                    assert!(at >= last && read == [1, 2], "byte {at}: {read:?}");
                }
                Err(JournalError::Damaged { .. }) => {}
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
}

#[test]
fn a_journal_of_another_order_is_refused() {
    let (_dir, bytes) = written(2);
    let other = Uuid::from_u128(43);
    assert!(read_lines(&bytes, other).is_err());
}

#[test]
fn an_order_has_one_journal_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, _) = written(1);
    let mode = fs::metadata(dir.path().join(file_name(ORDER)))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(Journal::create(dir.path(), ORDER, line(1)).is_err());
}

#[test]
fn a_journal_on_a_full_disk_holds_what_it_held_and_goes_on_when_there_is_room() {
    let dir = TempDir::new().expect("folder");
    let mut journal = Journal::create(dir.path(), ORDER, line(1)).expect("created");
    journal.append(line(2)).expect("appended");
    fault::full::after(dir.path(), 0);
    for _ in 0..3 {
        let error = journal.append(line(3)).expect_err("full");
        assert!(error.is_no_space(), "{error:?}");
        journal.mend().expect("a cut needs no room");
        assert_eq!(journal.lines().len(), 2);
    }
    fault::full::no_longer(dir.path());
    assert_eq!(journal.append(line(4)).expect("appended"), 3);
    let again = Journal::open(dir.path(), ORDER).expect("opened");
    assert_eq!(again.lines(), [line(1), line(2), line(4)]);
}

#[test]
fn a_record_of_which_nobody_knows_whether_it_is_on_disk_is_cut_off_and_written_anew() {
    let (dir, bytes) = written(2);
    let mut journal = Journal::open(dir.path(), ORDER).expect("opened");
    // As after a failed sync: the record is in the file, and was not acknowledged.
    let whole = written(3).1;
    let path = dir.path().join(file_name(ORDER));
    for tail in [
        &whole[bytes.len()..],
        &whole[bytes.len()..whole.len() - 7],
        &[0; 99],
    ] {
        fs::write(&path, [&bytes, tail].concat()).expect("written");
        journal.poisoned = true;
        assert!(matches!(
            journal.append(line(4)),
            Err(JournalError::Poisoned { .. })
        ));
        journal.mend().expect("mended");
        assert_eq!(fs::read(&path).expect("read"), bytes);
    }
    journal.append(line(4)).expect("appended");
    let again = Journal::open(dir.path(), ORDER).expect("opened");
    assert_eq!(again.lines(), [line(1), line(2), line(4)]);
}

#[test]
fn a_journal_that_somebody_changed_is_not_gone_on_with() {
    let (dir, bytes) = written(3);
    let path = dir.path().join(file_name(ORDER));
    let mut journal = Journal::open(dir.path(), ORDER).expect("opened");
    for broken in [&bytes[..bytes.len() - 1], &[], &vec![7; bytes.len()]] {
        fs::write(&path, broken).expect("written");
        assert!(matches!(journal.mend(), Err(JournalError::Damaged { .. })));
        assert!(matches!(
            journal.append(line(4)),
            Err(JournalError::Poisoned { .. })
        ));
    }
    fs::remove_file(&path).expect("removed");
    assert!(matches!(journal.mend(), Err(JournalError::Io { .. })));
}
