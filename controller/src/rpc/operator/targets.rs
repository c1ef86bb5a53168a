//! `target ls`, `history`, `diff`, `revision mark`.

use std::collections::HashMap;

use sternway_proto::{field, v1};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Operators, earlier, fit, hosts, text, to_its_end};
use crate::{
    clock::now_ms,
    rpc::{caller::Caller, convert, fault},
    select::{self, History},
    store::types::{Host, NewMark},
};

/// One target of a host with its whole history.
pub(super) struct Found {
    pub(super) host: Host,
    pub(super) target: v1::Target,
}

impl Found {
    pub(super) fn history(&self) -> History<'_> {
        History {
            target: &self.target,
            revisions: &self.target.revisions,
        }
    }
}

/// Which targets are being restored, and by which rollout.
pub(super) struct Restoring(HashMap<(Uuid, String), Uuid>);

impl Restoring {
    /// As the store has it.
    pub(super) async fn now(service: &Operators) -> Result<Self, Status> {
        let sent = service.store.order_sent_list().await;
        let sent = sent.map_err(fault::store)?.into_iter();
        Ok(Self(
            sent.map(|order| ((order.host, order.target), order.rollout))
                .collect(),
        ))
    }

    /// Says in a target which rollout is at it.
    pub(super) fn note(&self, host: Uuid, target: &mut v1::Target) {
        let rollout = self.0.get(&(host, target.name.clone()));
        target.active_rollout = rollout.map(Uuid::to_string).unwrap_or_default();
    }
}

/// Says in a target, whose revisions are set, where what runs is marked bad. Beside the problems of its readiness: it is
/// no obstacle to a rollback, and the reason for one.
pub(super) async fn note_bad(
    service: &Operators,
    host: Uuid,
    host_name: &str,
    target: &mut v1::Target,
) -> Result<(), Status> {
    let bad = |it: &v1::Revision| it.id == target.current_revision && it.mark() == v1::Mark::Bad;
    // Seldom, so that the rest costs nothing where all is well.
    if !target.revisions.iter().any(bad) {
        return Ok(());
    }
    let ended = service.store.order_ended_list(host, &target.name).await;
    let ended = ended.map_err(fault::store)?;
    if let Some(problem) = earlier::runs_bad(host_name, target, &ended, now_ms()) {
        let readiness = target.readiness.get_or_insert_default();
        readiness.problems.push(problem);
    }
    Ok(())
}

/// The target that is meant on that host, without its revisions.
pub(super) async fn named(
    service: &Operators,
    host: &str,
    target: &str,
) -> Result<(Host, v1::Target), Status> {
    let host = hosts::find(service, host).await?;
    let listed = service.store.target_list(Some(host.id)).await;
    let targets: Vec<v1::Target> = listed
        .map_err(fault::store)?
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    let target = select::target(&host.name, &targets, target)
        .map_err(fault::not_found)?
        .clone();
    Ok((host, target))
}

/// The target that is meant on that host.
pub(super) async fn find(service: &Operators, host: &str, target: &str) -> Result<Found, Status> {
    let (host, mut target) = named(service, host, target).await?;
    Restoring::now(service).await?.note(host.id, &mut target);
    target.revisions = service
        .store
        .revision_list(host.id, &target.name)
        .await
        .map_err(fault::store)?;
    note_bad(service, host.id, &host.name, &mut target).await?;
    Ok(Found { host, target })
}

pub(super) async fn list(
    service: &Operators,
    request: &v1::ListTargetsRequest,
) -> Result<v1::ListTargetsResponse, Status> {
    let chosen = if request.host.is_empty() {
        service.store.host_list().await.map_err(fault::store)?
    } else {
        vec![hosts::find(service, &request.host).await?]
    };
    let only = match chosen.as_slice() {
        [one] => Some(one.id),
        _ => None,
    };
    let by_id: HashMap<Uuid, v1::Host> = chosen
        .iter()
        .filter(|host| host.revoked_ms.is_none() || !request.host.is_empty())
        .map(|host| (host.id, convert::host(host, &service.fleet)))
        .collect();
    let listed = service
        .store
        .target_list(only)
        .await
        .map_err(fault::store)?;
    let restoring = Restoring::now(service).await?;
    let mut targets = Vec::new();
    for (id, mut target) in listed {
        let Some(host) = by_id.get(&id) else { continue };
        restoring.note(id, &mut target);
        // The whole history of one host; of a whole fleet what runs and what a rollback would go to.
        let revisions = if only.is_some() {
            service.store.revision_list(id, &target.name).await
        } else {
            let goal = target.readiness.as_ref().map(|it| it.revision.as_str());
            let ids = [target.current_revision.as_str(), goal.unwrap_or_default()];
            service.store.revision_some(id, &target.name, ids).await
        };
        target.revisions = revisions.map_err(fault::store)?;
        note_bad(service, id, &host.name, &mut target).await?;
        targets.push(v1::HostTarget {
            host: Some(host.clone()),
            target: Some(target),
        });
    }
    let name = |target: &v1::HostTarget| {
        (
            target.host.as_ref().map(|host| host.name.clone()),
            target.target.as_ref().map(|target| target.name.clone()),
        )
    };
    targets.sort_by_cached_key(name);
    let reliefs: &[fn(&mut v1::ListTargetsResponse)] = &[
        |answer| each(answer, fit::without_fields),
        |answer| each(answer, fit::without_evidence),
        |answer| each(answer, fit::few_problems),
        |answer| each(answer, fit::terse),
    ];
    fit::fit(
        v1::ListTargetsResponse {
            targets,
            thinned: false,
        },
        reliefs,
        "ask for one host at a time: `ctl target ls --host HOST`",
    )
}

fn each(answer: &mut v1::ListTargetsResponse, relieve: fn(&mut v1::Target)) {
    answer
        .targets
        .iter_mut()
        .filter_map(|one| one.target.as_mut())
        .for_each(relieve);
}

pub(super) async fn get(
    service: &Operators,
    request: &v1::GetTargetRequest,
) -> Result<v1::GetTargetResponse, Status> {
    let found = find(service, &request.host, &request.target).await?;
    let deployments = service
        .store
        .deployment_list(found.host.id, &found.target.name)
        .await
        .map_err(fault::store)?;
    let (host, name) = (found.host.id, &found.target.name);
    let failed = service.store.order_failed_list(host, name).await;
    let passed = service.store.order_passed_list(host, name).await;
    let failures = earlier::not_outlived(
        failed.map_err(fault::store)?,
        &passed.map_err(fault::store)?,
    );
    let answer = v1::GetTargetResponse {
        target: Some(v1::HostTarget {
            host: Some(convert::host(&found.host, &service.fleet)),
            target: Some(found.target),
        }),
        deployments,
        failures,
        thinned: false,
    };
    let reliefs: &[fn(&mut v1::GetTargetResponse)] = &[|answer| {
        let target = answer.target.as_mut().and_then(|one| one.target.as_mut());
        if let Some(target) = target {
            fit::without_fields(target);
        }
    }];
    fit::fit(answer, reliefs, "`ctl diff` shows two revisions at a time")
}

pub(super) async fn diff(
    service: &Operators,
    request: &v1::DiffRevisionsRequest,
) -> Result<v1::DiffRevisionsResponse, Status> {
    let found = find(service, &request.host, &request.target).await?;
    let or = |word: &str, default: &str| {
        if word.is_empty() {
            default.to_owned()
        } else {
            word.to_owned()
        }
    };
    let history = found.history();
    let find = |word: String| history.find(&word).map_err(fault::not_found);
    let before = find(or(&request.before, "previous"))?.revision;
    let after = find(or(&request.after, "current"))?.revision;
    Ok(v1::DiffRevisionsResponse {
        changes: field::changes(&before.fields, &after.fields),
        before: Some(before.clone()),
        after: Some(after.clone()),
    })
}

pub(super) async fn mark(
    service: &Operators,
    caller: &Caller,
    request: &v1::MarkRevisionRequest,
) -> Result<v1::MarkRevisionResponse, Status> {
    let reason = text("the reason", &request.reason)?;
    let mark = v1::Mark::try_from(request.mark)
        .map_err(|_| fault::invalid("mark-not-valid", "there is no such mark", ""))?;
    if request.revision.is_empty() {
        return Err(fault::invalid(
            "revision-needed",
            "no revision is named",
            "name one: its number, `current` or `previous`",
        ));
    }
    let (found, revision) = match chosen(service, request).await {
        // It may be of a target, or of a past, that nobody looks after any more: its mark still counts.
        Err(unknown) if mark == v1::Mark::Unspecified && unknown.code() == Code::NotFound => {
            marked(service, request).await?.ok_or(unknown)?
        }
        other => other?,
    };
    let new = NewMark {
        host_id: found.host.id,
        host_name: found.host.name.clone(),
        target: found.target.name.clone(),
        revision: revision.id.clone(),
        mark,
        reason: reason.clone(),
        operator: caller.name.clone(),
        at_ms: now_ms(),
    };
    let (of, stands) = (service.clone(), new.clone());
    to_its_end(async move {
        of.store.mark_set(&stands).await.map_err(fault::store)?;
        // A mark that does not reach the agent now is told at the next look, or when it connects again.
        if let Err(error) = of.fleet.push_marks(stands.host_id).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to tell {} its marks",
                stands.host_name
            );
        }
        Ok(())
    })
    .await?;
    let marked = mark != v1::Mark::Unspecified;
    Ok(v1::MarkRevisionResponse {
        revision: Some(v1::Revision {
            mark: mark.into(),
            mark_reason: if marked { reason } else { String::new() },
            ..revision
        }),
        host: new.host_name,
        target: new.target,
    })
}

/// The revision that is meant, of those that the target's history lists.
async fn chosen(
    service: &Operators,
    request: &v1::MarkRevisionRequest,
) -> Result<(Found, v1::Revision), Status> {
    let found = find(service, &request.host, &request.target).await?;
    let chosen = found.history().find(&request.revision);
    let revision = chosen.map_err(fault::not_found)?.revision.clone();
    Ok((found, revision))
}

/// The revision that is meant, of all that are marked. None: there is none.
async fn marked(
    service: &Operators,
    request: &v1::MarkRevisionRequest,
) -> Result<Option<(Found, v1::Revision)>, Status> {
    let host = hosts::find(service, &request.host).await?;
    let all = service.store.marked_list(host.id).await;
    let mut targets: Vec<v1::Target> = Vec::new();
    for (name, revision) in all.map_err(fault::store)? {
        match targets.last_mut() {
            Some(target) if target.name == name => target.revisions.push(revision),
            _ => targets.push(v1::Target {
                name,
                revisions: vec![revision],
                ..v1::Target::default()
            }),
        }
    }
    let Ok(target) = select::target(&host.name, &targets, &request.target) else {
        return Ok(None);
    };
    let history = History {
        target,
        revisions: &target.revisions,
    };
    let revision = match history.find(&request.revision) {
        Ok(chosen) => chosen.revision.clone(),
        Err(why) if why.code == "revision-ambiguous" => return Err(fault::not_found(why)),
        Err(_) => return Ok(None),
    };
    let target = target.clone();
    Ok(Some((Found { host, target }, revision)))
}
