//! The standby and the redirect around an exchange.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use serde_json::{Value, json};

use super::{Done, StepContext, StepError, drain, refused, runs, short};
use crate::targets::docker::{
    DockerKind,
    labels::{Role, own_name},
    normalise::text,
    record::ContainerRecord,
    recreate::{CreateOptions, create},
    redirect::{self, RedirectError},
    warm::Published,
};

impl DockerKind {
    pub(super) async fn start_standby(
        &self,
        context: &StepContext<'_>,
        record: &ContainerRecord,
    ) -> Result<Done, StepError> {
        if let Some((id, inspect)) = self.of_order(context.order_id, Role::Standby).await? {
            if runs(&inspect) {
                return Ok(Done::said(format!("standby {} runs already", short(&id))));
            }
            self.engine.remove_container(&id, true).await?;
        }
        let options = CreateOptions {
            name: own_name(Role::Standby, context.order_id, context.target),
            labels: Self::labels_for(context, Role::Standby),
            restarts: false,
            publish: false,
            volumes: BTreeMap::new(),
        };
        let record = with_alias(record, context.target.local());
        let created = create(&self.engine, &record, &options).await?;
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
        self.of_order(context.order_id, Role::Standby)
            .await?
            .filter(|(_, inspect)| runs(inspect))
            .ok_or_else(|| {
                refused(
                    "standby-gone",
                    "the standby does not run any more".to_owned(),
                )
            })
    }

    pub(super) async fn redirect(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
    ) -> Result<Done, StepError> {
        let (_, inspect) = self.standby(context).await?;
        let (address, network) = place(&inspect).ok_or_else(|| {
            refused(
                "no-address",
                "the standby has no address on a bridge".to_owned(),
            )
        })?;
        let bridge = self.bridge_of(&network).await?;
        let _one_at_a_time = self.redirecting.lock().await;
        redirect::begin(context.order_id, &bridge, address, ports)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Done::said(format!(
            "new connections go to the standby at {address}"
        )))
    }

    pub(super) async fn redirect_again(
        &self,
        context: &StepContext<'_>,
        ports: &[Published],
    ) -> Result<Done, StepError> {
        match self.redirect(context, ports).await {
            Ok(done) => Ok(done),
            // Without a standby there is nothing to redirect to; what comes back serves by itself.
            Err(error) if matches!(error.code.as_str(), "standby-gone" | "no-address") => {
                Ok(Done::said("there is no standby any more"))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn end_redirect(
        &self,
        context: &StepContext<'_>,
        wait: Duration,
    ) -> Result<Done, StepError> {
        self.undo_redirect(context).await?;
        Ok(drain(wait).await)
    }

    pub(super) async fn undo_redirect(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        let _one_at_a_time = self.redirecting.lock().await;
        redirect::end(context.order_id)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Done::said("new connections go to the published port again"))
    }

    pub(super) async fn stop_standby(&self, context: &StepContext<'_>) -> Result<Done, StepError> {
        match self.of_order(context.order_id, Role::Standby).await? {
            None => Ok(Done::said("there is no standby")),
            Some((id, _)) => {
                self.engine.stop_container(&id, None).await?;
                self.engine.remove_container(&id, true).await?;
                Ok(Done::said(format!("standby {} is removed", short(&id))))
            }
        }
    }

    /// The interface of a bridge network.
    async fn bridge_of(&self, network: &str) -> Result<String, StepError> {
        let inspect = self.engine.network(network).await?;
        let named = text(&inspect["Options"], "com.docker.network.bridge.name");
        if !named.is_empty() {
            return Ok(named.to_owned());
        }
        let id: String = text(&inspect, "Id").chars().take(12).collect();
        Ok(format!("br-{id}"))
    }
}

/// The standby answers to the container's own name, too, on networks that know names.
fn with_alias(record: &ContainerRecord, name: &str) -> ContainerRecord {
    let mut record = record.clone();
    for (network, endpoint) in &mut record.networks {
        // The engine's own bridge knows no names and refuses aliases.
        if matches!(network.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.entry("Aliases".to_owned()).or_insert(Value::Null);
        match aliases {
            Value::Array(all) => all.push(json!(name)),
            other => *other = json!([name]),
        }
    }
    record
}

fn place(inspect: &Value) -> Option<(Ipv4Addr, String)> {
    inspect["NetworkSettings"]["Networks"]
        .as_object()?
        .iter()
        .find_map(|(name, network)| Some((text(network, "IPAddress").parse().ok()?, name.clone())))
}

fn failed(error: &RedirectError) -> StepError {
    StepError {
        code: "redirect-failed".to_owned(),
        message: error.to_string(),
        next_step: "roll back with --swap cold, or see `nft list ruleset` on the host".to_owned(),
        transient: false,
    }
}
