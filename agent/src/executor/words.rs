//! Why an order ends as it does, in words for a person: what, where, why, and what next.

use sternway_proto::{
    name::{RevisionId, TargetName},
    v1,
};

use crate::{
    engine::step::{Step, StepError},
    targets::{Hands, KindError},
};

/// Why a target that is of the wanted revision already is not reported as good. `verdict`: of its checks; none: they did
/// not end in time.
pub(super) fn unwell(
    target: &TargetName,
    hands: &Hands,
    stopped: bool,
    verdict: Option<&Result<v1::Verdict, KindError>>,
) -> Option<v1::Problem> {
    let (code, message, next) = match verdict {
        Some(Ok(v1::Verdict::Passed)) if !stopped => return None,
        _ if stopped => (
            "already-there",
            format!("{target} is of the wanted revision already, and does not run"),
            format!(
                "see why it ended (`{}` on the host), and start it: `{}`",
                hands.log, hands.start
            ),
        ),
        Some(Ok(v1::Verdict::Failed)) => (
            "already-running",
            format!("{target} runs the wanted revision already, and its checks do not pass"),
            "see the evidence of its checks, or choose another revision with `ctl history`"
                .to_owned(),
        ),
        Some(Ok(_)) => (
            "already-running",
            format!(
                "{target} runs the wanted revision already, and not all of its checks can be read"
            ),
            "see which label it is: `ctl target show`".to_owned(),
        ),
        Some(Err(error)) => (
            "already-running",
            format!(
                "{target} runs the wanted revision already, and its checks could not be run: {error}"
            ),
            format!(
                "look at the host (`{}`), then roll back again",
                hands.engine
            ),
        ),
        None => (
            "already-running",
            format!(
                "{target} runs the wanted revision already, and its checks did not end in time"
            ),
            "see what its checks wait for, or choose another revision with `ctl history`"
                .to_owned(),
        ),
    };
    Some(v1::Problem::new(code, message, next))
}

pub(super) fn took_too_long(step: &Step, hands: &Hands) -> StepError {
    StepError {
        code: "timeout".to_owned(),
        message: format!(
            "`{}` did not end within {} s",
            step.description,
            step.timeout.as_secs()
        ),
        next_step: format!(
            "see what keeps it on the host (`{}`), then roll back again",
            hands.see
        ),
        transient: false,
    }
}

pub(super) fn mismatch(target: &TargetName, expected: &str, found: &str) -> v1::Problem {
    let name = |id: &str| match id.parse::<RevisionId>() {
        Ok(id) => format!("revision {}", id.short()),
        Err(_) => "nothing".to_owned(),
    };
    v1::Problem::new(
        "changed-meanwhile",
        format!(
            "{target} runs {}, and the plan was made when it ran {}",
            name(found),
            name(expected)
        ),
        "plan again: `ctl rollback --dry-run` shows what would happen now",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_and_not_well_is_told_as_what_it_is() {
        use v1::Verdict::{Failed, Inconclusive, Passed};
        let target = "scripted/shop".parse().expect("valid");
        let hands = Hands {
            see: "see".to_owned(),
            log: "log".to_owned(),
            start: "start".to_owned(),
            engine: "engine".to_owned(),
            disk: "disk".to_owned(),
        };
        let away = || KindError::Unreachable {
            what: "failed to look".to_owned(),
            reason: "nobody answers".to_owned(),
        };
        assert_eq!(unwell(&target, &hands, false, Some(&Ok(Passed))), None);
        for (stopped, verdict, code, part) in [
            (true, Some(Ok(Failed)), "already-there", "does not run"),
            (true, Some(Ok(Passed)), "already-there", "does not run"),
            (false, Some(Ok(Failed)), "already-running", "do not pass"),
            (
                false,
                Some(Ok(Inconclusive)),
                "already-running",
                "can be read",
            ),
            (
                false,
                Some(Err(away())),
                "already-running",
                "nobody answers",
            ),
            (false, None, "already-running", "in time"),
        ] {
            let problem =
                unwell(&target, &hands, stopped, verdict.as_ref()).expect("it is not well");
            assert_eq!(problem.code, code);
            assert!(problem.message.contains(part), "{problem:?}");
            assert!(!problem.next_step.is_empty(), "{problem:?}");
        }
    }
}
