//! What a restore of a container will do: pure, from records and what was found.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sternway_proto::{
    name::{RevisionId, TargetName},
    v1::{self, Problem},
};

use super::{
    checks::Checks,
    drain,
    normalise::short,
    record::{ContainerRecord, Hints, ImageRef},
    warm::{self, Published},
};
use crate::engine::step::Step;

/// What one step does: the payload that is journaled with it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub(super) enum Job {
    FetchImage {
        image: ImageRef,
        hints: Hints,
    },
    StartStandby {
        record: Box<ContainerRecord>,
    },
    VerifyStandby {
        record: Box<ContainerRecord>,
    },
    Redirect {
        ports: Vec<Published>,
        /// None: planned by an earlier version, which did not look whose connections it redirects.
        #[serde(default)]
        old: Option<Old>,
    },
    DrainOld {
        wait: Duration,
        /// None: planned by an earlier version, which waited without looking.
        #[serde(default)]
        old: Option<Old>,
        #[serde(default)]
        ports: Vec<Published>,
    },
    CreateNew {
        record: Box<ContainerRecord>,
        volumes: BTreeMap<String, String>,
    },
    DisarmOld {
        old: Old,
    },
    StopOld {
        old: Old,
    },
    SwapNames {
        old: Option<Old>,
    },
    StartNew,
    Verify {
        record: Box<ContainerRecord>,
        revision: RevisionId,
    },
    Commit {
        /// The recorded restart policy, as the engine writes it.
        policy: Value,
        /// None: nothing was replaced, or planned by an earlier version, which did not look at it again.
        #[serde(default)]
        old: Option<Old>,
    },
    EndRedirect {
        ports: Vec<Published>,
        wait: Duration,
    },
    StopStandby,
}

/// The container that is replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Old {
    pub(super) id: String,
    /// It ran (or tried to) when the plan was made: an undo starts it again.
    pub(super) ran: bool,
    /// It was paused then: it served nobody.
    #[serde(default)]
    pub(super) paused: bool,
    /// Its restart policy, as the engine writes it.
    pub(super) policy: Value,
}

/// All that a plan is made of.
pub(super) struct Facts<'a> {
    pub(super) target: &'a TargetName,
    pub(super) from_number: u32,
    pub(super) to_number: u32,
    pub(super) result: &'a ContainerRecord,
    pub(super) result_id: &'a RevisionId,
    pub(super) hints: &'a Hints,
    pub(super) volumes: BTreeMap<String, String>,
    pub(super) old: Option<Old>,
    /// Containers that share a namespace of the old one, by name.
    pub(super) dependants: Vec<String>,
    pub(super) swap: v1::Swap,
    /// Whether this host can redirect connections; else why not.
    pub(super) redirect: Result<(), String>,
    pub(super) has_health_check: bool,
}

/// What will be done.
pub(super) struct Decision {
    pub(super) steps: Vec<Step>,
    pub(super) swap: v1::Swap,
    pub(super) swap_reason: String,
    pub(super) blockers: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) checks: Vec<String>,
    pub(super) soak: Duration,
    /// How long all of its checks may take.
    pub(super) checking: Duration,
    pub(super) expected_outage: String,
}

const QUICK: Duration = Duration::from_secs(90);
const FETCH: Duration = Duration::from_mins(15);
/// A container's own grace may be long; the engine kills it behind that.
const STOP: Duration = Duration::from_mins(12);
/// For a container to take connections, and for another's to end.
const HANDOVER: Duration = Duration::from_mins(3);

/// What is planned is the change from the container that was looked at. Where another bears the name by now, what
/// would be replaced is one that nobody compared.
pub(super) fn replaced(target: &TargetName, seen: &str, old: Option<&Old>) -> Option<Problem> {
    let found = old.map_or("", |old| old.id.as_str());
    if found == seen {
        return None;
    }
    let name = |id: &str| match id {
        "" => "nothing".to_owned(),
        id => format!("container {}", short(id)),
    };
    Some(Problem::new(
        "changed-meanwhile",
        format!(
            "{target} was {} when it was looked at, and {} bears its name now",
            name(seen),
            name(found)
        ),
        "see what was deployed under the name (`docker ps -a`), then plan again: `ctl rollback --dry-run`",
    ))
}

/// Decides how, and lists the steps.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let checks = Checks::of(facts.result);
    let mut blockers = Vec::new();
    let mut warnings = checks.problems.clone();
    let (swap, swap_reason) = match warm::choose(facts) {
        Ok((swap, reason)) => (swap, reason),
        Err(problem) => {
            blockers.push(problem);
            (v1::Swap::Cold, "the wish for warm cannot be met".to_owned())
        }
    };
    if !facts.dependants.is_empty() {
        blockers.push(Problem::new(
            "shared-namespace",
            format!(
                "{} shares a network, IPC or process namespace of {}, and would be left without it",
                facts.dependants.join(", "),
                facts.target
            ),
            "remove it first, and create it again after the rollback: the engine binds it to the very container \
             that is replaced, not to its name",
        ));
    }
    if facts.old.is_none() {
        warnings.push(Problem::new(
            "nothing-runs",
            format!(
                "no container named {} is there: nothing is replaced",
                facts.target.local()
            ),
            "",
        ));
    }
    let warm = swap == v1::Swap::Warm;
    let verify = verify_timeout(&checks, facts.has_health_check);
    Decision {
        steps: steps(facts, warm, verify),
        swap,
        swap_reason,
        blockers,
        warnings,
        checks: checks.describe(facts.has_health_check),
        soak: checks.soak,
        // A warm swap checks the standby first.
        checking: verify * if warm { 2 } else { 1 },
        expected_outage: match (&facts.old, warm) {
            (_, true) => "none: new connections go to a standby meanwhile".to_owned(),
            (Some(old), false) if old.ran => {
                "about half a second, and the application's own start-up".to_owned()
            }
            _ => "none more: nothing runs now".to_owned(),
        },
    }
}

/// The checks end by themselves; this is for a hang.
fn verify_timeout(checks: &Checks, has_health_check: bool) -> Duration {
    let health = if has_health_check {
        Duration::from_mins(5)
    } else {
        Duration::ZERO
    };
    checks.timeout + checks.soak + health + Duration::from_mins(1)
}

fn steps(facts: &Facts<'_>, warm: bool, verify: Duration) -> Vec<Step> {
    let name = facts.target.local();
    let (from, to) = (facts.from_number, facts.to_number);
    let mut steps = Vec::new();
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
                old: facts.old.clone(),
            },
        );
        add(
            "drain-old",
            format!("let {name} finish what it has begun"),
            HANDOVER,
            &Job::DrainOld {
                wait,
                old: facts.old.clone(),
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
    if let Some(old) = &facts.old {
        let which = format!("{name} (container {}, revision #{from})", short(&old.id));
        add(
            "disarm-old",
            format!("let nothing restart {which}"),
            QUICK,
            &Job::DisarmOld { old: old.clone() },
        );
        add(
            "stop-old",
            format!("stop {which}"),
            STOP,
            &Job::StopOld { old: old.clone() },
        );
    }
    add(
        "swap-names",
        format!("give the name {name} to the new container, keep the old one aside"),
        QUICK,
        &Job::SwapNames {
            old: facts.old.clone(),
        },
    );
    add(
        "start-new",
        format!("start {name} (revision #{to})"),
        QUICK,
        &Job::StartNew,
    );
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
    add(
        "commit",
        format!("give {name} its restart policy: the restore stands"),
        QUICK,
        &Job::Commit {
            policy: policy_of(facts.result),
            old: facts.old.clone(),
        },
    );
    if warm {
        add(
            "stop-standby",
            "stop and remove the standby".to_owned(),
            STOP,
            &Job::StopStandby,
        );
    }
    steps
}

/// The recorded restart policy.
pub(super) fn policy_of(record: &ContainerRecord) -> Value {
    record
        .host
        .get("RestartPolicy")
        .filter(|policy| policy["Name"].as_str().is_some_and(|name| !name.is_empty()))
        .cloned()
        .unwrap_or_else(|| json!({"Name": "no"}))
}
