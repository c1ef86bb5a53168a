//! The steps of a restore, in their order.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use super::{Facts, Job, Old, Sharer, policy_of};
use crate::{
    engine::step::Step,
    targets::docker::{drain, normalise::short, record::ContainerRecord, warm},
};

const QUICK: Duration = Duration::from_secs(90);
const FETCH: Duration = Duration::from_mins(15);
/// A container may be given long to stop; the engine kills it behind that.
const STOP: Duration = Duration::from_mins(12);
/// What the engine may need behind a container's own grace.
const BEHIND_GRACE: Duration = Duration::from_mins(2);
/// For a container to take connections, and for another's to end.
const HANDOVER: Duration = Duration::from_mins(3);

/// All steps. `verify`: how long its checks may take.
pub(super) fn list(facts: &Facts<'_>, warm: bool, verify: Duration) -> Vec<Step> {
    let name = facts.target.local();
    let (from, to) = (facts.from_number, facts.to_number);
    let mut steps: Vec<Step> = Vec::new();
    let mut add = |id: &str, description: String, timeout: Duration, job: &Job| {
        steps.push(Step {
            id: format!("docker.{id}"),
            description,
            // A job of plain maps and texts always serialises; were it not so, the step refuses itself.
            payload: serde_json::to_value(job).unwrap_or(Value::Null),
            timeout,
            commits: matches!(job, Job::Commit { .. }),
        });
    };
    let record = || Box::new(facts.result.clone());
    let brief = || facts.old.as_ref().map(Old::brief);
    add(
        "fetch-image",
        format!(
            "have image {} of revision #{to}",
            facts.result.image.reference
        ),
        FETCH,
        &Job::FetchImage {
            image: facts.result.image.clone(),
            hints: facts.hints.clone(),
        },
    );
    let ports = warm::published(facts.result);
    if warm {
        let wait = drain::BUDGET;
        add(
            "start-standby",
            format!("start a standby of revision #{to} beside it"),
            QUICK,
            &Job::StartStandby { record: record() },
        );
        add(
            "verify-standby",
            "run the checks on the standby".to_owned(),
            verify,
            &Job::VerifyStandby { record: record() },
        );
        add(
            "redirect",
            format!(
                "send new connections for {} to the standby",
                warm::named(&ports)
            ),
            HANDOVER,
            &Job::Redirect {
                ports: ports.clone(),
                old: brief(),
            },
        );
        add(
            "drain-old",
            format!("let {name} finish what it has begun"),
            HANDOVER,
            &Job::DrainOld {
                wait,
                old: brief(),
                ports: ports.clone(),
            },
        );
    }
    add(
        "create-new",
        format!("create {name} anew from revision #{to}, beside the old one"),
        QUICK,
        &Job::CreateNew {
            record: record(),
            volumes: facts.volumes.clone(),
        },
    );
    for sharer in &facts.sharers {
        let job = Job::CreateNew {
            record: Box::new(sharer.record.clone()),
            volumes: sharer.volumes.clone(),
        };
        sharer.add(
            &mut add,
            "create-new",
            "create",
            " anew as it is",
            QUICK,
            job,
        );
    }
    if let Some(old) = &facts.old {
        let which = format!("{name} (container {}, revision #{from})", short(&old.id));
        add(
            "disarm-old",
            format!("let nothing restart {which}"),
            QUICK,
            &Job::DisarmOld {
                old: old.brief(),
                with: Some(sharers(facts)),
            },
        );
        for sharer in facts.sharers.iter().rev() {
            let old = sharer.old.brief();
            let job = Job::DisarmOld { old, with: None };
            sharer.add(
                &mut add,
                "disarm-old",
                "let nothing restart",
                "",
                QUICK,
                job,
            );
            let old = sharer.old.clone();
            let job = Job::StopOld { old };
            let limit = stop_timeout(Some(&sharer.record));
            sharer.add(&mut add, "stop-old", "stop", "", limit, job);
        }
        add(
            "stop-old",
            format!("stop {which}"),
            stop_timeout(facts.from),
            &Job::StopOld { old: old.clone() },
        );
    }
    add(
        "swap-names",
        format!("give the name {name} to the new container, keep the old one aside"),
        QUICK,
        &Job::SwapNames { old: brief() },
    );
    for sharer in &facts.sharers {
        let old = Some(sharer.old.brief());
        let job = Job::SwapNames { old };
        sharer.add(
            &mut add,
            "swap-names",
            "give the new",
            " its name",
            QUICK,
            job,
        );
    }
    add(
        "start-new",
        format!("start {name} (revision #{to})"),
        // Its undo stops it.
        stop_timeout(Some(facts.result)),
        &Job::StartNew,
    );
    for sharer in &facts.sharers {
        let limit = stop_timeout(Some(&sharer.record));
        sharer.add(&mut add, "start-new", "start", "", limit, Job::StartNew);
    }
    add(
        "verify",
        format!("run the checks on {name}"),
        verify,
        &Job::Verify {
            record: record(),
            revision: facts.result_id.clone(),
        },
    );
    if warm {
        add(
            "end-redirect",
            format!(
                "send new connections for {} to {name} again",
                warm::named(&ports)
            ),
            HANDOVER,
            &Job::EndRedirect {
                ports,
                wait: drain::BUDGET,
            },
        );
    }
    for sharer in &facts.sharers {
        let job = Job::Commit {
            policy: policy_of(&sharer.record),
            old: Some(sharer.old.brief()),
        };
        sharer.add(
            &mut add,
            "commit",
            "see that",
            " runs, and give it its restart policy",
            QUICK,
            job,
        );
    }
    add(
        "commit",
        format!("give {name} its restart policy: the restore stands"),
        QUICK,
        &Job::Commit {
            policy: policy_of(facts.result),
            old: brief(),
        },
    );
    if warm {
        add(
            "stop-standby",
            "stop and remove the standby".to_owned(),
            stop_timeout(Some(facts.result)),
            &Job::StopStandby,
        );
    }
    steps
}

/// How long a container of that record may take to stop.
fn stop_timeout(record: Option<&ContainerRecord>) -> Duration {
    let grace = record.and_then(ContainerRecord::grace).unwrap_or_default();
    STOP.max(grace + BEHIND_GRACE)
}

/// How long those that are stopped on the way there and on the way back may take to stop, beyond the usual.
pub(super) fn graces(facts: &Facts<'_>) -> Duration {
    let sharers = facts.sharers.iter().map(|sharer| &sharer.record);
    let all = facts.from.into_iter().chain([facts.result]).chain(sharers);
    all.map(|record| stop_timeout(Some(record)).saturating_sub(STOP))
        .sum()
}

fn sharers(facts: &Facts<'_>) -> BTreeSet<String> {
    let ids = facts.sharers.iter().map(|sharer| sharer.old.id.clone());
    ids.collect()
}

impl Sharer {
    /// Adds a job about it. What is done is `before`, its name, and `behind`.
    fn add(
        &self,
        add: &mut impl FnMut(&str, String, Duration, &Job),
        id: &str,
        before: &str,
        behind: &str,
        timeout: Duration,
        job: Job,
    ) {
        let name = self.target.local();
        let job = Job::Beside {
            target: self.target.clone(),
            job: Box::new(job),
        };
        add(
            &format!("{id}/{name}"),
            format!("{before} {name}{behind}"),
            timeout,
            &job,
        );
    }
}
