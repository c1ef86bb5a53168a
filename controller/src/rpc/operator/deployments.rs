//! What CI says about deployments, and what it asks.

use sternway_proto::v1;
use tonic::Status;
use uuid::Uuid;

use super::{Operators, targets, text};
use crate::{
    clock::now_ms,
    rpc::{caller::Caller, fault},
};

const MIGRATIONS: [&str; 5] = ["", "none", "compatible", "reversible", "destructive"];

fn digest(text: &str) -> Result<(), Status> {
    let hex = text
        .rsplit_once("sha256:")
        .filter(|(before, _)| before.is_empty() || before.ends_with('@'))
        .map_or("", |(_, hex)| hex);
    if hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
        return Ok(());
    }
    Err(fault::invalid(
        "digest-not-valid",
        "the digest is not valid",
        "give `sha256:` and 64 hexadecimal digits, or NAME@sha256:…",
    ))
}

pub(super) async fn record(
    service: &Operators,
    caller: &Caller,
    request: v1::RecordDeploymentRequest,
) -> Result<v1::RecordDeploymentResponse, Status> {
    let asked = request.deployment.unwrap_or_default();
    digest(&asked.digest)?;
    if !MIGRATIONS.contains(&asked.migration.as_str()) {
        return Err(fault::invalid(
            "migration-not-valid",
            "there is no such kind of migration",
            "one of: none, compatible, reversible, destructive",
        ));
    }
    let id = match request.request_id.as_str() {
        "" => Uuid::now_v7(),
        id => Uuid::try_parse(id).map_err(|_| {
            fault::invalid(
                "request-id-not-valid",
                "the request's id is no UUID",
                "make one for each call, and use it again only to repeat that call",
            )
        })?,
    };
    let found = targets::find(service, &asked.host, &asked.target).await?;
    let deployment = v1::Deployment {
        id: id.to_string(),
        host: found.host.name.clone(),
        target: found.target.name.clone(),
        digest: text("the digest", &asked.digest)?,
        version: text("the version", &asked.version)?,
        commit: text("the commit", &asked.commit)?,
        author: text("the author", &asked.author)?,
        reason: text("the reason", &asked.reason)?,
        migration: asked.migration,
        recorded_ms: now_ms(),
        recorded_by: caller.name.clone(),
    };
    let stored = service
        .store
        .deployment_insert(found.host.id, &deployment)
        .await
        .map_err(fault::store)?;
    let same = v1::Deployment {
        recorded_ms: stored.recorded_ms,
        ..deployment
    };
    if same != stored {
        return Err(fault::refused(v1::Problem::new(
            "request-id-used",
            format!(
                "the request's id was used already, for deployment {id} of something else or by somebody else"
            ),
            "make an id for each call, and use it again only to repeat that call",
        )));
    }
    Ok(v1::RecordDeploymentResponse {
        deployment: Some(stored),
    })
}

pub(super) async fn check(
    service: &Operators,
    request: &v1::CheckDeploymentRequest,
) -> Result<v1::CheckDeploymentResponse, Status> {
    digest(&request.digest)?;
    let bad = service
        .store
        .digest_bad_list(&request.digest)
        .await
        .map_err(fault::store)?;
    let reasons: Vec<String> = bad
        .iter()
        .map(|(host, target, revision)| {
            let why = &revision.mark_reason;
            let separator = if why.is_empty() { "" } else { ", " };
            format!(
                "{host} {target} #{}: DO_NOT_DEPLOY{separator}{why}",
                revision.number
            )
        })
        .collect();
    Ok(v1::CheckDeploymentResponse {
        bad: !reasons.is_empty(),
        reasons,
    })
}
