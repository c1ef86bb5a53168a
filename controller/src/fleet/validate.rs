//! What agents say, checked and bounded before anything else sees it. A hostile agent can at most lie
//! about its own host, in bounded space and without control characters. Pure.

use std::collections::HashSet;

use prost::Message as _;
use sternway_proto::{
    limits,
    name::{RevisionId, TargetName, clean_text},
    v1::{self, order_event::Event},
};
use thiserror::Error;
use uuid::Uuid;

use crate::store::types::{Seen, TARGETS};

/// Fields of a revision, and of a plan's changes.
pub const FIELDS: usize = 2000;
/// Bytes of a revision.
pub const REVISION_BYTES: usize = 256 * 1024;
/// Bytes of a target without its revisions.
pub const TARGET_BYTES: usize = 256 * 1024;
/// Revisions in a target's lineage.
pub const LINEAGE: usize = 1000;
/// Steps, checks, warnings, evidence: lists that are a handful in an honest message.
pub const FEW: usize = 200;

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("{what}: more than {limit}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} is not valid")]
    Invalid { what: &'static str },
    #[error("a message is larger than {} bytes", limits::MESSAGE_BYTES)]
    TooLarge,
}

impl Refused {
    /// The refusal as a reason for the agent's log and ours.
    #[must_use]
    pub fn problem(&self) -> v1::Problem {
        let code = match self {
            Self::TooMany { .. } => "too-many",
            Self::Invalid { .. } => "malformed",
            Self::TooLarge => "too-large",
        };
        v1::Problem::new(
            code,
            format!("the agent's message was refused: {self}"),
            "see the agent's log; the agent and the controller may be of different versions",
        )
    }
}

fn bound<T>(what: &'static str, list: &[T], limit: usize) -> Result<(), Refused> {
    if list.len() > limit {
        Err(Refused::TooMany { what, limit })
    } else {
        Ok(())
    }
}

fn bound_bytes(what: &'static str, bytes: usize, limit: usize) -> Result<(), Refused> {
    if bytes > limit {
        Err(Refused::TooMany { what, limit })
    } else {
        Ok(())
    }
}

fn clean(texts: &mut [&mut String]) {
    for text in texts {
        **text = clean_text(text);
    }
}

fn known<E: TryFrom<i32>>(number: &mut i32) {
    if E::try_from(*number).is_err() {
        *number = 0;
    }
}

fn revision_id(text: &str) -> Result<(), Refused> {
    let parsed: Result<RevisionId, _> = text.parse();
    parsed.map(drop).map_err(|_| Refused::Invalid {
        what: "a revision's id",
    })
}

fn revision_id_or_none(text: &str) -> Result<(), Refused> {
    if text.is_empty() {
        Ok(())
    } else {
        revision_id(text)
    }
}

fn target_name(text: &str) -> Result<(), Refused> {
    let parsed: Result<TargetName, _> = text.parse();
    parsed.map(drop).map_err(|_| Refused::Invalid {
        what: "a target's name",
    })
}

fn problems(what: &'static str, list: &mut [v1::Problem]) -> Result<(), Refused> {
    bound(what, list, FEW)?;
    for problem in list {
        clean_problem(problem);
    }
    Ok(())
}

fn clean_problem(problem: &mut v1::Problem) {
    clean(&mut [
        &mut problem.code,
        &mut problem.message,
        &mut problem.next_step,
    ]);
}

/// Facts of a host, cleaned.
#[must_use]
pub fn facts(mut facts: v1::HostFacts) -> v1::HostFacts {
    clean(&mut [
        &mut facts.hostname,
        &mut facts.os,
        &mut facts.kernel,
        &mut facts.architecture,
        &mut facts.engine_version,
        &mut facts.engine_api,
        &mut facts.engine_problem,
    ]);
    facts
}

/// An inventory: valid targets, each once, as many as are kept of one host, the first by name. What is left out is
/// named, and which of it the host has all the same.
#[must_use]
pub fn inventory(mut inventory: v1::Inventory) -> (Seen, Vec<Refused>) {
    // In whatever order they came: the same ones are kept every time.
    inventory.targets.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut targets, mut also) = (Vec::new(), Vec::new());
    let (mut refused, mut names) = (Vec::new(), HashSet::new());
    for one in inventory.targets {
        if names.len() == TARGETS {
            refused.push(Refused::TooMany {
                what: "targets of one host",
                limit: TARGETS,
            });
            break;
        }
        let name = match removed(one.name.clone()) {
            Ok(name) if names.insert(name.clone()) => name,
            Ok(_) => {
                refused.push(Refused::Invalid {
                    what: "a target that is listed twice",
                });
                continue;
            }
            Err(why) => {
                refused.push(why);
                continue;
            }
        };
        match target(one) {
            Ok(target) => targets.push(target),
            Err(why) => {
                also.push(name);
                refused.push(why);
            }
        }
    }
    (Seen::Inventory { targets, also }, refused)
}

/// A target with its revisions.
///
/// # Errors
/// A name or id is not valid, or a list is too long.
pub fn target(mut target: v1::Target) -> Result<v1::Target, Refused> {
    target_name(&target.name)?;
    revision_id_or_none(&target.current_revision)?;
    bound(
        "revisions of a target",
        &target.revisions,
        limits::REVISIONS_LISTED,
    )?;
    bound("revisions in a lineage", &target.lineage, LINEAGE)?;
    bound("evidence of a target", &target.health_evidence, FEW)?;
    known::<v1::TargetState>(&mut target.state);
    known::<v1::Verdict>(&mut target.health);
    for id in &target.lineage {
        revision_id(id)?;
    }
    for one in &mut target.revisions {
        revision(one)?;
    }
    for one in &mut target.health_evidence {
        evidence(one);
    }
    if let Some(readiness) = &mut target.readiness {
        revision_id_or_none(&readiness.revision)?;
        known::<v1::ReadinessVerdict>(&mut readiness.verdict);
        problems("problems of a readiness", &mut readiness.problems)?;
    }
    if let Some(problem) = &mut target.unsupported {
        clean_problem(problem);
    }
    target.active_order = clean_text(&target.active_order);
    // The controller's to say.
    target.active_rollout.clear();
    let revisions = std::mem::take(&mut target.revisions);
    bound_bytes("bytes of a target", target.encoded_len(), TARGET_BYTES)?;
    target.revisions = revisions;
    Ok(target)
}

fn revision(revision: &mut v1::Revision) -> Result<(), Refused> {
    revision_id(&revision.id)?;
    bound("fields of a revision", &revision.fields, FIELDS)?;
    if revision.number == 0 {
        return Err(Refused::Invalid {
            what: "a revision's number",
        });
    }
    // Marks are the controller's to say.
    revision.mark = 0;
    revision.mark_reason.clear();
    revision.gone = false;
    clean(&mut [
        &mut revision.image,
        &mut revision.image_id,
        &mut revision.image_digest,
        &mut revision.origin,
    ]);
    for field in &mut revision.fields {
        field.path = clean_text(&field.path);
        match &mut field.content {
            Some(v1::field::Content::Value(text) | v1::field::Content::PrivateHash(text)) => {
                *text = clean_text(text);
            }
            None => {}
        }
    }
    let bytes = revision.encoded_len();
    bound_bytes("bytes of a revision", bytes, REVISION_BYTES)
}

fn evidence(evidence: &mut v1::Evidence) {
    known::<v1::Verdict>(&mut evidence.verdict);
    clean(&mut [
        &mut evidence.check,
        &mut evidence.subject,
        &mut evidence.expected,
        &mut evidence.observed,
        &mut evidence.instance,
    ]);
}

/// The name of a target that is no longer looked after.
///
/// # Errors
/// It is no target's name.
pub fn removed(name: String) -> Result<String, Refused> {
    target_name(&name).map(|()| name)
}

/// An event of an order. One of a kind that is not known is a newer agent's, and is kept for its number: without it
/// there would be a gap.
///
/// # Errors
/// An id is not valid, the number is zero, or a list is too long.
pub fn order_event(mut event: v1::OrderEvent) -> Result<v1::OrderEvent, Refused> {
    if Uuid::try_parse(&event.order_id).is_err() {
        return Err(Refused::Invalid {
            what: "an order's id",
        });
    }
    if event.number == 0 {
        return Err(Refused::Invalid {
            what: "an event's number",
        });
    }
    match &mut event.event {
        None | Some(Event::Accepted(_)) => {}
        Some(Event::Planned(one)) => *one = plan(std::mem::take(one))?,
        Some(Event::Step(step)) => {
            known::<v1::StepState>(&mut step.state);
            clean(&mut [&mut step.step, &mut step.message]);
        }
        Some(Event::Evidence(one)) => evidence(one),
        Some(Event::Recovered(one)) => one.decision = clean_text(&one.decision),
        Some(Event::Note(note)) => {
            clean(&mut [&mut note.code, &mut note.message]);
            if let Some(problem) = &mut note.problem {
                clean_problem(problem);
            }
        }
        Some(Event::Finished(end)) => {
            known::<v1::Outcome>(&mut end.outcome);
            revision_id_or_none(&end.running_revision)?;
            if let Some(problem) = &mut end.problem {
                clean_problem(problem);
            }
        }
    }
    Ok(event)
}

/// A plan.
///
/// # Errors
/// A name or id is not valid, or a list is too long.
pub fn plan(mut plan: v1::Plan) -> Result<v1::Plan, Refused> {
    target_name(&plan.target)?;
    revision_id_or_none(&plan.from_revision)?;
    revision_id_or_none(&plan.to_revision)?;
    bound("steps of a plan", &plan.steps, FEW)?;
    bound("changes of a plan", &plan.changes, FIELDS)?;
    bound("checks of a plan", &plan.checks, FEW)?;
    known::<v1::RestoreScope>(&mut plan.scope);
    known::<v1::Swap>(&mut plan.swap);
    clean(&mut [&mut plan.swap_reason, &mut plan.expected_outage]);
    for step in &mut plan.steps {
        clean(&mut [&mut step.step, &mut step.description]);
    }
    for change in &mut plan.changes {
        change.path = clean_text(&change.path);
        change.before = change.before.as_deref().map(clean_text);
        change.after = change.after.as_deref().map(clean_text);
    }
    for check in &mut plan.checks {
        *check = clean_text(check);
    }
    problems("warnings of a plan", &mut plan.warnings)?;
    problems("blockers of a plan", &mut plan.blockers)?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Target {
        v1::Target {
            name: "docker/shop".into(),
            current_revision: "a".repeat(64),
            revisions: vec![v1::Revision {
                id: "a".repeat(64),
                number: 1,
                ..v1::Revision::default()
            }],
            ..v1::Target::default()
        }
    }

    #[test]
    fn hostile_names_and_oversized_lists_are_refused() {
        assert!(target(good()).is_ok());
        let changes: [fn(&mut v1::Target); 6] = [
            |t| t.name = "docker/../../etc".into(),
            |t| t.name = "x".repeat(10_000),
            |t| t.current_revision = "x".into(),
            |t| t.lineage = vec!["a".repeat(64); LINEAGE + 1],
            |t| t.revisions = vec![t.revisions[0].clone(); limits::REVISIONS_LISTED + 1],
            |t| t.revisions[0].number = 0,
        ];
        for change in changes {
            let mut bad = good();
            change(&mut bad);
            assert!(target(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_kept_of_a_target_and_of_a_revision_is_bounded_in_bytes() {
        let field = v1::Field {
            path: "label".into(),
            content: Some(v1::field::Content::Value("x".repeat(2_000))),
        };
        let mut large = good();
        large.revisions[0].fields = vec![field.clone(); 100];
        assert!(target(large.clone()).is_ok());
        large.revisions[0].fields = vec![field; 150];
        assert!(matches!(target(large), Err(Refused::TooMany { .. })));
        let seen = v1::Evidence {
            observed: "x".repeat(2_000),
            ..v1::Evidence::default()
        };
        let mut large = good();
        large.health_evidence = vec![seen.clone(); 100];
        assert!(target(large.clone()).is_ok());
        large.health_evidence = vec![seen; 150];
        assert!(matches!(target(large), Err(Refused::TooMany { .. })));
    }

    #[test]
    fn texts_are_cleaned_and_an_agent_cannot_mark_its_own_revisions() {
        let mut dirty = good();
        dirty.revisions[0].image = "shop\x1b[31m".into();
        dirty.revisions[0].mark = 2;
        dirty.state = 77;
        let cleaned = target(dirty).expect("valid");
        assert_eq!(cleaned.revisions[0].image, "shop\\u{1b}[31m");
        assert_eq!((cleaned.revisions[0].mark, cleaned.state), (0, 0));
    }

    #[test]
    fn one_bad_target_does_not_hide_the_others() {
        let mut bad = good();
        bad.name = "docker/\n".into();
        let list = v1::Inventory {
            targets: vec![bad, good(), good()],
        };
        let (seen, refused) = inventory(list);
        let wanted = Seen::Inventory {
            targets: vec![good()],
            also: Vec::new(),
        };
        assert_eq!((seen, refused.len()), (wanted, 2));
    }

    #[test]
    fn a_target_that_is_told_in_a_way_that_is_not_kept_is_still_there() {
        let mut large = good();
        large.revisions = vec![large.revisions[0].clone(); limits::REVISIONS_LISTED + 1];
        let list = v1::Inventory {
            targets: vec![large],
        };
        let (seen, refused) = inventory(list);
        let wanted = Seen::Inventory {
            targets: Vec::new(),
            also: vec!["docker/shop".into()],
        };
        assert_eq!((seen, refused.len()), (wanted, 1));
    }

    #[test]
    fn of_too_many_targets_the_same_ones_are_kept_whatever_their_order() {
        let many: Vec<v1::Target> = (0..TARGETS + 30)
            .map(|number| v1::Target {
                name: format!("docker/shop-{number:04}"),
                ..good()
            })
            .collect();
        let (seen, refused) = inventory(v1::Inventory {
            targets: many.iter().rev().cloned().collect(),
        });
        let Seen::Inventory {
            targets: kept,
            also,
        } = seen
        else {
            panic!("no inventory: {seen:?}");
        };
        let names = |targets: &[v1::Target]| -> Vec<String> {
            targets.iter().map(|target| target.name.clone()).collect()
        };
        assert_eq!(names(&kept), names(&many[..TARGETS]));
        assert!(also.is_empty(), "{also:?}");
        assert!(matches!(refused[..], [Refused::TooMany { .. }]));
    }
}
