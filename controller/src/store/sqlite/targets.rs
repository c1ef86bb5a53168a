//! Targets, revisions, marks and deployments.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use prost::Message as _;
use serde_json::json;
use sternway_proto::{digest, v1};
use uuid::Uuid;

use super::{
    Sqlite, Tx,
    budget::{Budget, Room},
    decode,
    log::append,
    uuid,
};
use crate::{
    record::{Actor, Draft},
    store::{
        StoreError, TargetStore,
        types::{NewMark, Observation, TARGETS},
    },
};

/// Revisions of one host that are kept, and their size in bytes. A host that makes up more than this is not honest.
const REVISIONS_PER_HOST: i64 = 20_000;
const REVISION_BYTES_PER_HOST: i64 = 256 * 1024 * 1024;

/// Revisions of one target that its host does not have any more and nobody has marked: the newest are kept, to be
/// looked at.
const GONE_PER_TARGET: i64 = 100;

/// Of the history of a target the two with these ids. `+`: it is found by its id, not by its history.
pub(super) const REVISIONS_SOME: &str = "SELECT r.body, r.listed, m.mark, m.reason FROM revisions r
     LEFT JOIN marks m ON m.host_id = r.host_id AND m.target = r.target AND m.revision = r.id
     WHERE r.host_id = $1 AND r.target = $2 AND r.id IN ($3, $4)
         AND +r.listed IN (1, 2)
     ORDER BY r.number DESC, r.listed";

// What the column `listed` of a revision says. What is marked and of a target that is no longer looked after has 0.

/// Its host listed it last.
const LISTED: i64 = 1;
/// Its host does not list it any more.
const GONE: i64 = 2;

/// What is kept of one host's revisions; read when the first one is to be stored, and counted from then on.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// How many, and of how many bytes.
    total: Option<(i64, i64)>,
    /// What no host lists any more has made room.
    evicted: bool,
    /// That there is no room was said.
    told: bool,
}

impl Held {
    /// Takes room for one revision that replaces one of `before` bytes, if there was one. False: there is none.
    async fn take(
        &mut self,
        tx: &mut Tx<'_>,
        host: &str,
        before: Option<usize>,
        bytes: usize,
    ) -> Result<bool, StoreError> {
        let (mut count, mut held) = match self.total {
            Some(total) => total,
            None => counted(tx, host).await?,
        };
        let mut after = with(count, held, before, bytes);
        if after.is_none() && !std::mem::replace(&mut self.evicted, true) {
            forget_gone(tx, host, None).await?;
            (count, held) = counted(tx, host).await?;
            after = with(count, held, before, bytes);
        }
        self.total = Some(after.unwrap_or((count, held)));
        if after.is_none() && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                host.id = host,
                "host {host} has {count} revisions of {held} bytes: no more are kept"
            );
        }
        Ok(after.is_some())
    }
}

/// How many revisions of a host are kept, and of how many bytes.
async fn counted(tx: &mut Tx<'_>, host: &str) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM revisions WHERE host_id = $1",
    )
    .bind(host)
    .fetch_one(&mut **tx)
    .await
}

/// Forgets what a host does not have any more and nobody has marked: of one target all but the newest, or all of all
/// targets.
async fn forget_gone(tx: &mut Tx<'_>, host: &str, target: Option<&str>) -> Result<(), sqlx::Error> {
    let query = match target {
        Some(target) => sqlx::query(
            "DELETE FROM revisions WHERE host_id = $1 AND target = $2 AND id IN (
                 SELECT r.id FROM revisions r
                 WHERE r.host_id = $1 AND r.target = $2 AND r.listed = $3 AND NOT EXISTS (
                     SELECT 1 FROM marks m WHERE m.host_id = r.host_id
                         AND m.target = r.target AND m.revision = r.id)
                 ORDER BY r.number DESC, r.id LIMIT -1 OFFSET $4)",
        )
        .bind(host)
        .bind(target)
        .bind(GONE)
        .bind(GONE_PER_TARGET),
        None => sqlx::query(
            "DELETE FROM revisions WHERE host_id = $1 AND listed = $2 AND NOT EXISTS (
                 SELECT 1 FROM marks m WHERE m.host_id = revisions.host_id
                     AND m.target = revisions.target AND m.revision = revisions.id)",
        )
        .bind(host)
        .bind(GONE),
    };
    query.execute(&mut **tx).await?;
    Ok(())
}

/// How many revisions, of how many bytes, there are with one more, or with another in the place of one. None: more
/// than are kept. One that gets no larger always has room.
fn with(count: i64, held: i64, before: Option<usize>, bytes: usize) -> Option<(i64, i64)> {
    let size = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    let more = size(bytes).saturating_sub(size(before.unwrap_or_default()));
    let after = (
        count + i64::from(before.is_none()),
        held.saturating_add(more),
    );
    let grows = more > 0 || before.is_none();
    let fits = after.0 <= REVISIONS_PER_HOST && after.1 <= REVISION_BYTES_PER_HOST;
    (fits || !grows).then_some(after)
}

/// Stores a target as it is now, and every revision of it that is new. One more than are kept of a host is left out, and
/// that is said.
pub(super) async fn upsert(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    held: &mut Held,
    observation: &Observation,
    target: &v1::Target,
) -> Result<(), StoreError> {
    // The revisions have a table of their own; twice would be the bulk of the database.
    let body = v1::Target {
        revisions: Vec::new(),
        ..target.clone()
    };
    let stored = sqlx::query(
        "INSERT INTO targets (host_id, name, ready, updated_ms, body)
         SELECT $1, $2, $3, $4, $5
         WHERE EXISTS (SELECT 1 FROM targets WHERE host_id = $1 AND name = $2)
             OR (SELECT COUNT(*) FROM targets WHERE host_id = $1) < $6
         ON CONFLICT (host_id, name) DO UPDATE SET ready = excluded.ready,
             updated_ms = excluded.updated_ms, body = excluded.body",
    )
    .bind(observation.host_id.to_string())
    .bind(&target.name)
    .bind(ready(target))
    .bind(observation.at_ms)
    .bind(body.encode_to_vec())
    .bind(i64::try_from(TARGETS).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await?;
    if stored.rows_affected() == 0 {
        return crowded(tx, budget, observation, &target.name).await;
    }
    revisions(tx, budget, held, observation, target).await
}

/// Says, in the record once in a while, that a target is left out because its host has as many as are kept of one.
async fn crowded(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    observation: &Observation,
    target: &str,
) -> Result<(), StoreError> {
    let (id, name) = (observation.host_id, &observation.host_name);
    tracing::warn!(
        host.id = %id,
        "target {target} of {name} is left out: targets of one host: more than {TARGETS}"
    );
    let says = budget
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .crowded(id, observation.at_ms);
    if says {
        let draft = Draft {
            at_ms: observation.at_ms,
            actor: Actor::Controller,
            action: "inventory.truncated",
            subject: format!("host:{name}"),
            body: json!({
                "host_id": id,
                "left_out": target,
                "kept": TARGETS,
                "next_step": "let the agent look after fewer targets: `include` and `exclude` in its configuration",
            }),
        };
        append(tx, &draft).await?;
    }
    Ok(())
}

/// What the column `ready` holds: 1, a rollback would work; 2, there is nothing to go back to yet; 0, anything else.
fn ready(target: &v1::Target) -> i64 {
    let verdict = target.readiness.as_ref().map(v1::Readiness::verdict);
    match verdict {
        _ if target.unsupported.is_some() => 0,
        Some(v1::ReadinessVerdict::Ready) => 1,
        Some(v1::ReadinessVerdict::NoPredecessor) => 2,
        _ => 0,
    }
}

async fn revisions(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    held: &mut Held,
    observation: &Observation,
    target: &v1::Target,
) -> Result<(), StoreError> {
    let host = observation.host_id.to_string();
    let known = relist(tx, &host, target).await?;
    for revision in target.revisions.iter().rev() {
        let (stored, listed) = match known.get(&revision.id) {
            Some((stored, listed)) => (Some(stored), *listed),
            None => (None, 0),
        };
        let body = body(revision, stored)?;
        if stored == Some(&body) {
            continue;
        }
        if !held
            .take(tx, &host, stored.map(Vec::len), body.len())
            .await?
        {
            continue;
        }
        if listed == 0 {
            note(tx, budget, observation, target, revision).await?;
        }
        sqlx::query(
            "INSERT INTO revisions
                 (host_id, target, id, number, image_id, image_digest, stored_ms, body)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (host_id, target, id) DO UPDATE SET number = excluded.number,
                 image_id = excluded.image_id, image_digest = excluded.image_digest,
                 body = excluded.body, listed = 1",
        )
        .bind(&host)
        .bind(&target.name)
        .bind(&revision.id)
        .bind(i64::from(revision.number))
        .bind(&revision.image_id)
        .bind(digest::bare(&revision.image_digest))
        .bind(observation.at_ms)
        .bind(body)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Notes which revisions of a target its host lists now, and forgets the oldest of those that it does not any more.
/// What was stored of those that it lists, by id, with what `listed` said of them before.
async fn relist(
    tx: &mut Tx<'_>,
    host: &str,
    target: &v1::Target,
) -> Result<HashMap<String, (Vec<u8>, i64)>, sqlx::Error> {
    let ids = target.revisions.iter().map(|revision| revision.id.as_str());
    let ids = ids.collect::<serde_json::Value>().to_string();
    // Only those of the message: what a target ever had is more than what its host has.
    let rows: Vec<(String, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT id, body, listed FROM revisions
         WHERE host_id = $1 AND target = $2 AND id IN (SELECT value FROM json_each($3))",
    )
    .bind(host)
    .bind(&target.name)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?;
    if rows.iter().any(|(.., listed)| *listed != LISTED) {
        sqlx::query(
            "UPDATE revisions SET listed = $4
             WHERE host_id = $1 AND target = $2 AND id IN (SELECT value FROM json_each($3))",
        )
        .bind(host)
        .bind(&target.name)
        .bind(&ids)
        .bind(LISTED)
        .execute(&mut **tx)
        .await?;
    }
    let gone = sqlx::query(
        "UPDATE revisions SET listed = $4
         WHERE host_id = $1 AND target = $2 AND listed = $5
             AND id NOT IN (SELECT value FROM json_each($3))",
    )
    .bind(host)
    .bind(&target.name)
    .bind(&ids)
    .bind(GONE)
    .bind(LISTED)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if gone > 0 {
        forget_gone(tx, host, Some(&target.name)).await?;
    }
    let known = rows
        .into_iter()
        .map(|(id, body, listed)| (id, (body, listed)));
    Ok(known.collect())
}

/// A revision as it is stored. An inventory that would be too long for one message comes without fields: those that
/// are known are kept, for they are part of what its id is the hash of.
fn body(revision: &v1::Revision, stored: Option<&Vec<u8>>) -> Result<Vec<u8>, StoreError> {
    let Some(stored) = stored.filter(|_| revision.fields.is_empty()) else {
        return Ok(revision.encode_to_vec());
    };
    let stored: v1::Revision = decode(stored, "a revision")?;
    let whole = v1::Revision {
        fields: stored.fields,
        ..revision.clone()
    };
    Ok(whole.encode_to_vec())
}

/// Says in the record that a revision was seen, for as long as its host is within its budget: agents list and take
/// back what they like.
async fn note(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    observation: &Observation,
    target: &v1::Target,
    revision: &v1::Revision,
) -> Result<(), StoreError> {
    let room = budget
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(observation.host_id, observation.at_ms);
    match room {
        Room::Entry => append(tx, &seen(observation, target, revision)).await?,
        Room::Full => {
            let (id, name) = (observation.host_id, &observation.host_name);
            let told = limited((id, name), "revision.seen", observation.at_ms);
            append(tx, &told).await?;
        }
        Room::None => {}
    }
    Ok(())
}

/// Says that a host told more than is written into the record of it.
pub(super) fn limited((host_id, host): (Uuid, &str), what: &str, at_ms: i64) -> Draft {
    tracing::warn!(
        host.id = %host_id,
        "host {host} tells too much ({what}): not each is written into the record"
    );
    Draft {
        at_ms,
        actor: Actor::Controller,
        action: "record.limited",
        subject: format!("host:{host}"),
        body: json!({
            "host_id": host_id,
            "what": what,
            "next_step": "see what deploys on this host so often; if nothing does, its agent is not honest: `ctl host revoke`",
        }),
    }
}

fn seen(observation: &Observation, target: &v1::Target, revision: &v1::Revision) -> Draft {
    Draft {
        at_ms: observation.at_ms,
        actor: Actor::Agent(observation.host_name.clone()),
        action: "revision.seen",
        subject: format!("target:{}:{}", observation.host_name, target.name),
        body: json!({
            "revision": revision.id,
            "number": revision.number,
            "image": revision.image,
            "image_id": revision.image_id,
            "origin": revision.origin,
        }),
    }
}

/// Stores the whole inventory of a host: its targets, and the names of those that stay as they are.
pub(super) async fn replace(
    tx: &mut Tx<'_>,
    budget: &Mutex<Budget>,
    observation: &Observation,
    (all, also): (&[v1::Target], &[String]),
) -> Result<(), StoreError> {
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM targets WHERE host_id = $1")
        .bind(observation.host_id.to_string())
        .fetch_all(&mut **tx)
        .await?;
    let told = all.iter().map(|target| target.name.as_str());
    let kept: HashSet<&str> = told.chain(also.iter().map(String::as_str)).collect();
    for name in names.iter().filter(|name| !kept.contains(name.as_str())) {
        remove(tx, observation.host_id, name).await?;
    }
    let mut held = Held::default();
    for target in all {
        upsert(tx, budget, &mut held, observation, target).await?;
    }
    Ok(())
}

/// Forgets a target, with its revisions: its agent cannot restore them any more, and begins to count anew should
/// the name come back. What a person marked stays, unlisted: it is asked for by its digest, wherever it ran.
pub(super) async fn remove(tx: &mut Tx<'_>, host: Uuid, name: &str) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM targets WHERE host_id = $1 AND name = $2",
        "DELETE FROM revisions WHERE host_id = $1 AND target = $2 AND NOT EXISTS (
             SELECT 1 FROM marks m WHERE m.host_id = revisions.host_id
                 AND m.target = revisions.target AND m.revision = revisions.id)",
        "UPDATE revisions SET listed = 0 WHERE host_id = $1 AND target = $2",
    ] {
        sqlx::query(statement)
            .bind(host.to_string())
            .bind(name)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// How much a host took over from those before it of its name.
pub(super) struct Inherited {
    pub(super) marks: u64,
    pub(super) deployments: u64,
}

/// Gives a new host what people said of the revoked ones of its name: a machine that joins again is a new host, and
/// what must not be deployed on it still must not. Their marks move, so that taking one away takes it away.
pub(super) async fn inherit(
    tx: &mut Tx<'_>,
    host: Uuid,
    name: &str,
) -> Result<Inherited, sqlx::Error> {
    let mut changed = [0; 4];
    for (changed, statement) in changed.iter_mut().zip([
        // What is marked is asked for by its digest, also before the new host has told what it has.
        "INSERT INTO revisions
             (host_id, target, id, number, image_id, image_digest, stored_ms, body, listed)
         SELECT $1, r.target, r.id, r.number, r.image_id, r.image_digest, r.stored_ms, r.body, 0
         FROM hosts h JOIN revisions r ON r.host_id = h.id
         JOIN marks m ON m.host_id = r.host_id AND m.target = r.target AND m.revision = r.id
         WHERE h.name = $2 AND h.revoked_ms IS NOT NULL ORDER BY h.revoked_ms DESC
         ON CONFLICT DO NOTHING",
        "INSERT INTO marks (host_id, target, revision, mark, reason, marked_by, marked_ms)
         SELECT $1, m.target, m.revision, m.mark, m.reason, m.marked_by, m.marked_ms
         FROM hosts h JOIN marks m ON m.host_id = h.id
         WHERE h.name = $2 AND h.revoked_ms IS NOT NULL ORDER BY h.revoked_ms DESC
         ON CONFLICT DO NOTHING",
        "DELETE FROM marks WHERE host_id <> $1 AND host_id IN (
             SELECT id FROM hosts WHERE name = $2 AND revoked_ms IS NOT NULL)",
        "UPDATE deployments SET host_id = $1 WHERE host_id IN (
             SELECT id FROM hosts WHERE name = $2 AND revoked_ms IS NOT NULL)",
    ]) {
        *changed = sqlx::query(statement)
            .bind(host.to_string())
            .bind(name)
            .execute(&mut **tx)
            .await?
            .rows_affected();
    }
    let [_, marks, _, deployments] = changed;
    Ok(Inherited { marks, deployments })
}

/// A revision's bytes and what `listed` says of it; its mark and why.
type Marked = (Vec<u8>, i64, Option<i64>, Option<String>);

fn marked((body, listed, mark, reason): Marked) -> Result<v1::Revision, StoreError> {
    let mut revision: v1::Revision = decode(&body, "a revision")?;
    revision.gone = listed != LISTED;
    revision.mark = mark.and_then(|m| i32::try_from(m).ok()).unwrap_or_default();
    revision.mark_reason = reason.unwrap_or_default();
    Ok(revision)
}

#[async_trait]
impl TargetStore for Sqlite {
    async fn target_list(&self, host: Option<Uuid>) -> Result<Vec<(Uuid, v1::Target)>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> = match host {
            Some(host) => {
                sqlx::query_as("SELECT host_id, body FROM targets WHERE host_id = $1 ORDER BY name")
                    .bind(host.to_string())
                    .fetch_all(&self.reader)
                    .await?
            }
            None => {
                sqlx::query_as("SELECT host_id, body FROM targets ORDER BY host_id, name")
                    .fetch_all(&self.reader)
                    .await?
            }
        };
        rows.into_iter()
            .map(|(host, body)| Ok((uuid(&host, "a host's id")?, decode(&body, "a target")?)))
            .collect()
    }

    async fn revision_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::Revision>, StoreError> {
        let rows: Vec<Marked> = sqlx::query_as(
            "SELECT r.body, r.listed, m.mark, m.reason FROM revisions r
             LEFT JOIN marks m ON m.host_id = r.host_id AND m.target = r.target
                 AND m.revision = r.id
             WHERE r.host_id = $1 AND r.target = $2 AND r.listed IN (1, 2)
             ORDER BY r.number DESC, r.listed",
        )
        .bind(host.to_string())
        .bind(target)
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(marked).collect()
    }

    async fn revision_some(
        &self,
        host: Uuid,
        target: &str,
        [one, other]: [&str; 2],
    ) -> Result<Vec<v1::Revision>, StoreError> {
        let rows: Vec<Marked> = sqlx::query_as(REVISIONS_SOME)
            .bind(host.to_string())
            .bind(target)
            .bind(one)
            .bind(other)
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter().map(marked).collect()
    }

    async fn mark_set(&self, mark: &NewMark) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let host = mark.host_id.to_string();
        if mark.mark == v1::Mark::Unspecified {
            sqlx::query("DELETE FROM marks WHERE host_id = $1 AND target = $2 AND revision = $3")
                .bind(&host)
                .bind(&mark.target)
                .bind(&mark.revision)
                .execute(&mut *tx)
                .await?;
        } else {
            sqlx::query(
                "INSERT INTO marks (host_id, target, revision, mark, reason, marked_by, marked_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (host_id, target, revision) DO UPDATE SET mark = excluded.mark,
                     reason = excluded.reason, marked_by = excluded.marked_by,
                     marked_ms = excluded.marked_ms",
            )
            .bind(&host)
            .bind(&mark.target)
            .bind(&mark.revision)
            .bind(i64::from(i32::from(mark.mark)))
            .bind(&mark.reason)
            .bind(&mark.operator)
            .bind(mark.at_ms)
            .execute(&mut *tx)
            .await?;
        }
        let draft = Draft {
            at_ms: mark.at_ms,
            actor: Actor::Operator(mark.operator.clone()),
            action: "revision.marked",
            subject: format!("target:{}:{}", mark.host_name, mark.target),
            body: json!({
                "revision": mark.revision,
                "mark": mark.mark.as_str_name(),
                "reason": mark.reason,
            }),
        };
        append(&mut tx, &draft).await?;
        Ok(super::commit(tx).await?)
    }

    async fn marked_list(&self, host: Uuid) -> Result<Vec<(String, v1::Revision)>, StoreError> {
        let rows: Vec<(String, Vec<u8>, i64, Option<i64>, Option<String>)> = sqlx::query_as(
            "SELECT m.target, r.body, r.listed, m.mark, m.reason FROM marks m
             JOIN revisions r ON r.host_id = m.host_id AND r.target = m.target
                 AND r.id = m.revision
             WHERE m.host_id = $1 ORDER BY m.target, r.number DESC",
        )
        .bind(host.to_string())
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter()
            .map(|(target, body, listed, mark, reason)| {
                Ok((target, marked((body, listed, mark, reason))?))
            })
            .collect()
    }

    async fn mark_list(&self, host: Uuid) -> Result<Vec<v1::RevisionMark>, StoreError> {
        let rows: Vec<(String, String, i64, String)> = sqlx::query_as(
            "SELECT target, revision, mark, reason FROM marks WHERE host_id = $1
             ORDER BY target, revision",
        )
        .bind(host.to_string())
        .fetch_all(&self.reader)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(target, revision, mark, reason)| v1::RevisionMark {
                target,
                revision,
                mark: i32::try_from(mark).unwrap_or_default(),
                reason,
            })
            .collect())
    }

    async fn digest_bad_list(
        &self,
        wanted: &str,
    ) -> Result<Vec<(String, String, v1::Revision)>, StoreError> {
        let rows: Vec<(String, String, Vec<u8>, i64, Option<i64>, Option<String>)> =
            sqlx::query_as(
                "SELECT h.name, r.target, r.body, r.listed, m.mark, m.reason FROM revisions r
             JOIN hosts h ON h.id = r.host_id
             JOIN marks m ON m.host_id = r.host_id AND m.target = r.target AND m.revision = r.id
             WHERE m.mark = 2 AND (r.image_id = $1 OR r.image_digest = $1)
             ORDER BY h.name, r.target, r.number LIMIT 100",
            )
            .bind(digest::bare(wanted))
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter()
            .map(|(host, target, body, listed, mark, reason)| {
                Ok((host, target, marked((body, listed, mark, reason))?))
            })
            .collect()
    }

    async fn deployment_insert(
        &self,
        host: Uuid,
        deployment: &v1::Deployment,
    ) -> Result<v1::Deployment, StoreError> {
        let mut tx = self.begin().await?;
        let earlier: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT body FROM deployments WHERE id = $1")
                .bind(&deployment.id)
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(earlier) = earlier {
            return decode(&earlier, "a deployment");
        }
        sqlx::query(
            "INSERT INTO deployments (id, host_id, target, recorded_ms, body)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&deployment.id)
        .bind(host.to_string())
        .bind(&deployment.target)
        .bind(deployment.recorded_ms)
        .bind(deployment.encode_to_vec())
        .execute(&mut *tx)
        .await?;
        let draft = Draft {
            at_ms: deployment.recorded_ms,
            actor: Actor::Operator(deployment.recorded_by.clone()),
            action: "deployment.recorded",
            subject: format!("target:{}:{}", deployment.host, deployment.target),
            body: json!({
                "deployment": deployment.id,
                "digest": deployment.digest,
                "version": deployment.version,
                "commit": deployment.commit,
                "author": deployment.author,
                "reason": deployment.reason,
                "migration": deployment.migration,
            }),
        };
        append(&mut tx, &draft).await?;
        super::commit(tx).await?;
        Ok(deployment.clone())
    }

    async fn deployment_list(
        &self,
        host: Uuid,
        target: &str,
    ) -> Result<Vec<v1::Deployment>, StoreError> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT body FROM deployments WHERE host_id = $1 AND target = $2
             ORDER BY recorded_ms DESC LIMIT 100",
        )
        .bind(host.to_string())
        .bind(target)
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|body| decode(body, "a deployment"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_room_for_so_many_revisions_of_so_many_bytes_and_no_more() {
        let most = REVISION_BYTES_PER_HOST;
        assert_eq!(with(0, 0, None, 10), Some((1, 10)));
        assert_eq!(with(REVISIONS_PER_HOST, 0, None, 10), None);
        assert_eq!(with(1, most - 10, None, 10), Some((2, most)));
        assert_eq!(with(1, most - 9, None, 10), None);
        // In the place of another: what it is larger by.
        assert_eq!(with(1, most - 5, Some(5), 10), Some((1, most)));
        assert_eq!(with(1, most - 4, Some(5), 10), None);
        assert_eq!(
            with(REVISIONS_PER_HOST + 7, most + 7, Some(5), 5),
            Some((REVISIONS_PER_HOST + 7, most + 7))
        );
    }
}
