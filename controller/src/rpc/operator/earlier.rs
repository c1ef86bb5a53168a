//! What earlier rollbacks of a target say of a further one. Pure.

use std::collections::HashMap;

use sternway_proto::{
    lineage,
    v1::{self, Outcome, Problem},
};

use crate::{
    select::{Chosen, History},
    store::types::EndedOrder,
};

/// A restore that is not older than this may well be the one that is meant to be made once: `ctl` does not repeat it
/// unasked. Milliseconds.
const JUST_NOW_MS: i64 = 10 * 60_000;

/// By so much the two clocks may disagree, and a host's account may be late, and a restore is still told from a
/// deployment that came after it. Milliseconds.
const SLACK_MS: i64 = 30_000;

/// What is known of the earlier ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier<'a> {
    /// Newest first.
    pub(super) ended: &'a [EndedOrder],
    /// Newest first.
    pub(super) failed: &'a [v1::FailedRestore],
    /// The host's clock minus the controller's.
    pub(super) clock_offset_ms: i64,
    pub(super) now_ms: i64,
}

/// The failures of revisions that were not restored since, or found to pass their checks: what came after says more.
/// `passed`: when that was for the last time, by revision.
pub(super) fn not_outlived(
    failed: Vec<v1::FailedRestore>,
    passed: &HashMap<String, i64>,
) -> Vec<v1::FailedRestore> {
    let outlived = |failed: &v1::FailedRestore| {
        let last = passed.get(&failed.revision);
        last.is_some_and(|at_ms| *at_ms > failed.at_ms)
    };
    failed.into_iter().filter(|it| !outlived(it)).collect()
}

/// What is worth knowing before that revision is restored. `asked` is the person's word for it.
pub(super) fn warnings(
    history: History<'_>,
    asked: &str,
    chosen: &Chosen<'_>,
    earlier: Earlier<'_>,
) -> Vec<Problem> {
    let further = further_back(history, asked, chosen, earlier);
    further
        .into_iter()
        .chain(failed_before(history, chosen, earlier))
        .collect()
}

/// What runs was itself put there by a rollback, and a word that counts from what runs goes back one more.
fn further_back(
    history: History<'_>,
    asked: &str,
    chosen: &Chosen<'_>,
    earlier: Earlier<'_>,
) -> Option<Problem> {
    if !matches!(asked, "" | "previous" | "known-good") {
        return None;
    }
    let runs = history.current()?;
    // One that changed nothing has put nothing there. An undo puts back what a restore had put there: that is still
    // the restore's.
    let put_there = |it: &&EndedOrder| it.running_revision == runs.id;
    let mut those = earlier.ended.iter().filter(put_there);
    let restore = those.clone().find(|it| it.outcome == Outcome::Restored)?;
    let brought = |it: &&EndedOrder| matches!(it.outcome, Outcome::Restored | Outcome::Undone);
    let last = those
        .by_ref()
        .filter(brought)
        .map(|it| it.finished_ms)
        .max()?;
    let last_on_host = last.saturating_add(earlier.clock_offset_ms);
    if runs.last_active_ms > last_on_host.saturating_add(SLACK_MS) {
        return None;
    }
    let age_ms = earlier.now_ms.saturating_sub(restore.finished_ms);
    let code = if age_ms <= JUST_NOW_MS {
        "restored-just-now"
    } else {
        "restored-before"
    };
    Some(Problem::new(
        code,
        format!(
            "what runs, #{}, was put there by rollout {}, {} ago: this goes back one more, to #{}",
            runs.number,
            restore.rollout,
            age(age_ms),
            chosen.revision.number
        ),
        format!(
            "where that is meant, name it: `--to {}`",
            chosen.revision.number
        ),
    ))
}

/// The same restore failed its checks, and nothing says that it would pass them now.
fn failed_before(
    history: History<'_>,
    chosen: &Chosen<'_>,
    earlier: Earlier<'_>,
) -> Option<Problem> {
    let to = chosen.revision;
    let failed = earlier.failed.iter().find(|it| it.revision == to.id)?;
    let by_checks = failed
        .problem
        .as_ref()
        .is_some_and(|it| it.code == "check-failed");
    // What has become current again since then did so by passing them.
    let at_on_host = failed.at_ms.saturating_add(earlier.clock_offset_ms);
    if !by_checks || to.last_active_ms > at_on_host.saturating_add(SLACK_MS) {
        return None;
    }
    let before = lineage::before(&history.target.lineage, Some(&to.id))
        .filter_map(|id| history.revisions.iter().find(|it| it.id == *id))
        .find(|it| it.id != to.id && it.mark() != v1::Mark::Bad);
    let next = match before {
        Some(before) => format!(
            "`--to {}` goes to the one before it; `ctl rollout show {}` says what failed",
            before.number, failed.rollout
        ),
        None => format!(
            "there is none before it; `ctl rollout show {}` says what failed",
            failed.rollout
        ),
    };
    Some(Problem::new(
        "failed-before",
        format!(
            "a restore of #{} failed its checks {} ago, in rollout {}",
            to.number,
            age(earlier.now_ms.saturating_sub(failed.at_ms)),
            failed.rollout
        ),
        next,
    ))
}

/// What runs is marked bad, by whatever came to run it again: an updater or a pipeline that nobody told.
pub(super) fn runs_bad(
    host: &str,
    target: &v1::Target,
    ended: &[EndedOrder],
    now_ms: i64,
) -> Option<Problem> {
    let runs = target
        .revisions
        .iter()
        .find(|it| it.id == target.current_revision && it.mark() == v1::Mark::Bad)?;
    let reason = match runs.mark_reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let left = ended
        .iter()
        .find(|it| it.outcome == Outcome::Restored && it.from_revision == runs.id);
    let left = left.map_or_else(String::new, |it| {
        let ago = age(now_ms.saturating_sub(it.finished_ms));
        format!("; rollout {} went back from it {ago} ago", it.rollout)
    });
    Some(Problem::new(
        "runs-marked-bad",
        format!("what runs, #{}, is marked bad{reason}{left}", runs.number),
        format!(
            "go back, `ctl rollback --host {host} --target {}`, and stop what deploys it: `ctl deployment check` tells \
             a pipeline",
            target.name
        ),
    ))
}

/// `40 s`, `3 min`, `5 h`, `2 days`.
fn age(ms: i64) -> String {
    match ms.max(0) / 1000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const NOW: i64 = 100_000_000;

    fn target(current: u32, lineage: &[u32]) -> (v1::Target, Vec<v1::Revision>) {
        let revisions = (1..=3).rev().map(|number| v1::Revision {
            id: number.to_string(),
            number,
            known_good: true,
            last_active_ms: NOW - 50_000,
            ..v1::Revision::default()
        });
        let target = v1::Target {
            name: "docker/shop".into(),
            current_revision: current.to_string(),
            lineage: lineage.iter().map(u32::to_string).collect(),
            ..v1::Target::default()
        };
        (target, revisions.collect())
    }

    fn ended(outcome: Outcome, running: &str, ago_ms: i64) -> EndedOrder {
        EndedOrder {
            rollout: Uuid::nil(),
            outcome,
            from_revision: "3".into(),
            running_revision: running.into(),
            finished_ms: NOW - ago_ms,
        }
    }

    fn failed(code: &str, ago_ms: i64) -> v1::FailedRestore {
        v1::FailedRestore {
            revision: "1".into(),
            rollout: "r1".into(),
            at_ms: NOW - ago_ms,
            outcome: Outcome::Undone.into(),
            problem: Some(Problem::new(code, "", "")),
        }
    }

    fn told(
        of: &(v1::Target, Vec<v1::Revision>),
        asked: &str,
        ended: &[EndedOrder],
        failed: &[v1::FailedRestore],
    ) -> Vec<Problem> {
        let history = History {
            target: &of.0,
            revisions: &of.1,
        };
        let chosen = history.find(asked).expect("there is one");
        let earlier = Earlier {
            ended,
            failed,
            clock_offset_ms: 0,
            now_ms: NOW,
        };
        warnings(history, asked, &chosen, earlier)
    }

    fn codes(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|it| it.code.as_str()).collect()
    }

    #[test]
    fn a_second_rollback_says_that_it_goes_back_one_more_and_how_to_mean_it() {
        let of = target(2, &[1, 2]);
        let restored = [ended(Outcome::Restored, "2", 40_000)];
        let said = told(&of, "", &restored, &[]);
        assert_eq!(
            said,
            [Problem::new(
                "restored-just-now",
                "what runs, #2, was put there by rollout 00000000-0000-0000-0000-000000000000, 40 s ago: this goes \
                 back one more, to #1",
                "where that is meant, name it: `--to 1`",
            )]
        );
        assert_eq!(
            codes(&told(&of, "previous", &restored, &[])),
            ["restored-just-now"]
        );
        // Who names it means it.
        assert_eq!(codes(&told(&of, "1", &restored, &[])), [""; 0]);
        let long_ago = [ended(Outcome::Restored, "2", JUST_NOW_MS + 1)];
        let mut old = of.clone();
        for revision in &mut old.1 {
            revision.last_active_ms = NOW - JUST_NOW_MS - 10_000;
        }
        assert_eq!(codes(&told(&old, "", &long_ago, &[])), ["restored-before"]);
    }

    #[test]
    fn what_was_deployed_after_a_restore_is_no_restore() {
        let of = target(2, &[1, 2]);
        // Another one was restored.
        let other = [ended(Outcome::Restored, "3", 40_000)];
        assert_eq!(codes(&told(&of, "", &other, &[])), [""; 0]);
        // It became current long after.
        let before = [ended(Outcome::Restored, "2", 200_000)];
        assert_eq!(codes(&told(&of, "", &before, &[])), [""; 0]);
        // An undo has put it back since then.
        let undone = [
            ended(Outcome::Undone, "2", 45_000),
            ended(Outcome::Restored, "2", 200_000),
        ];
        assert_eq!(codes(&told(&of, "", &undone, &[])), ["restored-just-now"]);
        assert_eq!(codes(&told(&of, "", &[], &[])), [""; 0]);
        // Whoever had its checks run has put nothing there.
        let checked = [ended(Outcome::Unchanged, "2", 40_000)];
        assert_eq!(codes(&told(&of, "", &checked, &[])), [""; 0]);
        // Deployed after a restore of it: what came later and left something else there, or nothing at all, is no
        // reason to believe that it stands since then.
        for later in [
            ended(Outcome::Unchanged, "2", 45_000),
            ended(Outcome::Undone, "3", 45_000),
            ended(Outcome::Refused, "", 45_000),
        ] {
            let after = [later, ended(Outcome::Restored, "2", 200_000)];
            assert_eq!(codes(&told(&of, "", &after, &[])), [""; 0]);
        }
    }

    #[test]
    fn what_runs_although_it_is_marked_bad_is_told_with_the_rollout_that_left_it() {
        let (mut target, revisions) = target(3, &[1, 2, 3]);
        target.revisions = revisions;
        let left = [ended(Outcome::Restored, "2", 3 * 60_000)];
        assert_eq!(runs_bad("web-1", &target, &left, NOW), None);
        target.revisions[0].mark = v1::Mark::Bad.into();
        let alone = runs_bad("web-1", &target, &[], NOW).expect("told");
        assert_eq!(
            (alone.code.as_str(), alone.message.as_str()),
            ("runs-marked-bad", "what runs, #3, is marked bad")
        );
        target.revisions[0].mark_reason = "500s".into();
        let told = runs_bad("web-1", &target, &left, NOW).expect("told");
        assert_eq!(
            told.message,
            "what runs, #3, is marked bad (500s); rollout 00000000-0000-0000-0000-000000000000 went back from it 3 min \
             ago"
        );
        assert!(
            told.next_step
                .contains("ctl rollback --host web-1 --target docker/shop"),
            "{told:?}"
        );
        // Another runs.
        target.current_revision = "2".into();
        assert_eq!(runs_bad("web-1", &target, &left, NOW), None);
    }

    #[test]
    fn a_restore_that_failed_its_checks_is_told_with_the_one_before_it() {
        let of = target(3, &[1, 2, 3]);
        let two = |code, ago| v1::FailedRestore {
            revision: "2".into(),
            ..failed(code, ago)
        };
        let said = told(&of, "", &[], &[two("check-failed", 10_000)]);
        assert_eq!(
            said,
            [Problem::new(
                "failed-before",
                "a restore of #2 failed its checks 10 s ago, in rollout r1",
                "`--to 1` goes to the one before it; `ctl rollout show r1` says what failed",
            )]
        );
        // Not the revision's fault, and what has run since then.
        assert_eq!(
            codes(&told(&of, "", &[], &[two("engine-unreachable", 10_000)])),
            [""; 0]
        );
        assert_eq!(
            codes(&told(&of, "", &[], &[two("check-failed", 90_000)])),
            [""; 0]
        );
        // The oldest has none before it.
        let said = told(&of, "1", &[], &[failed("check-failed", 10_000)]);
        assert!(said[0].next_step.starts_with("there is none"), "{said:?}");
    }

    #[test]
    fn a_failure_is_not_told_any_more_once_the_revision_was_restored() {
        let all = || {
            vec![
                failed("check-failed", 5_000),
                failed("check-failed", 60_000),
            ]
        };
        let left = |revision: &str, ago_ms| {
            let passed = HashMap::from([(revision.to_owned(), NOW - ago_ms)]);
            not_outlived(all(), &passed).len()
        };
        assert_eq!(not_outlived(all(), &HashMap::new()).len(), 2);
        // In the moment after a failure, as a person does it.
        assert_eq!(left("1", 1_000), 0);
        // Between the two.
        assert_eq!(left("1", 30_000), 1);
        // Another revision.
        assert_eq!(left("2", 1_000), 2);
    }
}
