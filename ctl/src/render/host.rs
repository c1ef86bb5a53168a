//! Hosts for people.

use std::collections::HashMap;

use sternway_proto::v1;

use super::{Sign, pairs};
use crate::{
    table::{Rows, plain},
    text::{Tone, View, clean, paint, relative, relative_and_absolute},
};

/// The sign of a host's state.
pub(crate) fn state(state: v1::HostState) -> Sign {
    match state {
        v1::HostState::Unspecified => Sign::new("?", "unknown", Tone::Dim),
        v1::HostState::Online => Sign::new("✔", "online", Tone::Good),
        v1::HostState::Offline => Sign::new("✖", "offline", Tone::Bad),
        v1::HostState::Revoked => Sign::new("✖", "revoked", Tone::Dim),
    }
}

/// Whether what its agent told of it holds now: while it is connected it tells every change.
pub(crate) fn is_seen(host: &v1::Host) -> bool {
    host.state() == v1::HostState::Online
}

/// `env=production role=web`, sorted.
pub(crate) fn labels(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{}={}", clean(key), clean(value)))
        .collect();
    pairs.sort();
    pairs.join(" ")
}

/// ` --label env=production --label role=web`, sorted.
pub(crate) fn label_flags(of: &HashMap<String, String>) -> String {
    let pairs = labels(of);
    let pairs = pairs.split(' ').filter(|pair| !pair.is_empty());
    pairs.map(|pair| format!(" --label {pair}")).collect()
}

/// What a token leaves out that the revoked host of its name had.
pub(crate) fn labels_left_out(
    earlier: &v1::Host,
    given: &HashMap<String, String>,
) -> Option<String> {
    let mut left = earlier.labels.clone();
    left.retain(|key, _| !given.contains_key(key));
    if earlier.state() != v1::HostState::Revoked || left.is_empty() {
        return None;
    }
    let production = match left.get("env").map(String::as_str) {
        Some("production") => {
            " (without env=production no command asks for its name before it acts)"
        }
        _ => "",
    };
    Some(format!(
        "⚠ the revoked host {} had labels that this token does not give{production}: where they shall hold again, make \
         it with{}",
        clean(&earlier.name),
        label_flags(&left)
    ))
}

/// `ctl host ls`.
pub(crate) fn list(view: View, hosts: &[v1::Host]) -> String {
    let mut rows = Rows::new(&[
        "HOST",
        "STATE",
        "ROLLBACK",
        "AGENT",
        "ENGINE",
        "LAST SEEN",
        "LABELS",
    ])
    .spare(&["AGENT", "LAST SEEN", "ENGINE"])
    .words("ROLLBACK", 18)
    .words("LABELS", 24);
    for host in hosts {
        rows.push([
            plain(&host.name),
            state(host.state()).cell(),
            readiness(host),
            plain(&host.agent_version),
            engine(host),
            // The clocks of two machines differ by a little.
            plain(relative(view, host.last_seen_ms.min(view.now_ms))),
            plain(labels(&host.labels)),
        ]);
    }
    rows.render(view, "no hosts; `ctl host token` makes a token to join one")
}

/// How many targets could be rolled back now, in the words of `ctl readiness`.
fn readiness(host: &v1::Host) -> (String, Tone) {
    if !is_seen(host) && host.target_count > 0 {
        return (format!("? {} unknown", host.target_count), Tone::Warn);
    }
    let first = host.targets_without_predecessor;
    let known = host.targets_ready.saturating_add(first);
    let not_ready = host.target_count.saturating_sub(known);
    let counts = [
        (not_ready, "✖", "not ready", Tone::Bad),
        (host.targets_ready, "✔", "ready", Tone::Good),
        (first, "◌", "no predecessor", Tone::Dim),
    ];
    let counts: Vec<_> = counts.into_iter().filter(|it| it.0 > 0).collect();
    let texts: Vec<String> = counts
        .iter()
        .map(|(count, icon, word, _)| format!("{icon} {count} {word}"))
        .collect();
    match counts.first() {
        None => ("no targets".to_owned(), Tone::Dim),
        Some((.., worst)) => (texts.join(", "), *worst),
    }
}

fn engine(host: &v1::Host) -> (String, Tone) {
    match &host.facts {
        Some(facts) if !facts.engine_problem.is_empty() => ("✖ no answer".to_owned(), Tone::Bad),
        Some(facts) => plain(&facts.engine_version),
        None => plain(""),
    }
}

/// `ctl host show`.
pub(crate) fn show(view: View, host: &v1::Host) -> String {
    known(view, host) + &way_back(view, host)
}

fn known(view: View, host: &v1::Host) -> String {
    let facts = host.facts.clone().unwrap_or_default();
    let engine = match facts.engine_problem.as_str() {
        "" if facts.engine_version.is_empty() => String::new(),
        "" => format!(
            "{} (API {})",
            clean(&facts.engine_version),
            clean(&facts.engine_api)
        ),
        problem => format!("✖ does not answer: {}", clean(problem)),
    };
    let system = [&facts.os, &facts.kernel, &facts.architecture].map(|text| clean(text));
    let system: Vec<&str> = system
        .iter()
        .map(String::as_str)
        .filter(|t| !t.is_empty())
        .collect();
    pairs(
        view,
        &[
            ("host", clean(&host.name)),
            ("id", clean(&host.id)),
            ("state", state(host.state()).painted(view)),
            ("last seen", relative_and_absolute(view, host.last_seen_ms)),
            ("labels", labels(&host.labels)),
            ("agent", clean(&host.agent_version)),
            ("system", system.join(", ")),
            ("engine", engine),
            ("clock", clock(host.clock_offset_ms)),
            ("joined", relative_and_absolute(view, host.joined_ms)),
            certificate(view, host),
            ("rollback", readiness(host).0),
        ],
    )
}

/// Whether its certificate has ended: without one its agent is not let in.
fn has_ended(view: View, host: &v1::Host) -> bool {
    (1..=view.now_ms).contains(&host.certificate_not_after_ms)
}

fn certificate(view: View, host: &v1::Host) -> (&'static str, String) {
    let when = relative_and_absolute(view, host.certificate_not_after_ms);
    if has_ended(view, host) {
        ("certificate", format!("✖ ended {when}"))
    } else {
        ("certificate valid until", when)
    }
}

/// How a host comes back whose certificate has ended while it was away.
fn way_back(view: View, host: &v1::Host) -> String {
    if !has_ended(view, host) || host.state() != v1::HostState::Offline {
        return String::new();
    }
    let name = clean(&host.name);
    let way = format!(
        "⚠ it is not let in any more, and has to join anew:\n  \
         ctl host revoke {name}\n  \
         ctl host token --name {name}{}\n\
         then on the host stop the agent, `sternway-agent join --again TOKEN`, and start it",
        label_flags(&host.labels)
    );
    paint(view, Tone::Warn, &way) + "\n"
}

/// What is about to be cut off, and what is being done there.
pub(crate) fn before_revocation(
    view: View,
    controller: &str,
    host: &v1::Host,
    targets: &[v1::Target],
) -> String {
    let mut text = pairs(view, &[("controller", clean(controller))]) + &known(view, host);
    for target in targets.iter().filter(|it| !it.active_rollout.is_empty()) {
        let warning = format!(
            "⚠ {} is being restored by rollout {}: the host carries it out to its end, and nobody hears how it ended",
            clean(&target.name),
            clean(&target.active_rollout)
        );
        text.push_str(&(paint(view, Tone::Warn, &warning) + "\n"));
    }
    text
}

/// Below a second nobody needs to know.
fn clock(offset_ms: i64) -> String {
    match offset_ms {
        -999..=999 => String::new(),
        1000.. => format!(
            "⚠ {} ahead of the controller",
            crate::text::duration(offset_ms)
        ),
        _ => format!(
            "⚠ {} behind the controller",
            crate::text::duration(offset_ms.saturating_neg())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> v1::Host {
        v1::Host {
            id: "0198".into(),
            name: name.into(),
            labels: [
                ("env".into(), "staging".into()),
                ("role".into(), "web\x07".into()),
            ]
            .into(),
            state: v1::HostState::Online.into(),
            last_seen_ms: 1_000_000,
            agent_version: "0.1.0".into(),
            target_count: 3,
            targets_ready: 1,
            targets_without_predecessor: 1,
            clock_offset_ms: -90_000,
            facts: Some(v1::HostFacts {
                os: "Debian 12".into(),
                engine_problem: "permission denied".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn hosts_are_listed_with_icon_and_word() {
        let hosts = [host("web-1"), host("we\x1b[2Jb-2")];
        insta::assert_snapshot!(list(View::plain(1_005_000), &hosts), @r"
        HOST            STATE     ROLLBACK                                      AGENT  ENGINE       LAST SEEN  LABELS
        web-1           ✔ online  ✖ 1 not ready, ✔ 1 ready, ◌ 1 no predecessor  0.1.0  ✖ no answer  5 s ago    env=staging role=web\u{7}
        we\u{1b}[2Jb-2  ✔ online  ✖ 1 not ready, ✔ 1 ready, ◌ 1 no predecessor  0.1.0  ✖ no answer  5 s ago    env=staging role=web\u{7}
        ");
        insta::assert_snapshot!(list(View::plain(0), &[]), @r"
        no hosts; `ctl host token` makes a token to join one
        ");
    }

    #[test]
    fn a_host_whose_certificate_has_ended_is_told_with_the_way_back() {
        let ended = v1::Host {
            state: v1::HostState::Offline.into(),
            certificate_not_after_ms: 1_000_000,
            labels: [
                ("env".into(), "production".into()),
                ("role".into(), "web".into()),
            ]
            .into(),
            ..host("web-1")
        };
        let said = show(View::plain(1_042_000), &ended);
        assert!(!said.contains("valid until"), "{said}");
        let (_, end) = said.split_once("certificate ").expect("told");
        insta::assert_snapshot!(end, @r"
         ✖ ended 42 s ago (1970-01-01T00:16:40.000Z)
        rollback     ? 3 unknown
        ⚠ it is not let in any more, and has to join anew:
          ctl host revoke web-1
          ctl host token --name web-1 --label env=production --label role=web
        then on the host stop the agent, `sternway-agent join --again TOKEN`, and start it
        ");
        // Of one that is revoked already, and one that is valid, there is nothing to say.
        let revoked = v1::Host {
            state: v1::HostState::Revoked.into(),
            ..ended.clone()
        };
        assert!(!show(View::plain(1_042_000), &revoked).contains("join anew"));
        let said = show(View::plain(990_000), &ended);
        assert!(said.contains("valid until  in 10 s"), "{said}");
    }

    #[test]
    fn labels_of_a_revoked_host_that_its_token_leaves_out_are_told() {
        let revoked = v1::Host {
            state: v1::HostState::Revoked.into(),
            labels: [
                ("env".into(), "production".into()),
                ("role".into(), "web".into()),
            ]
            .into(),
            ..host("web-1")
        };
        let given = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()));
            labels_left_out(&revoked, &pairs.collect())
        };
        insta::assert_snapshot!(given(&[]).expect("told"), @"⚠ the revoked host web-1 had labels that this token does not give (without env=production no command asks for its name before it acts): where they shall hold again, make it with --label env=production --label role=web");
        insta::assert_snapshot!(given(&[("env", "staging")]).expect("told"), @"⚠ the revoked host web-1 had labels that this token does not give: where they shall hold again, make it with --label role=web");
        assert_eq!(given(&[("env", "staging"), ("role", "db")]), None);
        assert_eq!(labels_left_out(&host("web-1"), &HashMap::new()), None);
    }

    #[test]
    fn of_a_host_that_is_away_no_target_counts_as_ready() {
        let away = v1::Host {
            state: v1::HostState::Offline.into(),
            ..host("web-1")
        };
        assert_eq!(readiness(&away).0, "? 3 unknown");
        let empty = v1::Host {
            target_count: 0,
            targets_ready: 0,
            targets_without_predecessor: 0,
            ..away
        };
        assert_eq!(readiness(&empty).0, "no targets");
    }

    #[test]
    fn a_host_shows_what_is_wrong_with_it() {
        insta::assert_snapshot!(show(View::plain(1_005_000), &host("web-1")), @r"
        host                     web-1
        id                       0198
        state                    ✔ online
        last seen                5 s ago (1970-01-01T00:16:40.000Z)
        labels                   env=staging role=web\u{7}
        agent                    0.1.0
        system                   Debian 12
        engine                   ✖ does not answer: permission denied
        clock                    ⚠ 90.0 s behind the controller
        joined                   never
        certificate valid until  never
        rollback                 ✖ 1 not ready, ✔ 1 ready, ◌ 1 no predecessor
        ");
    }
}
