//! Forged, foreign, expired and misplaced certificates against our own TLS, over real sockets: both ends
//! refuse what is not exactly right.
#![expect(
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use sternway_proto::{
    channel,
    identity::PeerCertificate,
    tls::{AnyoneValid, ClientTls, Credentials, Revocations, ServerTls, ServerTrust},
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0x0a);
const HOST: Uuid = Uuid::from_u128(0x0b);
const PATIENCE: Duration = Duration::from_mins(1);

struct Ca {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(&key).expect("signed").der().clone();
    Ca {
        der,
        issuer: Issuer::new(params, key),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// What stands in a leaf; by default all is right for an agent.
#[derive(Clone)]
struct Leaf {
    uris: Vec<String>,
    dns: Vec<String>,
    common_name: String,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    authority: bool,
    begins: Duration,
    ends: Duration,
    past: bool,
    future: bool,
}

impl Leaf {
    fn of(role: &str, name: &str) -> Self {
        Self {
            uris: vec![uri(CLUSTER, role, name)],
            dns: Vec::new(),
            common_name: name.to_owned(),
            purposes: vec![if role == "controller" {
                ExtendedKeyUsagePurpose::ServerAuth
            } else {
                ExtendedKeyUsagePurpose::ClientAuth
            }],
            authority: false,
            begins: Duration::from_hours(1),
            ends: Duration::from_hours(1),
            past: false,
            future: false,
        }
    }

    fn signed(&self, by: &Ca) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&self.common_name);
        let text = |text: &String| text.as_str().try_into().expect("ascii");
        params.subject_alt_names = self
            .uris
            .iter()
            .map(|uri| SanType::URI(text(uri)))
            .chain(self.dns.iter().map(|dns| SanType::DnsName(text(dns))))
            .collect();
        params.extended_key_usages.clone_from(&self.purposes);
        params.is_ca = if self.authority {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        let now = OffsetDateTime::now_utc();
        params.not_before = if self.future {
            now + self.begins
        } else {
            now - self.begins * 2
        };
        params.not_after = if self.past {
            now - self.ends
        } else {
            now + self.ends * 2
        };
        let leaf = params.signed_by(&key, &by.issuer).expect("signed");
        let chain = [leaf.der().to_vec(), by.der.to_vec()];
        Credentials::new(chain, key.serialize_der())
    }
}

fn uri(cluster: Uuid, role: &str, name: &str) -> String {
    format!("sternway://{cluster}/{role}/{name}")
}

fn agent() -> Leaf {
    Leaf::of("agent", &HOST.to_string())
}

struct World {
    agents: Ca,
    control: Ca,
    foreign: Ca,
}

impl World {
    fn new() -> Self {
        Self {
            agents: ca("agents"),
            control: ca("control"),
            foreign: ca("agents"),
        }
    }

    fn server(&self, revocations: Arc<dyn Revocations>) -> ServerTls {
        let trust = ServerTrust {
            cluster: CLUSTER,
            agents: vec![self.agents.der.clone()],
            operators: vec![self.control.der.clone()],
            revocations,
        };
        let credentials = Leaf::of("controller", "controller-1").signed(&self.control);
        ServerTls::new(credentials, &trust).expect("a server")
    }

    fn client(&self, credentials: Credentials) -> ClientTls {
        ClientTls::new(
            credentials,
            std::slice::from_ref(&self.control.der),
            CLUSTER,
        )
        .expect("a client")
    }
}

/// Whether both ends come to exchange a byte. (In TLS 1.3 a client learns of its refusal only then.)
async fn speaks(server: &ServerTls, client: &ClientTls) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(server.config());
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        let mut tls = acceptor.accept(tcp).await?;
        let byte = tls.read_u8().await?;
        tls.write_u8(byte).await?;
        tls.flush().await
    });
    let config = client.config();
    let dialling = async {
        let tcp = TcpStream::connect(address).await?;
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
        tls.write_u8(7).await?;
        tls.flush().await?;
        tls.read_u8().await
    };
    let spoke = timeout(PATIENCE, dialling).await.expect("in time");
    let answered = timeout(PATIENCE, serving)
        .await
        .expect("in time")
        .expect("no panic");
    spoke.is_ok() && answered.is_ok()
}

#[tokio::test]
async fn what_is_right_is_accepted() {
    let world = World::new();
    let server = world.server(Arc::new(AnyoneValid));
    let good = world.client(agent().signed(&world.agents));
    assert!(speaks(&server, &good).await);
    for role in ["viewer", "operator", "admin"] {
        let operator = Leaf::of(role, "alice").signed(&world.control);
        assert!(speaks(&server, &world.client(operator)).await, "{role}");
    }
}

#[tokio::test]
async fn a_controller_refuses_every_other_client() {
    let world = World::new();
    let server = world.server(Arc::new(AnyoneValid));
    let foreign_cluster = uri(Uuid::from_u128(0x0c), "agent", &HOST.to_string());
    let right = agent().uris[0].clone();
    let with = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = agent();
        change(&mut leaf);
        leaf
    };
    let cases: Vec<(&str, Leaf, &Ca)> = vec![
        ("expired", with(&|leaf| leaf.past = true), &world.agents),
        (
            "not yet valid",
            with(&|leaf| leaf.future = true),
            &world.agents,
        ),
        (
            "of a foreign authority with the same name",
            agent(),
            &world.foreign,
        ),
        (
            "an agent by the operators' authority",
            agent(),
            &world.control,
        ),
        (
            "an operator by the agents' authority",
            Leaf::of("admin", "mallory"),
            &world.agents,
        ),
        (
            "of another cluster",
            with(&|leaf| leaf.uris = vec![foreign_cluster.clone()]),
            &world.agents,
        ),
        (
            "without a URI name",
            with(&|leaf| leaf.uris.clear()),
            &world.agents,
        ),
        (
            "with two URI names",
            with(&|leaf| leaf.uris.push(right.clone())),
            &world.agents,
        ),
        (
            "with a DNS name in its place",
            with(&|leaf| {
                leaf.uris.clear();
                leaf.dns = vec!["web-1".to_owned()];
            }),
            &world.agents,
        ),
        (
            "with another spelling",
            with(&|leaf| leaf.uris = vec![right.to_uppercase()]),
            &world.agents,
        ),
        (
            "with a trailing slash",
            with(&|leaf| leaf.uris = vec![format!("{right}/")]),
            &world.agents,
        ),
        (
            "with a name of 10 kB",
            with(&|leaf| leaf.uris = vec![format!("{right}{}", "a".repeat(10_000))]),
            &world.agents,
        ),
        (
            "for servers only",
            with(&|leaf| leaf.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            &world.agents,
        ),
        (
            "of an authority",
            with(&|leaf| leaf.authority = true),
            &world.agents,
        ),
        (
            "a controller's",
            Leaf::of("controller", "controller-1"),
            &world.control,
        ),
        (
            "with a role nobody has",
            Leaf::of("root", "mallory"),
            &world.control,
        ),
    ];
    for (what, leaf, by) in cases {
        let client = world.client(leaf.signed(by));
        assert!(
            !speaks(&server, &client).await,
            "a certificate {what} was accepted"
        );
    }
}

#[tokio::test]
async fn a_leaf_signed_by_a_leaf_is_refused() {
    let world = World::new();
    let server = world.server(Arc::new(AnyoneValid));
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = named("leaf");
    params.subject_alt_names = vec![SanType::URI(
        agent().uris[0].as_str().try_into().expect("ascii"),
    )];
    let leaf = params
        .signed_by(&key, &world.agents.issuer)
        .expect("signed");
    let below = Ca {
        der: leaf.der().clone(),
        issuer: Issuer::new(params, key),
    };
    let mut forged = agent().signed(&below);
    forged.chain.push(world.agents.der.clone());
    assert!(!speaks(&server, &world.client(forged)).await);
}

#[tokio::test]
async fn a_client_refuses_every_other_server() {
    let world = World::new();
    let client = world.client(agent().signed(&world.agents));
    let trust = ServerTrust {
        cluster: CLUSTER,
        agents: vec![world.agents.der.clone()],
        operators: vec![world.control.der.clone()],
        revocations: Arc::new(AnyoneValid),
    };
    let controller = || Leaf::of("controller", "controller-1");
    let with = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = controller();
        change(&mut leaf);
        leaf
    };
    let foreign_cluster = uri(Uuid::from_u128(0x0c), "controller", "controller-1");
    let mut agent_as_server = agent();
    agent_as_server.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cases: Vec<(&str, Leaf, &Ca)> = vec![
        ("expired", with(&|leaf| leaf.past = true), &world.control),
        ("of a foreign authority", controller(), &world.foreign),
        ("by the agents' authority", controller(), &world.agents),
        (
            "of another cluster",
            with(&|leaf| leaf.uris = vec![foreign_cluster.clone()]),
            &world.control,
        ),
        (
            "for clients only",
            with(&|leaf| leaf.purposes = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            &world.control,
        ),
        ("an agent's", agent_as_server, &world.agents),
        (
            "an operator's",
            with(&|leaf| leaf.uris = vec![uri(CLUSTER, "admin", "mallory")]),
            &world.control,
        ),
        (
            "that only a DNS name fits",
            with(&|leaf| {
                leaf.uris.clear();
                leaf.dns = vec!["localhost".to_owned()];
            }),
            &world.control,
        ),
    ];
    for (what, leaf, by) in cases {
        let server = ServerTls::new(leaf.signed(by), &trust).expect("a server");
        assert!(
            !speaks(&server, &client).await,
            "a server {what} was believed"
        );
    }
}

#[derive(Debug, Default)]
struct Revoked(Mutex<HashSet<String>>);

impl Revocations for Revoked {
    fn is_revoked(&self, peer: &PeerCertificate) -> bool {
        self.0
            .lock()
            .expect("no panic")
            .contains(&peer.identity.name)
    }
}

#[tokio::test]
async fn a_revocation_holds_from_the_next_handshake_on() {
    let world = World::new();
    let revoked = Arc::new(Revoked::default());
    let server = world.server(revoked.clone());
    let client = world.client(agent().signed(&world.agents));
    assert!(speaks(&server, &client).await);
    revoked.0.lock().expect("no panic").insert(HOST.to_string());
    assert!(!speaks(&server, &client).await);
}

#[tokio::test]
async fn exchanged_certificates_are_used_from_the_next_connection_on() {
    let world = World::new();
    let server = world.server(Arc::new(AnyoneValid));
    let mut expired = agent();
    expired.past = true;
    let client = world.client(expired.signed(&world.agents));
    assert!(!speaks(&server, &client).await);
    client
        .replace(
            agent().signed(&world.agents),
            std::slice::from_ref(&world.control.der),
            CLUSTER,
        )
        .expect("replaced");
    assert!(speaks(&server, &client).await);
    let mut stale = Leaf::of("controller", "controller-1");
    stale.past = true;
    server
        .replace(stale.signed(&world.control))
        .expect("replaced");
    assert!(!speaks(&server, &client).await);
    server
        .replace(Leaf::of("controller", "controller-1").signed(&world.control))
        .expect("replaced");
    assert!(speaks(&server, &client).await);
}

#[tokio::test]
async fn no_ticket_is_given_that_would_outlive_a_revocation() {
    let world = World::new();
    let server = world.server(Arc::new(AnyoneValid)).config();
    assert_eq!(server.send_tls13_tickets, 0);
    assert_eq!(server.max_early_data_size, 0);
    assert_eq!(server.alpn_protocols, [b"h2".to_vec()]);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_on() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let client = world.client(agent().signed(&world.agents));
    let limit = sternway_proto::limits::HANDSHAKE_TIMEOUT + Duration::from_secs(5);
    let dialled = timeout(limit, channel::connect(&address, &client))
        .await
        .expect("it gives up by itself");
    assert!(matches!(
        dialled,
        Err(channel::ConnectError::Timeout { .. })
    ));
    drop(listener);
}
