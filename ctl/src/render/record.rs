//! The record for people.

use std::collections::HashMap;

use serde_json::Value;
use sternway_proto::v1;

use crate::{
    table::{Rows, plain},
    text::{View, clean, counted, relative, short_id},
};

/// `ctl record ls`: hosts, targets and people by their names.
pub(crate) fn list(view: View, entries: &[v1::RecordEntry]) -> String {
    let mut rows = Rows::new(&["NUMBER", "WHEN", "WHO", "WHAT", "OF", "ROLLOUT", "HASH"])
        .spare(&["HASH", "ROLLOUT"])
        .id("ROLLOUT", super::rollout::ROLLOUT);
    let names = Names::of(entries);
    for entry in entries {
        let (subject, rollout) = names.subject(entry);
        rows.push([
            plain(entry.number.to_string()),
            plain(relative(view, entry.at_ms)),
            plain(actor(&entry.actor)),
            plain(&entry.action),
            plain(subject),
            plain(rollout),
            plain(short_id(&entry.hash)),
        ]);
    }
    rows.render(view, "the record is empty")
}

fn actor(actor: &str) -> String {
    match actor.split_once(':') {
        Some(("operator", name)) => name.to_owned(),
        Some(("agent", host)) => format!("agent of {host}"),
        _ => actor.to_owned(),
    }
}

/// What orders and rollouts are about, as far as the entries at hand tell it.
#[derive(Default)]
struct Names {
    /// `docker/shop on web-1`, by the id of the order or of the rollout.
    targets: HashMap<String, String>,
    /// By the id of the order.
    rollouts: HashMap<String, String>,
}

impl Names {
    fn of(entries: &[v1::RecordEntry]) -> Self {
        let mut names = Self::default();
        for entry in entries {
            let Some(order) = entry.subject.strip_prefix("order:") else {
                continue;
            };
            let body: Value = serde_json::from_str(&entry.body).unwrap_or_default();
            let text = |key: &str| body[key].as_str();
            let (Some(host), Some(target)) = (text("host"), text("target")) else {
                continue;
            };
            let target = on(host, target);
            names.targets.insert(order.to_owned(), target.clone());
            if let Some(rollout) = text("rollout") {
                names.rollouts.insert(order.to_owned(), rollout.to_owned());
                names.targets.entry(rollout.to_owned()).or_insert(target);
            }
        }
        names
    }

    /// What an entry is about, and the rollout it belongs to.
    fn subject(&self, entry: &v1::RecordEntry) -> (String, String) {
        let subject = entry.subject.as_str();
        let target = |id: &str| self.targets.get(id).cloned();
        match subject.split_once(':') {
            Some(("order", id)) => (
                target(id).unwrap_or_else(|| format!("order {id}")),
                self.rollouts.get(id).cloned().unwrap_or_default(),
            ),
            Some(("rollout", id)) => (
                target(id).unwrap_or_else(|| format!("rollout {id}")),
                id.to_owned(),
            ),
            Some(("target", rest)) => {
                let name = rest.split_once(':');
                let name = name.map_or_else(|| rest.to_owned(), |(host, it)| on(host, it));
                (name + &number(&entry.body), String::new())
            }
            // A token that names no host.
            Some(("host", "")) => ("any host".to_owned(), String::new()),
            Some(("host", name)) => (name.to_owned(), String::new()),
            _ => (subject.to_owned(), String::new()),
        }
    }
}

fn on(host: &str, target: &str) -> String {
    format!("{target} on {host}")
}

/// `, #3`, where an entry is about one revision.
fn number(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let number = body["number"].as_u64();
    number.map_or_else(String::new, |number| format!(", #{number}"))
}

/// `ctl record verify`.
pub(crate) fn verified(response: &v1::VerifyRecordResponse) -> String {
    match &response.problem {
        None => format!(
            "✔ the record holds: {}, the newest with the hash {}\n",
            counted(response.entries, "entry", "entries"),
            clean(&response.head_hash)
        ),
        Some(problem) => format!(
            "✖ the record is broken at entry {}: {}\n",
            response.broken_at,
            super::problem(problem)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_hosts_targets_and_people() {
        let entry =
            |number: u64, actor: &str, action: &str, subject: &str, body: &str| v1::RecordEntry {
                number,
                at_ms: 1000,
                actor: actor.into(),
                action: action.into(),
                subject: subject.into(),
                body: body.into(),
                hash: "ab".repeat(32),
                ..Default::default()
            };
        let place = r#"{"rollout":"r1","host":"web-1","target":"docker/shop"}"#;
        let entries = [
            entry(8, "controller", "rollout.finished", "rollout:r1", "{}"),
            entry(7, "agent:web-1", "evidence.seen", "order:o1", "{}"),
            entry(6, "agent:web-1", "evidence.seen", "order:o0", "no JSON"),
            entry(5, "operator:alice", "order.created", "order:o1", place),
            entry(
                4,
                "agent:web-1",
                "revision.seen",
                "target:web-1:docker/shop",
                r#"{"number":2}"#,
            ),
            entry(
                3,
                "operator:al\x1b[2Jice",
                "host.revoked",
                "host:web-2",
                "{}",
            ),
            entry(2, "operator:alice", "token.created", "host:", "{}"),
            entry(1, "controller", "controller.started", "controller", "{}"),
        ];
        insta::assert_snapshot!(list(View::plain(2000), &entries), @r"
        NUMBER  WHEN     WHO             WHAT                OF                        ROLLOUT  HASH
        8       1 s ago  controller      rollout.finished    docker/shop on web-1      r1       abababababab
        7       1 s ago  agent of web-1  evidence.seen       docker/shop on web-1      r1       abababababab
        6       1 s ago  agent of web-1  evidence.seen       order o0                           abababababab
        5       1 s ago  alice           order.created       docker/shop on web-1      r1       abababababab
        4       1 s ago  agent of web-1  revision.seen       docker/shop on web-1, #2           abababababab
        3       1 s ago  al\u{1b}[2Jice  host.revoked        web-2                              abababababab
        2       1 s ago  alice           token.created       any host                           abababababab
        1       1 s ago  controller      controller.started  controller                         abababababab
        ");
    }
}
