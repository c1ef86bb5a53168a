//! What dpkg's tools say, read.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Conffile, DpkgError, Package, PackageName, Status, Want};

/// Fields of a package, a line each package; then a line a conffile, indented, as dpkg has them.
pub(super) const FORMAT: &str = "P\\t${Package}\\t${Architecture}\\t${Version}\\t${db:Status-Want}\\t\
    ${db:Status-Eflag}\\t${db:Status-Status}\\n${Conffiles}\\n";

const QUERY: &str = "dpkg-query";

fn unreadable(line: &str) -> DpkgError {
    DpkgError::Unreadable {
        program: QUERY,
        line: line.chars().take(200).collect(),
    }
}

/// Packages, by what `dpkg-query` says in [`FORMAT`].
pub(super) fn packages(said: &str) -> Result<Vec<Package>, DpkgError> {
    let mut all: Vec<Package> = Vec::new();
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(fields) = line.strip_prefix("P\t") {
            all.push(package(fields).ok_or_else(|| unreadable(line))?);
        } else {
            let conffile = conffile(line).ok_or_else(|| unreadable(line))?;
            let package = all.last_mut().ok_or_else(|| unreadable(line))?;
            package.conffiles.push(conffile);
        }
    }
    Ok(all)
}

fn package(fields: &str) -> Option<Package> {
    let fields: Vec<&str> = fields.split('\t').collect();
    let [name, architecture, version, want, error, status] = fields.as_slice() else {
        return None;
    };
    Some(Package {
        name: name.parse().ok()?,
        architecture: (*architecture).to_owned(),
        version: (*version).to_owned(),
        want: match *want {
            "unknown" => Want::Unknown,
            "install" => Want::Install,
            "hold" => Want::Hold,
            "deinstall" => Want::Deinstall,
            "purge" => Want::Purge,
            _ => return None,
        },
        status: match *status {
            "not-installed" => Status::NotInstalled,
            "config-files" => Status::ConfigFiles,
            "half-installed" => Status::HalfInstalled,
            "unpacked" => Status::Unpacked,
            "half-configured" => Status::HalfConfigured,
            "triggers-awaited" => Status::TriggersAwaited,
            "triggers-pending" => Status::TriggersPending,
            "installed" => Status::Installed,
            _ => return None,
        },
        broken: match *error {
            "ok" => false,
            "reinstreq" => true,
            _ => return None,
        },
        conffiles: Vec::new(),
    })
}

/// ` /etc/nginx/nginx.conf d41d8cd98f00b204e9800998ecf8427e [obsolete]`. A path may hold spaces.
fn conffile(line: &str) -> Option<Conffile> {
    let line = line.trim();
    // Either may be there, in this order.
    let line = line.strip_suffix(" remove-on-upgrade").unwrap_or(line);
    let (line, obsolete) = match line.strip_suffix(" obsolete") {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let (path, shipped) = line.rsplit_once(' ')?;
    let is_digest = shipped.len() == 32 && shipped.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !path.starts_with('/') || !(is_digest || shipped == "newconffile") {
        return None;
    }
    Some(Conffile {
        path: path.into(),
        shipped: is_digest.then(|| shipped.to_owned()),
        obsolete,
    })
}

/// Which packages own what stands at which path, by what `dpkg-query --search` says. What was diverted is its diverter's, or
/// the administrator's.
pub(super) fn owners(said: &str) -> Result<BTreeMap<PathBuf, Vec<PackageName>>, DpkgError> {
    let mut all: BTreeMap<PathBuf, Vec<PackageName>> = BTreeMap::new();
    let mut moved: BTreeMap<PathBuf, Option<PackageName>> = BTreeMap::new();
    for line in said.lines() {
        let (who, path) = line.split_once(": ").ok_or_else(|| unreadable(line))?;
        if let Some(who) = who.strip_prefix("diversion by ") {
            if let Some(diverter) = who.strip_suffix(" from") {
                let package = diverter.parse().map_err(|_| unreadable(line))?;
                moved.insert(path.into(), Some(package));
            }
            continue;
        }
        if let Some(way) = who.strip_prefix("local diversion ") {
            if way == "from" {
                moved.insert(path.into(), None);
            }
            continue;
        }
        let names = who.split(", ").map(|one| {
            let name = one.split_once(':').map_or(one, |(name, _)| name);
            name.parse::<PackageName>()
        });
        let names: Result<Vec<_>, _> = names.collect();
        let owners = all.entry(path.into()).or_default();
        owners.extend(names.map_err(|_| unreadable(line))?);
        owners.sort();
        owners.dedup();
    }
    for (path, package) in moved {
        match package {
            Some(package) => all.insert(path, vec![package]),
            None => all.remove(&path),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_their_conffiles_are_read() {
        let said = "P\tnginx\tamd64\t1.22.1-9\thold\tok\tinstalled\n\n\
                    P\tnginx-common\tall\t1.22.1-9\tinstall\treinstreq\thalf-configured\n \
                    /etc/nginx/nginx.conf 75e8f5f1bcd7cf4d7fa0a1dc1b3ef5e0\n \
                    /etc/default/n x d41d8cd98f00b204e9800998ecf8427e obsolete remove-on-upgrade\n \
                    /etc/new newconffile\n\n\
                    P\tgone\t\t\tunknown\tok\tnot-installed\n\n";
        let all = packages(said).expect("read");
        let [nginx, common, gone] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!((nginx.want, nginx.is_installed()), (Want::Hold, true));
        assert!(common.is_half_done() && !common.is_installed());
        let conffiles: Vec<_> = common
            .conffiles
            .iter()
            .map(|one| (one.path.to_str(), one.obsolete, one.shipped.is_some()))
            .collect();
        assert_eq!(
            conffiles,
            [
                (Some("/etc/nginx/nginx.conf"), false, true),
                (Some("/etc/default/n x"), true, true),
                (Some("/etc/new"), false, false)
            ]
        );
        assert_eq!((gone.version.as_str(), gone.is_half_done()), ("", false));
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for said in [
            "P\tnginx\tamd64\t1\tinstall\tok\n",
            "P\tnginx\tamd64\t1\tinstall\tok\tmelted\n",
            "P\t--all\tamd64\t1\tinstall\tok\tinstalled\n",
            " /etc/of-nobody d41d8cd98f00b204e9800998ecf8427e\n",
            "P\tnginx\tamd64\t1\tinstall\tok\tinstalled\n no-path d41d8cd98f00b204e9800998ecf8427e\n",
        ] {
            let refused = packages(said);
            assert!(
                matches!(refused, Err(DpkgError::Unreadable { .. })),
                "{said}"
            );
        }
    }

    #[test]
    fn what_was_diverted_is_its_diverters_or_nobodys() {
        let said = "diversion by dash from: /bin/sh\n\
                    diversion by dash to: /bin/sh.distrib\n\
                    bash, dash: /bin/sh\n\
                    libc6:amd64, libc6:i386, base-files: /lib\n\
                    local diversion from: /usr/sbin/nginx\n\
                    local diversion to: /usr/sbin/nginx.distrib\n\
                    nginx: /usr/sbin/nginx\n\
                    my_App: /opt/with: colon\n";
        let all = owners(said).expect("read");
        let names = |path: &str| {
            let owners = all.get(&PathBuf::from(path)).cloned().unwrap_or_default();
            owners.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("/bin/sh"), ["dash"]);
        assert_eq!(names("/lib"), ["base-files", "libc6"]);
        assert_eq!(names("/opt/with: colon"), ["my_App"]);
        assert_eq!(all.len(), 3);
        for said in ["no colon", "--all: /x"] {
            assert!(owners(said).is_err(), "{said}");
        }
    }
}
