//! Wires the parts together, serves, and owns the order in which they stop.

mod address;
mod authority;
mod metrics;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sternway_proto::{
    DESCRIPTORS, limits,
    service::notify,
    tls::{ServerTls, ServerTrust, server_only},
    v1::{
        agent_service_server::{self, AgentServiceServer},
        operator_service_server::{self, OperatorServiceServer},
    },
};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

pub use self::address::Addresses;
pub(crate) use self::address::advertised;
use crate::{
    clock::now_ms,
    cluster::{self, PKI, Unreadable},
    config::Settings,
    fleet::{Fleet, Timing},
    listen::{self, Peers},
    pki::{Authority, Lifetimes, PkiError},
    rpc::{agent::Agents, allow::AllowLayer, enrolment::Enrolment, operator},
    store::{SharedStore, Sqlite, StoreError},
};

/// What can be asked for its health: the controller as a whole, and each of its services.
const HEALTH: [&str; 3] = [
    "",
    agent_service_server::SERVICE_NAME,
    operator_service_server::SERVICE_NAME,
];

/// Why the controller did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(
        "there is no cluster in {data_dir}; make one, with the same settings (--config, --data-dir): `sternway-controller init \
         --operator NAME --operator-dir DIR`"
    )]
    NoCluster { data_dir: String },
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error("the certificate authority cannot be used")]
    Pki(#[from] PkiError),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("failed to listen on {address} ({key})")]
    Listen {
        key: &'static str,
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("metrics cannot be collected: {0}")]
    Metrics(String),
    #[error("gRPC reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("a listener ended")]
    Serve(#[from] tonic::transport::Error),
    #[error("a part of the controller ended by itself")]
    Ended,
}

/// A controller that runs.
#[derive(Debug)]
pub struct Running {
    pub addresses: Addresses,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// Waits until it has stopped.
    ///
    /// # Errors
    /// A part of it ended by itself.
    pub async fn wait(self) -> Result<(), RunError> {
        self.task.await.map_err(|_| RunError::Ended)?
    }
}

/// Refuses a folder in which there is no cluster, rather than to make anything in it.
///
/// # Errors
/// There is none, or it cannot be looked at.
pub fn cluster_in(data_dir: &Path) -> Result<(), RunError> {
    if cluster::is_in(data_dir)? {
        return Ok(());
    }
    Err(RunError::NoCluster {
        data_dir: data_dir.display().to_string(),
    })
}

async fn bind(key: &'static str, address: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen {
            key,
            address: address.to_owned(),
            source,
        })
}

/// Starts a controller. It stops, in order and within the configured time, when `shutdown` is cancelled.
///
/// # Errors
/// There is no cluster yet, another controller uses the data, or an address cannot be listened on.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<Running, RunError> {
    run_renewing(settings, Lifetimes::default().controller, shutdown).await
}

/// As [`run`], with certificates of its own that are valid for so long. No setting: for who cannot wait for a day.
///
/// # Errors
/// As [`run`].
pub async fn run_renewing(
    settings: Settings,
    own_certificate: Duration,
    shutdown: CancellationToken,
) -> Result<Running, RunError> {
    cluster_in(&settings.data_dir)?;
    let lifetimes = Lifetimes {
        controller: own_certificate,
        ..settings.lifetimes()
    };
    let sqlite = Arc::new(Sqlite::open(&settings.data_dir).await?);
    let store: SharedStore = sqlite.clone();
    let authority = Arc::new(Authority::open(&settings.data_dir.join(PKI), lifetimes)?);
    let end_ms = authority.not_after_ms()?;
    store.cluster_set(&authority.cluster().to_string()).await?;
    let peers = Arc::new(Peers::new(store.host_revoked_list().await?));
    peers.refuse_operators(store.operator_revoked_list(now_ms()).await?);

    let main = bind("listen", &settings.listen).await?;
    let enrolment = bind("listen_enrolment", &settings.listen_enrolment).await?;
    let scrape = if settings.listen_metrics.is_empty() {
        None
    } else {
        Some(bind("listen_metrics", &settings.listen_metrics).await?)
    };
    let recorder = scrape.as_ref().map(|_| metrics::recorder()).transpose()?;
    let addresses = Addresses::of(&settings, &main, &enrolment, scrape.as_ref())?;

    let trust = ServerTrust {
        cluster: authority.cluster(),
        agents: authority.agent_trust(),
        operators: authority.controller_trust(),
        revocations: peers.clone(),
    };
    let issued = SystemTime::now();
    let own = || authority.issue_controller(authority::NAME, issued);
    let main_tls = ServerTls::new(own()?, &trust)?;
    let enrolment_tls = server_only(own()?)?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    addresses.write(&settings.data_dir)?;
    // Last: a start that comes to nothing is none, however often a service manager tries it again.
    let epoch = store.epoch_raise(now_ms()).await?;

    let running = Arc::new(authority::Running {
        authority: Arc::clone(&authority),
        peers: Arc::clone(&peers),
        enrolment: addresses.advertise_enrolment.clone(),
    });
    let timing = Timing {
        heartbeat: settings.heartbeat_interval,
        plan: settings.plan_timeout,
        lost: settings.order_lost_after,
    };
    let fleet = Fleet::new(Arc::clone(&store), running.clone(), timing, epoch);
    let operators = operator::Operators {
        store: Arc::clone(&store),
        fleet: Arc::clone(&fleet),
        authority: running,
        lifetimes: operator::Lifetimes {
            plan: settings.plan_lifetime,
            token: settings.token_lifetime,
            order: settings.order_deadline,
            order_at_most: settings.order_deadline_at_most,
        },
        verifying: Arc::new(tokio::sync::Semaphore::new(1)),
        stopping: shutdown.clone(),
    };
    let agents = Agents {
        store: Arc::clone(&store),
        fleet: Arc::clone(&fleet),
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in HEALTH {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let agents = AgentServiceServer::new(agents)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    // Answers may be larger than requests: a fleet's list is, and whoever may read it is trusted with it.
    let operators =
        OperatorServiceServer::new(operators).max_decoding_message_size(limits::MESSAGE_BYTES);
    let served = listen::server()
        .layer(AllowLayer)
        .add_service(agents)
        .add_service(operators)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(
            listen::incoming(
                "listen",
                main,
                main_tls.clone(),
                peers.clone(),
                shutdown.clone(),
            ),
            shutdown.clone().cancelled_owned(),
        );
    let joins = Enrolment::new(
        Arc::clone(&store),
        Arc::clone(&authority),
        addresses.advertise.clone(),
    );
    let joined = listen::server()
        .add_service(joins.into_server())
        .serve_with_incoming_shutdown(
            listen::incoming(
                "listen_enrolment",
                enrolment,
                enrolment_tls.clone(),
                peers.clone(),
                shutdown.clone(),
            ),
            shutdown.clone().cancelled_owned(),
        );
    if let Some((listener, recorder)) = scrape.zip(recorder) {
        metrics::serve(listener, recorder, Arc::clone(&store), shutdown.clone());
    }
    tokio::spawn(authority::refuse_operators(
        Arc::clone(&store),
        peers,
        shutdown.clone(),
    ));
    tokio::spawn(metrics::upkeep(store, Arc::clone(&fleet), shutdown.clone()));
    tokio::spawn(authority::refresh(
        authority,
        [main_tls, enrolment_tls],
        issued,
        end_ms,
        shutdown.clone(),
    ));
    tokio::spawn(notify::watchdog(shutdown.clone()));
    tokio::spawn(Arc::clone(&fleet).expire());
    tracing::info!(
        epoch,
        "listening on {} (agents, operators) and {} (enrolment)",
        addresses.listen,
        addresses.listen_enrolment
    );
    notify::ready(&format!("listening on {}", addresses.listen));
    let parts = Parts {
        servers: [tokio::spawn(served), tokio::spawn(joined)],
        fleet,
        store: sqlite,
        health: reporter,
        shutdown,
        within: settings.shutdown_timeout,
    };
    Ok(Running {
        addresses,
        task: tokio::spawn(parts.supervise()),
    })
}

/// What must be stopped, in order.
struct Parts {
    servers: [JoinHandle<Result<(), tonic::transport::Error>>; 2],
    fleet: Arc<Fleet>,
    store: Arc<Sqlite>,
    health: HealthReporter,
    shutdown: CancellationToken,
    within: Duration,
}

impl Parts {
    async fn supervise(mut self) -> Result<(), RunError> {
        let [mut main, mut enrolment] = self.servers;
        let ended = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Ok(()),
            ended = &mut main => Err(early(ended)),
            ended = &mut enrolment => Err(early(ended)),
        };
        self.shutdown.cancel();
        notify::stopping();
        for service in HEALTH {
            self.health
                .set_service_status(service, ServingStatus::NotServing)
                .await;
            // Who follows it hears that, and then the end: a stream without one would hold the stop up.
            self.health.clear_service_status(service).await;
        }
        // Sessions end first, so that the servers have nothing left to wait for. What one stage leaves of its time
        // is the next one's; all of them together have what the settings say.
        let begun = tokio::time::Instant::now();
        let [sessions, observed, served, closed] =
            [2, 4, 6, 8].map(|eighths| begun + self.within * eighths / 8);
        self.fleet.stop(sessions, observed).await;
        for server in [&mut main, &mut enrolment] {
            if !server.is_finished() && tokio::time::timeout_at(served, &mut *server).await.is_err()
            {
                server.abort();
            }
        }
        if tokio::time::timeout_at(closed, self.store.close())
            .await
            .is_err()
        {
            tracing::warn!("the database was not closed in time");
        }
        tracing::info!("stopped");
        ended
    }
}

fn early(ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => RunError::Ended,
    }
}
