//! The standby and the redirect around an exchange.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddrV4},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Done, StepContext, StepError, failed::see_log, refused, runs, short};
use crate::targets::docker::{
    DockerKind, drain,
    labels::{self, Role, own_name},
    normalise::text,
    plan::Old,
    record::ContainerRecord,
    recreate::{CreateOptions, create},
    redirect::{self, Phase, Redirect, RedirectError},
    serving::{self, place, taken},
    warm::{Published, published},
};

/// How long what passed its checks may take until it also takes connections.
const SERVES: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);

impl DockerKind {
    pub(super) async fn start_standby(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
    ) -> Result<Done, StepError> {
        if let Some((id, inspect)) = self.of_order(context, Role::Standby).await? {
            if runs(&inspect) {
                return Ok(Done::said(format!("standby {} runs already", short(&id))));
            }
            self.engine.remove_container(&id, true).await?;
        }
        let mut labels = Self::labels_for(context, Role::Standby);
        // What cannot be written down is as with a standby of an earlier version.
        if let Ok(doors) = serde_json::to_string(&published(record)) {
            labels.insert(labels::DOORS.to_owned(), doors);
        }
        let options = CreateOptions {
            name: own_name(Role::Standby, context.order_id, context.target),
            labels,
            restarts: false,
            publish: false,
            volumes: BTreeMap::new(),
        };
        let created = create(&self.engine, record, &options).await?;
        self.engine.start_container(&created.id).await?;
        Ok(Done::said(format!(
            "standby {} is started",
            short(&created.id)
        )))
    }

    pub(super) async fn verify_standby(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
    ) -> Result<Done, StepError> {
        let (id, _) = self.standby(context).await?;
        self.checked(context, &id, record, "standby").await
    }

    async fn standby(&self, context: &StepContext<'_>) -> Result<(String, Value), StepError> {
        let found = self.of_order(context, Role::Standby).await?;
        let see = if found.is_some() {
            see_log(context)
        } else {
            "see who removed it (`docker events --since 1h` on the host)".to_owned()
        };
        found.filter(|(_, inspect)| runs(inspect)).ok_or_else(|| {
            refused(
                "standby-gone",
                "the standby does not run any more".to_owned(),
                format!("{see}, or roll back with --swap cold"),
            )
        })
    }

    /// New connections go to the standby, which takes them wherever the container does that they went to
    /// before.
    pub(super) async fn redirect(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
        old: Option<&Old>,
    ) -> Result<Done, StepError> {
        if old.is_some() {
            self.nobody_else(context, old).await?;
        }
        let (_, standby) = self.standby(context).await?;
        if let Some(present) = self.found(context.target.local()).await? {
            // Behind the same port of the host the two may listen at different ones of their own.
            let served = serving::served(&present, ports).await;
            let known = !served.is_empty();
            let wanted = inside(if known { &served } else { ports });
            let end = Instant::now() + limit(known);
            while !taken(&standby, &wanted).await.is_superset(&wanted) {
                if Instant::now() >= end {
                    if known {
                        return Err(not_serving(context, "the standby", &wanted));
                    }
                    break;
                }
                sleep(PAUSE).await;
            }
        }
        let address = self.lead(context, &standby, ports, &[]).await?;
        Ok(Done::said(format!(
            "new connections go to the standby at {address}"
        )))
    }

    async fn lead(
        &self,
        context: &StepContext<'_>,
        standby: &Value,
        ports: &[Published],
        spared: &[SocketAddrV4],
    ) -> Result<IpAddr, StepError> {
        let (address, network) = place(standby).ok_or_else(|| {
            refused(
                "no-address",
                "the standby has no address on a bridge".to_owned(),
                "roll back with --swap cold",
            )
        })?;
        let bridge = bridge_of(&self.engine.network(&network).await?);
        redirect::begin(&Redirect {
            order: context.order_id,
            owner: context.target.local(),
            bridge: &bridge,
            standby: address,
            ports,
            spared,
        })
        .await
        .map_err(|error| failed(&error))?;
        Ok(address.into())
    }

    pub(super) async fn redirect_again(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
    ) -> Result<Done, StepError> {
        let again = async {
            let (_, standby) = self.standby(context).await?;
            self.lead(context, &standby, ports, &[]).await
        };
        match again.await {
            Ok(address) => Ok(Done::said(format!(
                "new connections go to the standby at {address}"
            ))),
            // Without a standby there is nothing to redirect to; what comes back serves by itself.
            Err(error) if matches!(error.code.as_str(), "standby-gone" | "no-address") => {
                Ok(Done::said("there is no standby any more"))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets what was begun with the old container end, now that nothing new goes there.
    pub(super) async fn drain_old(
        &self,
        old: Option<&Old>,
        ports: &[Published],
        wait: Duration,
    ) -> Done {
        let Some(old) = old else {
            // Planned by an earlier version, which did not write it down.
            sleep(wait).await;
            return Done::said(format!("waited {} ms", wait.as_millis()));
        };
        let outside = ports.iter().map(|port| port.port).collect();
        let said = self.drain(&old.id, Some(&outside), wait).await;
        // It may have reset some of the last ones.
        redirect::forget_reset(ports).await;
        Done::said(said)
    }

    /// The new container takes connections at its published ports, provably; then they lead there again,
    /// and what the standby has yet to answer ends.
    pub(super) async fn end_redirect(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
        wait: Duration,
    ) -> Result<Done, StepError> {
        if self.phase(context).await? == Some(Phase::Leads) {
            self.proven(context, ports).await?;
        }
        self.take_redirect_away(context, wait).await
    }

    pub(super) async fn undo_redirect(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        self.take_redirect_away(context, drain::BUDGET).await
    }

    async fn take_redirect_away(
        &self,
        context: &StepContext<'_>,
        wait: Duration,
    ) -> Result<Done, StepError> {
        if self.phase(context).await?.is_none() {
            return Ok(Done::said("there is no redirect any more"));
        }
        let order = context.order_id;
        let failed = |error: RedirectError| failed(&error);
        redirect::release(order).await.map_err(failed)?;
        let said = match self.of_order(context, Role::Standby).await? {
            Some((id, _)) => self.drain(&id, None, wait).await,
            None => "there is no standby".to_owned(),
        };
        redirect::end(order).await.map_err(failed)?;
        Ok(Done::said(format!(
            "new connections go to the published port again; standby: {said}"
        )))
    }

    /// Lets what was begun with the new container end where it may have begun something: its connections
    /// go to the standby again. Never a reason not to stop it: what cannot be seen is not waited for.
    pub(super) async fn drain_new(&self, context: &StepContext<'_>, id: &str) -> Option<String> {
        // Without a standby nothing was ever redirected, and nobody needs to be asked.
        let standby = self.of_order(context, Role::Standby).await;
        standby.ok().flatten()?;
        match redirect::phase(context.order_id).await {
            Ok(Some(Phase::Leads)) => Some(self.drain(id, None, drain::BUDGET).await),
            Ok(_) => None,
            Err(error) => Some(format!("its connections were not waited for: {error}")),
        }
    }

    async fn phase(&self, context: &StepContext<'_>) -> Result<Option<Phase>, StepError> {
        redirect::phase(context.order_id)
            .await
            .map_err(|error| failed(&error))
    }

    /// Waits until the replacement takes connections wherever the standby does, which is of the same
    /// revision: at its own address and at the published ports, tried past the redirect. A standby that takes none was
    /// paused, or is of a revision that never does.
    async fn proven(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
    ) -> Result<(), StepError> {
        let Ok((_, standby)) = self.standby(context).await else {
            // It serves nobody: the sooner its redirect ends the better.
            return Ok(());
        };
        let served = taken(&standby, &inside(ports)).await;
        let known = !served.is_empty();
        let wanted = if known { served } else { inside(ports) };
        let gateway = place(&standby).and_then(|(_, network)| {
            let network = &standby["NetworkSettings"]["Networks"][network];
            text(network, "Gateway").parse().ok()
        });
        let no_ways = |error: std::io::Error| StepError {
            transient: true,
            ..refused(
                "no-ways",
                format!("cannot try the published ports: {error}"),
                "see whether the host has free ports and addresses (`ss -s`), or roll back with --swap cold",
            )
        };
        let ways = serving::ways(ports, &wanted, gateway)
            .await
            .map_err(no_ways)?;
        let spared: Vec<SocketAddrV4> = ways.iter().map(|way| way.from).collect();
        self.lead(context, &standby, ports, &spared).await?;
        let end = Instant::now() + limit(known);
        loop {
            let (_, new) = self.replacement(context).await?;
            let mut leads = taken(&new, &wanted).await.is_superset(&wanted);
            for way in &ways {
                leads = leads && way.leads().await;
            }
            if leads {
                return Ok(());
            }
            if Instant::now() >= end {
                if known {
                    return Err(not_serving(context, "the new container", &wanted));
                }
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn stop_standby(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context, Role::Standby).await? {
            None => Ok(Done::said("there is no standby")),
            Some((id, _)) => {
                self.engine.stop_container(&id, None).await?;
                self.engine.remove_container(&id, true).await?;
                Ok(Done::said(format!("standby {} is removed", short(&id))))
            }
        }
    }
}

/// The interface of a bridge network.
pub(in crate::targets::docker) fn bridge_of(network: &Value) -> String {
    let named = text(&network["Options"], "com.docker.network.bridge.name");
    if !named.is_empty() {
        return named.to_owned();
    }
    let id: String = text(network, "Id").chars().take(12).collect();
    format!("br-{id}")
}

fn inside(ports: &[Published]) -> BTreeSet<u16> {
    ports.iter().map(|port| port.inside).collect()
}

/// How long is waited until what passed its checks takes connections. `known`: something does there, so it must.
fn limit(known: bool) -> Duration {
    if known { SERVES } else { serving::UNKNOWN }
}

fn not_serving(context: &StepContext<'_>, who: &str, wanted: &BTreeSet<u16>) -> StepError {
    refused(
        "port-not-answering",
        format!("{who} does not take connections at all of its ports {wanted:?}"),
        format!(
            "{}; with --swap cold nothing has to answer beforehand",
            see_log(context)
        ),
    )
}

fn failed(error: &RedirectError) -> StepError {
    StepError {
        code: "redirect-failed".to_owned(),
        message: error.to_string(),
        next_step: "roll back with --swap cold, or see `nft list ruleset` on the host".to_owned(),
        transient: false,
    }
}
