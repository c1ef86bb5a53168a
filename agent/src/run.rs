//! The agent's life: executor first, because it may have something to finish and needs no network; then
//! the link.

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use sternway_proto::service::notify;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    boundary,
    config::Settings,
    executor::{self, Executor},
    identity::Identity,
    link::Link,
    store::{artifacts::Artifacts, files, revisions::ARTIFACTS},
    targets::{
        Kind, Registry,
        docker::DockerKind,
        systemd::{self, SystemdKind},
    },
};

/// From being asked to stop to stopping, at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until the shutdown.
///
/// # Errors
/// The agent could not start: another one runs on the folder, the machine has not joined, or the folder
/// cannot be used.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.data_dir)?;
    let _lock = lock(&settings.data_dir)?;
    let mut docker = DockerKind::new(settings.docker.clone())?;
    // Copies are good to have; a rollback that needs none is no worse without.
    if let Err(error) = docker.archive_in(&settings.data_dir.join("images")) {
        tracing::error!("no images are archived until the agent is started again: {error}");
    }
    let artifacts_dir = settings.data_dir.join(ARTIFACTS);
    let budget = settings.disk_budget_mib.saturating_mul(1024 * 1024);
    let artifacts = Artifacts::open(&artifacts_dir, budget)
        .context("the artifacts of this host cannot be used")?;
    let places = systemd::Places {
        artifacts: artifacts_dir,
        works: settings.data_dir.join("works"),
        packages: settings.data_dir.join("packages"),
        packages_budget: settings.package_archive_mib.saturating_mul(1024 * 1024),
    };
    let systemd = SystemdKind::new(&settings.unit, artifacts.clone(), &places)
        .context("the units of this host cannot be looked after")?;
    let kinds: [Arc<dyn Kind>; 2] = [Arc::new(docker), Arc::new(systemd)];
    let (to_executor, requests) = mpsc::channel(boundary::REQUESTS);
    let (to_link, reports) = mpsc::channel(boundary::REPORTS);
    let mut executor = Executor::start(
        executor::settings::Settings {
            state_dir: settings.data_dir.clone(),
            host_id: identity.host_id,
            host_name: identity.host_name.clone(),
            keep: settings.keep,
            order_timeout: settings.order_timeout,
            check_interval: settings.check_interval,
            readiness_interval: settings.readiness_interval,
            forget_after: settings.forget_after,
        },
        artifacts,
        Registry::new(kinds),
        requests,
        to_link,
        shutdown.clone(),
    )
    .context("the state of this host cannot be used")?;
    tracing::info!(host = %identity.host_name, host.id = %identity.host_id, "agent of {} is up", identity.host_name);
    let status = format!("looking after {}", identity.host_name);
    notify::ready(&status);
    let watchdog = tokio::spawn(notify::watchdog(shutdown.clone()));
    let link = Link::new(identity, to_executor, reports, shutdown.clone())
        .context("the identity of this host cannot be used")?;
    let mut link = tokio::spawn(link.keep());
    let died = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        () = executor.ended() => Some("executor"),
        _ = &mut link => Some("link"),
    };
    notify::stopping();
    shutdown.cancel();
    let stopped = async {
        if died != Some("executor") {
            executor.stopped().await;
        }
    };
    if timeout(STOP_TIMEOUT, stopped).await.is_err() {
        tracing::warn!(
            "the executor did not stop in time; what it was doing is gone on with at the next start"
        );
    }
    link.abort();
    watchdog.abort();
    match died {
        None => Ok(()),
        // The service manager starts the agent again, and it goes on where it was.
        Some(part) => anyhow::bail!("the {part} ended by itself: see the log above"),
    }
}

/// One process a folder: two agents would both act on an order, and a join would exchange the identity
/// under a running one. Held until the file is dropped.
///
/// # Errors
/// Another process holds it, or the folder cannot be used.
pub fn lock(dir: &Path) -> anyhow::Result<File> {
    files::make_dir(dir)?;
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => anyhow::bail!(
            "another agent runs on {}: stop it first, or give this one a data_dir of its own",
            dir.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("failed to lock {}", path.display()))
        }
    }
}
