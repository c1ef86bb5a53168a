//! A scripted controller behind real mutual TLS, and the real binary in front of it.

use std::{
    path::PathBuf,
    pin::Pin,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use sternway_proto::{
    identity::{Identity, PeerCertificate, Role},
    tls::{Credentials, Revocations, ServerTls, ServerTrust, pem},
    v1::operator_service_server::OperatorServiceServer,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use crate::script::Script;

/// No run of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) script: Arc<Script>,
    pub(crate) connections: Arc<AtomicU32>,
    revoked: watch::Sender<bool>,
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn issue(&self, cluster: Uuid, role: Role, name: &str, expired: bool) -> Credentials {
        let identity = Identity {
            cluster,
            role,
            name: name.to_owned(),
        };
        let mut params = CertificateParams::default();
        let uri = identity.uri().try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.0).expect("a certificate");
        Credentials::new([leaf.der().to_vec()], key.serialize_der())
    }
}

impl Stage {
    pub(crate) async fn new(script: Script) -> Self {
        Self::with(script, false).await
    }

    /// The operator's certificate has expired.
    pub(crate) async fn expired() -> Self {
        Self::with(Script::default(), true).await
    }

    /// The operator's certificate is revoked.
    pub(crate) async fn revoked() -> Self {
        let stage = Self::new(Script::default()).await;
        stage.revoke();
        stage
    }

    /// From now on the operator's certificate is revoked, and the connections are cut.
    pub(crate) fn revoke(&self) {
        self.revoked.send_replace(true);
    }

    async fn with(script: Script, expired: bool) -> Self {
        let revoked = watch::Sender::new(false);
        let (script, connections) = (Arc::new(script), Arc::new(AtomicU32::new(0)));
        let folder = TempDir::new().expect("a folder");
        let (authority, cluster) = (Authority::new(), Uuid::new_v4());
        let ca = authority.0.der().clone();
        let trust = ServerTrust {
            cluster,
            agents: vec![Authority::new().0.der().clone()],
            operators: vec![ca.clone()],
            revocations: Arc::new(Valid(revoked.subscribe())),
        };
        let server = authority.issue(cluster, Role::Controller, "controller", false);
        let tls = ServerTls::new(server, &trust).expect("server TLS");
        let address = serve(
            script.clone(),
            tls,
            connections.clone(),
            revoked.subscribe(),
        )
        .await;
        let operator = authority.issue(cluster, Role::Operator, "alice", expired);
        operator.store(folder.path()).expect("stored");
        std::fs::write(folder.path().join("trust.pem"), pem("CERTIFICATE", &ca)).expect("written");
        let config = format!(
            "controller = \"{address}\"\ncluster = \"{cluster}\"\ncertificate = \"certificate.pem\"\n\
             key = \"key.pem\"\ntrust = \"trust.pem\"\n"
        );
        std::fs::write(folder.path().join("ctl.toml"), config).expect("written");
        Self {
            folder,
            script,
            connections,
            revoked,
        }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("ctl.toml")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.set_up(Command::new(env!("CARGO_BIN_EXE_ctl")), arguments)
    }

    /// The command, started by another program that takes it as its arguments and becomes it.
    pub(crate) fn command_under(
        &self,
        program: &str,
        flags: &[&str],
        arguments: &[&str],
    ) -> Command {
        let mut command = Command::new(program);
        command.args(flags).arg(env!("CARGO_BIN_EXE_ctl"));
        self.set_up(command, arguments)
    }

    fn set_up(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .env("STERNWAY_CONFIG", self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The request ids of the rollbacks that were started.
    pub(crate) fn started(&self) -> Vec<String> {
        self.script.started.lock().expect("whole").clone()
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output()).await
    }
}

pub(crate) async fn said(
    output: impl Future<Output = std::io::Result<std::process::Output>>,
) -> Said {
    let output = timeout(DEADLINE, output)
        .await
        .expect("in time")
        .expect("runs");
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Everybody is revoked, once that is said.
#[derive(Debug)]
struct Valid(watch::Receiver<bool>);

impl Revocations for Valid {
    fn is_revoked(&self, _peer: &PeerCertificate) -> bool {
        *self.0.borrow()
    }
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The service on a plain loopback port, and mutual TLS in front of it.
async fn serve(
    script: Arc<Script>,
    tls: ServerTls,
    connections: Arc<AtomicU32>,
    revoked: watch::Receiver<bool>,
) -> String {
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let inner = plain.local_addr().expect("bound");
    let incoming = futures_util::stream::unfold(plain, |plain| async move {
        Some((plain.accept().await.map(|(stream, _)| stream), plain))
    });
    let service = OperatorServiceServer::from_arc(script);
    let server: Served = Box::pin(async move {
        let router = tonic::transport::Server::builder().add_service(service);
        router.serve_with_incoming(incoming).await.expect("served");
    });
    tokio::spawn(server);
    let outer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = outer.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = outer.accept().await {
            let acceptor = TlsAcceptor::from(tls.config());
            let (connections, mut revoked) = (connections.clone(), revoked.clone());
            tokio::spawn(async move {
                let mut stream = match acceptor.accept(stream).into_fallible().await {
                    Ok(stream) => stream,
                    // Listened to, so that it hears why it is not let in.
                    Err((_, mut refused)) => {
                        let _ = refused.shutdown().await;
                        let _ = tokio::io::copy(&mut refused, &mut tokio::io::sink()).await;
                        return;
                    }
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let mut inside = TcpStream::connect(inner).await.expect("connects");
                tokio::select! {
                    // A client that goes away ends the copy with an error of no interest.
                    _ = tokio::io::copy_bidirectional(&mut stream, &mut inside) => {}
                    _ = revoked.wait_for(|revoked| *revoked) => {}
                }
            });
        }
    });
    address
}
