//! What belongs to a unit, as far as it can be found: its program, its unit files, drop-ins and environment files, and the
//! packages that own them.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use crate::systemd::{UnitName, UnitState};

/// Where the administrator's unit files are, which go before those of packages.
const ADMINISTRATOR: &str = "/etc/systemd/system";

/// Made anew with each boot: nothing there is deployed.
const VOLATILE: [&str; 4] = ["/run", "/proc", "/sys", "/dev"];

/// Programs that run others. What they run is deployed, they are not, and their packages are the system's.
const INTERPRETERS: [&str; 21] = [
    "sh", "bash", "dash", "env", "java", "node", "nodejs", "perl", "php", "python", "ruby", "deno",
    "docker", "podman", "runuser", "su", "sudo", "setpriv", "nice", "taskset", "flock",
];

/// Links on one way, as the kernel counts them.
const LINKS: usize = 40;

/// What was found of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Belongings {
    /// Paths to be looked at. What may be put there later is among them, so that a revision knows that it was not there.
    pub(super) paths: BTreeSet<PathBuf>,
    /// Of those, files of environment variables.
    pub(super) environment: BTreeSet<PathBuf>,
    /// Of those, whose owners are packages of the unit.
    pub(super) owned: BTreeSet<PathBuf>,
}

/// What belongs to a unit, by what the service manager says of it and of what starts it. `link` says where a path leads
/// that is a link.
pub(super) fn belongings(
    unit: &UnitName,
    state: &UnitState,
    starters: &[(UnitName, UnitState)],
    declared: &[PathBuf],
    link: impl Fn(&Path) -> Option<PathBuf>,
) -> Belongings {
    let mut found = Belongings::default();
    found.unit_files(unit, state, &link);
    for (starter, state) in starters {
        found.unit_files(starter, state, &link);
    }
    for (path, _) in &state.environment_files {
        // A pattern is none that could be looked at.
        if is_plain(path) && !path.to_string_lossy().contains(['*', '?', '[']) {
            found.environment.insert(path.clone());
            found.paths.insert(path.clone());
        }
    }
    for command in &state.commands {
        let program = &command.program;
        if !is_plain(program) {
            continue;
        }
        if is_interpreter(program) {
            let mut words = command.arguments.iter().skip(1).map(Path::new);
            // An interpreter in a folder of the application's own (a virtual environment) leads elsewhere by a link.
            if let Some(script) = words.find(|word| is_plain(word)) {
                found.trail(script, &link);
            }
        } else {
            found.trail(program, &link);
        }
    }
    for path in declared {
        found.trail(path, &link);
    }
    found
}

impl Belongings {
    fn unit_files(
        &mut self,
        unit: &UnitName,
        state: &UnitState,
        link: impl Fn(&Path) -> Option<PathBuf>,
    ) {
        let own = Path::new(ADMINISTRATOR);
        let mut names = vec![unit.as_str().to_owned()];
        names.extend(unit.template());
        for name in names {
            self.paths.insert(own.join(format!("{name}.d")));
            self.paths.insert(own.join(name));
        }
        let files = state.fragment.iter().chain(&state.drop_ins);
        for file in files.filter(|file| is_plain(file)) {
            // What is in a folder that is looked at is looked at.
            if file.ancestors().any(|path| self.paths.contains(path)) {
                self.owned.insert(file.clone());
            } else {
                self.trail(file, &link);
            }
        }
    }

    /// A path with the links that lead to it, and what stands at its end. Links at the root, as a merged `/usr` has them,
    /// are the system's.
    fn trail(&mut self, path: &Path, link: impl Fn(&Path) -> Option<PathBuf>) {
        let mut left: Vec<PathBuf> = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            let next = match part.to_str() {
                Some("..") => {
                    at.pop();
                    continue;
                }
                _ => at.join(&part),
            };
            let Some(to) = link(&next) else {
                at = next;
                continue;
            };
            links += 1;
            if links > LINKS {
                return;
            }
            if at != Path::new("/") {
                self.paths.insert(next);
            }
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            left.extend(parts(&to));
        }
        if is_plain(&at) && at != Path::new("/") {
            self.owned.insert(at.clone());
            self.paths.insert(at);
        }
    }
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    let mut names: Vec<PathBuf> = names.collect();
    names.reverse();
    names
}

/// Absolute, and on a disk.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !VOLATILE.iter().any(|folder| path.starts_with(folder))
}

fn is_interpreter(program: &Path) -> bool {
    let name = program.file_name().and_then(|name| name.to_str());
    // `python3.11`, `php8.2`
    let plain = name.map(|name| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'));
    plain.is_some_and(|name| INTERPRETERS.contains(&name))
}

/// The folder of configuration that a package brought for this unit alone: `/etc/nginx` of `nginx.service`. `files`: what
/// the package brought.
pub(super) fn own_folder(
    unit: &UnitName,
    package: &str,
    files: &BTreeSet<PathBuf>,
) -> Option<PathBuf> {
    let stem = unit.as_str().split(['@', '.']).next().unwrap_or_default();
    let mut names = [stem, package].into_iter();
    names.find_map(|name| {
        let folder = Path::new("/etc").join(name);
        let is_folder = files.iter().any(|file| file.parent() == Some(&folder));
        (is_folder || files.contains(&folder)).then_some(folder)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::Exec;

    fn unit(name: &str) -> UnitName {
        name.parse().expect("valid")
    }

    fn exec(words: &[&str]) -> Exec {
        Exec {
            program: words[0].into(),
            arguments: words.iter().map(ToString::to_string).collect(),
        }
    }

    fn paths(found: &Belongings) -> Vec<String> {
        found
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    fn links(path: &Path) -> Option<PathBuf> {
        let to = match path.to_str()? {
            "/bin" => "usr/bin",
            "/opt/app/current" => "releases/42",
            "/opt/loop" => "loop",
            _ => return None,
        };
        Some(to.into())
    }

    #[test]
    fn a_program_is_found_with_the_links_that_lead_to_it() {
        let state = UnitState {
            fragment: Some("/etc/systemd/system/app.service".into()),
            drop_ins: vec![
                "/etc/systemd/system/app.service.d/10.conf".into(),
                "/run/systemd/x.conf".into(),
            ],
            environment_files: vec![
                ("/etc/app.env".into(), true),
                ("/etc/app.d/*.env".into(), true),
            ],
            commands: vec![
                exec(&["/opt/app/current/bin/app", "--port", "80"]),
                exec(&["/bin/tool"]),
            ],
            ..UnitState::default()
        };
        let found = belongings(&unit("app.service"), &state, &[], &[], links);
        assert_eq!(
            paths(&found),
            [
                "/etc/app.env",
                "/etc/systemd/system/app.service",
                "/etc/systemd/system/app.service.d",
                "/opt/app/current",
                "/opt/app/releases/42/bin/app",
                "/usr/bin/tool",
            ]
        );
        assert_eq!(found.environment, BTreeSet::from(["/etc/app.env".into()]));
    }

    #[test]
    fn an_interpreter_is_the_systems_and_its_script_is_the_units() {
        let state = UnitState {
            fragment: Some("/lib/systemd/system/job.service".into()),
            commands: vec![
                exec(&["/usr/bin/python3.11", "-u", "/srv/job.py"]),
                exec(&["/bin/sh", "-c", "true"]),
            ],
            ..UnitState::default()
        };
        let found = belongings(
            &unit("job.service"),
            &state,
            &[],
            &["/opt/loop".into()],
            links,
        );
        assert_eq!(
            paths(&found),
            [
                "/etc/systemd/system/job.service",
                "/etc/systemd/system/job.service.d",
                "/lib/systemd/system/job.service",
                "/opt/loop",
                "/srv/job.py",
            ]
        );
    }

    #[test]
    fn instances_share_the_files_of_their_template_and_sockets_bring_theirs() {
        let socket = UnitState {
            fragment: Some("/lib/systemd/system/echo.socket".into()),
            ..UnitState::default()
        };
        let starters = [(unit("echo.socket"), socket)];
        let found = belongings(
            &unit("echo@1.service"),
            &UnitState::default(),
            &starters,
            &[],
            links,
        );
        let paths = paths(&found);
        for path in [
            "/etc/systemd/system/echo@.service",
            "/etc/systemd/system/echo@1.service.d",
            "/lib/systemd/system/echo.socket",
        ] {
            assert!(paths.iter().any(|one| one == path), "{paths:?}");
        }
    }

    #[test]
    fn the_folder_of_a_package_is_its_own_and_no_common_one() {
        let files: BTreeSet<PathBuf> = [
            "/etc/nginx/nginx.conf",
            "/etc/default/nginx",
            "/etc/logrotate.d/nginx",
        ]
        .map(Into::into)
        .into();
        let folder = |unit_name: &str, package: &str| own_folder(&unit(unit_name), package, &files);
        assert_eq!(
            folder("nginx.service", "nginx-common"),
            Some("/etc/nginx".into())
        );
        assert_eq!(folder("web@1.service", "nginx"), Some("/etc/nginx".into()));
        assert_eq!(folder("logrotate.service", "x"), None);
    }
}
