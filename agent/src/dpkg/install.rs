//! Installs packages by dpkg, in exactly the versions that are wanted, older ones too. For the process that does the
//! privileged work, as root. Running it again after it was killed, at whatever instant, finishes it.
//!
//! What runs of the packages goes on as it is: `SYSTEMD_OFFLINE` makes every `systemctl` of a maintainer script that would
//! start, stop or reload something do nothing and say that all is well. Whoever calls this does that part.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::clean_text;
use thiserror::Error;

use super::{
    DpkgError, Package, PackageId, PackageName, Status, Want, ask,
    deb::{self, DebError},
    id::qualified,
    lock::{self, FrontendLock, Holder, Refused},
    run::{Ended, Run, RunError},
    sequence,
};
use crate::store::files::FileError;

/// For every call that changes packages.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DPKG_FRONTEND_LOCKED", "1"),
    ("SYSTEMD_OFFLINE", "1"),
];

/// What belongs to the administrator stays as it is, without a question. A conffile that is missing stays missing.
const CONFFILES: [&str; 2] = ["--force-confold", "--force-confdef"];

/// What dpkg says when another has its lock.
const LOCKED: &str = "locked by another process";

/// What systemctl says where it does nothing, as it should.
const IGNORED: &str = "Running in chroot, ignoring command";

/// How much of what dpkg said last is told, lines.
const LAST_LINES: usize = 12;

/// What is to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Each with its file.
    pub packages: Vec<(PackageId, PathBuf)>,
    /// Whether the package managers leave a package as it is afterwards. dpkg lifts the hold of what it installs: one of these
    /// packages that is not named here is on hold no more.
    pub hold: BTreeMap<PackageName, bool>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub installed: Vec<PackageId>,
    /// They were there, whole, in that version.
    pub already: Vec<PackageId>,
}

/// Why the packages are not installed as they should be. What dpkg had done by then stands.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("dpkg is in use{}", by_whom(by.as_ref()))]
    Locked { by: Option<Holder> },
    /// In dpkg's words, its last: a maintainer script failed, or something is missing.
    #[error("dpkg failed: {said}")]
    Failed {
        /// All of the last words, those of maintainer scripts with them, which may quote what is private.
        said: String,
        /// What of them is dpkg's own.
        own: String,
    },
    #[error("{package} is not installed as it should be: {found}")]
    NotInstalled { package: String, found: String },
    #[error(transparent)]
    Deb(#[from] DebError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Dpkg(#[from] DpkgError),
    #[error(transparent)]
    File(#[from] FileError),
}

fn by_whom(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

impl From<Refused> for InstallError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Held(by) => Self::Locked { by },
            Refused::File(error) => Self::File(error),
        }
    }
}

/// Installs these packages, whatever state they are in, and holds them or not.
///
/// `deadline` is for the work, after the wait for dpkg: dpkg is killed then, and what it began with it.
///
/// # Errors
/// Another uses dpkg for longer than `lock_patience`, a file is another package, or dpkg fails. After a failure dpkg is left
/// as it is: to install other versions over what is half done is the way out.
pub fn install(
    order: &Install,
    lock_patience: Duration,
    deadline: Duration,
) -> Result<Installed, InstallError> {
    for (package, file) in &order.packages {
        deb::check(file, package, file.parent().unwrap_or(file))?;
    }
    let _lock = FrontendLock::take(lock_patience)?;
    let until = Instant::now() + deadline;
    let before = ask::packages(None)?;
    // What a run before this one left, and what these packages may need.
    finish(&others(order, &before), until)?;
    let (already, wanted): (Vec<_>, Vec<_>) = order
        .packages
        .iter()
        .partition(|(package, _)| is_whole(package, &before));
    if !wanted.is_empty() {
        unpack(&wanted, until)?;
        // Those that these were waiting for, and those that were in their way.
        finish(&others(order, &ask::packages(None)?), until)?;
    }
    hold(&order.hold, until)?;
    audit(order, &before)?;
    let ids = |some: &[&(PackageId, PathBuf)]| some.iter().map(|(id, _)| id.clone()).collect();
    Ok(Installed {
        installed: ids(&wanted),
        already: ids(&already),
    })
}

/// Installs these, in the sequence in which no file gets lost.
fn unpack(wanted: &[&(PackageId, PathBuf)], until: Instant) -> Result<(), InstallError> {
    let names: Vec<&PackageName> = wanted.iter().map(|(package, _)| &package.name).collect();
    let (sequence, is_circular) = sequence::of(&names, &ask::replaces(&names)?);
    let wanted: Vec<&(PackageId, PathBuf)> = sequence
        .into_iter()
        .filter_map(|place| wanted.get(place).copied())
        .collect();
    let mut ended = unpack_once(&wanted, until)?;
    let again = if ended.succeeded() {
        is_circular
    } else {
        is_worth_another_try(&wanted, &ask::packages(Some(&names))?)
    };
    if again {
        ended = unpack_once(&wanted, until)?;
    }
    if ended.succeeded() {
        Ok(())
    } else {
        Err(failure(&ended))
    }
}

fn unpack_once(wanted: &[&(PackageId, PathBuf)], until: Instant) -> Result<Ended, RunError> {
    let arguments = CONFFILES.iter().copied();
    let arguments = arguments.chain(["--force-downgrade", "--install", "--"]);
    let files = wanted.iter().map(|(_, file)| file.as_os_str().to_owned());
    change(arguments.map(OsString::from).chain(files).collect(), until)
}

/// Some were not even unpacked and others were: what was in the way of the former, an older version of the latter, is gone.
fn is_worth_another_try(wanted: &[&(PackageId, PathBuf)], now: &[Package]) -> bool {
    let is_there = |package: &PackageId| {
        now.iter().any(|one| {
            one.name == package.name
                && one.version == package.version.as_str()
                && one.architecture == package.architecture()
        })
    };
    let there = wanted.iter().filter(|(package, _)| is_there(package));
    (1..wanted.len()).contains(&there.count())
}

fn is_whole(wanted: &PackageId, all: &[Package]) -> bool {
    all.iter().any(|one| one.is_whole(wanted))
}

/// What is half done and not to be installed now, as far as dpkg can finish it.
fn others(order: &Install, all: &[Package]) -> BTreeSet<String> {
    let ours = |one: &Package| order.packages.iter().any(|(id, _)| id.name == one.name);
    let pending = |one: &Package| {
        !one.broken
            && matches!(
                one.status,
                Status::Unpacked
                    | Status::HalfConfigured
                    | Status::TriggersAwaited
                    | Status::TriggersPending
            )
    };
    all.iter()
        .filter(|one| pending(one) && !ours(one))
        .map(|one| qualified(&one.name, &one.architecture))
        .collect()
}

/// Has dpkg finish those. Some may not be able to: that is for [`audit`] to see, where it concerns us.
fn finish(names: &BTreeSet<String>, until: Instant) -> Result<(), InstallError> {
    if names.is_empty() {
        return Ok(());
    }
    let arguments = CONFFILES.iter().copied().chain(["--configure", "--"]);
    let arguments = arguments.chain(names.iter().map(String::as_str));
    let ended = change(arguments.map(OsString::from).collect(), until)?;
    match failure(&ended) {
        locked @ InstallError::Locked { .. } => Err(locked),
        _ => Ok(()),
    }
}

/// Has dpkg change something.
fn change(arguments: Vec<OsString>, until: Instant) -> Result<Ended, RunError> {
    let left = until.saturating_duration_since(Instant::now());
    let run = Run::new("dpkg", arguments).env(&ENVIRONMENT);
    run.until_it_ends(left)
}

/// Why dpkg failed, in its last words.
fn failure(ended: &Ended) -> InstallError {
    let [stderr, stdout] = [ended.stderr(), ended.stdout()];
    // Its own word: a script may say the like of something else.
    let is_locked = |line: &str| line.starts_with("dpkg: error") && line.contains(LOCKED);
    if stderr.lines().any(is_locked) {
        return InstallError::Locked {
            by: lock::holder_of_inner(),
        };
    }
    InstallError::Failed {
        said: last_words(&stderr, &stdout, ended.code, |_| true),
        own: last_words(&stderr, "", ended.code, is_own),
    }
}

/// Whether dpkg itself says that, and not a maintainer script.
fn is_own(line: &str) -> bool {
    line.starts_with("dpkg:")
        || line.starts_with("dpkg-deb:")
        || line.contains(" subprocess returned error exit status ")
        || line.contains(" subprocess was killed by signal ")
}

fn last_words(stderr: &str, stdout: &str, code: Option<i32>, whose: fn(&str) -> bool) -> String {
    let how = match code {
        Some(code) => format!("exit status {code}"),
        None => "ended by a signal".to_owned(),
    };
    let is_word = |line: &&str| !line.is_empty() && !line.starts_with(IGNORED) && whose(line);
    let mut lines: Vec<&str> = stderr.lines().map(str::trim).filter(is_word).collect();
    if lines.is_empty() {
        lines = stdout.lines().map(str::trim).filter(is_word).collect();
    }
    let last = lines.len().saturating_sub(LAST_LINES);
    let last = lines.get(last..).unwrap_or_default();
    if last.is_empty() {
        return format!("{how}, without a word");
    }
    clean_text(&format!("{how}: {}", last.join("; ")))
}

/// Puts packages on hold and lifts holds, where they are not so already.
fn hold(wanted: &BTreeMap<PackageName, bool>, until: Instant) -> Result<(), InstallError> {
    let names: Vec<&PackageName> = wanted.keys().collect();
    if names.is_empty() {
        return Ok(());
    }
    let lines: String = ask::packages(Some(&names))?
        .iter()
        .filter(|one| differs(one, wanted))
        .map(|one| {
            let name = qualified(&one.name, &one.architecture);
            match one.want {
                Want::Hold => format!("{name} install\n"),
                _ => format!("{name} hold\n"),
            }
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let left = until.saturating_duration_since(Instant::now());
    let run = Run::new("dpkg", ["--set-selections"]).env(&ENVIRONMENT);
    let ended = run.input(lines).until_it_ends(left)?;
    if ended.succeeded() {
        Ok(())
    } else {
        Err(failure(&ended))
    }
}

/// It is on hold and should not be, or the other way round. What is not installed cannot be held.
fn differs(one: &Package, wanted: &BTreeMap<PackageName, bool>) -> bool {
    let gone = matches!(one.status, Status::NotInstalled | Status::ConfigFiles);
    let held = one.want == Want::Hold;
    !gone && wanted.get(&one.name).is_some_and(|&hold| hold != held)
}

/// Holds what dpkg has now against what was wanted, and against what was half done before.
fn audit(order: &Install, before: &[Package]) -> Result<(), InstallError> {
    let now = ask::packages(None)?;
    for (wanted, _) in &order.packages {
        if !is_whole(wanted, &now) {
            let found = now
                .iter()
                .find(|one| one.name == wanted.name && one.architecture == wanted.architecture());
            return Err(not_installed(wanted.to_string(), found));
        }
    }
    let was_half_done = |one: &Package| {
        before.iter().any(|was| {
            was.is_half_done() && was.name == one.name && was.architecture == one.architecture
        })
    };
    let wrong = now
        .iter()
        .find(|one| differs(one, &order.hold) || one.is_half_done() && !was_half_done(one));
    if let Some(wrong) = wrong {
        return Err(not_installed(wrong.name.to_string(), Some(wrong)));
    }
    let names = order.packages.iter().map(|(id, _)| id.qualified_name());
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Ok(());
    }
    match ask::audit(&names)?.as_str() {
        "" => Ok(()),
        said => Err(InstallError::NotInstalled {
            package: names.join(", "),
            found: clean_text(said),
        }),
    }
}

fn not_installed(package: String, found: Option<&Package>) -> InstallError {
    let found = found.map_or_else(
        || "dpkg does not know it".to_owned(),
        |one| {
            format!(
                "{} is {:?}, wanted: {:?}",
                one.version, one.status, one.want
            )
        },
    );
    InstallError::NotInstalled { package, found }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    fn all() -> Vec<Package> {
        let said = "P\tbilling\tall\t2.0-1\tinstall\tok\thalf-configured\n\n\
                    P\tman-db\tamd64\t2.1\tinstall\tok\ttriggers-pending\n\n\
                    P\tlibc6\tamd64\t2.36\thold\tok\tinstalled\n\n\
                    P\tlibc6\ti386\t2.36\tinstall\tok\tinstalled\n\n\
                    P\ttorn\tamd64\t1\tinstall\treinstreq\thalf-installed\n\n\
                    P\tgone\t\t\tdeinstall\tok\tconfig-files\n\n";
        parse::packages(said).expect("read")
    }

    fn order(name: &str, version: &str, architecture: &str) -> Install {
        let [name, version] = [name, version].map(str::to_owned);
        let id = PackageId::new(
            name.try_into().expect("a name"),
            version.try_into().expect("a version"),
            architecture,
        );
        Install {
            packages: vec![(id.expect("valid"), "/x.deb".into())],
            hold: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_half_done_is_finished_unless_it_is_replaced() {
        let names = |order| others(&order, &all()).into_iter().collect::<Vec<_>>();
        assert_eq!(names(order("billing", "1.0-1", "all")), ["man-db:amd64"]);
        assert_eq!(
            names(order("libc6", "2.36", "amd64")),
            ["billing", "man-db:amd64"]
        );
    }

    #[test]
    fn whole_is_that_version_for_that_architecture() {
        let whole = |name, version, architecture| {
            let order = order(name, version, architecture);
            order.packages.iter().all(|(id, _)| is_whole(id, &all()))
        };
        assert!(whole("libc6", "2.36", "i386"));
        assert!(!whole("libc6", "2.35", "i386"));
        assert!(!whole("libc6", "2.36", "arm64"));
        assert!(!whole("billing", "2.0-1", "all"), "it is half done");
    }

    #[test]
    fn a_hold_is_set_where_it_is_not() {
        let hold: BTreeMap<PackageName, bool> =
            [("libc6", true), ("gone", true), ("man-db", false)]
                .map(|(name, hold)| (name.parse().expect("a name"), hold))
                .into();
        let differ: Vec<String> = all()
            .iter()
            .filter(|one| differs(one, &hold))
            .map(|one| qualified(&one.name, &one.architecture))
            .collect();
        assert_eq!(differ, ["libc6:i386"]);
    }

    fn ended(stderr: &str) -> Ended {
        Ended {
            code: Some(2),
            stdout: Vec::new(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn the_last_words_are_told_and_steer_no_terminal() {
        let said = "one\n".repeat(20) + "\x1b[31mpostinst failed\n\n";
        let told = last_words(&said, "", Some(1), |_| true);
        let [begin, end] = ["exit status 1: one; one", "postinst failed"];
        assert!(told.starts_with(begin) && told.ends_with(end), "{told}");
        assert_eq!(told.matches("one").count(), LAST_LINES - 1);
        assert!(!told.contains('\x1b'));
        let ignored = "Running in chroot, ignoring command 'stop'\n";
        let told = last_words(ignored, "Unpacking\n", None, |_| true);
        assert_eq!(told, "ended by a signal: Unpacking");
        let told = last_words("", "\n", None, |_| true);
        assert_eq!(told, "ended by a signal, without a word");
    }

    #[test]
    fn a_lock_is_what_dpkg_says_of_its_own() {
        let said =
            "dpkg: error: dpkg database lock was locked by another process with pid 7\nNote: …\n";
        assert!(matches!(failure(&ended(said)), InstallError::Locked { .. }));
        let said = "postinst: the till is locked by another process\n";
        assert!(matches!(failure(&ended(said)), InstallError::Failed { .. }));
    }

    #[test]
    fn never_leaked_what_a_maintainer_script_says_is_no_word_of_dpkg() {
        let said = "password=hunter2 is refused\n\
                    dpkg: error processing package billing (--install):\n \
                    installed billing package post-installation script subprocess returned error exit status 1\n";
        let InstallError::Failed { said, own } = failure(&ended(said)) else {
            panic!("it failed");
        };
        assert!(said.contains("hunter2"), "{said}");
        assert!(!own.contains("hunter2"), "{own}");
        assert!(own.contains("processing package billing"), "{own}");
        assert!(own.contains("exit status 1"), "{own}");
    }
}
