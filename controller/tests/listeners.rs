//! What the listeners of a running controller hold to: who may ask what it is and whether it is well, what TLS they
//! speak and how long they wait for it, and the controller's own certificate.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking, in their helpers too"
)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use sternway_controller::{Running, config::Settings, operators, pki, run_renewing};
use sternway_proto::{
    channel, enrol, fault,
    identity::PeerCertificate,
    limits,
    tls::{AnyoneValid, ClientTls, Credentials, ServerTls, ServerTrust, read_certificates},
    v1::{
        self, agent_message::Message as Up, agent_service_client::AgentServiceClient,
        controller_message::Message as Down, operator_service_client::OperatorServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const WAIT: Duration = Duration::from_secs(90);

/// What can be asked for its health.
const SERVICES: [&str; 3] = [
    "",
    "sternway.v1.AgentService",
    "sternway.v1.OperatorService",
];

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(WAIT, future).await {
        Ok(value) => value,
        Err(late) => panic!("{what} took too long: {late}"),
    }
}

struct Stage {
    folder: TempDir,
    shutdown: CancellationToken,
    running: Running,
}

impl Stage {
    async fn new() -> Self {
        Self::renewing(pki::Lifetimes::default().controller).await
    }

    /// With certificates of its own that are valid for so long.
    async fn renewing(own_certificate: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, out) = (folder.path().join("data"), folder.path().join("op"));
        let lifetimes = pki::Lifetimes::default();
        pki::init(
            &data,
            "127.0.0.1:1",
            "alice",
            &out,
            lifetimes,
            SystemTime::now(),
            pki::Database {
                make: &mut || Ok(()),
                keep: &mut |_| Ok(()),
            },
        )
        .expect("a cluster");
        let made = operators::make_database(&data).await;
        made.expect("its database");
        let settings = Settings {
            data_dir: data,
            listen: "127.0.0.1:0".into(),
            listen_enrolment: "127.0.0.1:0".into(),
            listen_metrics: "127.0.0.1:0".into(),
            shutdown_timeout: Duration::from_mins(2),
            ..Settings::default()
        };
        let shutdown = CancellationToken::new();
        let running = run_renewing(settings, own_certificate, shutdown.clone())
            .await
            .expect("it starts");
        Self {
            folder,
            shutdown,
            running,
        }
    }

    fn listen(&self) -> SocketAddr {
        self.running.addresses.listen
    }

    /// The listeners that speak TLS.
    fn listeners(&self) -> [SocketAddr; 2] {
        [self.listen(), self.running.addresses.listen_enrolment]
    }

    fn operator_tls(&self) -> ClientTls {
        operator_tls(&self.folder.path().join("op"))
    }

    async fn channel(&self, tls: &ClientTls) -> Channel {
        let address = self.listen().to_string();
        channel::connect(&address, tls).await.expect("a channel")
    }

    async fn operator(&self) -> Channel {
        self.channel(&self.operator_tls()).await
    }

    async fn agent(&self) -> Channel {
        let made = OperatorServiceClient::new(self.operator().await)
            .create_join_token(v1::CreateJoinTokenRequest::default())
            .await
            .expect("a token");
        let token = made.into_inner().token.parse().expect("a token");
        let joined = enrol::join(&token, None, "web-1", "test")
            .await
            .expect("joined");
        let tls = ClientTls::new(joined.credentials, &joined.controller_trust, joined.cluster);
        self.channel(&tls.expect("TLS")).await
    }

    /// The certificate that a new connection is shown.
    async fn presented(&self) -> PeerCertificate {
        let tcp = TcpStream::connect(self.listen()).await.expect("connected");
        let name = ServerName::try_from("controller").expect("a name");
        let connector = TlsConnector::from(self.operator_tls().config());
        let stream = connector.connect(name, tcp).await.expect("shaken hands");
        let chain = stream.get_ref().1.peer_certificates().expect("shown");
        PeerCertificate::from_der(&chain[0]).expect("readable")
    }
}

fn operator_tls(dir: &Path) -> ClientTls {
    let credentials = Credentials::load(dir).expect("credentials");
    let cluster = credentials.peer().expect("a leaf").identity.cluster;
    let trust = read_certificates(&dir.join("trust.pem")).expect("trust");
    ClientTls::new(credentials, &trust, cluster).expect("TLS")
}

fn asked_for(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn services_of(channel: Channel) -> Result<Vec<String>, Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = within("an answer", answers.message()).await?;
    let answer = answer.expect("one answer").message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else {
        panic!("no list: {answer:?}");
    };
    Ok(listed.service.into_iter().map(|one| one.name).collect())
}

#[tokio::test]
async fn operators_and_agents_are_told_that_every_service_serves() {
    let stage = Stage::new().await;
    for channel in [stage.operator().await, stage.agent().await] {
        let mut health = HealthClient::new(channel);
        for service in SERVICES {
            let answer = health.check(asked_for(service)).await.expect(service);
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
        }
        let unknown = health.check(asked_for("sternway.v1.Unknown")).await;
        assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    }
}

#[tokio::test]
async fn who_follows_the_health_is_told_of_the_stop_and_does_not_hold_it_up() {
    let stage = Stage::new().await;
    let mut health = HealthClient::new(stage.operator().await);
    let mut followed = Vec::new();
    for service in SERVICES {
        let stream = health.watch(asked_for(service)).await.expect(service);
        let mut stream = stream.into_inner();
        let first = within("the first", stream.message()).await.expect(service);
        assert_eq!(first.expect("told").status(), ServingStatus::Serving);
        followed.push(stream);
    }
    stage.shutdown.cancel();
    for mut stream in followed {
        let next = within("the second", stream.message()).await.expect("told");
        assert_eq!(next.expect("told").status(), ServingStatus::NotServing);
        let end = within("the end", stream.message()).await.expect("an end");
        assert_eq!(end, None);
    }
    // A server that is waited for is given half a minute here.
    timeout(Duration::from_secs(20), stage.running.wait())
        .await
        .expect("it does not wait for them")
        .expect("it stops");
}

#[tokio::test]
async fn reflection_tells_operators_the_contract_and_agents_nothing() {
    let stage = Stage::new().await;
    let listed = services_of(stage.operator().await).await.expect("listed");
    for service in [
        "sternway.v1.AgentService",
        "sternway.v1.EnrolmentService",
        "sternway.v1.OperatorService",
    ] {
        assert!(listed.iter().any(|one| one == service), "{listed:?}");
    }
    let refused = services_of(stage.agent().await).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let problem = fault::from_status(&refused).expect("a problem");
    assert!(problem.message.contains("the role agent"), "{problem:?}");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    within("the answer", tcp.read_to_string(&mut answer))
        .await
        .expect("answered");
    answer
}

#[tokio::test]
async fn the_metrics_listener_says_that_the_controller_is_well() {
    let stage = Stage::new().await;
    let address = stage.running.addresses.listen_metrics.expect("it is on");
    let healthy = get(address, "/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
    assert!(healthy.ends_with("\r\n\r\nok\n"), "{healthy}");
    within("the first metrics", async {
        while !get(address, "/metrics").await.contains("\nsternway_hosts{") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let unknown = get(address, "/").await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
}

#[tokio::test]
async fn a_connection_that_does_not_shake_hands_is_closed_in_time() {
    let stage = Stage::new().await;
    let limit = limits::HANDSHAKE_TIMEOUT + Duration::from_secs(5);
    let mut strangers = Vec::new();
    for address in stage.listeners() {
        // Not a word, and the beginning of a record that does not go on.
        for said in [&[][..], &[0x16, 0x03, 0x01]] {
            strangers.push(async move {
                let mut tcp = TcpStream::connect(address).await.expect("connected");
                tcp.write_all(said).await.expect("said");
                let read = timeout(limit, tcp.read_u8()).await;
                read.expect("closed in time").expect_err("closed")
            });
        }
    }
    join_all(strangers).await;
}

/// What a client says that speaks TLS 1.2 and nothing newer.
fn hello_of_tls_12() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; two suites of ECDHE with AES-128-GCM; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let extensions = [
        // Groups and points: secp256r1, uncompressed.
        &[0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17][..],
        &[0x00, 0x0b, 0, 2, 1, 0],
        // Signatures: ecdsa_secp256r1_sha256. Protocols: h2.
        &[0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03],
        &[0x00, 0x10, 0, 5, 0, 3, 2, b'h', b'2'],
    ]
    .concat();
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[..], bytes].concat()
    };
    hello.extend(sized(&extensions));
    let message = [&[1, 0][..], &sized(&hello)].concat();
    [&[0x16, 3, 1][..], &sized(&message)].concat()
}

#[tokio::test]
async fn tls_older_than_1_3_is_refused_with_an_alert_that_says_so() {
    const ALERT: u8 = 21;
    const FATAL_PROTOCOL_VERSION: [u8; 2] = [2, 70];
    let stage = Stage::new().await;
    for address in stage.listeners() {
        let mut tcp = TcpStream::connect(address).await.expect("connected");
        tcp.write_all(&hello_of_tls_12()).await.expect("said");
        let mut answer = Vec::new();
        within("the end", tcp.read_to_end(&mut answer))
            .await
            .expect("closed");
        assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
        assert_eq!(answer.get(5..), Some(&FATAL_PROTOCOL_VERSION[..]));
    }
}

#[tokio::test]
async fn the_controllers_certificate_is_replaced_and_open_sessions_outlive_the_old_one() {
    let stage = Stage::renewing(Duration::from_secs(8)).await;
    let (sender, receiver) = mpsc::channel(8);
    let say = async |message| {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        sender.send(message).await.expect("the stream is open");
    };
    say(Up::Hello(v1::Hello::default())).await;
    let mut session = AgentServiceClient::new(stage.agent().await)
        .session(ReceiverStream::new(receiver))
        .await
        .expect("a session")
        .into_inner();
    let welcome = within("the welcome", session.message()).await;
    let welcome = welcome.expect("no error").expect("not the end").message;
    assert!(matches!(welcome, Some(Down::Welcome(_))), "{welcome:?}");

    let first = stage.presented().await;
    within("another certificate, and the end of the first", async {
        loop {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now_ms = i64::try_from(now.expect("after 1970").as_millis()).expect("soon");
            if now_ms > first.not_after_ms && stage.presented().await.serial != first.serial {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    say(Up::Heartbeat(v1::Heartbeat::default())).await;
    within("an answer to the heartbeat", async {
        loop {
            let message = session.message().await.expect("no error");
            let message = message.expect("the session lives").message;
            if matches!(message, Some(Down::Heartbeat(_))) {
                return;
            }
        }
    })
    .await;
}

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of settings that changes none.
const NO_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A frame of HTTP/2.
struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

/// The next frame. None: the connection has ended.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).expect("small")];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        payload,
    })
}

/// Answers nothing: is pinged, and given up some time after that.
async fn given_up(stream: &mut (impl AsyncRead + Unpin)) {
    within("a ping", async {
        loop {
            let frame = frame(stream).await.expect("a ping before the end");
            if frame.kind == PING && frame.flags & ACK == 0 {
                return;
            }
        }
    })
    .await;
    // Both libraries would wait for twenty seconds if nobody told them.
    let end = async { while frame(stream).await.is_some() {} };
    timeout(limits::KEEPALIVE_TIMEOUT * 3, end)
        .await
        .expect("given up in time");
}

#[tokio::test]
async fn a_connection_has_few_streams_and_ends_where_its_client_does_not_answer_pings() {
    const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
    let stage = Stage::new().await;
    join_all(stage.listeners().map(|address| {
        let connector = TlsConnector::from(stage.operator_tls().config());
        async move {
            let tcp = TcpStream::connect(address).await.expect("connected");
            let name = ServerName::try_from("controller").expect("a name");
            let mut stream = connector.connect(name, tcp).await.expect("shaken hands");
            let hello = [PREFACE, NO_SETTINGS].concat();
            stream.write_all(&hello).await.expect("said");
            let first = within("the settings", frame(&mut stream)).await;
            let first = first.expect("settings");
            assert_eq!((first.kind, first.flags), (SETTINGS, 0));
            let streams = first
                .payload
                .chunks(6)
                .find_map(|setting| setting.strip_prefix(&MAX_CONCURRENT_STREAMS));
            let bound = limits::STREAMS_PER_CONNECTION.to_be_bytes();
            assert_eq!(streams, Some(&bound[..]), "{:?}", first.payload);
            given_up(&mut stream).await;
        }
    }))
    .await;
}

#[tokio::test]
async fn a_client_gives_a_controller_up_that_does_not_answer_pings() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (folder.path().join("data"), folder.path().join("op"));
    let now = SystemTime::now();
    let lifetimes = pki::Lifetimes::default();
    pki::init(
        &data,
        "127.0.0.1:1",
        "alice",
        &out,
        lifetimes,
        now,
        pki::Database {
            make: &mut || Ok(()),
            keep: &mut |_| Ok(()),
        },
    )
    .expect("a cluster");
    let authority = pki::Authority::open(&data.join("pki"), pki::Lifetimes::default());
    let authority = authority.expect("an authority");
    let trust = ServerTrust {
        cluster: authority.cluster(),
        agents: authority.agent_trust(),
        operators: authority.controller_trust(),
        revocations: Arc::new(AnyoneValid),
    };
    let credentials = authority.issue_controller("controller", now);
    let tls = ServerTls::new(credentials.expect("issued"), &trust).expect("TLS");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let silent = async {
        let (tcp, _) = listener.accept().await.expect("accepted");
        let acceptor = TlsAcceptor::from(tls.config());
        let mut stream = acceptor.accept(tcp).await.expect("shaken hands");
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.expect("a preface");
        stream.write_all(NO_SETTINGS).await.expect("said");
        given_up(&mut stream).await;
    };
    let client = operator_tls(&out);
    // The channel is idle, and open until the end.
    let (channel, ()) = tokio::join!(channel::connect(&address, &client), silent);
    channel.expect("it was connected");
}
