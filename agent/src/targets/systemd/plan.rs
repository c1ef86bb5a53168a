//! What a restore of a unit would do. Decided from what was seen; no I/O.

use std::time::Duration;

use sternway_proto::v1::{Problem, Swap};

use super::{
    checks::run::Checks,
    discover::STARTERS,
    note::{Before, Exchange, Job, PackageChange, Payload},
    record::UnitRecord,
    steps::{BYTES, FILES, PACKAGES},
};
use crate::{
    dpkg::PackageId,
    engine::step::Step,
    snapshot::{Change, Snapshot},
    work::PACKAGES_TAKE,
};

/// How long all units may take to be loaded anew.
const RELOAD: Duration = Duration::from_mins(2);
/// What a step is given beyond what it waits for by wish.
const MARGIN: Duration = Duration::from_secs(30);

/// Paths that are named in a warning; of others there is their number.
const NAMED: usize = 3;

/// What is known when a restore is planned.
pub(super) struct Facts<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) to_number: u32,
    /// What ran before, as recorded; none: nothing did.
    pub(super) from: Option<&'a UnitRecord>,
    /// What stands there now.
    pub(super) now: Option<&'a UnitRecord>,
    pub(super) result: &'a UnitRecord,
    /// The checks of each unit that is started, the target's own first.
    pub(super) checks: &'a [Checks],
    /// What starts the target when it is needed: `x.socket`.
    pub(super) sockets: &'a [String],
    pub(super) swap: Swap,
}

/// What was decided.
pub(super) struct Decision {
    pub(super) steps: Vec<Step>,
    pub(super) swap_reason: String,
    pub(super) soak: Duration,
    pub(super) waiting: Duration,
    pub(super) warnings: Vec<Problem>,
    pub(super) blockers: Vec<Problem>,
    pub(super) expected_outage: String,
}

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let now = facts.now.map_or_else(Snapshot::default, UnitRecord::files);
    let changes = now.changes_to(&facts.result.files());
    let wait = |checks: &Checks| checks.timeout + checks.soak;
    let patience = |unit: usize| {
        let all = [&facts.exchange.main]
            .into_iter()
            .chain(&facts.exchange.beside);
        all.into_iter()
            .nth(unit)
            .map_or(MARGIN, |started| started.patience)
    };
    let packages = if facts.exchange.packages.is_empty() {
        Duration::ZERO
    } else {
        PACKAGES_TAKE
    };
    let waits = facts
        .checks
        .iter()
        .enumerate()
        .map(|(at, one)| wait(one) + patience(at));
    let warm = (facts.swap == Swap::Warm).then(|| {
        Problem::new(
            "swap-impossible",
            "a warm swap was asked for, and a unit is started again in its place",
            "leave `--swap` away: the plan says how long it will be away",
        )
    });
    Decision {
        steps: steps(facts, &changes),
        swap_reason: "a unit is started again in its place".to_owned(),
        soak: facts.checks.iter().map(|one| one.soak).sum(),
        waiting: waits.sum::<Duration>() + packages,
        warnings: warnings(facts),
        blockers: warm.into_iter().collect(),
        expected_outage: outage(facts),
    }
}

fn outage(facts: &Facts<'_>) -> String {
    if facts.exchange.main.before == Before::Waited {
        return "none: it waits for what starts it".to_owned();
    }
    match facts.sockets.first() {
        Some(socket) => format!("connections wait in {socket} while it stops and starts"),
        None => "as long as its own stop and start take".to_owned(),
    }
}

fn steps(facts: &Facts<'_>, changes: &[Change]) -> Vec<Step> {
    let exchange = facts.exchange;
    let to = facts.to_number;
    let step = |id: String, description: String, job: Job, timeout: Duration| Step {
        id: format!("systemd.{id}"),
        description,
        payload: Payload {
            job,
            exchange: exchange.clone(),
        }
        .to_value(),
        timeout,
        commits: false,
    };
    let mut steps = vec![step(
        "prepare".to_owned(),
        format!("look whether all is there to go to #{to}, and back"),
        Job::Prepare,
        BYTES,
    )];
    if !exchange.packages.is_empty() {
        let names: Vec<String> = exchange.packages.iter().map(describe).collect();
        let description = format!("install {}", names.join(", "));
        let job = Job::Packages;
        steps.push(step(
            PACKAGES.to_owned(),
            description,
            job,
            PACKAGES_TAKE + MARGIN,
        ));
    }
    // What a package brings may differ from what stood there in its version.
    if !changes.is_empty() || !exchange.packages.is_empty() {
        let description = match changes.len() {
            0 => format!("see that all files are those of revision #{to}"),
            1 => format!("put back 1 file of revision #{to}"),
            many => format!("put back {many} files of revision #{to}"),
        };
        steps.push(step(FILES.to_owned(), description, Job::Files, BYTES * 2));
    }
    let reload = "have the service manager load its units anew".to_owned();
    steps.push(step("reload".to_owned(), reload, Job::Reload, RELOAD));
    let units = [&exchange.main].into_iter().chain(&exchange.beside);
    for (at, (started, checks)) in units.zip(facts.checks).enumerate() {
        let unit = &started.unit;
        let beside = if at == 0 {
            String::new()
        } else {
            format!("/{unit}")
        };
        let job = Job::Start { unit: unit.clone() };
        let description = match started.before {
            Before::Waited => format!("leave {unit} to what starts it"),
            Before::Ran | Before::Failed | Before::Stopped => format!("start {unit} again"),
        };
        steps.push(step(
            format!("start{beside}"),
            description,
            job,
            started.patience * 2 + MARGIN,
        ));
        let job = Job::Check { unit: unit.clone() };
        let limit = checks.timeout + checks.soak * 2 + MARGIN * 2;
        let description = format!("check {unit}");
        steps.push(step(format!("check{beside}"), description, job, limit));
    }
    steps
}

fn describe(change: &PackageChange) -> String {
    let PackageChange { to, from, hold, .. } = change;
    let before = match from {
        Some(from) => format!(" (instead of {})", from.version),
        None => String::new(),
    };
    let hold = if *hold { " and hold it" } else { "" };
    format!("{} {}{before}{hold}", to.name, to.version)
}

fn warnings(facts: &Facts<'_>) -> Vec<Problem> {
    let mut warnings: Vec<Problem> = edited(facts).into_iter().collect();
    let Some(now) = facts.now else {
        return warnings;
    };
    let stays = |one: &&PackageId| !facts.result.packages.iter().any(|to| to.name == one.name);
    for package in now.packages.iter().filter(stays) {
        warnings.push(Problem::new(
            "package-stays",
            format!("package {package} came with what runs now: it is not removed"),
            format!(
                "where it is in the way: `apt-get remove {}` on the host, afterwards",
                package.name
            ),
        ));
    }
    for change in now.files().changes_to(&facts.result.files()) {
        let name = change.path.file_name().and_then(|name| name.to_str());
        let starter = name.filter(|name| STARTERS.iter().any(|one| name.ends_with(one)));
        if let Some(starter) = starter {
            warnings.push(Problem::new(
                "starter-changes",
                format!("{starter} is put back, and goes on as it was loaded: only services are started again"),
                format!("`systemctl restart {starter}` on the host, afterwards"),
            ));
        }
    }
    warnings
}

/// What no revision has of what stands there.
fn edited(facts: &Facts<'_>) -> Option<Problem> {
    let (from, now) = (facts.from?, facts.now?);
    let edited = from.files().changes_to(&now.files());
    if edited.is_empty() {
        return None;
    }
    let mut names: Vec<String> = edited
        .iter()
        .take(NAMED)
        .map(|change| change.path.display().to_string())
        .collect();
    if edited.len() > NAMED {
        names.push(format!("{} more", edited.len() - NAMED));
    }
    Some(Problem::new(
        "changed-since-start",
        format!(
            "changed since it was started, so no revision has it: {}; an undo would bring back what it was started with",
            names.join(", ")
        ),
        format!(
            "copy what is to be kept, or restart {} first: that makes it a revision",
            facts.exchange.main.unit
        ),
    ))
}
