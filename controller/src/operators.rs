//! What the commands about operators do, on the controller's machine and beside a controller that runs.

use std::path::Path;

use thiserror::Error;

use crate::{
    clock::now_ms,
    pki::Issued,
    store::{
        OperatorStore as _, Sqlite, StoreError,
        types::{IssuedOperator, Operator},
    },
};

/// Why a command about operators came to nothing.
#[derive(Debug, Error)]
pub enum OperatorsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "no certificate was issued to an operator {name:?}, and no serial reads so; `sternway-controller operator ls` \
         lists them"
    )]
    Unknown { name: String },
}

/// Notes a certificate that is about to be handed over, in the record and for [`list`].
///
/// # Errors
/// The store failed.
pub async fn note(data_dir: &Path, issued: &Issued) -> Result<(), StoreError> {
    let issued = IssuedOperator {
        serial: issued.serial.clone(),
        name: issued.name.clone(),
        role: issued.role.to_string(),
        issued_ms: now_ms(),
        not_after_ms: issued.not_after_ms,
    };
    let store = Sqlite::beside(data_dir).await?;
    let noted = store.operator_issued(&issued).await;
    store.close().await;
    noted
}

/// Every certificate that was issued to an operator, by name.
///
/// # Errors
/// The store failed.
pub async fn list(data_dir: &Path) -> Result<Vec<Operator>, StoreError> {
    let store = Sqlite::beside(data_dir).await?;
    let listed = store.operator_list().await;
    store.close().await;
    listed
}

/// Revokes every certificate of that name, or the one of that serial. A controller that runs refuses them and cuts
/// their connections within seconds. All that are meant, also those that were revoked before.
///
/// # Errors
/// There is none, or the store failed.
pub async fn revoke(
    data_dir: &Path,
    name_or_serial: &str,
    reason: &str,
) -> Result<Vec<Operator>, OperatorsError> {
    let store = Sqlite::beside(data_dir).await?;
    let revoked = store
        .operator_revoke(name_or_serial, reason, now_ms())
        .await;
    store.close().await;
    let revoked = revoked?;
    if revoked.is_empty() {
        return Err(OperatorsError::Unknown {
            name: name_or_serial.chars().take(80).collect(),
        });
    }
    Ok(revoked)
}

/// The certificates as a table. `now_ms` tells which have ended.
#[must_use]
pub fn table(operators: &[Operator], now_ms: i64) -> String {
    let mut rows = vec![["NAME", "ROLE", "SERIAL", "UNTIL", "STATE"].map(str::to_owned)];
    rows.extend(operators.iter().map(|one| {
        let issued = &one.issued;
        let state = match one.revoked_ms {
            Some(_) => "revoked",
            None if issued.not_after_ms <= now_ms => "expired",
            None => "valid",
        };
        let or_unknown = |text: &str| if text.is_empty() { "?" } else { text }.to_owned();
        let until = match jiff::Timestamp::from_millisecond(issued.not_after_ms) {
            Ok(until) => until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            Err(_) => "?".to_owned(),
        };
        [
            or_unknown(&issued.name),
            or_unknown(&issued.role),
            issued.serial.clone(),
            until,
            state.to_owned(),
        ]
    }));
    let widths: [usize; 5] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        line.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_each_certificate_is_worth() {
        let operator = |name: &str, not_after_ms, revoked_ms| Operator {
            issued: IssuedOperator {
                serial: "5".repeat(32),
                name: name.into(),
                role: if name.is_empty() { "" } else { "admin" }.into(),
                issued_ms: 1,
                not_after_ms,
            },
            revoked_ms,
        };
        let all = [
            operator("alice", 86_400_000, None),
            operator("bob", 1000, None),
            operator("", i64::MAX, Some(3)),
        ];
        let serial = "5".repeat(32);
        let serials = format!("{:32}", "SERIAL");
        assert_eq!(
            table(&all, 2000),
            format!(
                "NAME   ROLE   {serials}  UNTIL                 STATE\n\
                 alice  admin  {serial}  1970-01-02T00:00:00Z  valid\n\
                 bob    admin  {serial}  1970-01-01T00:00:01Z  expired\n\
                 ?      ?      {serial}  ?                     revoked"
            )
        );
    }
}
