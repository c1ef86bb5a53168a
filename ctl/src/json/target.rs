//! Targets, revisions, readiness and differences as documents.

use serde::Serialize;
use sternway_proto::v1;

use super::{host::host_state, text, time};

/// `ctl target ls` and `ctl readiness`.
#[derive(Debug, Serialize)]
pub struct Targets {
    pub targets: Vec<HostTarget>,
}

/// A target and where it is.
#[derive(Debug, Serialize)]
pub struct HostTarget {
    pub host: String,
    pub host_state: &'static str,
    #[serde(flatten)]
    pub target: Target,
}

impl HostTarget {
    pub fn new(host: &v1::Host, target: &v1::Target) -> Self {
        Self {
            host: host.name.clone(),
            host_state: host_state(host.state()),
            target: target.into(),
        }
    }
}

/// `ctl target show` and `ctl history`.
#[derive(Debug, Serialize)]
pub struct TargetDetail {
    #[serde(flatten)]
    pub target: HostTarget,
    pub deployments: Vec<Deployment>,
}

#[derive(Debug, Serialize)]
pub struct Target {
    pub target: String,
    /// `running`, `stopped`, `restarting`, `gone` or `unknown`.
    pub state: &'static str,
    /// `passed`, `failed`, `inconclusive`; null before the first check.
    pub health: Option<&'static str>,
    pub current_revision: Option<String>,
    /// The order that is being carried out.
    pub active_order: Option<String>,
    pub readiness: Readiness,
    /// Why the target cannot be restored at all.
    pub unsupported: Option<Problem>,
    /// Ids, oldest first: what `previous` walks back.
    pub lineage: Vec<String>,
    /// Newest first.
    pub revisions: Vec<Revision>,
    pub health_evidence: Vec<Evidence>,
}

impl From<&v1::Target> for Target {
    fn from(target: &v1::Target) -> Self {
        Self {
            target: target.name.clone(),
            state: target_state(target.state()),
            health: verdict(target.health()),
            current_revision: text(&target.current_revision),
            active_order: text(&target.active_order),
            readiness: target.readiness.as_ref().into(),
            unsupported: target.unsupported.as_ref().map(Into::into),
            lineage: target.lineage.clone(),
            revisions: target.revisions.iter().map(Into::into).collect(),
            health_evidence: target.health_evidence.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Readiness {
    /// `ready`, `not-ready`, `no-predecessor` or `unknown`.
    pub verdict: &'static str,
    pub revision: Option<String>,
    pub problems: Vec<Problem>,
    pub checked: Option<String>,
}

impl From<Option<&v1::Readiness>> for Readiness {
    fn from(readiness: Option<&v1::Readiness>) -> Self {
        let readiness = readiness.cloned().unwrap_or_default();
        Self {
            verdict: readiness_verdict(readiness.verdict()),
            revision: text(&readiness.revision),
            problems: readiness.problems.iter().map(Into::into).collect(),
            checked: time(readiness.checked_at_ms),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Revision {
    pub id: String,
    pub number: u32,
    pub first_seen: Option<String>,
    pub last_active: Option<String>,
    pub known_good: bool,
    /// `good`, `bad` or null.
    pub mark: Option<&'static str>,
    pub mark_reason: Option<String>,
    pub image: String,
    pub image_id: String,
    pub image_digest: Option<String>,
    /// `deployment` or `restore`.
    pub origin: String,
}

impl From<&v1::Revision> for Revision {
    fn from(revision: &v1::Revision) -> Self {
        Self {
            id: revision.id.clone(),
            number: revision.number,
            first_seen: time(revision.first_seen_ms),
            last_active: time(revision.last_active_ms),
            known_good: revision.known_good,
            mark: match revision.mark() {
                v1::Mark::Unspecified => None,
                v1::Mark::Good => Some("good"),
                v1::Mark::Bad => Some("bad"),
            },
            mark_reason: text(&revision.mark_reason),
            image: revision.image.clone(),
            image_id: revision.image_id.clone(),
            image_digest: text(&revision.image_digest),
            origin: revision.origin.clone(),
        }
    }
}

/// `ctl revision mark`.
#[derive(Debug, Serialize)]
pub struct Marked {
    pub host: String,
    pub target: String,
    pub revision: Revision,
}

/// `ctl diff`.
#[derive(Debug, Serialize)]
pub struct Diff {
    pub host: String,
    pub target: String,
    pub before: Option<Revision>,
    pub after: Option<Revision>,
    pub changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
pub struct Change {
    pub path: String,
    /// Null: absent there. With `private`, a keyed hash.
    pub before: Option<String>,
    pub after: Option<String>,
    pub private: bool,
}

impl From<&v1::FieldChange> for Change {
    fn from(change: &v1::FieldChange) -> Self {
        Self {
            path: change.path.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
            private: change.private,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Problem {
    pub code: String,
    pub message: String,
    pub next_step: Option<String>,
}

impl From<&v1::Problem> for Problem {
    fn from(problem: &v1::Problem) -> Self {
        Self {
            code: problem.code.clone(),
            message: problem.message.clone(),
            next_step: text(&problem.next_step),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Evidence {
    pub check: String,
    pub subject: String,
    /// `standby`, `replacement`, `previous` or `current`.
    pub instance: Option<String>,
    pub expected: String,
    pub observed: String,
    /// `passed`, `failed`, `inconclusive` or null.
    pub verdict: Option<&'static str>,
    pub attempts: u32,
    pub duration_ms: i64,
    pub at: Option<String>,
}

impl From<&v1::Evidence> for Evidence {
    fn from(evidence: &v1::Evidence) -> Self {
        Self {
            check: evidence.check.clone(),
            subject: evidence.subject.clone(),
            instance: text(&evidence.instance),
            expected: evidence.expected.clone(),
            observed: evidence.observed.clone(),
            verdict: verdict(evidence.verdict()),
            attempts: evidence.attempts,
            duration_ms: evidence.duration_ms,
            at: time(evidence.at_ms),
        }
    }
}

/// `ctl deployment record`.
#[derive(Debug, Serialize)]
pub struct Deployment {
    pub id: String,
    pub host: Option<String>,
    pub target: Option<String>,
    pub digest: String,
    pub deployed_version: Option<String>,
    pub commit: Option<String>,
    pub author: Option<String>,
    pub reason: Option<String>,
    pub migration: Option<String>,
    pub recorded: Option<String>,
    pub recorded_by: String,
}

impl From<&v1::Deployment> for Deployment {
    fn from(deployment: &v1::Deployment) -> Self {
        Self {
            id: deployment.id.clone(),
            host: text(&deployment.host),
            target: text(&deployment.target),
            digest: deployment.digest.clone(),
            deployed_version: text(&deployment.version),
            commit: text(&deployment.commit),
            author: text(&deployment.author),
            reason: text(&deployment.reason),
            migration: text(&deployment.migration),
            recorded: time(deployment.recorded_ms),
            recorded_by: deployment.recorded_by.clone(),
        }
    }
}

/// `ctl deployment check`.
#[derive(Debug, Serialize)]
pub struct DeploymentCheck {
    pub digest: String,
    pub bad: bool,
    pub reasons: Vec<String>,
}

/// The word for a target's state.
pub fn target_state(state: v1::TargetState) -> &'static str {
    match state {
        v1::TargetState::Unspecified => "unknown",
        v1::TargetState::Running => "running",
        v1::TargetState::Stopped => "stopped",
        v1::TargetState::Restarting => "restarting",
        v1::TargetState::Gone => "gone",
    }
}

/// The word for a verdict, none where there is none yet.
pub fn verdict(verdict: v1::Verdict) -> Option<&'static str> {
    match verdict {
        v1::Verdict::Unspecified => None,
        v1::Verdict::Passed => Some("passed"),
        v1::Verdict::Failed => Some("failed"),
        v1::Verdict::Inconclusive => Some("inconclusive"),
    }
}

/// The word for a readiness.
pub fn readiness_verdict(verdict: v1::ReadinessVerdict) -> &'static str {
    match verdict {
        v1::ReadinessVerdict::Unspecified => "unknown",
        v1::ReadinessVerdict::Ready => "ready",
        v1::ReadinessVerdict::NotReady => "not-ready",
        v1::ReadinessVerdict::NoPredecessor => "no-predecessor",
    }
}
