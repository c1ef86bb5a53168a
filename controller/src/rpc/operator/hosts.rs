//! `host ls|show|token|revoke`.

use std::{collections::BTreeMap, time::Duration};

use sternway_proto::{
    name::{HostName, check_label},
    v1,
};
use tonic::{Code, Status};

use super::{
    Operators, fit,
    targets::{Restoring, note_bad},
    text, to_its_end,
};
use crate::{
    clock::{millis, now_ms},
    fleet::session::End,
    rpc::{caller::Caller, convert, fault},
    select,
    store::types::{Host, NewToken},
};

/// Labels of one host.
const LABELS: usize = 64;

/// The longest a join token may be valid.
const TOKEN_AT_MOST: Duration = Duration::from_hours(7 * 24);

/// The host of that name or id.
pub(super) async fn find(service: &Operators, name_or_id: &str) -> Result<Host, Status> {
    if name_or_id.is_empty() {
        return Err(fault::invalid(
            "host-needed",
            "no host is named",
            "name one; `ctl host ls` lists them",
        ));
    }
    let found = service.store.host_find(name_or_id).await;
    if let Some(host) = found.map_err(fault::store)? {
        return Ok(host);
    }
    let all = service.store.host_list().await.map_err(fault::store)?;
    let names = all
        .iter()
        .filter(|host| host.revoked_ms.is_none())
        .map(|host| host.name.as_str());
    Err(fault::not_found(select::unknown_host(name_or_id, names)))
}

/// The host of that name or id, if it may still be given orders.
pub(super) async fn living(service: &Operators, name_or_id: &str) -> Result<Host, Status> {
    let host = find(service, name_or_id).await?;
    if host.revoked_ms.is_some() {
        return Err(fault::refused(fault::host_revoked(&host.name)));
    }
    Ok(host)
}

/// The host's targets, each with its whole history and marks.
pub(super) async fn targets(service: &Operators, host: &Host) -> Result<Vec<v1::Target>, Status> {
    let (name, host) = (&host.name, host.id);
    let listed = service.store.target_list(Some(host)).await;
    let restoring = Restoring::now(service).await?;
    let mut targets = Vec::new();
    for (_, mut target) in listed.map_err(fault::store)? {
        restoring.note(host, &mut target);
        target.revisions = service
            .store
            .revision_list(host, &target.name)
            .await
            .map_err(fault::store)?;
        note_bad(service, host, name, &mut target).await?;
        targets.push(target);
    }
    Ok(targets)
}

pub(super) async fn list(service: &Operators) -> Result<v1::ListHostsResponse, Status> {
    let hosts = service.store.host_list().await.map_err(fault::store)?;
    let answer = v1::ListHostsResponse {
        hosts: hosts
            .iter()
            .map(|host| convert::host(host, &service.fleet))
            .collect(),
        thinned: false,
    };
    let reliefs: &[fn(&mut v1::ListHostsResponse)] = &[
        // Tombstones first, then what `ctl host show` has.
        |answer| {
            let living = |host: &v1::Host| host.state() != v1::HostState::Revoked;
            answer.hosts.retain(living);
        },
        |answer| answer.hosts.iter_mut().for_each(|host| host.facts = None),
    ];
    fit::fit(
        answer,
        reliefs,
        "ask for one host at a time: `ctl host show HOST`",
    )
}

pub(super) async fn get(
    service: &Operators,
    request: &v1::GetHostRequest,
) -> Result<v1::GetHostResponse, Status> {
    let host = find(service, &request.host).await?;
    let answer = v1::GetHostResponse {
        targets: targets(service, &host).await?,
        host: Some(convert::host(&host, &service.fleet)),
        thinned: false,
    };
    let reliefs: &[fn(&mut v1::GetHostResponse)] = &[
        |answer| answer.targets.iter_mut().for_each(fit::without_fields),
        |answer| answer.targets.iter_mut().for_each(fit::without_evidence),
        |answer| answer.targets.iter_mut().for_each(fit::few_problems),
        |answer| answer.targets.iter_mut().for_each(fit::terse),
        // It always fits: a host that says too much must not be in the way of its own revocation.
        |answer| answer.targets.iter_mut().for_each(fit::name_only),
    ];
    let next = "ask for one target at a time: `ctl history --host HOST --target TARGET`";
    fit::fit(answer, reliefs, next)
}

pub(super) async fn token(
    service: &Operators,
    caller: &Caller,
    request: v1::CreateJoinTokenRequest,
) -> Result<v1::CreateJoinTokenResponse, Status> {
    let name = &request.host_name;
    if !name.is_empty() {
        let parsed: Result<HostName, _> = name.parse();
        let parsed = parsed.map_err(|why| fault::invalid("name-not-valid", why.to_string(), ""))?;
        if parsed.reads_as_id() {
            return Err(fault::invalid(
                "name-not-valid",
                format!("the name {name} reads as the id of a host"),
                "choose another name",
            ));
        }
        let taken = service.store.host_find(name).await.map_err(fault::store)?;
        if taken.is_some_and(|host| host.revoked_ms.is_none()) {
            return Err(fault::refused(v1::Problem::new(
                "name-taken",
                format!("there is a host named {name} already"),
                format!("choose another name, or revoke it: `ctl host revoke {name}`"),
            )));
        }
    }
    if request.labels.len() > LABELS {
        return Err(fault::invalid(
            "too-many-labels",
            format!("a host has at most {LABELS} labels"),
            "",
        ));
    }
    for (key, value) in &request.labels {
        check_label(key, value)
            .map_err(|why| fault::invalid("label-not-valid", why.to_string(), ""))?;
    }
    let valid_ms = match request.valid_for_ms {
        0 => millis(service.lifetimes.token),
        asked if asked > 0 && asked <= millis(TOKEN_AT_MOST) => asked,
        _ => {
            return Err(fault::invalid(
                "lifetime-not-valid",
                "a join token is valid for at most 7 days",
                "ask for a shorter time",
            ));
        }
    };
    let (token, hash) = service
        .authority
        .mint_token()
        .map_err(|problem| sternway_proto::fault::to_status(Code::Unavailable, problem))?;
    let now = now_ms();
    let new = NewToken {
        hash,
        host_name: request.host_name,
        labels: BTreeMap::from_iter(request.labels),
        created_ms: now,
        created_by: caller.name.clone(),
        expires_ms: now.saturating_add(valid_ms),
    };
    service
        .store
        .token_insert(&new)
        .await
        .map_err(fault::store)?;
    Ok(v1::CreateJoinTokenResponse {
        token,
        expires_ms: new.expires_ms,
    })
}

pub(super) async fn revoke(
    service: &Operators,
    caller: &Caller,
    request: &v1::RevokeHostRequest,
) -> Result<v1::RevokeHostResponse, Status> {
    let reason = text("the reason", &request.reason)?;
    let Host { id, name, .. } = find(service, &request.host).await?;
    let (of, by) = (service.clone(), caller.name.clone());
    let host = to_its_end(async move {
        let revoked = of.store.host_revoke(id, &reason, &by, now_ms()).await;
        let revoked = revoked.map_err(fault::store)?;
        of.fleet.end(id, End::Revoked);
        of.authority.revoke_host(id);
        tracing::warn!(host.id = %id, "host {name} revoked by {by}");
        Ok(revoked.map(|(host, effects)| {
            of.fleet.effects(effects);
            host
        }))
    });
    // None: it was revoked before. Said again, it is as true as the first time, and is cut again.
    let host = match host.await? {
        Some(host) => host,
        None => find(service, &id.to_string()).await?,
    };
    Ok(v1::RevokeHostResponse {
        host: Some(convert::host(&host, &service.fleet)),
    })
}
