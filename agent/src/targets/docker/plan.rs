//! What a restore of a container will do: pure, from records and what was found.

mod steps;

pub(super) use steps::redirected;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sternway_proto::{
    name::{RevisionId, TargetName, clean_text},
    v1::{self, Problem},
};

use super::{
    checks::Checks,
    normalise::short,
    record::{ContainerRecord, Hints, ImageRef},
    recreate::carries,
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
        /// The ids of those that share a namespace of it. None: it is one of them, or planned by an earlier version.
        #[serde(default)]
        with: Option<BTreeSet<String>>,
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
    /// The same for a container that shares a namespace of the one that is replaced.
    Beside {
        target: TargetName,
        job: Box<Job>,
    },
}

/// The container that is replaced.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Old {
    pub(super) id: String,
    /// It ran (or tried to) when the plan was made: an undo starts it again.
    pub(super) ran: bool,
    /// It was paused then: it served nobody.
    #[serde(default)]
    pub(super) paused: bool,
    /// Its restart policy, as the engine writes it.
    pub(super) policy: Value,
    /// It is gone once it is stopped (`--rm`): what an undo creates it from again. With the job that stops it only:
    /// it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) again: Option<Box<Again>>,
}

/// A container as it was, for one that removes itself.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Again {
    pub(super) record: ContainerRecord,
    /// Its anonymous volumes, by where they are mounted.
    pub(super) volumes: BTreeMap<String, String>,
}

impl Again {
    /// None: it does not remove itself.
    pub(super) fn of(
        record: &ContainerRecord,
        volumes: &BTreeMap<String, String>,
    ) -> Option<Box<Self>> {
        record.removes_itself().then(|| {
            Box::new(Self {
                record: record.clone(),
                volumes: volumes.clone(),
            })
        })
    }
}

impl Facts<'_> {
    /// What the image's labels say, as far as anybody knows.
    pub(super) fn known_labels(&self) -> BTreeMap<String, String> {
        self.image_labels.cloned().unwrap_or_default()
    }
}

impl Old {
    /// As everything but its stop needs it.
    fn brief(&self) -> Self {
        Self {
            again: None,
            ..self.clone()
        }
    }
}

/// A container that shares a namespace of the one that is replaced. The engine binds it to that very container, not to
/// its name: it is created anew, as it is, beside the new one.
#[derive(Clone)]
pub(super) struct Sharer {
    pub(super) target: TargetName,
    pub(super) record: ContainerRecord,
    pub(super) volumes: BTreeMap<String, String>,
    pub(super) old: Old,
}

/// All that a plan is made of.
pub(super) struct Facts<'a> {
    pub(super) target: &'a TargetName,
    pub(super) from_number: u32,
    pub(super) to_number: u32,
    /// What runs now.
    pub(super) from: Option<&'a ContainerRecord>,
    pub(super) result: &'a ContainerRecord,
    pub(super) result_id: &'a RevisionId,
    /// What the image of the result says to us by its labels. None: it is not on this host, and nobody knows.
    pub(super) image_labels: Option<&'a BTreeMap<String, String>>,
    /// All labels of what runs now, its image's among them.
    pub(super) from_labels: BTreeMap<String, String>,
    pub(super) hints: &'a Hints,
    pub(super) volumes: BTreeMap<String, String>,
    pub(super) old: Option<Old>,
    /// Those that run and share a namespace of the old one, or of one before them here.
    pub(super) sharers: Vec<Sharer>,
    pub(super) swap: v1::Swap,
    /// Whether this host can redirect connections; else why not.
    pub(super) redirect: Result<(), String>,
    pub(super) has_health_check: bool,
    /// The image has to be pulled first, or loaded from the archive.
    pub(super) pulls: bool,
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
    /// How long the pull of a missing image, its checks, and the ends of containers that ask for more than is usual, may
    /// take.
    pub(super) waiting: Duration,
    pub(super) expected_outage: String,
}

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

/// The places of unnamed volumes that go with a container which removes itself, because its replacement does not take
/// them over. `declared`: the places of its image's volumes.
pub(super) fn volumes_lost(
    target: &TargetName,
    old: Option<&Old>,
    result: &ContainerRecord,
    declared: &[String],
) -> Option<Problem> {
    let again = old?.again.as_ref()?;
    let taken = |place: &String| carries(result, declared, place);
    let lost: Vec<&str> = again
        .volumes
        .keys()
        .filter(|place| !taken(place))
        .map(String::as_str)
        .collect();
    if lost.is_empty() {
        return None;
    }
    Some(Problem::new(
        "volume-lost",
        format!(
            "{target} was started with --rm, and its unnamed volume at {} would go with it: the revision to restore does \
             not take it over",
            clean_text(&lost.join(", "))
        ),
        "copy its data (`docker cp`), then stop it and start the other by hand",
    ))
}

/// The revision to restore keeps its IPC namespace to itself, and others share that of what runs now.
pub(super) fn unshareable(
    target: &TargetName,
    sharers: &[Sharer],
    result: &ContainerRecord,
) -> Option<Problem> {
    let mode = |record: &ContainerRecord| {
        let mode = record.host.get("IpcMode").and_then(Value::as_str);
        mode.unwrap_or_default().to_owned()
    };
    let wanted = format!("container:{}", target.local());
    let sharer = sharers.iter().find(|one| mode(&one.record) == wanted)?;
    if !matches!(mode(result).as_str(), "private" | "none") {
        return None;
    }
    Some(Problem::new(
        "shared-namespace",
        format!(
            "{} shares the IPC namespace of {target}, and the revision to restore does not share it",
            sharer.target
        ),
        "choose another revision with `ctl history`, or remove the other container first",
    ))
}

/// Decides how, and lists the steps.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let checks = Checks::of(facts.result, &facts.known_labels());
    let mut blockers = Vec::new();
    let mut warnings = checks.problems.clone();
    let (swap, swap_reason) = match warm::choose(facts) {
        Ok((swap, reason)) => (swap, reason),
        Err(problem) => {
            blockers.push(problem);
            (v1::Swap::Cold, "the wish for warm cannot be met".to_owned())
        }
    };
    warnings.extend(facts.sharers.iter().map(|sharer| {
        Problem::new(
            "shared-namespace",
            format!(
                "{} shares a network, IPC or process namespace of {}: it is stopped, and created anew as it is, with it{}",
                sharer.target,
                facts.target,
                if sharer.old.policy["Name"] == "no" {
                    "; it has no restart policy: a job begins again"
                } else {
                    ""
                }
            ),
            "",
        )
    }));
    let all = facts
        .sharers
        .iter()
        .map(|sharer| (&sharer.target, &sharer.old));
    let vanish = facts.old.iter().map(|old| (facts.target, old)).chain(all);
    warnings.extend(
        vanish
            .filter(|(_, old)| old.again.is_some())
            .map(|(target, _)| removes_itself(target)),
    );
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
    let verify = verify_timeout(facts, &checks);
    Decision {
        steps: steps::list(facts, warm, verify),
        swap,
        swap_reason,
        blockers,
        warnings,
        checks: checks.describe(facts.has_health_check),
        soak: checks.soak,
        // A warm swap checks the standby first.
        waiting: verify * if warm { 2 } else { 1 } + steps::graces(facts) + steps::pull(facts),
        expected_outage: match (&facts.old, warm) {
            (_, true) if facts.result.has_a_name() => {
                "none at its published ports: new connections go to a standby meanwhile; who uses its name in a Docker \
                 network waits as for a cold swap"
                    .to_owned()
            }
            (_, true) => "none: new connections go to a standby meanwhile".to_owned(),
            (Some(old), false) if old.ran => {
                "about half a second, and the application's own start-up".to_owned()
            }
            _ => "none more: nothing runs now".to_owned(),
        },
    }
}

fn removes_itself(target: &TargetName) -> Problem {
    Problem::new(
        "auto-remove",
        format!(
            "{target} was started with --rm: once stopped it is gone, with its logs, and nothing of it is kept for the \
             post-mortem; an undo creates it anew"
        ),
        "",
    )
}

/// The checks end by themselves; this is for a hang.
fn verify_timeout(facts: &Facts<'_>, checks: &Checks) -> Duration {
    // Whether an image has one that is to be pulled is not known.
    let health = if facts.has_health_check || facts.pulls {
        Duration::from_mins(5)
    } else {
        Duration::ZERO
    };
    let (timeout, soak) = match facts.image_labels {
        Some(_) => (checks.timeout, checks.soak),
        None => Checks::longest(),
    };
    timeout + soak + health + Duration::from_mins(1)
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

#[cfg(test)]
mod tests;
