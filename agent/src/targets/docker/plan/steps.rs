//! The steps of a restore, in their order: those of the target, and beside each those of what shares a namespace of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::{Facts, Job, Old, Sharer, policy_of};
use crate::{
    engine::step::Step,
    targets::docker::{
        drain,
        normalise::short,
        record::ContainerRecord,
        warm::{self, Published},
    },
};

const QUICK: Duration = Duration::from_secs(90);
const FETCH: Duration = Duration::from_mins(15);
/// A container may be given long to stop; the engine kills it behind that.
const STOP: Duration = Duration::from_mins(12);
/// What the engine may need behind a container's own grace.
const BEHIND_GRACE: Duration = Duration::from_mins(2);
/// For a container to take connections, and for another's to end.
const HANDOVER: Duration = Duration::from_mins(3);

/// From this step on clients are sent to the standby.
const REDIRECT: &str = "redirect";

fn step_id(id: &str) -> String {
    format!("docker.{id}")
}

/// Whether clients were sent to the standby of an order, by the outputs of its steps.
pub(in crate::targets::docker) fn redirected(outputs: &BTreeMap<String, Value>) -> bool {
    outputs.contains_key(&step_id(REDIRECT))
}

/// All steps. `verify`: how long the checks may take once.
pub(super) fn list(facts: &Facts<'_>, warm: bool, verify: Duration) -> Vec<Step> {
    let mut list = List {
        facts,
        name: facts.target.local(),
        ports: warm::published(facts.result),
        steps: Vec::new(),
    };
    list.fetch_image();
    if warm {
        list.lead_to_standby(verify);
    }
    list.create();
    list.stop();
    list.swap_names();
    list.start();
    list.verify(verify);
    if warm {
        list.lead_back();
    }
    list.commit();
    if warm {
        list.stop_standby();
    }
    list.steps
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

/// How long a missing image may take.
pub(super) fn pull(facts: &Facts<'_>) -> Duration {
    if facts.pulls { FETCH } else { Duration::ZERO }
}

/// The list as it grows.
struct List<'a> {
    facts: &'a Facts<'a>,
    /// What the container is called.
    name: &'a str,
    ports: Vec<Published>,
    steps: Vec<Step>,
}

impl List<'_> {
    fn add(&mut self, id: &str, description: String, timeout: Duration, job: &Job) {
        self.steps.push(Step {
            id: step_id(id),
            description,
            // A job of plain maps and texts always serialises; were it not so, the step refuses itself.
            payload: serde_json::to_value(job).unwrap_or(Value::Null),
            timeout,
            commits: matches!(job, Job::Commit { .. }),
        });
    }

    /// The same job at what shares a namespace.
    fn beside(
        &mut self,
        sharer: &Sharer,
        id: &str,
        description: String,
        timeout: Duration,
        job: Job,
    ) {
        let id = format!("{id}/{}", sharer.target.local());
        let job = Job::Beside {
            target: sharer.target.clone(),
            job: Box::new(job),
        };
        self.add(&id, description, timeout, &job);
    }

    fn old(&self) -> Option<Old> {
        self.facts.old.as_ref().map(Old::brief)
    }

    fn fetch_image(&mut self) {
        let (image, to) = (&self.facts.result.image, self.facts.to_number);
        let job = Job::FetchImage {
            image: image.clone(),
            hints: self.facts.hints.clone(),
        };
        let description = format!("have image {} of revision #{to}", image.reference);
        self.add("fetch-image", description, FETCH, &job);
    }

    fn lead_to_standby(&mut self, verify: Duration) {
        let record = Box::new(self.facts.result.clone());
        let description = format!(
            "start a standby of revision #{} beside it",
            self.facts.to_number
        );
        let job = Job::StartStandby {
            record: record.clone(),
        };
        self.add("start-standby", description, QUICK, &job);

        let description = "run the checks on the standby".to_owned();
        let job = Job::VerifyStandby { record };
        self.add("verify-standby", description, verify, &job);

        let ports = warm::named(&self.ports);
        let description = format!("send new connections for {ports} to the standby");
        let job = Job::Redirect {
            ports: self.ports.clone(),
            old: self.old(),
        };
        self.add(REDIRECT, description, HANDOVER, &job);

        let description = format!("let {} finish what it has begun", self.name);
        let job = Job::DrainOld {
            wait: drain::BUDGET,
            old: self.old(),
            ports: self.ports.clone(),
        };
        self.add("drain-old", description, HANDOVER, &job);
    }

    fn create(&mut self) {
        let facts = self.facts;
        let description = format!(
            "create {} anew from revision #{}, beside the old one",
            self.name, facts.to_number
        );
        let job = Job::CreateNew {
            record: Box::new(facts.result.clone()),
            volumes: facts.volumes.clone(),
        };
        self.add("create-new", description, QUICK, &job);
        for sharer in &facts.sharers {
            let description = format!("create {} anew as it is", sharer.target.local());
            let job = Job::CreateNew {
                record: Box::new(sharer.record.clone()),
                volumes: sharer.volumes.clone(),
            };
            self.beside(sharer, "create-new", description, QUICK, job);
        }
    }

    /// What shares a namespace first: it would be left without.
    fn stop(&mut self) {
        let facts = self.facts;
        let Some(old) = &facts.old else { return };
        let which = format!(
            "{} (container {}, revision #{})",
            self.name,
            short(&old.id),
            facts.from_number
        );
        let sharers = facts.sharers.iter();
        let with: BTreeSet<String> = sharers.map(|sharer| sharer.old.id.clone()).collect();
        let job = Job::DisarmOld {
            old: old.brief(),
            with: Some(with),
        };
        let description = format!("let nothing restart {which}");
        self.add("disarm-old", description, QUICK, &job);
        for sharer in facts.sharers.iter().rev() {
            let name = sharer.target.local();
            let job = Job::DisarmOld {
                old: sharer.old.brief(),
                with: None,
            };
            let description = format!("let nothing restart {name}");
            self.beside(sharer, "disarm-old", description, QUICK, job);
            let job = Job::StopOld {
                old: sharer.old.clone(),
            };
            let limit = stop_timeout(Some(&sharer.record));
            self.beside(sharer, "stop-old", format!("stop {name}"), limit, job);
        }
        let job = Job::StopOld { old: old.clone() };
        let limit = stop_timeout(facts.from);
        self.add("stop-old", format!("stop {which}"), limit, &job);
    }

    fn swap_names(&mut self) {
        let facts = self.facts;
        let name = self.name;
        let vanishes = facts.old.as_ref().is_some_and(|old| old.again.is_some());
        let description = if vanishes {
            format!("give the name {name} to the new container")
        } else {
            format!("give the name {name} to the new container, keep the old one aside")
        };
        let job = Job::SwapNames { old: self.old() };
        self.add("swap-names", description, QUICK, &job);
        for sharer in &facts.sharers {
            let description = format!("give the new {} its name", sharer.target.local());
            let job = Job::SwapNames {
                old: Some(sharer.old.brief()),
            };
            self.beside(sharer, "swap-names", description, QUICK, job);
        }
    }

    fn start(&mut self) {
        let facts = self.facts;
        let description = format!("start {} (revision #{})", self.name, facts.to_number);
        // Its undo stops it.
        let limit = stop_timeout(Some(facts.result));
        self.add("start-new", description, limit, &Job::StartNew);
        for sharer in &facts.sharers {
            let description = format!("start {}", sharer.target.local());
            let limit = stop_timeout(Some(&sharer.record));
            self.beside(sharer, "start-new", description, limit, Job::StartNew);
        }
    }

    fn verify(&mut self, limit: Duration) {
        let job = Job::Verify {
            record: Box::new(self.facts.result.clone()),
            revision: self.facts.result_id.clone(),
        };
        let description = format!("run the checks on {}", self.name);
        self.add("verify", description, limit, &job);
    }

    fn lead_back(&mut self) {
        let description = format!(
            "send new connections for {} to {} again",
            warm::named(&self.ports),
            self.name
        );
        let job = Job::EndRedirect {
            ports: self.ports.clone(),
            wait: drain::BUDGET,
        };
        self.add("end-redirect", description, HANDOVER, &job);
    }

    /// The target last: behind that nothing is undone.
    fn commit(&mut self) {
        let facts = self.facts;
        for sharer in &facts.sharers {
            let name = sharer.target.local();
            let description = format!("see that {name} runs, and give it its restart policy");
            let job = Job::Commit {
                policy: policy_of(&sharer.record),
                old: Some(sharer.old.brief()),
            };
            self.beside(sharer, "commit", description, QUICK, job);
        }
        let description = format!("give {} its restart policy: the restore stands", self.name);
        let job = Job::Commit {
            policy: policy_of(facts.result),
            old: self.old(),
        };
        self.add("commit", description, QUICK, &job);
    }

    fn stop_standby(&mut self) {
        let description = "stop and remove the standby".to_owned();
        let limit = stop_timeout(Some(self.facts.result));
        self.add("stop-standby", description, limit, &Job::StopStandby);
    }
}
