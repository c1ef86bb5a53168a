//! The checks of a container: declared by its labels, or by nature. Here they are read from a record;
//! [`run`] carries them out.
//!
//! | label | value |
//! |---|---|
//! | `sternway.check.http` | `[http://][HOST]:PORT/PATH`; `sternway.check.http.status`: expected, else 200 to 399 |
//! | `sternway.check.tcp` | `:PORT` |
//! | `sternway.check.command` | a JSON array: argv, run inside the container |
//! | `sternway.check.log` | text; `sternway.check.log.max`: lines with it per minute that are still good, else 0 |
//! | `sternway.check.timeout` | how long the checks may take to pass: `60s` |
//! | `sternway.soak` | how long they must then hold: `5s`, `0s` |
//!
//! Several of a kind: `sternway.check.http.1`, `.2`, … each with its own `.status` or `.max`.

pub(super) mod private;
mod probe;
pub mod run;
mod words;

use std::{collections::BTreeMap, time::Duration};

use sternway_proto::{name::clean_text, v1::Problem};

use super::record::ContainerRecord;

/// How long checks may take to pass: a slow application's start-up.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How long they must hold, unless a label says otherwise: longer than a crash loop's first turn.
const SOAK: Duration = Duration::from_secs(5);

/// No label makes a restore wait longer than this for its checks, or for its soak.
const LONGEST: Duration = Duration::from_mins(10);

/// Checks of one container.
const LIMIT: usize = 32;

/// One declared check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Http {
        port: u16,
        path: String,
        /// None: 200 to 399.
        status: Option<u16>,
    },
    Tcp {
        port: u16,
    },
    Command {
        argv: Vec<String>,
    },
    Log {
        text: String,
        /// Lines per minute.
        max: u32,
    },
}

/// All that decides whether a container is well. That it runs, keeps running and does not restart, and
/// that its own HEALTHCHECK passes, is always checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    pub declared: Vec<Check>,
    pub timeout: Duration,
    pub soak: Duration,
    /// Labels that could not be read.
    pub problems: Vec<Problem>,
}

impl Check {
    /// For a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Http { port, path, status } => {
                let expected = status.map_or("2xx or 3xx".to_owned(), |status| status.to_string());
                let path = without_query(path);
                clean_text(&format!("http :{port}{path} answers {expected}"))
            }
            Self::Tcp { port } => format!("tcp :{port} accepts"),
            Self::Command { argv } => {
                let program = argv.first().map_or("", String::as_str);
                clean_text(&format!("command {program} in the container exits with 0"))
            }
            Self::Log { text, max } => clean_text(&format!(
                "log has at most {max} lines a minute with {}",
                clip(text)
            )),
        }
    }
}

impl Checks {
    /// The checks of a container of that record: declared by its own labels, or by those of its image. What cannot be
    /// read is a problem, never a crash.
    #[must_use]
    pub fn of(record: &ContainerRecord, image_labels: &BTreeMap<String, String>) -> Self {
        Self::from_labels(&record.labels_over(image_labels))
    }

    /// What may take longest: where it is not known what is declared.
    pub(super) fn longest() -> (Duration, Duration) {
        (LONGEST, LONGEST)
    }

    fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let mut checks = Self {
            declared: Vec::new(),
            timeout: TIMEOUT,
            soak: SOAK,
            problems: Vec::new(),
        };
        for (key, value) in labels {
            let read = match key.as_str() {
                "sternway.check.timeout" => duration(value).map(|timeout| checks.timeout = timeout),
                "sternway.soak" => duration(value).map(|soak| checks.soak = soak),
                _ => match key.strip_prefix("sternway.check.") {
                    Some(name) if !is_detail(name) => {
                        parse(name, value, labels).map(|check| checks.declared.push(check))
                    }
                    _ => Ok(()),
                },
            };
            if let Err(reason) = read {
                checks.problems.push(Problem::new(
                    "check-malformed",
                    format!("the label {} cannot be read: {reason}", clip(key)),
                    "mend the label with the next deployment; until then that check does not run, and the revision does \
                     not become known-good by itself (`ctl revision mark good` says that it is)",
                ));
            }
        }
        if checks.declared.len() > LIMIT {
            checks.declared.truncate(LIMIT);
            checks.problems.push(Problem::new(
                "too-many-checks",
                format!("only the first {LIMIT} checks run"),
                "",
            ));
        }
        checks
    }

    /// What decides, for a person.
    #[must_use]
    pub fn describe(&self, has_health_check: bool) -> Vec<String> {
        let mut lines = vec!["runs, and does not restart".to_owned()];
        if has_health_check {
            lines.push("its HEALTHCHECK is healthy".to_owned());
        }
        lines.extend(self.declared.iter().map(Check::describe));
        lines
    }
}

/// A path as it may be told: people put tokens behind it.
fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Whether a label only says more of another: `http.status`, `log.2.max`.
fn is_detail(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("status" | "max"))
}

fn clip(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

fn parse(name: &str, value: &str, labels: &BTreeMap<String, String>) -> Result<Check, String> {
    let (kind, number) = name.split_once('.').unwrap_or((name, ""));
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("behind the kind of check belongs a number".to_owned());
    }
    let beside = |what: &str| labels.get(&format!("sternway.check.{name}.{what}"));
    match kind {
        "http" => {
            let status = match beside("status") {
                None => None,
                Some(text) => Some(
                    text.parse()
                        .ok()
                        .filter(|status| (100..600).contains(status))
                        .ok_or("its status is no status")?,
                ),
            };
            let rest = value.strip_prefix("http://").unwrap_or(value);
            if rest.contains("://") {
                return Err("only http:// is spoken".to_owned());
            }
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let path = if path.is_empty() { "/" } else { path };
            if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("its path has characters that do not belong into one".to_owned());
            }
            Ok(Check::Http {
                port: port(authority)?,
                path: path.to_owned(),
                status,
            })
        }
        "tcp" => Ok(Check::Tcp { port: port(value)? }),
        "command" => {
            let argv: Vec<String> = serde_json::from_str(value)
                .map_err(|_| "it is no JSON array of texts, like [\"/bin/check\"]".to_owned())?;
            if argv.is_empty() {
                return Err("it names no command".to_owned());
            }
            Ok(Check::Command { argv })
        }
        "log" => {
            if value.is_empty() {
                return Err("it looks for nothing".to_owned());
            }
            let max = match beside("max") {
                None => 0,
                Some(text) => text
                    .parse()
                    .map_err(|_| "its max is no number".to_owned())?,
            };
            Ok(Check::Log {
                text: value.chars().take(200).collect(),
                max,
            })
        }
        _ => Err("there is no such kind of check: http, tcp, command, log".to_owned()),
    }
}

/// `[HOST]:PORT`; the host is the container, whatever is written.
fn port(text: &str) -> Result<u16, String> {
    text.rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| "it names no port, like :8080".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| "it is no duration, like 5s".to_owned())?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err("its unit is none of ms, s, m".to_owned()),
    };
    if duration > LONGEST {
        return Err(format!("it is longer than {} s", LONGEST.as_secs()));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(pairs: &[(&str, &str)]) -> Checks {
        let labels = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Checks::from_labels(&labels)
    }

    #[test]
    fn labels_declare_checks() {
        let all = checks(&[
            ("sternway.check.http", ":8080/health?token=hunter2#hunter2"),
            ("sternway.check.http.1", "http://localhost:81"),
            ("sternway.check.http.1.status", "204"),
            ("sternway.check.tcp", ":5432"),
            ("sternway.check.command", r#"["/shop","check"]"#),
            ("sternway.check.log", "ERROR"),
            ("sternway.check.log.max", "3"),
            ("sternway.check.timeout", "3s"),
            ("sternway.soak", "0s"),
            ("app", "shop"),
        ]);
        assert_eq!(all.problems, []);
        assert_eq!(
            (all.timeout, all.soak),
            (Duration::from_secs(3), Duration::ZERO)
        );
        let described: Vec<String> = all.declared.iter().map(Check::describe).collect();
        assert_eq!(
            described,
            [
                "command /shop in the container exits with 0",
                "http :8080/health answers 2xx or 3xx",
                "http :81/ answers 204",
                "log has at most 3 lines a minute with \"ERROR\"",
                "tcp :5432 accepts",
            ]
        );
    }

    #[test]
    fn without_labels_the_nature_of_a_container_is_checked() {
        let none = checks(&[]);
        assert!(none.declared.is_empty() && none.soak == SOAK && none.timeout == TIMEOUT);
        assert_eq!(none.describe(true).len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_and_never_a_crash() {
        let long = "x".repeat(10_000);
        for (key, value) in [
            ("sternway.check.http", ""),
            ("sternway.check.http", ":0/"),
            ("sternway.check.http", "https://:1/"),
            ("sternway.check.http", ":1/\u{1b}[2J"),
            ("sternway.check.http", long.as_str()),
            ("sternway.check.tcp", "5432"),
            ("sternway.check.command", "rm -rf /"),
            ("sternway.check.command", "[]"),
            ("sternway.check.command", "[1]"),
            ("sternway.check.smtp", ":25"),
            ("sternway.check.http.x", ":1/"),
            ("sternway.check.../../x", ":1/"),
            ("sternway.soak", "1h"),
            ("sternway.soak", "soon"),
            ("sternway.soak", "99999999999999999999s"),
            ("sternway.check.timeout", "11m"),
        ] {
            let read = checks(&[(key, value)]);
            assert_eq!(read.problems.len(), 1, "{key} {value:.40}");
            assert!(read.declared.is_empty());
            assert!(read.problems[0].message.len() < 400);
        }
        assert_eq!(checks(&[("sternway.check.log.max", "x")]).problems, []);
    }
}
