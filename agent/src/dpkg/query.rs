//! Asks dpkg's tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

use super::{DpkgError, Package, PackageName, Version, parse};

/// How long a question may take: the database of a host with many packages is some MiB of text.
const LIMIT: Duration = Duration::from_secs(30);

/// What an answer may hold, bytes. No package lists more files than this has room for.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Paths of one question: a command line has room for some MiB.
const AT_ONCE: usize = 500;

/// Where a merged `/usr` has the folders of the root: dpkg knows a file by the one or the other.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// dpkg on this host.
#[derive(Debug, Clone, Default)]
pub struct Dpkg {
    /// What stands before each command line: nothing, on the host itself.
    by_way_of: Vec<String>,
}

/// What a program said, and how it ended.
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Dpkg {
    /// That of another system, whose programs are run by that command line.
    #[must_use]
    pub fn by_way_of(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            by_way_of: command.into_iter().map(Into::into).collect(),
        }
    }

    /// Packages of these names, of every architecture. One that dpkg knows nothing of is not among them.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn packages(&self, names: &[PackageName]) -> Result<Vec<Package>, DpkgError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let format = format!("--showformat={}", parse::FORMAT);
        let names = names.iter().map(PackageName::as_str);
        let mut arguments = vec!["--show", &format, "--"];
        arguments.extend(names);
        // It fails where one of them is unknown, and says all it knows of the others.
        let answer = self.ask("dpkg-query", &arguments).await?;
        match answer.code {
            Some(0 | 1) => parse::packages(&answer.stdout),
            _ => Err(failed("dpkg-query", &answer)),
        }
    }

    /// The packages that own what stands at these paths; a path that none owns is not among them.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn owners(
        &self,
        paths: &[PathBuf],
    ) -> Result<BTreeMap<PathBuf, Vec<PackageName>>, DpkgError> {
        let mut owners = BTreeMap::new();
        for some in paths.chunks(AT_ONCE) {
            owners.extend(self.owners_of_some(some).await?);
        }
        Ok(owners)
    }

    async fn owners_of_some(
        &self,
        paths: &[PathBuf],
    ) -> Result<BTreeMap<PathBuf, Vec<PackageName>>, DpkgError> {
        // Each by its own name, and by the one that it has where `/usr` is not merged.
        let names: Vec<(String, &PathBuf)> = paths
            .iter()
            .flat_map(|path| aliases(path).into_iter().map(move |alias| (alias, path)))
            .collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let patterns: Vec<String> = names.iter().map(|(name, _)| pattern(name)).collect();
        let mut arguments = vec!["--search", "--"];
        arguments.extend(patterns.iter().map(String::as_str));
        let answer = self.ask("dpkg-query", &arguments).await?;
        if !matches!(answer.code, Some(0 | 1)) {
            return Err(failed("dpkg-query", &answer));
        }
        let found = parse::owners(&answer.stdout)?;
        let mut owners: BTreeMap<PathBuf, Vec<PackageName>> = BTreeMap::new();
        for (name, path) in names {
            if let Some(packages) = found.get(Path::new(&name)) {
                let packages = packages.iter().cloned();
                owners.entry(path.clone()).or_default().extend(packages);
            }
        }
        for packages in owners.values_mut() {
            packages.sort();
            packages.dedup();
        }
        Ok(owners)
    }

    /// The files and folders that a package brought; of one that was removed its conffiles.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn files(&self, package: &Package) -> Result<BTreeSet<PathBuf>, DpkgError> {
        let name = match package.architecture.as_str() {
            "" | "all" => package.name.to_string(),
            // There may be others of that name.
            architecture => format!("{}:{architecture}", package.name),
        };
        let list = ["--listfiles", "--", &name];
        let answer = self.ask("dpkg-query", &list).await?;
        match answer.code {
            Some(0) => {
                let paths = answer.stdout.lines().filter(|line| line.starts_with('/'));
                Ok(paths
                    .filter(|&path| path != "/.")
                    .map(PathBuf::from)
                    .collect())
            }
            Some(1) => Ok(BTreeSet::new()),
            _ => Err(failed("dpkg-query", &answer)),
        }
    }

    /// What is half done, in dpkg's words. Empty: nothing.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn audit(&self) -> Result<String, DpkgError> {
        let answer = self.ask("dpkg", &["--audit"]).await?;
        match answer.code {
            Some(0 | 1) => Ok(answer.stdout.trim().to_owned()),
            _ => Err(failed("dpkg", &answer)),
        }
    }

    /// Whether the first version is older than the second, as dpkg orders them.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn is_older(&self, one: &Version, other: &Version) -> Result<bool, DpkgError> {
        let arguments = ["--compare-versions", one.as_str(), "lt", other.as_str()];
        let answer = self.ask("dpkg", &arguments).await?;
        match answer.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(failed("dpkg", &answer)),
        }
    }

    /// Runs one of its programs to its end.
    async fn ask(&self, program: &'static str, arguments: &[&str]) -> Result<Answer, DpkgError> {
        let broken = |reason: String| DpkgError::Program { program, reason };
        // In the language that is read here, and with nothing of the agent's own environment.
        let words = [
            "env",
            "-i",
            "LC_ALL=C.UTF-8",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            program,
        ];
        let words = self.by_way_of.iter().map(String::as_str).chain(words);
        let mut words = words.chain(arguments.iter().copied());
        let mut child = Command::new(words.next().unwrap_or("env"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| broken(error.to_string()))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr) = tokio::try_join!(all_of(stdout), all_of(stderr))?;
            let code = child.wait().await?.code();
            Ok::<_, std::io::Error>(Answer {
                code,
                stdout,
                stderr,
            })
        };
        match timeout(LIMIT, work).await {
            Ok(answer) => answer.map_err(|error| broken(error.to_string())),
            Err(_) => Err(DpkgError::Late {
                program,
                limit: LIMIT,
            }),
        }
    }
}

/// All that comes out, as far as there is room for it.
async fn all_of(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(LARGEST).read_to_end(&mut bytes).await?;
        if bytes.len() as u64 == LARGEST {
            return Err(std::io::Error::other("it says too much"));
        }
    }
    // A path that is no UTF-8 is none that a record could hold.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn failed(program: &'static str, answer: &Answer) -> DpkgError {
    let said = answer.stderr.lines().next().unwrap_or("it says nothing");
    DpkgError::Failed {
        program,
        said: format!("{said} (exit status {:?})", answer.code),
    }
}

/// The names by which dpkg may know a path: `/usr/bin/x` may be in its database as `/bin/x`, and the other way round.
fn aliases(path: &Path) -> Vec<String> {
    let Some(text) = path.to_str() else {
        return Vec::new();
    };
    let mut all = vec![text.to_owned()];
    let first = |below: &str| {
        below
            .split('/')
            .next()
            .is_some_and(|part| MERGED.contains(&part))
    };
    if let Some(below) = text.strip_prefix("/usr/").filter(|below| first(below)) {
        all.push(format!("/{below}"));
    } else if text.strip_prefix('/').is_some_and(first) {
        all.push(format!("/usr{text}"));
    }
    all
}

/// A path as it is: what would stand for other letters is taken by its word.
fn pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for letter in path.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_merged_usr_has_two_names() {
        let of = |path: &str| aliases(Path::new(path));
        assert_eq!(of("/usr/sbin/nginx"), ["/usr/sbin/nginx", "/sbin/nginx"]);
        assert_eq!(of("/bin/sh"), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(of("/usr/share/x"), ["/usr/share/x"]);
        assert_eq!(of("/etc/bin/x"), ["/etc/bin/x"]);
    }

    #[test]
    fn a_path_is_searched_by_its_word() {
        assert_eq!(pattern("/opt/[a]*"), "/opt/\\[a\\]\\*");
    }
}
