//! What the commands about operators do, on the controller's machine and beside a controller that runs.

use std::{collections::BTreeMap, path::Path, time::Duration};

use sternway_proto::name::{HostName, clean_text};
use thiserror::Error;

use crate::{
    clock::now_ms,
    pki::Issued,
    store::{
        OperatorStore as _, Sqlite, StoreError,
        types::{IssuedOperator, Operator, Revocation, RevokedWho},
    },
};

/// Why a command about operators came to nothing.
#[derive(Debug, Error)]
pub enum OperatorsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{text:?} is neither an operator's name ({why}) nor a serial (32 hexadecimal digits); `sternway-controller \
         operator ls` lists both"
    )]
    Neither { text: String, why: String },
}

/// Makes the database of a new cluster.
///
/// # Errors
/// It cannot be made.
pub async fn make_database(data_dir: &Path) -> Result<(), StoreError> {
    Sqlite::new(data_dir).await?.close().await;
    Ok(())
}

/// Notes a certificate that is about to be handed over, in the record and for [`list`].
///
/// # Errors
/// The store failed.
pub async fn note(data_dir: &Path, issued: &Issued) -> Result<(), StoreError> {
    let store = Sqlite::beside(data_dir).await?;
    let issued = IssuedOperator {
        serial: issued.serial.clone(),
        name: issued.name.clone(),
        role: issued.role.to_string(),
        issued_ms: issued.issued_ms,
        not_after_ms: issued.not_after_ms,
    };
    let noted = store.operator_issued(&issued).await;
    store.close().await;
    noted
}

/// What is known of operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Every certificate that was issued to one, by name.
    pub certificates: Vec<Operator>,
    /// Names of which no certificate is listed and everything that was issued until then is refused: Unix
    /// milliseconds.
    pub names: BTreeMap<String, i64>,
}

/// Every operator that is known, by certificate or by a revocation.
///
/// # Errors
/// The store failed.
pub async fn list(data_dir: &Path) -> Result<Listed, StoreError> {
    let store = Sqlite::reading(data_dir).await?;
    let certificates = store.operator_list().await;
    let revoked = store.operator_revoked_list(now_ms()).await;
    store.close().await;
    let certificates = certificates?;
    let mut names = BTreeMap::from_iter(revoked?.names);
    names.retain(|name, _| certificates.iter().all(|it| it.issued.name != *name));
    Ok(Listed {
        certificates,
        names,
    })
}

/// What a word names: a serial, as `openssl` and others write it, or an operator.
///
/// # Errors
/// It is neither.
pub fn who(text: &str) -> Result<RevokedWho, OperatorsError> {
    let word = text.trim();
    let hex: String = word
        .strip_prefix("serial=")
        .unwrap_or(word)
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(RevokedWho::Serial(hex));
    }
    match word.parse::<HostName>() {
        Ok(name) => Ok(RevokedWho::Name(name.to_string())),
        Err(why) => Err(OperatorsError::Neither {
            text: text.chars().take(80).collect(),
            why: why.to_string(),
        }),
    }
}

/// Revokes every certificate that was issued to a name until now, or the one of a serial. A controller that runs
/// refuses them and cuts their connections within seconds.
///
/// # Errors
/// It names nothing, or the store failed.
pub async fn revoke(
    data_dir: &Path,
    name_or_serial: &str,
    reason: &str,
) -> Result<Revocation, OperatorsError> {
    let mut who = who(name_or_serial)?;
    let store = Sqlite::beside(data_dir).await?;
    // A name may be written as a serial is.
    if let RevokedWho::Serial(text) = &who {
        let listed = store.operator_list().await?;
        if listed.iter().any(|one| one.issued.name == *text) {
            who = RevokedWho::Name(text.clone());
        }
    }
    let now_ms = now_ms();
    let revoked = store.operator_revoke(&who, reason, now_ms).await;
    store.close().await;
    let revoked = revoked?;
    if revoked.by_name {
        // A certificate bears the second in which it was issued: one that is made from here on is not meant.
        let rest = 1000 - now_ms.rem_euclid(1000);
        let rest = Duration::from_millis(u64::try_from(rest).unwrap_or_default());
        tokio::time::sleep(rest).await;
    }
    Ok(revoked)
}

/// What a revocation has done, for a person.
#[must_use]
pub fn told(word: &str, revocation: &Revocation, now_ms: i64) -> String {
    let mut lines = Vec::new();
    if !revocation.certificates.is_empty() {
        lines.push(table(&revocation.certificates, now_ms));
    }
    if revocation.unlisted {
        let word = clean_text(word.trim());
        lines.push(if revocation.by_name {
            format!(
                "{word} is not in the list: compare it. Every certificate of that name that was issued until now is \
                 refused all the same"
            )
        } else {
            format!("{word} is not in the list: compare it. It is refused all the same")
        });
    }
    lines.push(
        "a controller that runs refuses what is revoked, and cuts its connections within 10 s"
            .into(),
    );
    let counted = |number: u64, one: &str, several: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {several}"),
    };
    let orders = counted(
        revocation.orders,
        "order that was not sent",
        "orders that were not sent",
    );
    let tokens = counted(
        revocation.tokens,
        "join token that nobody used",
        "join tokens that nobody used",
    );
    match (revocation.by_name, revocation.orders + revocation.tokens) {
        (_, 0) => {}
        (true, _) => lines.push(format!("ended with it: {orders}, {tokens}")),
        (false, _) => lines.push(format!(
            "left of its operator: {orders}, {tokens}; revoke the operator by name to end them"
        )),
    }
    lines.join("\n")
}

/// All of it as a table, and below it the names that stand in none of its rows.
#[must_use]
pub fn all(listed: &Listed, now_ms: i64) -> String {
    let mut lines = vec![table(&listed.certificates, now_ms)];
    lines.extend(listed.names.iter().map(|(name, revoked_ms)| {
        format!(
            "{} was revoked by name at {}: whatever was issued to it until then is refused, and no certificate of it is \
             listed",
            clean_text(name),
            time(*revoked_ms)
        )
    }));
    lines.join("\n")
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "?".to_owned(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
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
        [
            or_unknown(&issued.name),
            or_unknown(&issued.role),
            issued.serial.clone(),
            time(issued.not_after_ms),
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
    fn a_serial_is_read_as_other_tools_write_it() {
        let serial = "4aff0a1b3c4d5e6f708192a3b4c5d6e7";
        let wanted = RevokedWho::Serial(serial.into());
        let upper = serial.to_ascii_uppercase();
        let pairs: Vec<&str> = (0..16).map(|at| &upper[at * 2..at * 2 + 2]).collect();
        for text in [
            serial.to_owned(),
            upper.clone(),
            format!("serial={upper}\n"),
            pairs.join(":"),
        ] {
            assert_eq!(who(&text).expect("a serial"), wanted, "{text}");
        }
        assert_eq!(who("bob").expect("a name"), RevokedWho::Name("bob".into()));
        for text in ["", "Bob", "4a:ff", "bob\u{1b}[2J"] {
            let error = who(text).expect_err("neither").to_string();
            assert!(error.contains("operator ls"), "{error}");
        }
    }

    #[test]
    fn what_is_not_in_the_list_is_told_with_what_a_revocation_ended() {
        let unlisted = Revocation {
            unlisted: true,
            ..Revocation::default()
        };
        assert_eq!(
            told("serial=4A", &unlisted, 0),
            "serial=4A is not in the list: compare it. It is refused all the same\n\
             a controller that runs refuses what is revoked, and cuts its connections within 10 s"
        );
        let by_name = Revocation {
            by_name: true,
            orders: 1,
            tokens: 2,
            ..unlisted
        };
        assert_eq!(
            told("bob", &by_name, 0),
            "bob is not in the list: compare it. Every certificate of that name that was issued until now is refused \
             all the same\n\
             a controller that runs refuses what is revoked, and cuts its connections within 10 s\n\
             ended with it: 1 order that was not sent, 2 join tokens that nobody used"
        );
    }

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
