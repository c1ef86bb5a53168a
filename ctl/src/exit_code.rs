//! The exit codes of `ctl`: the only place where they stand, and where `ctl exit-codes` reads them.

use std::fmt::Write as _;

use serde::Serialize;

/// How a run of `ctl` ended, as a program sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Done = 0,
    Error = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    Declined = 5,
    StillRunning = 6,
    Undone = 10,
    NeedsHuman = 11,
    Expired = 12,
    AnswerIsNo = 13,
    WouldChange = 20,
    Interrupted = 130,
}

impl ExitCode {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Error,
        Self::Usage,
        Self::Unreachable,
        Self::Refused,
        Self::Declined,
        Self::StillRunning,
        Self::Undone,
        Self::NeedsHuman,
        Self::Expired,
        Self::AnswerIsNo,
        Self::WouldChange,
        Self::Interrupted,
    ];

    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What the code means, one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done; a rollback: restored and verified, or nothing had to change",
            Self::Error => {
                "an error, also that there is no such host, target, revision or rollout; the message says which and what to do"
            }
            Self::Usage => "the command line is not right",
            Self::Unreachable => "the controller cannot be reached or does not answer",
            Self::Refused => {
                "refused: not allowed, a revision marked bad, a blocker; nothing was changed"
            }
            Self::Declined => "declined at the prompt; nothing was changed",
            Self::StillRunning => "still running: detached by Ctrl-C or --timeout",
            Self::Undone => "the rollback failed and was undone; what ran before runs again",
            Self::NeedsHuman => {
                "a person is needed: neither the rollback nor its undo could be completed, or what became of it is not known"
            }
            Self::Expired => "the order's deadline passed before its host took it; nothing changed",
            Self::AnswerIsNo => {
                "the answer is no: a digest marked bad, a target not ready or of a host that is away, a broken record"
            }
            Self::WouldChange => "rollback --dry-run: the rollback would change something",
            Self::Interrupted => "ended by Ctrl-C before there was an answer",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// All codes with their meaning, as `ctl --help` and `ctl exit-codes` show them.
pub(crate) fn table() -> String {
    let mut text = String::from("Exit codes:\n");
    for code in ExitCode::ALL {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {:>3}  {}", code.number(), code.meaning());
    }
    text
}

/// `ctl exit-codes -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    exit_codes: Vec<Described>,
}

#[derive(Debug, Serialize)]
struct Described {
    code: u8,
    meaning: &'static str,
}

/// All codes with their meaning, for a program.
pub(crate) fn document() -> Document {
    let described = |code: &ExitCode| Described {
        code: code.number(),
        meaning: code.meaning(),
    };
    Document {
        exit_codes: ExitCode::ALL.iter().map(described).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_order() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(table().lines().count(), ExitCode::ALL.len() + 1);
    }

    #[test]
    fn the_documentation_has_every_code_with_its_meaning_and_no_other() {
        let docs = include_str!("../../docs/ctl.md");
        let (_, chapter) = docs.split_once("## Exit codes").expect("a chapter");
        let (chapter, _) = chapter.split_once("\n## ").expect("its end");
        let documented: Vec<(String, String)> = chapter
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .filter_map(|row| row.split_once(" | "))
            .filter(|(code, _)| *code != "code")
            .map(|(code, meaning)| (code.to_owned(), meaning.replace('`', "")))
            .collect();
        let codes: Vec<(String, String)> = ExitCode::ALL
            .iter()
            .map(|code| (code.number().to_string(), code.meaning().to_owned()))
            .collect();
        assert_eq!(documented, codes);
    }
}
