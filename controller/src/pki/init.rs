//! What `sternway-controller init` and `operator issue` do: the authority, and folders that `ctl` reads.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use sternway_proto::{
    identity::Role,
    tls::{self, Credentials},
};
use thiserror::Error;
use uuid::Uuid;

use crate::cluster::{PKI, hand_over};

use super::{
    Authority, Lifetimes, PkiError,
    authority::{is_in, operator_name},
    issue::issued_ms,
};

/// Why there is no new cluster with a first operator, and what stands nevertheless.
#[derive(Debug, Error)]
pub enum InitError {
    #[error("no cluster was made")]
    NotMade(#[from] PkiError),
    #[error("no cluster was made: its database cannot be")]
    NoDatabase(#[source] BoxError),
    #[error(
        "no cluster was made: there is one in {} already. Credentials for it: {}",
        data.display(),
        issue
    )]
    Stands {
        data: PathBuf,
        /// What makes them.
        issue: String,
    },
    #[error(
        "cluster {cluster} was made and stands, but {operator} has no credentials for it. Make them: {}",
        issue
    )]
    NoOperator {
        cluster: Uuid,
        operator: String,
        /// What makes them.
        issue: String,
        #[source]
        source: PkiError,
    },
    #[error(
        "cluster {cluster} was made and stands, but its files could not be given to the owner of {}: a controller that \
         runs as that user cannot read them. Give them: `chown -R --reference='{}' '{}'`",
        data.display(), data.display(), data.display()
    )]
    NotHandedOver {
        cluster: Uuid,
        data: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What makes an admin's credentials, whatever the settings were.
fn issue(data: &Path, address: &str, operator: &str, out: &Path) -> String {
    format!(
        "`sternway-controller operator issue --data-dir '{}' --advertise {address} --operator {operator} --role admin \
         --operator-dir '{}'`",
        data.display(),
        out.display()
    )
}

/// A new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    pub cluster: Uuid,
    /// `ctl --config` takes this file.
    pub ctl_config: PathBuf,
    pub root_key: PathBuf,
}

/// The folder of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCredentials {
    /// `ctl --config` takes this file.
    pub ctl_config: PathBuf,
    pub not_after_ms: i64,
}

/// A certificate that was made for an operator and is not handed over yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub name: String,
    pub role: Role,
    /// Hexadecimal.
    pub serial: String,
    /// The second in which it was.
    pub issued_ms: i64,
    pub not_after_ms: i64,
}

/// Notes a certificate before it is handed over; where that fails, it is not.
pub type Keep<'a> = &'a mut dyn FnMut(&Issued) -> Result<(), BoxError>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is asked of the database of a new cluster.
pub struct Database<'a> {
    /// Makes it. Before there is an authority: a cluster without a database is one that has lost it.
    pub make: &'a mut dyn FnMut() -> Result<(), BoxError>,
    /// Notes the first operator's certificate in it.
    pub keep: Keep<'a>,
}

impl std::fmt::Debug for Database<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

/// Makes a cluster: its authority in `data/pki`, and the first operator, an admin, in `out`. What is in `data` belongs
/// to whom `data` belongs, also where root makes it.
///
/// # Errors
/// There is a cluster or an operator's folder already, a name is not valid, or a file cannot be written: the error
/// says whether the cluster stands.
pub fn init(
    data: &Path,
    controller_address: &str,
    operator: &str,
    out: &Path,
    lifetimes: Lifetimes,
    now: SystemTime,
    Database { make, keep }: Database<'_>,
) -> Result<Initialised, InitError> {
    let dir = data.join(PKI);
    // Everything that can be refused is, before anything is made: a second attempt must not find half a cluster.
    operator_name(operator, Role::Admin)?;
    if is_in(&dir).map_err(PkiError::from)? {
        // One that was cut off may not have given all away. Whether the cluster's owner can read it is told by its start.
        drop(hand_over(data));
        return Err(InitError::Stands {
            data: data.to_owned(),
            issue: issue(data, controller_address, operator, out),
        });
    }
    check_usable(out)?;
    make().map_err(InitError::NoDatabase)?;
    let cluster = Uuid::new_v4();
    Authority::create(&dir, cluster, now)?;
    let authority = Authority::open(&dir, lifetimes)?;
    let made = issue_operator(
        &authority,
        operator,
        Role::Admin,
        controller_address,
        out,
        now,
        keep,
    )
    .map_err(|source| InitError::NoOperator {
        cluster,
        operator: operator.to_owned(),
        issue: issue(data, controller_address, operator, out),
        source,
    });
    // With its operator or without: the cluster stands.
    let handed_over = hand_over(data);
    let made = made?;
    handed_over.map_err(|source| InitError::NotHandedOver {
        cluster,
        data: data.to_owned(),
        source,
    })?;
    Ok(Initialised {
        cluster,
        ctl_config: made.ctl_config,
        root_key: dir.join("root-key.pem"),
    })
}

/// Makes credentials for an operator in the folder `out`, with a `ctl.toml` that uses them.
///
/// # Errors
/// The folder is in use, the name is not valid, or a file cannot be written.
pub fn issue_operator(
    authority: &Authority,
    name: &str,
    role: Role,
    controller_address: &str,
    out: &Path,
    now: SystemTime,
    keep: Keep<'_>,
) -> Result<OperatorCredentials, PkiError> {
    check_free(out)?;
    let credentials: Credentials = authority.issue_operator(name, role, now)?;
    let peer = credentials.peer()?;
    let issued = Issued {
        name: name.to_owned(),
        role,
        issued_ms: issued_ms(&peer),
        serial: peer.serial,
        not_after_ms: peer.not_after_ms,
    };
    keep(&issued).map_err(PkiError::NotKept)?;
    credentials.store(out)?;
    let trust: String = authority
        .controller_trust()
        .iter()
        .map(|certificate| tls::pem("CERTIFICATE", certificate))
        .collect();
    tls::write_private(out, "trust.pem", trust.as_bytes())?;
    let config = toml::toml_config(controller_address, authority.cluster());
    tls::write_private(out, "ctl.toml", config.as_bytes())?;
    Ok(OperatorCredentials {
        ctl_config: out.join("ctl.toml"),
        not_after_ms: issued.not_after_ms,
    })
}

fn check_free(out: &Path) -> Result<(), PkiError> {
    if out.join("ctl.toml").exists() {
        let folder = out.to_owned();
        return Err(PkiError::InUse { folder });
    }
    Ok(())
}

/// Whether an operator's credentials can be put there; the folder is made where it is missing.
fn check_usable(out: &Path) -> Result<(), PkiError> {
    check_free(out)?;
    let probe = ".probe";
    tls::write_private(out, probe, b"")?;
    let path = out.join(probe);
    std::fs::remove_file(&path).map_err(|source| PkiError::Io {
        action: "remove",
        path,
        source,
    })
}

mod toml {
    use uuid::Uuid;

    /// The text of a `ctl.toml`; paths are relative to the file.
    pub(super) fn toml_config(controller: &str, cluster: Uuid) -> String {
        let controller = ::toml::Value::String(controller.to_owned());
        format!(
            "controller = {controller}\ncluster = \"{cluster}\"\ncertificate = \"certificate.pem\"\n\
             key = \"key.pem\"\ntrust = \"trust.pem\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(
        data: &Path,
        operator: &str,
        out: &Path,
        lifetimes: Lifetimes,
    ) -> Result<Initialised, InitError> {
        init(
            data,
            "127.0.0.1:1",
            operator,
            out,
            lifetimes,
            SystemTime::now(),
            Database {
                make: &mut || Ok(()),
                keep: &mut |_| Ok(()),
            },
        )
    }

    #[test]
    fn a_cluster_whose_database_cannot_be_made_is_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let refused = init(
            &data,
            "127.0.0.1:1",
            "alice",
            &folder.path().join("op"),
            Lifetimes::default(),
            SystemTime::now(),
            Database {
                make: &mut || Err("the disk is full".into()),
                keep: &mut |_| Ok(()),
            },
        );
        assert!(
            matches!(refused, Err(InitError::NoDatabase(_))),
            "{refused:?}"
        );
        assert!(!data.join(PKI).exists(), "an authority was made");
    }

    #[test]
    fn the_first_operators_certificate_is_valid_for_as_long_as_the_settings_say() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, out) = (folder.path().join("data"), folder.path().join("op"));
        let lifetimes = Lifetimes {
            operator: std::time::Duration::from_hours(3),
            ..Lifetimes::default()
        };
        let before = crate::clock::now_ms();
        made(&data, "alice", &out, lifetimes).expect("a cluster");
        let peer = Credentials::load(&out)
            .expect("credentials")
            .peer()
            .expect("a leaf");
        let hours = (peer.not_after_ms - before).div_euclid(3_600_000);
        assert!((2..=3).contains(&hours), "{hours} h");
    }

    #[test]
    fn what_is_refused_leaves_nothing_that_is_in_the_way_of_the_next_attempt() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, out) = (folder.path().join("data"), folder.path().join("op"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        let init = |operator, out: &Path| made(&data, operator, out, Lifetimes::default());
        let refused = init("Alice", &out);
        assert!(
            matches!(refused, Err(InitError::NotMade(PkiError::Name { .. }))),
            "{refused:?}"
        );
        let refused = init("alice", &file.join("op"));
        assert!(
            matches!(refused, Err(InitError::NotMade(PkiError::File(_)))),
            "{refused:?}"
        );
        assert!(!data.exists(), "an authority was made");
        let made = init("alice", &out).expect("a cluster");
        assert!(made.ctl_config.exists());
        let op2 = folder.path().join("op2");
        let again = init("alice", &op2).expect_err("there is one");
        assert!(matches!(again, InitError::Stands { .. }), "{again:?}");
        let said = again.to_string();
        assert!(
            said.contains(&issue(&data, "127.0.0.1:1", "alice", &op2)),
            "{said}"
        );
        assert!(!op2.exists(), "something was made");
    }

    #[test]
    fn a_certificate_that_is_not_noted_is_not_handed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, out) = (folder.path().join("data"), folder.path().join("op"));
        made(
            &data,
            "alice",
            &folder.path().join("alice"),
            Lifetimes::default(),
        )
        .expect("a cluster");
        let authority = Authority::open(&data.join(PKI), Lifetimes::default()).expect("it stands");
        let issue = |keep: Keep<'_>| {
            let now = SystemTime::now();
            issue_operator(
                &authority,
                "bob",
                Role::Viewer,
                "127.0.0.1:1",
                &out,
                now,
                keep,
            )
        };
        let refused = issue(&mut |_| Err("the disk is full".into()));
        assert!(matches!(refused, Err(PkiError::NotKept(_))), "{refused:?}");
        assert!(!out.join("key.pem").exists(), "handed over");
        let mut noted = None;
        issue(&mut |issued| {
            noted = Some(issued.clone());
            Ok(())
        })
        .expect("issued");
        let peer = Credentials::load(&out)
            .expect("credentials")
            .peer()
            .expect("a leaf");
        let noted = noted.expect("noted");
        assert_eq!((noted.serial, noted.role), (peer.serial, Role::Viewer));
    }

    #[test]
    fn a_cluster_that_stands_without_its_operator_says_so_and_how_to_go_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, out) = (folder.path().join("data"), folder.path().join("op"));
        // Nothing is written over a folder.
        let in_the_way = out.join("trust.pem");
        std::fs::create_dir_all(in_the_way.join("x")).expect("made");
        let failed = made(&data, "alice", &out, Lifetimes::default());
        let failed = failed.expect_err("not written");
        assert!(matches!(failed, InitError::NoOperator { .. }), "{failed:?}");
        let said = failed.to_string();
        assert!(said.contains("stands"), "{said}");
        assert!(
            said.contains(&issue(&data, "127.0.0.1:1", "alice", &out)),
            "{said}"
        );
        // As it says.
        std::fs::remove_dir_all(in_the_way).expect("removed");
        let authority = Authority::open(&data.join(PKI), Lifetimes::default()).expect("it stands");
        let made = issue_operator(
            &authority,
            "alice",
            Role::Admin,
            "127.0.0.1:1",
            &out,
            SystemTime::now(),
            &mut |_| Ok(()),
        );
        assert!(made.expect("made").ctl_config.exists());
    }
}
