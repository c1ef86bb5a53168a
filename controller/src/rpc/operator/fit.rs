//! Answers stay below the size that the other end accepts: made lighter where that helps, else refused with what to
//! ask instead.

use prost::Message;
use sternway_proto::{
    limits,
    v1::{self, Problem},
};
use tonic::{Code, Status};

/// Leaves room for what frames the message.
const AT_MOST: usize = limits::MESSAGE_BYTES - 1024;

/// An answer that says whether parts of it were left out.
pub(super) trait Thinned: Message {
    fn thinned(&mut self);
}

macro_rules! thinned {
    ($($answer:ident),+) => {
        $(impl Thinned for v1::$answer {
            fn thinned(&mut self) {
                self.thinned = true;
            }
        })+
    };
}

thinned!(
    ListHostsResponse,
    GetHostResponse,
    ListTargetsResponse,
    GetTargetResponse,
    ListRolloutsResponse
);

/// The answer as it is, where it fits; else after as many of these reliefs as it takes, and it says so.
///
/// # Errors
/// None of them suffices. `next_step` says what to ask instead.
pub(super) fn fit<M: Thinned>(
    mut answer: M,
    reliefs: &[fn(&mut M)],
    next_step: &str,
) -> Result<M, Status> {
    for relieve in reliefs {
        if answer.encoded_len() <= AT_MOST {
            break;
        }
        relieve(&mut answer);
        answer.thinned();
    }
    whole(answer, next_step)
}

/// The answer as it is, where it fits.
///
/// # Errors
/// It does not. `next_step` says what to ask instead.
pub(super) fn whole<M: Message>(answer: M, next_step: &str) -> Result<M, Status> {
    let bytes = answer.encoded_len();
    if bytes <= AT_MOST {
        return Ok(answer);
    }
    Err(sternway_proto::fault::to_status(
        Code::ResourceExhausted,
        Problem::new(
            "answer-too-large",
            format!("the answer has {bytes} bytes; at most {AT_MOST} can be sent at once"),
            next_step,
        ),
    ))
}

/// Without the recorded configurations: `ctl diff` and `ctl history` have them, target by target.
pub(super) fn without_fields(target: &mut v1::Target) {
    for revision in &mut target.revisions {
        revision.fields.clear();
    }
}

/// Without what the checks saw, and with the lineage's newest part only.
pub(super) fn without_evidence(target: &mut v1::Target) {
    target.health_evidence.clear();
    let older = target.lineage.len().saturating_sub(2);
    target.lineage.drain(..older);
}

/// Problems of a target that are told where not all of them can be.
const PROBLEMS: usize = 3;

/// Bytes of a text where there is room for little more than what it is about.
const TERSE: usize = 256;

/// With the first few problems only: an honest agent names a handful.
pub(super) fn few_problems(target: &mut v1::Target) {
    if let Some(readiness) = &mut target.readiness {
        readiness.problems.truncate(PROBLEMS);
    }
}

/// With the first problem only, what runs, what a rollback would go to, and the beginnings of their texts: what is
/// left of any target has a few thousand bytes.
pub(super) fn terse(target: &mut v1::Target) {
    let goal = target.readiness.as_ref().map(|it| it.revision.clone());
    let current = target.current_revision.clone();
    target
        .revisions
        .retain(|it| it.id == current || Some(&it.id) == goal.as_ref());
    for revision in &mut target.revisions {
        for text in [
            &mut revision.image,
            &mut revision.image_id,
            &mut revision.image_digest,
            &mut revision.origin,
            &mut revision.mark_reason,
        ] {
            cut(text);
        }
    }
    if let Some(readiness) = &mut target.readiness {
        readiness.problems.truncate(1);
    }
    let problems = target.readiness.iter_mut().flat_map(|it| &mut it.problems);
    for problem in problems.chain(&mut target.unsupported) {
        for text in [
            &mut problem.code,
            &mut problem.message,
            &mut problem.next_step,
        ] {
            cut(text);
        }
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TERSE));
}

/// Only that there is such a target, what it runs, and what is at it. As many as are kept of one host always fit.
pub(super) fn name_only(target: &mut v1::Target) {
    let whole = std::mem::take(target);
    *target = v1::Target {
        name: whole.name,
        current_revision: whole.current_revision,
        state: whole.state,
        active_rollout: whole.active_rollout,
        ..v1::Target::default()
    };
}

/// Without what a plan says in detail: `ctl rollout show` has it.
pub(super) fn without_details(rollout: &mut v1::Rollout) {
    let orders = rollout.waves.iter_mut().flat_map(|wave| &mut wave.orders);
    for plan in orders.filter_map(|order| order.plan.as_mut()) {
        plan.changes.clear();
        plan.steps.clear();
        plan.checks.clear();
        plan.warnings.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::types::TARGETS;

    fn answer(targets: usize, value: usize) -> v1::GetHostResponse {
        let field = v1::Field {
            path: "env.A".into(),
            content: Some(v1::field::Content::Value("x".repeat(value))),
        };
        let revision = v1::Revision {
            fields: vec![field],
            ..v1::Revision::default()
        };
        let target = v1::Target {
            revisions: vec![revision],
            ..v1::Target::default()
        };
        v1::GetHostResponse {
            host: None,
            targets: vec![target; targets],
            thinned: false,
        }
    }

    const HOST: &[fn(&mut v1::GetHostResponse)] = &[
        |answer| answer.targets.iter_mut().for_each(without_fields),
        |answer| answer.targets.iter_mut().for_each(without_evidence),
        |answer| answer.targets.iter_mut().for_each(few_problems),
        |answer| answer.targets.iter_mut().for_each(terse),
    ];

    const RELIEFS: &[fn(&mut v1::GetHostResponse)] =
        &[|answer| answer.targets.iter_mut().for_each(without_fields)];

    /// A target as large as one that is kept can be.
    fn hostile(number: usize) -> v1::Target {
        let long = "x".repeat(limits::TEXT_BYTES);
        let problem = Problem::new(&long, &long, &long);
        let revision = |id: &str| v1::Revision {
            id: id.repeat(64),
            image: long.clone(),
            image_id: long.clone(),
            image_digest: long.clone(),
            origin: long.clone(),
            ..v1::Revision::default()
        };
        v1::Target {
            name: format!("docker/{number:0200}"),
            current_revision: "a".repeat(64),
            active_rollout: "r".repeat(36),
            revisions: vec![revision("a"), revision("b"), revision("c")],
            lineage: vec!["a".repeat(64); 1000],
            readiness: Some(v1::Readiness {
                revision: "b".repeat(64),
                problems: vec![problem; 30],
                ..v1::Readiness::default()
            }),
            ..v1::Target::default()
        }
    }

    #[test]
    fn the_largest_host_that_is_kept_fits_in_the_end() {
        let whole = v1::GetHostResponse {
            host: None,
            targets: (0..TARGETS).map(hostile).collect(),
            thinned: false,
        };
        let told = fit(whole.clone(), HOST, "").expect("fits");
        assert!(told.thinned);
        assert_eq!(told.targets.len(), TARGETS);
        let last = &told.targets[TARGETS - 1];
        assert_eq!(
            last.revisions.len(),
            2,
            "what runs and where it goes back to"
        );
        let readiness = last.readiness.as_ref().expect("there");
        assert_eq!(readiness.problems[0].code.len(), TERSE);
        // However little room there is.
        let mut bare = whole;
        bare.targets.iter_mut().for_each(name_only);
        assert!(bare.encoded_len() < AT_MOST / 8, "{}", bare.encoded_len());
    }

    #[test]
    fn an_answer_is_only_made_lighter_when_it_must_be_and_refused_when_nothing_helps() {
        let small = answer(3, 10);
        assert_eq!(fit(small.clone(), RELIEFS, "").expect("fits"), small);
        let light = fit(answer(10, limits::MESSAGE_BYTES / 5), RELIEFS, "").expect("fits");
        assert_eq!(light.targets.len(), 10);
        assert!(light.thinned, "it says so");
        assert!(
            light
                .targets
                .iter()
                .all(|t| t.revisions[0].fields.is_empty())
        );
        let mut heavy = answer(10, 0);
        for target in &mut heavy.targets {
            target.name = "x".repeat(limits::MESSAGE_BYTES / 5);
        }
        let refused = fit(heavy, RELIEFS, "name a target").expect_err("too large");
        let problem = sternway_proto::fault::from_status(&refused).expect("a problem");
        assert_eq!(problem.code, "answer-too-large");
        assert_eq!(problem.next_step, "name a target");
    }
}
