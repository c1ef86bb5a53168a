//! Targets, their revisions, readiness and differences for people.

use sternway_proto::{digest, v1};

use super::{Sign, host::is_seen, pairs, problem, verdict};
use crate::{
    table::{Rows, plain},
    text::{
        Tone, View, clean, clip, duration, paint, relative, relative_and_absolute, revision_name,
        short_id,
    },
};

/// The sign of a target's state.
pub(crate) fn state(state: v1::TargetState) -> Sign {
    match state {
        v1::TargetState::Unspecified => Sign::new("?", "unknown", Tone::Dim),
        v1::TargetState::Running => Sign::new("✔", "running", Tone::Good),
        v1::TargetState::Stopped => Sign::new("✖", "stopped", Tone::Bad),
        v1::TargetState::Restarting => Sign::new("⚠", "restarting", Tone::Bad),
        v1::TargetState::Gone => Sign::new("✖", "gone", Tone::Bad),
    }
}

/// What a rollback can be said to do while nobody sees the host. What was found before says nothing of now.
const UNSEEN: Sign = Sign::new("?", "unknown", Tone::Warn);

/// The sign of a readiness: as the host's agent tells it, for as long as it can.
pub(crate) fn readiness_sign(host: &v1::Host, target: &v1::Target) -> Sign {
    if is_seen(host) {
        told_sign(target)
    } else {
        UNSEEN
    }
}

/// The sign of the readiness that the agent told last.
fn told_sign(target: &v1::Target) -> Sign {
    if target.unsupported.is_some() {
        return Sign::new("✖", "unsupported", Tone::Bad);
    }
    match target.readiness.as_ref().map(v1::Readiness::verdict) {
        None | Some(v1::ReadinessVerdict::Unspecified) => Sign::new("?", "unknown", Tone::Dim),
        Some(v1::ReadinessVerdict::Ready) => Sign::new("✔", "ready", Tone::Good),
        Some(v1::ReadinessVerdict::NotReady) => Sign::new("✖", "not ready", Tone::Bad),
        Some(v1::ReadinessVerdict::NoPredecessor) => Sign::new("◌", "no predecessor", Tone::Dim),
    }
}

fn revision<'a>(target: &'a v1::Target, id: &str) -> Option<&'a v1::Revision> {
    target.revisions.iter().find(|revision| revision.id == id)
}

fn name_of(target: &v1::Target, id: &str) -> String {
    revision_name(
        revision(target, id).map_or(0, |revision| revision.number),
        id,
    )
}

fn image_of(target: &v1::Target) -> String {
    revision(target, &target.current_revision).map_or_else(String::new, |it| it.image.clone())
}

/// What runs, and that it is marked bad: whoever deployed it again did not ask.
fn runs(target: &v1::Target) -> (String, Tone) {
    let name = name_of(target, &target.current_revision);
    let mark = revision(target, &target.current_revision).map(v1::Revision::mark);
    match mark {
        Some(v1::Mark::Bad) => (format!("{name} ✖ bad"), Tone::Bad),
        _ => plain(name),
    }
}

/// `ctl target ls`.
pub(crate) fn list(view: View, targets: &[v1::HostTarget]) -> String {
    let mut rows = Rows::new(&[
        "HOST", "TARGET", "STATE", "HEALTH", "REVISION", "IMAGE", "ROLLBACK",
    ])
    .spare(&["IMAGE"])
    .names("IMAGE", 16)
    .words("STATE", 20);
    for (host, target) in parts(targets) {
        rows.push([
            host_cell(host),
            plain(&target.name),
            now(target),
            health(target).cell(),
            runs(target),
            plain(image_of(target)),
            readiness_sign(host, target).cell(),
        ]);
    }
    rows.render(view, "no targets")
}

/// What a target does now: what it runs is on the move while it is restored.
fn now(target: &v1::Target) -> (String, Tone) {
    match target.active_rollout.as_str() {
        "" => state(target.state()).cell(),
        rollout => (
            format!("◌ restoring, rollout {}", clean(rollout)),
            Tone::Warn,
        ),
    }
}

/// What the checks say. What they said before a restore does not hold during it.
fn health(target: &v1::Target) -> Sign {
    match target.active_rollout.as_str() {
        "" => verdict(target.health()),
        _ => Sign::new("◌", "not known yet", Tone::Dim),
    }
}

fn parts(targets: &[v1::HostTarget]) -> impl Iterator<Item = (&v1::Host, &v1::Target)> {
    targets
        .iter()
        .filter_map(|it| Some((it.host.as_ref()?, it.target.as_ref()?)))
}

fn host_cell(host: &v1::Host) -> (String, Tone) {
    match host.state() {
        v1::HostState::Online => plain(&host.name),
        other => (
            format!("{} ({})", host.name, super::host::state(other).text()),
            Tone::Warn,
        ),
    }
}

/// `ctl readiness`.
pub(crate) fn readiness(view: View, targets: &[v1::HostTarget]) -> String {
    let mut rows = Rows::new(&["HOST", "TARGET", "ROLLBACK", "WOULD GO", "TOLD", "PROBLEMS"])
        .spare(&["TOLD", "WOULD GO"])
        .sentence("PROBLEMS");
    for (host, target) in parts(targets) {
        let readiness = target.readiness.clone().unwrap_or_default();
        let to = match readiness.revision.as_str() {
            "" => String::new(),
            id => format!(
                "{} → {}",
                name_of(target, &target.current_revision),
                name_of(target, id)
            ),
        };
        let unseen = unseen(view, host, target);
        let why: Vec<String> = target
            .unsupported
            .iter()
            .chain(&readiness.problems)
            .chain(&unseen)
            .map(problem)
            .collect();
        rows.push([
            host_cell(host),
            plain(&target.name),
            readiness_sign(host, target).cell(),
            plain(to),
            // Looked at again and again since then: that nothing has changed is not told.
            plain(relative(view, readiness.checked_at_ms)),
            plain(why.join("; ")),
        ]);
    }
    rows.render(view, "no targets")
}

/// Whether `ctl readiness` has nothing to complain about.
pub(crate) fn all_ready(targets: &[v1::HostTarget]) -> bool {
    parts(targets).all(|(host, target)| {
        matches!(
            readiness_sign(host, target).word,
            "ready" | "no predecessor"
        )
    })
}

/// Why nothing can be said of a rollback on a host that nobody sees, and since when; none where it is seen.
fn unseen(view: View, host: &v1::Host, target: &v1::Target) -> Option<v1::Problem> {
    if is_seen(host) {
        return None;
    }
    let (name, last) = (&host.name, told_sign(target).word);
    let (message, next) = match host.state() {
        v1::HostState::Revoked => (
            format!("{name} is revoked: no rollback reaches it"),
            String::new(),
        ),
        // The clocks of two machines differ by a little.
        _ => (
            format!(
                "{name} was last seen {}; it said {last} then",
                relative(view, host.last_seen_ms.min(view.now_ms))
            ),
            format!("bring its agent back: `ctl host show {name}`"),
        ),
    };
    Some(v1::Problem::new("host-offline", message, next))
}

/// `ctl target show`.
pub(crate) fn show(view: View, host: &v1::Host, target: &v1::Target) -> String {
    let current = name_of(target, &target.current_revision);
    let mut text = pairs(
        view,
        &[
            ("target", clean(&target.name)),
            (
                "host",
                format!(
                    "{} ({})",
                    clean(&host.name),
                    super::host::state(host.state()).painted(view)
                ),
            ),
            ("state", painted_now(view, target)),
            (
                "revision",
                format!("{current} {}", clip(&image_of(target), 120))
                    .trim_end()
                    .to_owned(),
            ),
            ("health", health(target).painted(view)),
            ("rollback", readiness_sign(host, target).painted(view)),
            ("follow it with", follow(target)),
        ],
    );
    let readiness = target
        .readiness
        .as_ref()
        .map(|it| it.problems.as_slice())
        .unwrap_or_default();
    // What is no obstacle to a rollback is worth knowing.
    let icon = match told_sign(target).tone {
        Tone::Bad => "✖",
        _ => "⚠",
    };
    if let Some(why) = unseen(view, host, target) {
        text.push_str(&format!("  ⚠ {}\n", problem(&why)));
    }
    for why in target.unsupported.iter().chain(readiness) {
        text.push_str(&format!("  {icon} {}\n", problem(why)));
    }
    if !target.health_evidence.is_empty() {
        text.push('\n');
        text.push_str(&evidence(view, &target.health_evidence));
    }
    text
}

fn painted_now(view: View, target: &v1::Target) -> String {
    let (text, tone) = now(target);
    paint(view, tone, &text)
}

fn follow(target: &v1::Target) -> String {
    match target.active_rollout.as_str() {
        "" => String::new(),
        rollout => format!("ctl rollout watch {}", clean(rollout)),
    }
}

/// `ctl history`, newest first.
pub(crate) fn history(
    view: View,
    target: &v1::Target,
    deployments: &[v1::Deployment],
    failures: &[v1::FailedRestore],
) -> String {
    let mut rows = Rows::new(&[
        "REVISION",
        "ID",
        "STATE",
        "IMAGE",
        "FIRST SEEN",
        "BECAME CURRENT",
        "BY",
        "NOTE",
    ])
    .spare(&["ID", "BY", "FIRST SEEN", "BECAME CURRENT"])
    .names("IMAGE", 16)
    .words("STATE", 20)
    .sentence("NOTE");
    for revision in &target.revisions {
        // The controller leaves out what was outlived; when a revision became current is told by another clock.
        let failed: Vec<&v1::FailedRestore> = failures
            .iter()
            .filter(|it| it.revision == revision.id)
            .collect();
        let (state, tone) = revision_state(target, revision, &failed);
        rows.push([
            plain(format!("#{}", revision.number)),
            plain(short_id(&revision.id)),
            (state, tone),
            plain(&revision.image),
            plain(relative(view, revision.first_seen_ms)),
            plain(relative(view, revision.last_active_ms)),
            plain(&revision.origin),
            plain(note(view, revision, deployments, &failed)),
        ]);
    }
    rows.render(view, "no revisions were seen yet")
}

/// Whether that restore came to nothing because the revision failed its checks.
fn failed_checks(failed: &v1::FailedRestore) -> bool {
    let problem = failed.problem.as_ref();
    problem.is_some_and(|it| it.code == "check-failed")
}

fn revision_state(
    target: &v1::Target,
    revision: &v1::Revision,
    failed: &[&v1::FailedRestore],
) -> (String, Tone) {
    let mut words = Vec::new();
    let mut tone = Tone::Plain;
    if revision.known_good || revision.mark() == v1::Mark::Good {
        words.push("✔ known-good");
        tone = Tone::Good;
    }
    if revision.mark() == v1::Mark::Bad {
        words = vec!["✖ bad"];
        tone = Tone::Bad;
    }
    let current = revision.id == target.current_revision;
    let still = target.active_rollout.is_empty();
    let fails = current && still && target.health() == v1::Verdict::Failed;
    if fails || failed.iter().any(|it| failed_checks(it)) {
        words.push(if fails {
            "✖ fails its checks"
        } else {
            "✖ failed its checks"
        });
        tone = Tone::Bad;
    }
    if current {
        words.insert(0, "● current");
    }
    (words.join(", "), tone)
}

/// The newest of the restores that failed, and how many there were.
fn failure(view: View, failed: &[&v1::FailedRestore]) -> Option<String> {
    let newest = failed.first()?;
    let what = match newest.outcome() {
        v1::Outcome::NeedsHuman => "its restore needs a person",
        _ if failed_checks(newest) => "failed its checks",
        _ => "could not be restored",
    };
    let often = match failed.len() {
        1 => String::new(),
        times => format!(" (the newest of {times} failures)"),
    };
    Some(format!(
        "{what} in rollout {}, {}{often}",
        clean(&newest.rollout),
        relative(view, newest.at_ms)
    ))
}

fn note(
    view: View,
    revision: &v1::Revision,
    deployments: &[v1::Deployment],
    failed: &[&v1::FailedRestore],
) -> String {
    let mut notes = Vec::from_iter(failure(view, failed));
    if revision.gone {
        notes.push("no longer on the host".to_owned());
    }
    if !revision.mark_reason.is_empty() {
        notes.push(clean(&revision.mark_reason));
    }
    for deployment in deployments
        .iter()
        .filter(|it| digest::names(&it.digest, revision))
    {
        let parts = [
            &deployment.version,
            &deployment.commit,
            &deployment.author,
            &deployment.reason,
        ];
        let mut parts: Vec<String> = parts
            .iter()
            .filter(|it| !it.is_empty())
            .map(|it| clean(it))
            .collect();
        if !matches!(deployment.migration.as_str(), "" | "none") {
            parts.push(format!("({} migration)", clean(&deployment.migration)));
        }
        notes.push(parts.join(" "));
    }
    notes.join("; ")
}

/// `ctl diff`.
pub(crate) fn diff(view: View, response: &v1::DiffRevisionsResponse) -> String {
    let name = |revision: &Option<v1::Revision>| match revision {
        Some(it) => format!(
            "#{} ({}, {})",
            it.number,
            short_id(&it.id),
            clip(&it.image, 100)
        ),
        None => "nothing".to_owned(),
    };
    let head = format!("{} → {}\n", name(&response.before), name(&response.after));
    let body = if response.changes.is_empty() {
        "  no difference\n".to_owned()
    } else {
        changes(view, &response.changes)
    };
    head + &body
}

/// The fields that differ, one a line; values of private fields are not there to show.
pub(crate) fn changes(view: View, changes: &[v1::FieldChange]) -> String {
    const VALUE: usize = 100;
    let mut text = String::new();
    for change in changes {
        let path = clip(&change.path, VALUE);
        let line = match (&change.before, &change.after, change.private) {
            (Some(_), Some(_), true) => (Tone::Warn, format!("~ {path}: changed (private)")),
            (None, Some(_), true) => (Tone::Good, format!("+ {path}: added (private)")),
            (Some(_), None, true) => (Tone::Bad, format!("- {path}: removed (private)")),
            (Some(before), Some(after), false) => (
                Tone::Warn,
                format!("~ {path}: {} → {}", clip(before, VALUE), clip(after, VALUE)),
            ),
            (None, Some(after), false) => (Tone::Good, format!("+ {path}: {}", clip(after, VALUE))),
            (Some(before), None, false) => {
                (Tone::Bad, format!("- {path}: {}", clip(before, VALUE)))
            }
            (None, None, _) => continue,
        };
        text.push_str(&format!("  {}\n", paint(view, line.0, &line.1)));
    }
    text
}

/// A table of evidence.
pub(crate) fn evidence(view: View, evidence: &[v1::Evidence]) -> String {
    let mut rows = Rows::new(&[
        "CHECK", "OF", "SUBJECT", "EXPECTED", "OBSERVED", "TRIES", "TOOK", "VERDICT",
    ])
    .spare(&["TRIES", "TOOK", "OF"])
    .names("SUBJECT", 20)
    .words("EXPECTED", 16)
    .words("OBSERVED", 20);
    for it in evidence {
        rows.push([
            plain(&it.check),
            plain(&it.instance),
            plain(&it.subject),
            plain(&it.expected),
            plain(&it.observed),
            plain(it.attempts.to_string()),
            plain(duration(it.duration_ms)),
            verdict(it.verdict()).cell(),
        ]);
    }
    rows.render(view, "no evidence")
}

/// One revision in a sentence: what `ctl revision mark` answers.
pub(crate) fn marked(view: View, host: &str, target: &str, revision: &v1::Revision) -> String {
    let (icon, state) = match revision.mark() {
        v1::Mark::Bad => ("✖", "is marked bad: no rollback goes to it"),
        v1::Mark::Good => ("✔", "is marked good"),
        v1::Mark::Unspecified => ("◌", "has no mark any more"),
    };
    let reason = match revision.mark_reason.as_str() {
        "" => String::new(),
        reason => format!(" ({})", clean(reason)),
    };
    let when = relative_and_absolute(view, revision.first_seen_ms);
    format!(
        "{icon} revision #{} of {} on {} {state}{reason}\n  {} {}, first seen {when}\n",
        revision.number,
        clean(target),
        clean(host),
        short_id(&revision.id),
        clip(&revision.image, 120),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> v1::Target {
        let revision = |number: u32, id: &str| v1::Revision {
            id: id.repeat(64),
            number,
            first_seen_ms: 1000,
            last_active_ms: 2000,
            image: format!("shop:{number}"),
            image_id: format!("sha256:{id}"),
            origin: "deployment".into(),
            ..Default::default()
        };
        v1::Target {
            name: "docker/shop".into(),
            state: v1::TargetState::Running.into(),
            current_revision: "b".repeat(64),
            revisions: vec![
                v1::Revision {
                    mark: v1::Mark::Bad.into(),
                    mark_reason: "500s\x1b[8m".into(),
                    ..revision(2, "b")
                },
                v1::Revision {
                    known_good: true,
                    ..revision(1, "a")
                },
            ],
            readiness: Some(v1::Readiness {
                verdict: v1::ReadinessVerdict::NotReady.into(),
                revision: "a".repeat(64),
                problems: vec![v1::Problem::new(
                    "image-missing",
                    "the image is gone",
                    "push it",
                )],
                checked_at_ms: 3000,
            }),
            health: v1::Verdict::Failed.into(),
            ..Default::default()
        }
    }

    fn host_target() -> v1::HostTarget {
        v1::HostTarget {
            host: Some(v1::Host {
                name: "web-1".into(),
                state: v1::HostState::Online.into(),
                last_seen_ms: 33_000,
                ..Default::default()
            }),
            target: Some(target()),
        }
    }

    #[test]
    fn targets_readiness_and_history_read_well() {
        let view = View::plain(63_000);
        insta::assert_snapshot!(list(view, &[host_target()]), @r"
        HOST   TARGET       STATE      HEALTH    REVISION  IMAGE   ROLLBACK
        web-1  docker/shop  ✔ running  ✖ failed  #2 ✖ bad  shop:2  ✖ not ready
        ");
        insta::assert_snapshot!(readiness(view, &[host_target()]), @r"
        HOST   TARGET       ROLLBACK     WOULD GO  TOLD      PROBLEMS
        web-1  docker/shop  ✖ not ready  #2 → #1   60 s ago  the image is gone → push it
        ");
        assert!(!all_ready(&[host_target()]));
        let deployments = [v1::Deployment {
            digest: "shop@sha256:a".into(),
            commit: "c0ffee".into(),
            migration: "destructive".into(),
            ..Default::default()
        }];
        let failed = |revision: &str, code: &str, at_ms: i64| v1::FailedRestore {
            revision: revision.repeat(64),
            rollout: "0198a1b2-0000-7000-8000-000000000001".into(),
            at_ms,
            outcome: v1::Outcome::Undone.into(),
            problem: Some(v1::Problem::new(code, "a check failed", "")),
        };
        let failures = [
            failed("a", "check-failed", 3000),
            failed("a", "engine-unreachable", 2500),
        ];
        insta::assert_snapshot!(history(view, &target(), &deployments, &failures), @r"
        REVISION  ID            STATE                                 IMAGE   FIRST SEEN  BECAME CURRENT  BY          NOTE
        #2        bbbbbbbbbbbb  ● current, ✖ bad, ✖ fails its checks  shop:2  62 s ago    61 s ago        deployment  500s\u{1b}[8m
        #1        aaaaaaaaaaaa  ✔ known-good, ✖ failed its checks     shop:1  62 s ago    61 s ago        deployment  failed its checks in rollout 0198a1b2-0000-7000-8000-000000000001, 60 s ago (the newest of 2 failures); c0ffee (destructive migration)
        ");
        // Current again since then, by the host's own clock and unchecked: what was outlived is left out by the
        // controller.
        let mut current_again = target();
        for revision in &mut current_again.revisions {
            revision.last_active_ms = 4000;
        }
        let mut needs = failed("b", "undo-failed", 3500);
        needs.outcome = v1::Outcome::NeedsHuman.into();
        let failures = [needs, failed("a", "check-failed", 3000)];
        insta::assert_snapshot!(history(view, &current_again, &[], &failures), @r"
        REVISION  ID            STATE                                 IMAGE   FIRST SEEN  BECAME CURRENT  BY          NOTE
        #2        bbbbbbbbbbbb  ● current, ✖ bad, ✖ fails its checks  shop:2  62 s ago    59 s ago        deployment  its restore needs a person in rollout 0198a1b2-0000-7000-8000-000000000001, 59 s ago; 500s\u{1b}[8m
        #1        aaaaaaaaaaaa  ✔ known-good, ✖ failed its checks     shop:1  62 s ago    59 s ago        deployment  failed its checks in rollout 0198a1b2-0000-7000-8000-000000000001, 60 s ago
        ");
    }

    #[test]
    fn of_a_host_that_nobody_sees_no_rollback_is_called_ready() {
        let view = View::plain(63_000);
        let mut away = host_target();
        let set = |away: &mut v1::HostTarget, state: v1::HostState, verdict| {
            away.host.as_mut().expect("set").state = state.into();
            away.target.as_mut().expect("set").readiness = Some(v1::Readiness {
                verdict,
                revision: "a".repeat(64),
                checked_at_ms: 3000,
                ..Default::default()
            });
        };
        for verdict in [
            v1::ReadinessVerdict::Ready,
            v1::ReadinessVerdict::NoPredecessor,
        ] {
            set(&mut away, v1::HostState::Online, verdict.into());
            assert!(all_ready(std::slice::from_ref(&away)), "{verdict:?}");
            for state in [
                v1::HostState::Offline,
                v1::HostState::Revoked,
                v1::HostState::Unspecified,
            ] {
                set(&mut away, state, verdict.into());
                assert!(!all_ready(std::slice::from_ref(&away)), "{state:?}");
            }
        }
        set(
            &mut away,
            v1::HostState::Offline,
            v1::ReadinessVerdict::Ready.into(),
        );
        insta::assert_snapshot!(list(view, std::slice::from_ref(&away)), @r"
        HOST               TARGET       STATE      HEALTH    REVISION  IMAGE   ROLLBACK
        web-1 (✖ offline)  docker/shop  ✔ running  ✖ failed  #2 ✖ bad  shop:2  ? unknown
        ");
        insta::assert_snapshot!(readiness(view, std::slice::from_ref(&away)), @r"
        HOST               TARGET       ROLLBACK   WOULD GO  TOLD      PROBLEMS
        web-1 (✖ offline)  docker/shop  ? unknown  #2 → #1   60 s ago  web-1 was last seen 30 s ago; it said ready then → bring its agent back: `ctl host show web-1`
        ");
        let (host, target) = (away.host.expect("set"), away.target.expect("set"));
        let text = show(view, &host, &target);
        assert!(text.contains("rollback  ? unknown"), "{text}");
        assert!(text.contains("⚠ web-1 was last seen 30 s ago"), "{text}");
    }

    #[test]
    fn a_target_that_is_being_restored_says_so_with_its_rollout() {
        let mut busy = host_target();
        let target = busy.target.as_mut().expect("set");
        target.active_order = "0198a1b2-0000-7000-8000-00000000000f".into();
        target.active_rollout = "0198a1b2-0000-7000-8000-000000000001".into();
        let view = View::plain(63_000);
        insta::assert_snapshot!(list(view, std::slice::from_ref(&busy)), @r"
        HOST   TARGET       STATE                                                      HEALTH           REVISION  IMAGE   ROLLBACK
        web-1  docker/shop  ◌ restoring, rollout 0198a1b2-0000-7000-8000-000000000001  ◌ not known yet  #2 ✖ bad  shop:2  ✖ not ready
        ");
        let (host, target) = (busy.host.expect("set"), busy.target.expect("set"));
        insta::assert_snapshot!(show(view, &host, &target), @r"
        target          docker/shop
        host            web-1 (✔ online)
        state           ◌ restoring, rollout 0198a1b2-0000-7000-8000-000000000001
        revision        #2 shop:2
        health          ◌ not known yet
        rollback        ✖ not ready
        follow it with  ctl rollout watch 0198a1b2-0000-7000-8000-000000000001
          ✖ the image is gone → push it
        ");
    }

    #[test]
    fn a_history_on_eighty_columns_keeps_the_rollout_in_sight() {
        let failed = v1::FailedRestore {
            revision: "a".repeat(64),
            rollout: "0198a1b2-0000-7000-8000-000000000001".into(),
            at_ms: 3000,
            outcome: v1::Outcome::Undone.into(),
            problem: Some(v1::Problem::new("check-failed", "a check failed", "")),
        };
        let view = View {
            width: Some(80),
            ..View::plain(63_000)
        };
        let text = history(view, &target(), &[], &[failed]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        insta::assert_snapshot!(text, @r"
        REVISION  STATE                   IMAGE   NOTE
        #2        ● current, ✖ bad,       shop:2  500s\u{1b}[8m
                  ✖ fails its checks
        #1        ✔ known-good, ✖ failed  shop:1  failed its checks in rollout
                  its checks                      0198a1b2-0000-7000-8000-000000000001,
                                                  60 s ago
        ");
    }

    #[test]
    fn private_values_are_named_and_not_shown() {
        let change =
            |path: &str, before: Option<&str>, after: Option<&str>, private| v1::FieldChange {
                path: path.into(),
                before: before.map(Into::into),
                after: after.map(Into::into),
                private,
            };
        let text = changes(
            View::plain(0),
            &[
                change("image", Some("shop:2"), Some("shop:1"), false),
                change("env.TOKEN", Some("hash-1"), Some("hash-2"), true),
                change("env.NEW", None, Some("hash-3"), true),
                change("labels.x", Some("\x1b]0;t\x07"), None, false),
            ],
        );
        assert!(!text.contains("hash-"));
        insta::assert_snapshot!(text, @r"
        ~ image: shop:2 → shop:1
        ~ env.TOKEN: changed (private)
        + env.NEW: added (private)
        - labels.x: \u{1b}]0;t\u{7}
        ");
    }
}
