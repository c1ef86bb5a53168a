//! Names that arrive from the wire, from labels or from people: parsed once, valid from then on.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::limits;

/// Why a name was refused. Never contains the refused text unescaped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is longer than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    #[error("{what} {text:?} has a character outside {allowed}")]
    Character {
        what: &'static str,
        text: String,
        allowed: &'static str,
    },
    #[error("{text:?} is no target: a target reads KIND/NAME, for instance docker/web")]
    Target { text: String },
    #[error("{text:?} is no revision id: 64 hexadecimal digits")]
    RevisionId { text: String },
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

fn checked(
    what: &'static str,
    text: &str,
    limit: usize,
    allowed: &'static str,
    ok: impl Fn(usize, char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, limit });
    }
    if text.chars().enumerate().all(|(at, c)| ok(at, c)) {
        Ok(())
    } else {
        Err(NameError::Character {
            what,
            text: clip(text),
            allowed,
        })
    }
}

macro_rules! text_newtype {
    ($type:ident) => {
        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

/// The name of a host: at most 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);
text_newtype!(HostName);

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        checked("host name", text, 63, "a-z 0-9 . _ -", |at, c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && matches!(c, '.' | '_' | '-'))
        })?;
        Ok(Self(text.to_owned()))
    }
}

impl HostName {
    /// Whether it is written as the id of a host is. No host is given such a name: hosts are called by their name or
    /// by their id, and one must not pass for another.
    #[must_use]
    pub fn reads_as_id(&self) -> bool {
        self.0.contains('-') && uuid::Uuid::try_parse(&self.0).is_ok()
    }
}

/// The name of a target, `KIND/NAME`. Kind: `a-z`; name: at most 255 of `A-Z a-z 0-9 . _ - @ :`,
/// beginning with a letter or digit, which covers every name Docker and systemd accept.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct TargetName(String);
text_newtype!(TargetName);

impl FromStr for TargetName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, name) = text
            .split_once('/')
            .ok_or_else(|| NameError::Target { text: clip(text) })?;
        checked("target kind", kind, 16, "a-z", |_, c| {
            c.is_ascii_lowercase()
        })?;
        checked(
            "target name",
            name,
            255,
            "A-Z a-z 0-9 . _ - @ :",
            |at, c| {
                c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-' | '@' | ':'))
            },
        )?;
        Ok(Self(text.to_owned()))
    }
}

impl TargetName {
    /// The kind: what stands before the slash.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    /// The name within its kind: what stands behind the slash.
    #[must_use]
    pub fn local(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

/// The id of a revision: the SHA-256 of its content, 64 lower-case hexadecimal digits.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionId(String);
text_newtype!(RevisionId);

impl FromStr for RevisionId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f');
        if text.len() == 64 && text.chars().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::RevisionId { text: clip(text) })
        }
    }
}

impl RevisionId {
    /// The id of content: its SHA-256.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(content)))
    }

    /// The first twelve digits, as people see it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// A label of a host: key and value, each at most 63 of `A-Z a-z 0-9 . _ - /`.
///
/// # Errors
/// The key is empty, or either has another character or is too long.
pub fn check_label(key: &str, value: &str) -> Result<(), NameError> {
    let ok = |_: usize, c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    checked("label key", key, 63, "A-Z a-z 0-9 . _ - /", ok)?;
    if value.is_empty() {
        return Ok(());
    }
    checked("label value", value, 63, "A-Z a-z 0-9 . _ - /", ok)
}

/// Whether a character steers what shows it rather than be seen itself: control characters, and those of which nothing is
/// seen or that turn the direction of text.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// Free text fit for a terminal, a log and the record: what [`steers`] escaped, cut to [`limits::TEXT_BYTES`].
#[must_use]
pub fn clean_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(limits::TEXT_BYTES));
    for c in text.chars() {
        if out.len() + 12 > limits::TEXT_BYTES {
            out.push('…');
            break;
        }
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_lower_case_and_start_with_a_letter_or_digit() {
        assert!("web-1.example".parse::<HostName>().is_ok());
        for bad in ["", "-web", "Web", "web 1", "../x", "wéb", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_reads_as_an_id_is_seen() {
        for (text, id) in [
            ("0198a1b2-0000-7000-8000-000000000001", true),
            ("0198a1b2000070008000000000000001", false),
            ("0198a1b2-0000-7000-8000", false),
            ("web-0198a1b2-0000-7000-8000-000000000001", false),
        ] {
            let name: HostName = text.parse().expect("valid");
            assert_eq!(name.reads_as_id(), id, "{text}");
        }
    }

    #[test]
    fn targets_have_a_kind_and_a_name() {
        let target: TargetName = "docker/Shop_1.web".parse().expect("valid");
        assert_eq!((target.kind(), target.local()), ("docker", "Shop_1.web"));
        for bad in [
            "docker",
            "docker/",
            "/x",
            "docker/../x",
            "docker/a/b",
            "docker/a\nb",
            "Docker/a",
        ] {
            assert!(bad.parse::<TargetName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn clean_text_leaves_nothing_that_moves_a_cursor_or_a_reader() {
        assert_eq!(
            clean_text("a\x1b[31mb\r\n\u{202e}c"),
            "a\\u{1b}[31mb\\r\\n\\u{202e}c"
        );
        assert!(clean_text(&"x".repeat(10_000)).len() <= limits::TEXT_BYTES);
    }

    #[test]
    fn a_revision_id_is_the_hash_of_its_content() {
        let id = RevisionId::of(b"");
        assert!(id.as_str().starts_with("e3b0c44298fc"));
        assert_eq!(id.short().len(), 12);
        assert!("E3B0".parse::<RevisionId>().is_err());
    }
}
