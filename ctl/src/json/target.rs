//! Targets, revisions, readiness and differences as documents.

use serde::Serialize;
use sternway_proto::v1;

use super::{host::host_state, rollout::outcome, text, time};
use crate::render::host::is_seen;

/// `ctl target ls` and `ctl readiness`.
#[derive(Debug, Serialize)]
pub(crate) struct Targets {
    pub(crate) targets: Vec<HostTarget>,
    /// The controller left parts out, for the whole would have been too long.
    pub(crate) thinned: bool,
}

/// A target and where it is.
#[derive(Debug, Serialize)]
pub(crate) struct HostTarget {
    pub(crate) host: String,
    pub(crate) host_state: &'static str,
    #[serde(flatten)]
    pub(crate) target: Target,
}

impl HostTarget {
    pub(crate) fn new(host: &v1::Host, target: &v1::Target) -> Self {
        Self {
            host: host.name.clone(),
            host_state: host_state(host.state()),
            target: Target::new(host, target),
        }
    }
}

/// `ctl target show` and `ctl history`.
#[derive(Debug, Serialize)]
pub(crate) struct TargetDetail {
    #[serde(flatten)]
    pub(crate) target: HostTarget,
    pub(crate) deployments: Vec<Deployment>,
    /// Newest first.
    pub(crate) failures: Vec<Failure>,
    /// The controller left parts out, for the whole would have been too long.
    pub(crate) thinned: bool,
}

/// A restore of one of the revisions that did not succeed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) revision: String,
    pub(crate) rollout: String,
    pub(crate) at: Option<String>,
    /// `undone` or `needs-human`.
    pub(crate) outcome: Option<&'static str>,
    /// Its code is `check-failed` where the revision failed its checks.
    pub(crate) problem: Option<Problem>,
}

impl From<&v1::FailedRestore> for Failure {
    fn from(failed: &v1::FailedRestore) -> Self {
        Self {
            revision: failed.revision.clone(),
            rollout: failed.rollout.clone(),
            at: time(failed.at_ms),
            outcome: outcome(failed.outcome()),
            problem: failed.problem.as_ref().map(Into::into),
        }
    }
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "names are the documents' own")]
pub(crate) struct Target {
    pub(crate) target: String,
    /// `running`, `stopped`, `restarting`, `gone` or `unknown`.
    pub(crate) state: &'static str,
    /// `passed`, `failed`, `inconclusive`; null before the first check.
    pub(crate) health: Option<&'static str>,
    pub(crate) current_revision: Option<String>,
    /// The order that is being carried out.
    pub(crate) active_order: Option<String>,
    /// The rollout that is restoring it.
    pub(crate) active_rollout: Option<String>,
    pub(crate) readiness: Readiness,
    /// Why the target cannot be restored at all.
    pub(crate) unsupported: Option<Problem>,
    /// Ids, oldest first: what `previous` walks back.
    pub(crate) lineage: Vec<String>,
    /// Newest first.
    pub(crate) revisions: Vec<Revision>,
    pub(crate) health_evidence: Vec<Evidence>,
}

impl Target {
    /// The target as it is known with its host in that state.
    pub(crate) fn new(host: &v1::Host, target: &v1::Target) -> Self {
        Self {
            target: target.name.clone(),
            state: target_state(target.state()),
            health: verdict(target.health()),
            current_revision: text(&target.current_revision),
            active_order: text(&target.active_order),
            active_rollout: text(&target.active_rollout),
            readiness: Readiness::new(is_seen(host), target.readiness.as_ref()),
            unsupported: target.unsupported.as_ref().map(Into::into),
            lineage: target.lineage.clone(),
            revisions: target.revisions.iter().map(Into::into).collect(),
            health_evidence: target.health_evidence.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    /// `ready`, `not-ready`, `no-predecessor` or `unknown`: as long as the host is not online, nobody knows.
    pub(crate) verdict: &'static str,
    /// What the host's agent said last, in the same words.
    pub(crate) last_verdict: &'static str,
    pub(crate) revision: Option<String>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) checked: Option<String>,
}

impl Readiness {
    fn new(seen: bool, readiness: Option<&v1::Readiness>) -> Self {
        let readiness = readiness.cloned().unwrap_or_default();
        let now = if seen {
            readiness.verdict()
        } else {
            v1::ReadinessVerdict::Unspecified
        };
        Self {
            verdict: readiness_verdict(now),
            last_verdict: readiness_verdict(readiness.verdict()),
            revision: text(&readiness.revision),
            problems: readiness.problems.iter().map(Into::into).collect(),
            checked: time(readiness.checked_at_ms),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Revision {
    pub(crate) id: String,
    pub(crate) number: u32,
    pub(crate) first_seen: Option<String>,
    /// When it became current for the last time.
    pub(crate) last_active: Option<String>,
    pub(crate) known_good: bool,
    /// `good`, `bad` or null.
    pub(crate) mark: Option<&'static str>,
    pub(crate) mark_reason: Option<String>,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) image_digest: Option<String>,
    /// `deployment` or `restore`.
    pub(crate) origin: String,
    /// Its host keeps it no longer.
    pub(crate) gone: bool,
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
            gone: revision.gone,
        }
    }
}

/// `ctl revision mark`.
#[derive(Debug, Serialize)]
pub(crate) struct Marked {
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) revision: Revision,
}

/// `ctl diff`.
#[derive(Debug, Serialize)]
pub(crate) struct Diff {
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) before: Option<Revision>,
    pub(crate) after: Option<Revision>,
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) path: String,
    /// Null: absent there. With `private`, a keyed hash.
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) private: bool,
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
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) next_step: Option<String>,
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
pub(crate) struct Evidence {
    pub(crate) check: String,
    pub(crate) subject: String,
    /// `standby`, `replacement` or `current`.
    pub(crate) instance: Option<String>,
    pub(crate) expected: String,
    pub(crate) observed: String,
    /// `passed`, `failed`, `inconclusive` or null.
    pub(crate) verdict: Option<&'static str>,
    pub(crate) attempts: u32,
    pub(crate) duration_ms: i64,
    pub(crate) at: Option<String>,
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
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) host: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) digest: String,
    pub(crate) deployed_version: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) author: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) migration: Option<String>,
    pub(crate) recorded: Option<String>,
    pub(crate) recorded_by: String,
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
pub(crate) struct DeploymentCheck {
    pub(crate) digest: String,
    pub(crate) bad: bool,
    pub(crate) reasons: Vec<String>,
}

/// The word for a target's state.
pub(crate) fn target_state(state: v1::TargetState) -> &'static str {
    match state {
        v1::TargetState::Unspecified => "unknown",
        v1::TargetState::Running => "running",
        v1::TargetState::Stopped => "stopped",
        v1::TargetState::Restarting => "restarting",
        v1::TargetState::Gone => "gone",
    }
}

/// The word for a verdict, none where there is none yet.
pub(crate) fn verdict(verdict: v1::Verdict) -> Option<&'static str> {
    match verdict {
        v1::Verdict::Unspecified => None,
        v1::Verdict::Passed => Some("passed"),
        v1::Verdict::Failed => Some("failed"),
        v1::Verdict::Inconclusive => Some("inconclusive"),
    }
}

/// The word for a readiness.
pub(crate) fn readiness_verdict(verdict: v1::ReadinessVerdict) -> &'static str {
    match verdict {
        v1::ReadinessVerdict::Unspecified => "unknown",
        v1::ReadinessVerdict::Ready => "ready",
        v1::ReadinessVerdict::NotReady => "not-ready",
        v1::ReadinessVerdict::NoPredecessor => "no-predecessor",
    }
}
