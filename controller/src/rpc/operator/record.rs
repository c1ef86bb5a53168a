//! `record ls|verify|export`.

use prost::Message as _;
use sternway_proto::{
    limits,
    v1::{self, Problem},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Operators, STREAM, Streamed};
use crate::{rpc::fault, store::SharedStore};

const LIST: u32 = 50;
const LIST_AT_MOST: u32 = 1000;
/// Entries read at a time for an export.
const PAGE: u32 = 500;

pub(super) async fn list(
    service: &Operators,
    request: &v1::ListRecordRequest,
) -> Result<v1::ListRecordResponse, Status> {
    let limit = match request.limit {
        0 => LIST,
        asked => asked.min(LIST_AT_MOST),
    };
    let entries = service
        .store
        .record_list(request.before_number, limit)
        .await;
    // A page may be shorter than was asked for: the next one begins before its last entry.
    let mut answer = v1::ListRecordResponse::default();
    let mut room = limits::MESSAGE_BYTES - 1024;
    for entry in entries.map_err(fault::store)? {
        let entry = entry.to_wire();
        // The entry, its key and its length.
        let size = entry.encoded_len() + 8;
        if size > room && !answer.entries.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        answer.entries.push(entry);
    }
    Ok(answer)
}

/// One at a time: each reads the whole record.
pub(super) async fn verify(
    store: &SharedStore,
    verifying: &Semaphore,
) -> Result<v1::VerifyRecordResponse, Status> {
    let Ok(_turn) = verifying.try_acquire() else {
        return Err(fault::refused(Problem::new(
            "verifying",
            "the record is being verified at this moment, for somebody else",
            "try again when that is over: `ctl record verify`",
        )));
    };
    let verified = store.record_verify().await.map_err(fault::store)?;
    let problem = verified.broken.as_ref().map(|broken| {
        Problem::new(
            "record-broken",
            format!(
                "the record does not hold at entry {}: {}",
                broken.at, broken.why
            ),
            "compare with an earlier export: `ctl record export`",
        )
    });
    Ok(v1::VerifyRecordResponse {
        entries: verified.entries,
        head_hash: hex::encode(verified.head),
        problem,
        broken_at: verified.broken.map_or(0, |broken| broken.at),
    })
}

pub(super) fn export(
    service: &Operators,
    request: v1::ExportRecordRequest,
) -> Streamed<v1::RecordEntry> {
    let (sender, receiver) = mpsc::channel(STREAM);
    let store = service.store.clone();
    let mut from = request.from_number;
    tokio::spawn(async move {
        loop {
            let page = match store.record_page(from, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    drop(sender.send(Err(fault::store(error))).await);
                    return;
                }
            };
            let Some(last) = page.last() else { return };
            from = last.number + 1;
            for entry in &page {
                if sender.send(Ok(entry.to_wire())).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Sqlite;

    #[tokio::test]
    async fn the_record_is_verified_for_one_person_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Sqlite::new(folder.path()).await.expect("made");
        let (store, verifying): (SharedStore, _) = (Arc::new(store), Semaphore::new(1));
        let turn = verifying.acquire().await.expect("a turn");
        let refused = verify(&store, &verifying).await.expect_err("refused");
        let problem = sternway_proto::fault::from_status(&refused).expect("a problem");
        assert_eq!(problem.code, "verifying");
        drop(turn);
        for _ in 0..2 {
            verify(&store, &verifying).await.expect("verified");
        }
    }
}
