//! The last resort: exactly one of the two runs, whichever can.

use std::time::Duration;

use serde_json::{Value, json};
use sternway_proto::name::{TargetName, clean_text};
use tokio::time::{Instant, sleep};

use super::{is_up, job, name_of, part, refused, runs, short};
use crate::{
    engine::step::{Done, SERVED_BY_ANOTHER, Step, StepContext, StepError},
    targets::{
        NOTHING_RUNS,
        docker::{
            DockerKind,
            client::{EngineError, NO_SPACE},
            labels::Role,
            normalise::text,
            plan::{Job, Old},
            record::ContainerRecord,
            redirect::{self, Phase},
            serving,
        },
    },
};

/// The step that says that the new one is good.
const VERIFIED: &str = "docker.verify";

/// How long what the last resort started is watched before it is said to run. The other one is as good, and waits.
const STEADY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// What the second of two that run is given to stop.
const HURRY: Duration = Duration::from_secs(10);

impl DockerKind {
    /// Makes exactly one instance run and says which. A standby goes once another serves; it stays, with
    /// the redirect to it, where it is the only one that can.
    ///
    /// # Errors
    /// Nothing could be started.
    pub async fn rescue(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
    ) -> Result<Done, StepError> {
        let (ordered, beside): (Vec<Party>, Vec<Party>) = parties(context.target, steps)
            .into_iter()
            .partition(|party| party.target == *context.target);
        let Party { old, record, .. } = ordered
            .into_iter()
            .next()
            .unwrap_or_else(|| Party::of(context.target.clone()));
        let redirects = redirects(steps);
        let mut done = self.rescue_of(context, old, record, redirects).await?;
        let new_stays = self.new_runs(context).await?;
        if !new_stays {
            // Its log says why it failed. It is no longer of any use here, so that whatever becomes of this is as good.
            let _ = self.take_new_back(context).await;
        }
        let mut away = None;
        for party in beside {
            let at = context.at(&party.target);
            if let Err(error) = self.stop_odd(&at, &party, new_stays).await {
                done.output = Value::Null;
                done.message = format!("{}; {}: {error}", done.message, party.target);
                away = away.or(Some(error).filter(|error| error.transient));
                continue;
            }
            let once = party
                .old
                .as_ref()
                .is_some_and(|old| old.policy["Name"] == "no");
            let said = self.rescue_of(&at, party.old, party.record, false).await;
            let said = match said {
                Ok(said) => said.message,
                // The others are not to wait for it; behind them all of it is tried again.
                Err(error) if error.transient => {
                    away = away.or(Some(StepError {
                        message: format!("{}; {}: {}", done.message, party.target, error.message),
                        ..error
                    }));
                    continue;
                }
                Err(_) if once && self.holder_ended_well(&at).await? => {
                    "it has done its work and ended".to_owned()
                }
                Err(error) => {
                    // Something is to be done, whoever serves the other.
                    done.output = Value::Null;
                    error.message
                }
            };
            done.message = format!("{}; {}: {said}", done.message, party.target);
        }
        away.map_or(Ok(done), Err)
    }

    /// Behind a last resort for which nothing could be started, once it is not tried again: what is left for a person to
    /// start by hand bears the target's name, and the log of the new one is kept.
    ///
    /// # Errors
    /// The engine does not answer, or a name is taken. Nothing is worse for that.
    pub async fn lay_aside(
        &self,
        context: &StepContext<'_>,
        steps: &[Step],
    ) -> Result<(), StepError> {
        let ordered = parties(context.target, steps)
            .into_iter()
            .find(|party| party.target == *context.target);
        let old = match ordered.and_then(|party| party.old) {
            Some(old) => self.found(&old.id).await?.map(|_| old),
            None => None,
        };
        let Some((_, new)) = self.of_order(context, Role::Replacement).await? else {
            return Ok(());
        };
        let all_there_is = old.is_none() && name_of(&new) == context.target.local();
        // Somebody may have started it since.
        if all_there_is || is_up(&new) {
            return Ok(());
        }
        self.swap_names_back(context, old.as_ref()).await?;
        self.take_new_back(context).await?;
        Ok(())
    }

    async fn new_runs(&self, context: &StepContext<'_>) -> Result<bool, EngineError> {
        let new = self.of_order(context, Role::Replacement).await?;
        Ok(new.is_some_and(|(_, inspect)| is_up(&inspect)))
    }

    /// What shares a namespace outlives its owner, in a namespace that leads nowhere: the one that hangs on the
    /// instance that does not stay is stopped first.
    async fn stop_odd(
        &self,
        context: &StepContext<'_>,
        party: &Party,
        new_stays: bool,
    ) -> Result<(), StepError> {
        let odd = if new_stays {
            party.old.as_ref().map(|old| old.id.clone())
        } else {
            let new = self.of_order(context, Role::Replacement).await?;
            new.map(|(id, _)| id)
        };
        if let Some(id) = odd
            && self.found(&id).await?.is_some_and(|found| is_up(&found))
        {
            self.wake(&id).await?;
            self.engine.stop_container(&id, Some(HURRY)).await?;
        }
        Ok(())
    }

    /// As [`Self::rescue`], of these two.
    pub(super) async fn rescue_of(
        &self,
        context: &StepContext<'_>,
        old: Option<Old>,
        record: Option<ContainerRecord>,
        warm: bool,
    ) -> Result<Done, StepError> {
        let mut full = None;
        let new = self.of_order(context, Role::Replacement).await?;
        // Also a paused one, and one that is restarting, would be the second.
        let new_runs = new.as_ref().is_some_and(|(_, inspect)| is_up(inspect));
        if let Some(old) = &old {
            if let Some(said) = self.taken_over(context, old).await? {
                self.stop_new(context).await?;
                let left = self.quiet(context, warm, None).await?;
                let holder = self.found(context.target.local()).await?;
                let mut done = holder.and_then(|holder| theirs(&holder)).unwrap_or(said);
                if !left.is_empty() {
                    // Something is to be done, whoever serves.
                    done.output = Value::Null;
                }
                done.message.push_str(&left);
                return Ok(done);
            }
            // It did not run before the order, stopped by somebody or crashed: that is not for the last resort to
            // change. One that was proven before things went wrong is better than nothing.
            let left_stopped =
                !old.ran && !self.found(&old.id).await?.is_some_and(|old| is_up(&old));
            let proven = context.outputs.contains_key(VERIFIED);
            if left_stopped && !new_runs && !proven {
                let unarmed = self.arm(&old.id, None, Some(old)).await;
                let named = self.named_again(context, old).await;
                let left = self.quiet(context, warm, None).await?;
                return Ok(Done::said(format!(
                    "nothing runs, as before the order: container {} did not run, and is left so{unarmed}{named}{left}",
                    short(&old.id)
                )));
            }
            let id = if new_runs || old.again.is_none() {
                old.id.clone()
            } else {
                self.again(context, old, &mut full).await
            };
            if !left_stopped && self.revive(&id, new_runs, &mut full).await? {
                // First: what runs must come back after a reboot, whatever the rest takes.
                let unarmed = self.arm(&id, None, Some(old)).await;
                if new_runs && let Some((id, _)) = &new {
                    self.wake(id).await?;
                    self.engine.stop_container(id, Some(HURRY)).await?;
                }
                // Under which name it runs matters less than that it does.
                let named = self.named_again(context, old).await;
                let left = self.quiet(context, warm, Some(&id)).await?;
                return Ok(Done::said(format!(
                    "container {}, the one from before, runs{unarmed}{named}{left}",
                    short(&id)
                )));
            }
        }
        if let Some((id, _)) = &new
            && self.revive(id, false, &mut full).await?
        {
            let unarmed = self.arm(id, record.as_ref(), None).await;
            let named = match self.swap_names(context, old.as_ref()).await {
                Ok(_) => String::new(),
                Err(error) => misnamed(id, context.target.local(), &error),
            };
            let left = self.quiet(context, warm, Some(id)).await?;
            return Ok(Done::said(format!(
                "container {id:.12}, the new one, runs{unarmed}{named}{left}"
            )));
        }
        let standby = self.of_order(context, Role::Standby).await?;
        let standby = standby.filter(|(_, inspect)| runs(inspect));
        if let Some(full) = full {
            return Err(no_room(standby.is_some(), full));
        }
        if let Some((id, _)) = standby {
            return Ok(Done::said(format!(
                "only the standby, container {}, runs; new connections go to it",
                short(&id)
            )));
        }
        if let Some(old) = &old {
            // Whoever starts it by hand finds it as it was; so does a reboot.
            let _ = self.arm(&old.id, None, Some(old)).await;
        }
        // Whoever is started by hand is not to be cut off. That nothing runs is told either way.
        let _ = self.quiet(context, warm, None).await;
        Err(refused(
            NOTHING_RUNS,
            "neither the container from before nor the new one can be started".to_owned(),
            "see why on the host (`docker ps -a`, `docker logs`), start what is to run, or deploy it again",
        ))
    }

    /// The one from before bears the target's name again; else what is told of that it does not.
    async fn named_again(&self, context: &StepContext<'_>, old: &Old) -> String {
        match self.swap_names_back(context, Some(old)).await {
            Ok(_) => String::new(),
            Err(error) => misnamed(&old.id, context.target.local(), &error),
        }
    }

    /// What there is of a container that removes itself; the new one must not bear its name for that. `full` is as for
    /// [`Self::revive`].
    async fn again(
        &self,
        context: &StepContext<'_>,
        old: &Old,
        full: &mut Option<StepError>,
    ) -> String {
        let _ = self.swap_names_back(context, None).await;
        match self.brought_back(context, old).await {
            Ok(id) => id,
            // The one that is gone cannot be started, and the new one is tried.
            Err(error) => {
                note_full(full, error);
                old.id.clone()
            }
        }
    }

    /// Whether it runs, or tries to: started if need be and if nothing else does. One that ends at once does not. `full`
    /// becomes what the engine says where it has no room for a start.
    async fn revive(
        &self,
        id: &str,
        another_runs: bool,
        full: &mut Option<StepError>,
    ) -> Result<bool, StepError> {
        let running = |inspect: Option<Value>| inspect.is_some_and(|inspect| is_up(&inspect));
        self.wake(id).await?;
        if running(self.found(id).await?) {
            return Ok(true);
        }
        if another_runs {
            return Ok(false);
        }
        // Whether it started is asked of the engine, whatever the answer was.
        let started = self.engine.start_container(id).await;
        let end = Instant::now() + STEADY;
        loop {
            if !running(self.found(id).await?) {
                if let Err(error) = started {
                    note_full(full, error.into());
                }
                return Ok(false);
            }
            if Instant::now() >= end {
                return Ok(true);
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether new connections go to the standby and that container would take none.
    async fn is_all_that_serves(
        &self,
        context: &StepContext<'_>,
        id: &str,
        taken: &serving::Taken,
    ) -> Result<bool, StepError> {
        let leads = matches!(
            redirect::phase(context.order_id).await,
            Ok(Some(Phase::Leads))
        );
        let Some(stays) = self.found(id).await?.filter(|_| leads) else {
            return Ok(false);
        };
        Ok(!serving::serves_instead(&stays, taken).await)
    }

    /// Takes the redirect and the standby away, once the one that stays serves; where it does not in time they stay. Without a standby, which somebody
    /// may have removed, the redirect leads nowhere and goes at once. What could not be taken away changes nothing about
    /// who serves: it is answered with as a part of what is told, empty where nothing is left.
    ///
    /// # Errors
    /// The engine is away: all of it is to be tried again.
    pub(super) async fn quiet(
        &self,
        context: &StepContext<'_>,
        warm: bool,
        stays: Option<&str>,
    ) -> Result<String, StepError> {
        if !warm {
            return Ok(String::new());
        }
        let standby = self.of_order(context, Role::Standby).await?;
        let serves = standby.as_ref().is_some_and(|(_, inspect)| runs(inspect));
        if serves
            && let Some(id) = stays
            && let Some((_, inspect)) = &standby
        {
            let taken = serving::Taken::by_standby(inspect).await;
            self.serves_again(id, Some(&taken)).await?;
            if !taken.is_nothing() && self.is_all_that_serves(context, id, &taken).await? {
                return Ok(only_the_standby_takes(context.target, inspect));
            }
        }
        // Where the redirect stays, what it may lead to does, too.
        let standby = standby.map(|(_, inspect)| inspect);
        let left = match self.undo_redirect(context).await {
            Ok(_) => match self.stop_standby(context).await {
                Ok(_) => return Ok(String::new()),
                Err(error) if error.transient => return Err(error),
                Err(error) => standby_left(&error, standby.as_ref()),
            },
            Err(error) if error.transient => return Err(error),
            Err(error) => left_over(&error, standby.as_ref()),
        };
        Ok(left)
    }
}

/// What is told of a container that could not be given its name.
fn misnamed(id: &str, name: &str, error: &StepError) -> String {
    format!(
        "; it could not be given its name ({}), which `docker rename {} {name}` does once nothing else bears it",
        error.message,
        short(id)
    )
}

/// What is told of a standby that stays because clients would find nobody else.
fn only_the_standby_takes(target: &TargetName, standby: &Value) -> String {
    let local = target.local();
    format!(
        "; it does not take connections yet, so new ones go to its standby {}, which the agent takes away once {local} \
         takes them wherever that does (`docker logs {local}` on the host)",
        name_of(standby)
    )
}

/// What is told of a standby that could not be removed, when nothing leads to it any more.
fn standby_left(error: &StepError, standby: Option<&Value>) -> String {
    let name = standby.map_or("of this order", name_of);
    format!(
        "; its standby {name} could not be removed: {}; `docker rm -f {name}` on the host does",
        error.message
    )
}

/// What is told of a redirect that could not be taken away.
fn left_over(error: &StepError, standby: Option<&Value>) -> String {
    let standby = standby.map_or(String::new(), |inspect| {
        format!(
            ", and its standby {} stays, because connections may go to it",
            name_of(inspect)
        )
    });
    format!(
        "; its redirect could not be taken away{standby}: {}; see `nft list ruleset` on the host",
        error.message
    )
}

/// What is said of a container that somebody deployed during the order, where it does its work: it was not restarted
/// since, and its health check, if any, does not complain.
fn theirs(holder: &Value) -> Option<Done> {
    let well = runs(holder)
        && holder["State"]["Health"]["Status"] != "unhealthy"
        && holder["RestartCount"].as_i64().unwrap_or_default() == 0;
    well.then(|| Done {
        message: format!(
            "{} is served by what somebody deployed meanwhile: container {}, image {}, which has run since {}",
            name_of(holder),
            short(text(holder, "Id")),
            clean_text(text(&holder["Config"], "Image")),
            clean_text(text(&holder["State"], "StartedAt")),
        ),
        output: json!({(SERVED_BY_ANOTHER): true}),
    })
}

/// Keeps an error that says that the engine's disk is full: room may be made, and what failed works then.
fn note_full(full: &mut Option<StepError>, error: StepError) {
    if error.code == NO_SPACE && full.is_none() {
        *full = Some(error);
    }
}

/// Nothing can be started for want of room. To be tried again: once there is some, all of it can be.
fn no_room(standby_serves: bool, full: StepError) -> StepError {
    let serves = if standby_serves {
        "only the standby serves"
    } else {
        "nothing runs"
    };
    StepError {
        message: format!("{serves}, for the engine has no room: {}", full.message),
        transient: true,
        ..full
    }
}

/// Whether the plan redirects connections to a standby.
fn redirects(steps: &[Step]) -> bool {
    steps
        .iter()
        .any(|step| matches!(job(step), Ok(Job::Redirect { .. })))
}

/// What is replaced by what, at one target.
struct Party {
    target: TargetName,
    old: Option<Old>,
    record: Option<ContainerRecord>,
}

impl Party {
    fn of(target: TargetName) -> Self {
        Self {
            target,
            old: None,
            record: None,
        }
    }
}

/// One for each target that the plan creates something for, in its order.
fn parties(ordered: &TargetName, steps: &[Step]) -> Vec<Party> {
    let mut found: Vec<Party> = Vec::new();
    for step in steps {
        let Ok(job) = job(step) else { continue };
        match part(ordered, job) {
            (target, Job::CreateNew { record, .. }) => found.push(Party {
                record: Some(*record),
                ..Party::of(target)
            }),
            (target, Job::StopOld { old }) => {
                if let Some(party) = found.iter_mut().find(|party| party.target == target) {
                    party.old = Some(old);
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_for_and_nothing_else_is() {
        let mut full = None;
        let error = |code: &str| StepError {
            code: code.to_owned(),
            message: "failed to start container x".to_owned(),
            next_step: "free space".to_owned(),
            transient: false,
        };
        note_full(&mut full, error("conflict"));
        assert_eq!(full, None);
        note_full(&mut full, error(NO_SPACE));
        note_full(&mut full, error("conflict"));
        let told = no_room(false, full.expect("full"));
        assert!(told.transient && told.message.starts_with("nothing runs"));
        assert_eq!(told.next_step, "free space");
        assert!(
            no_room(true, told)
                .message
                .starts_with("only the standby serves")
        );
    }

    #[test]
    fn only_a_container_that_does_its_work_is_said_to_serve() {
        let holder = |status: &str, restarts: u32| {
            json!({
                "Id": "0123456789abcdef",
                "Name": "/shop",
                "RestartCount": restarts,
                "State": {
                    "Running": true,
                    "StartedAt": "2026-01-01T00:00:00Z",
                    "Health": {"Status": status},
                },
                "Config": {"Image": "shop:v3"},
            })
        };
        let said = theirs(&holder("starting", 0)).expect("it serves");
        for part in [
            "shop is served",
            "0123456789ab",
            "shop:v3",
            "since 2026-01-01",
        ] {
            assert!(said.message.contains(part), "{part}: {}", said.message);
        }
        assert_eq!(theirs(&holder("unhealthy", 0)), None);
        assert_eq!(theirs(&holder("healthy", 3)), None);
        let mut stopped = holder("healthy", 0);
        stopped["State"]["Running"] = json!(false);
        assert_eq!(theirs(&stopped), None);
    }
}
