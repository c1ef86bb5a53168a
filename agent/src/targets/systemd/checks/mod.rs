//! The checks of a unit: declared in the agent's configuration (`[[unit.check]]`), or by nature. [`run`] carries them out.

mod attempt;
pub(super) mod run;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sternway_proto::name::clean_text;

/// Nothing makes a restore wait longer than this for its checks, or for its soak.
pub(super) const LONGEST: Duration = Duration::from_mins(10);

/// A section `unit.check`: one of `http`, `tcp`, `command` and `log`, and what belongs to that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSettings {
    /// `http://HOST:PORT/PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// What it is to answer; none: 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// A program by its whole path, and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A text in the unit's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How many lines with it a minute may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// One declared check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    Http {
        /// `HOST:PORT`.
        place: String,
        path: String,
        status: Option<u16>,
    },
    Tcp {
        place: String,
    },
    Command {
        argv: Vec<String>,
        user: String,
    },
    Log {
        text: String,
        max: u32,
    },
}

/// Who runs a command where the section does not say: nobody may change anything by a check.
const USER: &str = "nobody";

impl CheckSettings {
    /// The check that it declares, or why it declares none.
    pub(super) fn read(&self) -> Result<Check, String> {
        let command = (!self.command.is_empty()).then_some(&self.command);
        let declared = [
            self.http.is_some(),
            self.tcp.is_some(),
            command.is_some(),
            self.log.is_some(),
        ];
        if declared.iter().filter(|one| **one).count() != 1 {
            return Err("a check has one of http, tcp, command and log".to_owned());
        }
        for (belongs, there, to) in [
            (
                self.status.is_some(),
                self.http.is_some(),
                "status belongs to http",
            ),
            (
                self.user.is_some(),
                command.is_some(),
                "user belongs to command",
            ),
            (self.max.is_some(), self.log.is_some(), "max belongs to log"),
        ] {
            if belongs && !there {
                return Err(format!("of a check {to}"));
            }
        }
        if let Some(url) = &self.http {
            return http(url, self.status);
        }
        if let Some(place) = &self.tcp {
            let place = checked(place)?;
            return Ok(Check::Tcp { place });
        }
        if let Some(argv) = command {
            return argv
                .first()
                .filter(|program| program.starts_with('/'))
                .map(|_| Check::Command {
                    argv: argv.clone(),
                    user: self.user.clone().unwrap_or_else(|| USER.to_owned()),
                })
                .ok_or_else(|| "the program of a check is named by its whole path".to_owned());
        }
        match &self.log {
            Some(text) if !text.is_empty() => Ok(Check::Log {
                text: text.clone(),
                max: self.max.unwrap_or_default(),
            }),
            _ => Err("a log check has a text to look for".to_owned()),
        }
    }
}

fn http(url: &str, status: Option<u16>) -> Result<Check, String> {
    if status.is_some_and(|status| !(100..600).contains(&status)) {
        return Err("the status of a check is from 100 to 599".to_owned());
    }
    let rest = url
        .strip_prefix("http://")
        .ok_or("an http check reads http://HOST:PORT/PATH")?;
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the path of an http check has letters that do not belong into one".to_owned());
    }
    let with_port = if place.contains(':') {
        place.to_owned()
    } else {
        format!("{place}:80")
    };
    Ok(Check::Http {
        place: checked(&with_port)?,
        path: path.to_owned(),
        status,
    })
}

/// `HOST:PORT`, or `:PORT` of this host.
fn checked(place: &str) -> Result<String, String> {
    let wrong = || "the place of a check reads HOST:PORT".to_owned();
    let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    if port == 0 || !host.bytes().all(allowed) {
        return Err(wrong());
    }
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok(format!("{host}:{port}"))
}

impl Check {
    /// Its kind, what it looks at, and what is expected there, for a person.
    fn words(&self) -> (&'static str, String, String) {
        match self {
            Self::Http {
                place,
                path,
                status,
            } => {
                // People put tokens behind it.
                let path = path.split(['?', '#']).next().unwrap_or_default();
                let expected = status.map_or("2xx or 3xx".to_owned(), |status| status.to_string());
                ("http", format!("http://{place}{path}"), expected)
            }
            Self::Tcp { place } => ("tcp", place.clone(), "accepts".to_owned()),
            Self::Command { argv, user } => {
                let program = argv.first().map_or("", String::as_str);
                (
                    "command",
                    format!("{program} as {user}"),
                    "exits with 0".to_owned(),
                )
            }
            Self::Log { text, max } => (
                "log",
                format!("lines with {text:?}"),
                format!("at most {max} in the last minute"),
            ),
        }
    }

    /// For a person.
    pub(super) fn describe(&self) -> String {
        let (kind, subject, expected) = self.words();
        clean_text(&format!("{kind} {subject}: {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Check, String> {
        let settings: CheckSettings = toml::from_str(text).expect("TOML");
        settings.read()
    }

    #[test]
    fn a_section_declares_one_check() {
        for (text, described) in [
            (
                "http = \"http://127.0.0.1:8080/health?token=x\"\nstatus = 204",
                "http http://127.0.0.1:8080/health: 204",
            ),
            (
                "http = \"http://localhost\"",
                "http http://localhost:80/: 2xx or 3xx",
            ),
            ("tcp = \":5432\"", "tcp 127.0.0.1:5432: accepts"),
            (
                "command = [\"/bin/check\", \"$x\"]",
                "command /bin/check as nobody: exits with 0",
            ),
            (
                "log = \"ERROR\"\nmax = 3",
                "log lines with \"ERROR\": at most 3 in the last minute",
            ),
        ] {
            assert_eq!(read(text).expect(text).describe(), described);
        }
    }

    #[test]
    fn what_declares_none_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "one of"),
            ("http = \"http://x:1/\"\ntcp = \"x:1\"", "one of"),
            ("http = \"https://x/\"", "http://"),
            ("http = \"http://x:1/\"\nstatus = 7", "100"),
            ("http = \"http://x:1/ a\"", "letters"),
            ("tcp = \"x\"", "HOST:PORT"),
            ("tcp = \"x:0\"", "HOST:PORT"),
            ("tcp = \"a b:1\"", "HOST:PORT"),
            ("tcp = \"x:1\"\nstatus = 200", "belongs to http"),
            ("command = [\"true\"]", "whole path"),
            ("log = \"\"", "text"),
            ("log = \"x\"\nuser = \"root\"", "belongs to command"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
