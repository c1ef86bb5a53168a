//! From the configuration to a client: credentials, their age, the channel.

use sternway_proto::{
    channel::{self, ConnectError, Revoked},
    identity::PeerCertificate,
    tls::{ClientTls, Credentials, read_certificates},
};
use uuid::Uuid;

use crate::{
    client::{Client, Refused},
    config::Config,
    error::{CtlError, Kind},
    text::{View, relative, relative_and_absolute},
    ui::Ui,
};

/// When a certificate has less than this to live, a warning says so: a working week.
const SOON_MS: i64 = 7 * 86_400_000;

/// Connects to the controller of the configuration.
///
/// # Errors
/// The credentials cannot be used, or the controller cannot be reached or trusted.
pub(crate) async fn connect(config: &Config, ui: &mut Ui) -> Result<Client, CtlError> {
    let what = "cannot use the credentials";
    let cluster: Uuid = config.cluster.parse().map_err(|error| {
        CtlError::new(
            Kind::Error,
            format!("the configuration {} is not right", config.file.display()),
        )
        .because(format!("`cluster` is no UUID: {error}"))
    })?;
    let credentials = Credentials::read(&config.certificate, &config.key)
        .map_err(|error| CtlError::new(Kind::Error, what).because_of(&error))?;
    let peer = credentials
        .peer()
        .map_err(|error| CtlError::new(Kind::Error, what).because_of(&error))?;
    if let Some(warning) = check_age(&peer, ui.err_view)? {
        ui.note(&warning);
    }
    let trust = read_certificates(&config.trust)
        .map_err(|error| CtlError::new(Kind::Error, what).because_of(&error))?;
    let tls = ClientTls::new(credentials, &trust, cluster)
        .map_err(|error| CtlError::new(Kind::Error, what).because_of(&error))?;
    let refused = Refused {
        said: Revoked::default(),
        renew: renew(&peer),
    };
    let channel = channel::connect_listening(&config.controller, &tls, &refused.said)
        .await
        .map_err(|error| not_connected(config, &refused, &error))?;
    Ok(Client::new(channel, refused))
}

/// How credentials take the place of those that are not accepted any more.
fn renew(peer: &PeerCertificate) -> String {
    format!(
        "on the controller make new credentials, in a new folder: `sternway-controller operator issue --operator {} \
         --role {} --operator-dir NEW`",
        peer.identity.name, peer.identity.role
    )
}

/// A warning where the certificate is about to expire.
///
/// # Errors
/// It has expired.
fn check_age(peer: &PeerCertificate, view: View) -> Result<Option<String>, CtlError> {
    let until = peer.not_after_ms;
    let renew = renew(peer);
    match until.saturating_sub(view.now_ms) {
        ..=0 => Err(CtlError::new(Kind::Refused, "cannot use the credentials")
            .because(format!(
                "the certificate expired {}",
                relative_and_absolute(view, until)
            ))
            .next(renew)),
        1..=SOON_MS => Ok(Some(format!(
            "warning: your certificate expires {}; {renew}",
            relative(view, until)
        ))),
        _ => Ok(None),
    }
}

fn not_connected(config: &Config, refused: &Refused, error: &ConnectError) -> CtlError {
    let what = format!("cannot connect to the controller {}", config.controller);
    if let Some(problem) = refused.problem() {
        return CtlError::of_problem(Kind::Refused, what, problem);
    }
    let (kind, step) = match error {
        ConnectError::Address { .. } => (Kind::Error, "mend `controller` in the configuration"),
        ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => (
            Kind::Unreachable,
            "check that the controller runs at that address, and that no firewall, proxy or tunnel on the way turns the \
             connection away",
        ),
        ConnectError::NotTrusted { .. } => (
            Kind::Refused,
            "see that `controller`, `cluster` and `trust` in the configuration are of the same cluster",
        ),
        ConnectError::Rejected { .. } => (
            Kind::Refused,
            "have new credentials issued: `sternway-controller operator issue` on the controller",
        ),
    };
    CtlError::new(kind, what)
        .because_of(error)
        .next(format!("{step} ({})", config.file.display()))
}
