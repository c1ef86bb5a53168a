//! Create, disarm, stop, swap names, start, verify, commit; and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use sternway_proto::{
    name::RevisionId,
    v1::{Evidence, Verdict},
};

use super::{SEE_WHO, again::removes_itself, is_up, name_of, refused, runs, short};
use crate::{
    engine::step::{DIFFERS, Done, StepContext, StepError},
    targets::docker::{
        DockerKind,
        checks::{Checks, run::Subject},
        client::{EngineError, EngineErrorKind},
        labels::{self, Role, own_name},
        normalise,
        plan::{Old, policy_of},
        record::{ContainerRecord, Hints, ImageRef, differences},
        recreate::{CreateOptions, create},
        serving,
    },
};

/// In the output of a stop: the ports, inside, at which a container took connections before, by its id.
const TOOK: &str = "took";

/// How long the last resort waits for a restart policy to be set.
const ARMED: Duration = Duration::from_secs(10);

/// How long an undo waits for the container that comes back.
const SERVES_AGAIN: Duration = Duration::from_secs(30);

impl DockerKind {
    pub(super) async fn fetch_image(
        &self,
        image: &ImageRef,
        hints: &Hints,
    ) -> Result<Done, StepError> {
        match self.ensure_image(image, hints).await {
            Ok(said) => Ok(Done::said(said)),
            Err(error) if error.is_not_found() => Err(StepError {
                code: "image-missing".to_owned(),
                next_step:
                    "bring the image back (`docker load`, or into its registry), or choose another \
                            revision with `ctl history`"
                        .to_owned(),
                ..error.into()
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Labels for a container of this order.
    pub(super) fn labels_for(context: &StepContext<'_>, role: Role) -> BTreeMap<String, String> {
        BTreeMap::from([
            (labels::ORDER.to_owned(), context.order_id.to_string()),
            (labels::ROLE.to_owned(), role.as_str().to_owned()),
            (labels::TARGET.to_owned(), context.target.to_string()),
        ])
    }

    pub(super) async fn create_new(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
        volumes: &BTreeMap<String, String>,
    ) -> Result<Done, StepError> {
        if let Some((id, inspect)) = self.of_order(context, Role::Replacement).await? {
            if inspect["State"]["Status"] != "created" {
                return Ok(Done::said(format!(
                    "container {} is there already",
                    short(&id)
                )));
            }
            // An earlier attempt made it and was cut off: it may lack a network.
            self.engine.remove_container(&id, true).await?;
        }
        let options = CreateOptions {
            name: own_name(Role::Replacement, context.order_id, context.target),
            labels: Self::labels_for(context, Role::Replacement),
            restarts: false,
            publish: true,
            volumes: volumes.clone(),
        };
        let record = self.bound(context, record).await?;
        let created = create(&self.engine, &record, &options).await?;
        let mut message = format!("created container {}", short(&created.id));
        if !created.lost.is_empty() {
            message = format!(
                "{message}; this engine did not take over: {}",
                created.lost.join(", ")
            );
        }
        Ok(Done {
            message,
            output: json!({"id": created.id}),
        })
    }

    pub(super) async fn remove_new(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context, Role::Replacement).await? {
            None => Ok(Done::said("there is no new container")),
            Some((id, _)) => {
                self.engine.remove_container(&id, true).await?;
                Ok(Done::said(format!("removed container {}", short(&id))))
            }
        }
    }

    /// A container with `restart=always` that was stopped by hand comes back with the engine: two would
    /// run. So its policy goes first.
    pub(super) async fn disarm_old(
        &self,
        context: &StepContext<'_>,
        old: &Old,
        with: Option<&BTreeSet<String>>,
    ) -> Result<Done, StepError> {
        if let Some(with) = with {
            self.hangs_as_planned(context, old, with).await?;
        }
        self.set_policy(&old.id, &json!({"Name": "no"})).await
    }

    pub(super) async fn rearm_old(
        &self,
        context: &StepContext<'_>,
        old: &Old,
    ) -> Result<Done, StepError> {
        if let Some(said) = self.taken_over(context, old).await? {
            return Ok(said);
        }
        self.set_policy(&old.id, &old.policy).await
    }

    async fn set_policy(&self, id: &str, policy: &Value) -> Result<Done, StepError> {
        let changes = json!({"RestartPolicy": policy});
        match self.engine.update_container(id, &changes).await {
            Ok(()) => {
                let name = normalise::text(policy, "Name");
                Ok(Done::said(format!(
                    "restart policy of {} is {name}",
                    short(id)
                )))
            }
            Err(error) if error.is_not_found() => {
                Ok(Done::said(format!("container {} is gone", short(id))))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn stop_old(
        &self,
        context: &StepContext<'_>,
        old: &Old,
    ) -> Result<Done, StepError> {
        self.nobody_else(context, Some(old)).await?;
        // What shared a namespace of it is stopped by now.
        self.hangs_as_planned(context, old, &BTreeSet::new())
            .await?;
        let took = match self.found(&old.id).await? {
            Some(inspect) if runs(&inspect) => {
                Some(serving::taken(&inspect, &serving::published(&inspect)).await)
            }
            _ => None,
        };
        let mut done = self.stop(&old.id).await?;
        if let Some(took) = took {
            done.output = json!({(TOOK): {(old.id.as_str()): took}});
        }
        Ok(done)
    }

    pub(super) async fn stop(&self, id: &str) -> Result<Done, StepError> {
        let Some(inspect) = self.found(id).await? else {
            return Ok(Done::said(format!("container {} is gone", short(id))));
        };
        if is_paused(&inspect) {
            // A paused process cannot hear a signal.
            self.engine.unpause_container(id).await?;
        }
        let seconds = inspect["Config"]["StopTimeout"].as_u64();
        let grace = seconds.map(Duration::from_secs);
        self.engine.stop_container(id, grace).await?;
        let never_ran = inspect["State"]["Status"] == "created";
        if removes_itself(&inspect) && !never_ran {
            return self.vanished(id).await;
        }
        match self.found(id).await? {
            Some(inspect) if is_up(&inspect) => Err(StepError {
                transient: true,
                ..refused(
                    "still-running",
                    format!("container {} runs although it was stopped", short(id)),
                    format!(
                        "see what starts it (`docker events --since 1h` on the host), and stop it: `docker stop {}`",
                        short(id)
                    ),
                )
            }),
            _ => Ok(Done::said(format!("container {} is stopped", short(id)))),
        }
    }

    /// The undo that matters: what ran before runs again, and serves, before anything else is taken back. Of what only
    /// shares a namespace of the target (`beside`) nobody waits for more than that it runs.
    pub(super) async fn start_old(
        &self,
        context: &StepContext<'_>,
        old: &Old,
        beside: bool,
    ) -> Result<Done, StepError> {
        if !old.ran {
            return Ok(Done::said("it did not run before"));
        }
        if let Some(said) = self.taken_over(context, old).await? {
            return Ok(said);
        }
        // Stopped already, unless a last resort that the journal knows nothing of started it: two would run.
        self.stop_new(context).await?;
        let id = self.brought_back(context, old).await?;
        if let Some(said) = self.ownerless(&id).await? {
            self.set_policy(&id, &old.policy).await?;
            return Ok(said);
        }
        // Its policy goes first: one that crashes at once is restarted, as it was before.
        self.set_policy(&id, &old.policy).await?;
        let done = self.start(&id).await?;
        if !beside {
            let took = took(context, old).map(serving::Taken::inside);
            self.serves_again(&id, took.as_ref()).await?;
        }
        Ok(done)
    }

    /// Somebody deployed another container under the name meanwhile: the target is theirs now, and two
    /// must not run.
    pub(super) async fn taken_over(
        &self,
        context: &StepContext<'_>,
        old: &Old,
    ) -> Result<Option<Done>, StepError> {
        match self.nobody_else(context, Some(old)).await {
            Ok(()) => Ok(None),
            Err(error) if error.code == "changed-by-another" => Ok(Some(Done::said(format!(
                "{}; it is left alone",
                error.message
            )))),
            Err(error) => Err(error),
        }
    }

    /// Waits until a container that was started runs and takes connections where it did before, or where what serves in
    /// its place does (`wanted`; none: nobody knows, so wherever it publishes). Where it publishes none of those nobody
    /// knows either, and less is waited for. How it is in the end is no failure of the undo.
    pub(super) async fn serves_again(
        &self,
        id: &str,
        wanted: Option<&serving::Taken>,
    ) -> Result<(), StepError> {
        let begun = tokio::time::Instant::now();
        while let Some(inspect) = self.found(id).await? {
            let all = serving::Taken::inside(serving::published(&inspect));
            let wanted = wanted.unwrap_or(&all);
            let limit = if serving::asked(&inspect, wanted).known {
                SERVES_AGAIN
            } else {
                serving::UNKNOWN
            };
            let over = begun.elapsed() >= limit || !is_up(&inspect);
            if over || serving::takes(&inspect, wanted).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Lets a paused container go on. That it is not paused, or gone, is as good.
    pub(super) async fn wake(&self, id: &str) -> Result<(), StepError> {
        if self.found(id).await?.is_some_and(|found| is_paused(&found)) {
            self.engine.unpause_container(id).await?;
        }
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<Done, StepError> {
        self.wake(id).await?;
        self.engine.start_container(id).await?;
        match self.found(id).await? {
            Some(_) => Ok(Done::said(format!("container {} is started", short(id)))),
            None => Err(refused(
                "changed-by-another",
                format!("container {} is gone", short(id)),
                SEE_WHO,
            )),
        }
    }

    /// Compare before acting: the name may belong to the old container, to ours, or to nobody.
    pub(super) async fn nobody_else(
        &self,
        context: &StepContext<'_>,
        old: Option<&Old>,
    ) -> Result<(), StepError> {
        let name = context.target.local();
        let Some(holder) = self.found(name).await? else {
            return Ok(());
        };
        let id = normalise::text(&holder, "Id");
        let ours = super::super::discover::labels_of(&holder)
            .get(labels::ORDER)
            .is_some_and(|order| *order == context.order_id.to_string());
        // The engine also finds containers by the beginning of an id.
        if name_of(&holder) != name || ours || old.is_some_and(|old| old.id == id) {
            return Ok(());
        }
        Err(refused(
            "changed-by-another",
            format!(
                "{name} is another container now ({}): somebody deployed it meanwhile",
                short(id)
            ),
            "see what was deployed meanwhile, then roll back again if it is still wanted",
        ))
    }

    /// Never both: it may have been started since it was stopped, by a person, by a tool that starts what is
    /// stopped, or by a last resort that the journal knows nothing of.
    async fn still_stopped(&self, old: &Old) -> Result<(), StepError> {
        if !self.found(&old.id).await?.is_some_and(|old| is_up(&old)) {
            return Ok(());
        }
        Err(refused(
            "runs-again",
            format!(
                "container {} was stopped and runs again: two would run",
                short(&old.id)
            ),
            SEE_WHO,
        ))
    }

    pub(super) async fn swap_names(
        &self,
        context: &StepContext<'_>,
        old: Option<&Old>,
    ) -> Result<Done, StepError> {
        let name = context.target.local();
        self.nobody_else(context, old).await?;
        if let Some(old) = old {
            self.still_stopped(old).await?;
            let aside = own_name(Role::Previous, context.order_id, context.target);
            self.rename(&old.id, &aside).await?;
        }
        let (new, _) = self.replacement(context).await?;
        self.rename(&new, name).await?;
        let kept = match old {
            Some(old) => self.found(&old.id).await?,
            None => None,
        };
        Ok(Done::said(match kept {
            Some(kept) => format!(
                "{name} is container {}; the old one is kept, stopped, as {}",
                short(&new),
                name_of(&kept),
            ),
            None => format!("{name} is container {}", short(&new)),
        }))
    }

    pub(super) async fn swap_names_back(
        &self,
        context: &StepContext<'_>,
        old: Option<&Old>,
    ) -> Result<Done, StepError> {
        let name = context.target.local();
        if let Some((new, _)) = self.of_order(context, Role::Replacement).await? {
            let aside = own_name(Role::Replacement, context.order_id, context.target);
            self.rename(&new, &aside).await?;
        }
        if let Some(old) = old {
            if let Some(said) = self.taken_over(context, old).await? {
                return Ok(said);
            }
            self.rename(&old.id, name).await?;
        }
        Ok(Done::said(format!("{name} is what it was")))
    }

    async fn rename(&self, id: &str, name: &str) -> Result<(), StepError> {
        let Some(inspect) = self.found(id).await? else {
            return Ok(());
        };
        if name_of(&inspect) == name {
            return Ok(());
        }
        self.engine.rename_container(id, name).await?;
        Ok(())
    }

    pub(super) async fn start_new(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        let (id, inspect) = self.replacement(context).await?;
        // Without the name it is not its turn: what bears the name may run.
        if name_of(&inspect) != context.target.local() {
            return Err(refused(
                "changed-by-another",
                format!("container {} was renamed meanwhile", short(&id)),
                SEE_WHO,
            ));
        }
        self.start(&id).await
    }

    pub(super) async fn stop_new(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context, Role::Replacement).await? {
            None => Ok(Done::said("there is no new container")),
            Some((id, _)) => {
                let drained = self.drain_new(context, &id).await;
                let mut done = self.stop(&id).await?;
                if let Some(drained) = drained {
                    done.message = format!("{}; {drained}", done.message);
                }
                Ok(done)
            }
        }
    }

    pub(super) async fn verify(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
        revision: &RevisionId,
    ) -> Result<Done, StepError> {
        let (id, _) = self.replacement(context).await?;
        let different = self
            .is_what_was_ordered(context, &id, record, revision)
            .await?;
        let mut done = self.checked(context, &id, record, "replacement").await?;
        if !different.is_empty() {
            done.output = json!({(DIFFERS): different.join(", ")});
        }
        Ok(done)
    }

    /// Runs the checks on a container of this order; what fails is the step's error.
    pub(super) async fn checked(
        &self,
        context: &StepContext<'_>,
        id: &str,
        record: &ContainerRecord,
        instance: &str,
    ) -> Result<Done, StepError> {
        let subject = Subject {
            engine: &self.engine,
            id,
            instance,
            sink: context.evidence,
        };
        let image = self.images.of(&self.engine, &record.image.id).await?;
        let checks = Checks::of(record, &normalise::image::labels(&image));
        match subject.check(&checks).await? {
            Verdict::Passed => Ok(Done::said("every check passed")),
            _ => Err(refused(
                "check-failed",
                format!("a check of the {instance} failed"),
                if record.removes_itself() {
                    "see the evidence of that check".to_owned()
                } else {
                    let aside = own_name(Role::Failed, context.order_id, context.target);
                    format!("see the evidence of that check, and `docker logs {aside}` on the host")
                },
            )),
        }
    }

    /// Reads back from the engine what runs, and compares it with what was ordered. Answers with the settings that
    /// differ: another version of the engine may know others.
    async fn is_what_was_ordered(
        &self,
        context: &StepContext<'_>,
        id: &str,
        record: &ContainerRecord,
        revision: &RevisionId,
    ) -> Result<Vec<String>, StepError> {
        let begun = std::time::Instant::now();
        let mut found = self.inspected(id).await?.record;
        // The policy is set last, so that a reboot in between starts nothing twice.
        match record.host.get("RestartPolicy") {
            Some(policy) => found
                .host
                .insert("RestartPolicy".to_owned(), policy.clone()),
            None => found.host.remove("RestartPolicy"),
        };
        let same_image = found.image.id == record.image.id;
        let different = differences(record, &found);
        let observed = if !same_image {
            format!("image {}", normalise::short_image(&found.image.id))
        } else if different.is_empty() {
            format!("revision {}", revision.short())
        } else {
            format!("the image, but other settings: {}", different.join(", "))
        };
        context
            .evidence
            .send(Evidence {
                check: "identity".to_owned(),
                subject: format!("container {}", short(id)),
                expected: format!("revision {}", revision.short()),
                observed,
                attempts: 1,
                duration_ms: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
                verdict: if same_image && different.is_empty() {
                    Verdict::Passed
                } else if same_image {
                    Verdict::Inconclusive
                } else {
                    Verdict::Failed
                }
                .into(),
                at_ms: jiff::Timestamp::now().as_millisecond(),
                instance: "replacement".to_owned(),
            })
            .await;
        if same_image {
            return Ok(different);
        }
        Err(refused(
            "wrong-image",
            "the new container runs another image than was ordered".to_owned(),
            "see which image its name leads to now (`docker images --digests` on the host), then roll back again",
        ))
    }

    pub(super) async fn commit(
        &self,
        context: &StepContext<'_>,
        policy: &Value,
        old: Option<&Old>,
    ) -> Result<Done, StepError> {
        let (id, inspect) = self.replacement(context).await?;
        if !runs(&inspect) {
            return Err(refused(
                "stopped-again",
                format!("container {} does not run any more", short(&id)),
                format!("see why it ended: `docker logs {}` on the host", short(&id)),
            ));
        }
        if let Some(old) = old {
            self.still_stopped(old).await?;
        }
        if name_of(&inspect) != context.target.local() {
            return Err(refused(
                "changed-by-another",
                format!("container {} was renamed meanwhile", short(&id)),
                SEE_WHO,
            ));
        }
        self.set_policy(&id, policy).await
    }

    pub(super) async fn uncommit(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context, Role::Replacement).await? {
            None => Ok(Done::said("there is no new container")),
            Some((id, _)) => self.set_policy(&id, &json!({"Name": "no"})).await,
        }
    }

    /// The container that a plan replaces.
    pub(in crate::targets::docker) async fn standing_container(
        &self,
        name: &str,
    ) -> Result<Option<Old>, EngineError> {
        let inspect = match self.engine.container(name).await {
            Ok(inspect) => inspect,
            Err(error) if error.kind == EngineErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((name_of(&inspect) == name).then(|| as_it_is(&inspect)))
    }

    /// Gives whatever of the two runs the restart policy it was recorded with. What runs matters more: where that
    /// cannot be done it is answered with as a part of what is told, with the command that does it. Empty: it is done.
    pub(super) async fn arm(
        &self,
        id: &str,
        record: Option<&ContainerRecord>,
        old: Option<&Old>,
    ) -> String {
        let policy = match (record, old) {
            (Some(record), _) => policy_of(record),
            (None, Some(old)) => old.policy.clone(),
            (None, None) => return String::new(),
        };
        let set = tokio::time::timeout(ARMED, self.set_policy(id, &policy)).await;
        let reason = match set {
            Ok(Ok(_)) => return String::new(),
            Ok(Err(error)) => error.message,
            Err(_) => format!("the engine did not answer within {} s", ARMED.as_secs()),
        };
        unarmed(id, &policy, &reason)
    }
}

/// What is told of a restart policy that could not be set.
fn unarmed(id: &str, policy: &Value, reason: &str) -> String {
    let mut name = normalise::text(policy, "Name").to_owned();
    if let Some(count) = policy["MaximumRetryCount"]
        .as_u64()
        .filter(|count| *count > 0)
    {
        name = format!("{name}:{count}");
    }
    format!(
        "; its restart policy could not be set ({reason}), which `docker update --restart {name} {}` does",
        short(id)
    )
}

/// At which of its ports a container took connections before it was stopped. None: nobody saw it.
fn took(context: &StepContext<'_>, old: &Old) -> Option<BTreeSet<u16>> {
    let seen = context
        .outputs
        .values()
        .find_map(|output| output.get(TOOK)?.get(&old.id))?;
    serde_json::from_value(seen.clone()).ok()
}

/// A container that a plan replaces, from an inspect answer.
pub(in crate::targets::docker) fn as_it_is(inspect: &Value) -> Old {
    let policy = inspect["HostConfig"]["RestartPolicy"].clone();
    Old {
        id: normalise::text(inspect, "Id").to_owned(),
        ran: is_up(inspect),
        paused: is_paused(inspect),
        policy: if normalise::text(&policy, "Name").is_empty() {
            json!({"Name": "no"})
        } else {
            policy
        },
        again: None,
    }
}

fn is_paused(inspect: &Value) -> bool {
    inspect["State"]["Paused"].as_bool() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_silent_a_restart_policy_that_could_not_be_set_is_told_with_its_command() {
        let policy = json!({"Name": "on-failure", "MaximumRetryCount": 3});
        let said = unarmed("0123456789abcdef", &policy, "it hangs");
        assert!(said.contains("(it hangs)"), "{said}");
        let command = "`docker update --restart on-failure:3 0123456789ab`";
        assert!(said.contains(command), "{said}");
        let always = unarmed("0", &json!({"Name": "always", "MaximumRetryCount": 0}), "x");
        assert!(always.contains("--restart always 0"), "{always}");
    }
}
