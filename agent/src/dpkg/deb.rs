//! Package files: which package one is, by what stands in it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    PackageId,
    run::{Run, RunError},
};

/// How long it may take to read the fields of a package file.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a file is not the package that it should be.
#[derive(Debug, Error)]
pub enum DebError {
    #[error(transparent)]
    Run(#[from] RunError),
    /// In dpkg's words.
    #[error("{} is no package file: {said}", path.display())]
    NoPackage { path: PathBuf, said: String },
    #[error("{} is {found}, not {expected}", path.display())]
    Another {
        path: PathBuf,
        expected: Box<PackageId>,
        found: Box<PackageId>,
    },
}

/// Holds a file against the package that it should be, by its own fields. `scratch`: a folder that may be written, which
/// the sandbox of an agent leaves it few of.
///
/// # Errors
/// It is another, or none, or dpkg does not say.
pub(super) fn check(path: &Path, expected: &PackageId, scratch: &Path) -> Result<(), DebError> {
    let fields = ["Package", "Version", "Architecture"].map(OsStr::new);
    let arguments = [OsStr::new("--field"), OsStr::new("--"), path.as_os_str()];
    let run = Run::new("dpkg-deb", arguments.into_iter().chain(fields));
    let ended = run.scratch(scratch).until_it_ends(LIMIT)?;
    let none = |said: &str| DebError::NoPackage {
        path: path.to_owned(),
        said: said.to_owned(),
    };
    if !ended.succeeded() {
        let stderr = ended.stderr();
        return Err(none(stderr.lines().next().unwrap_or("it says nothing")));
    }
    let found = identity(&ended.stdout()).ok_or_else(|| none("it does not say which"))?;
    if found == *expected {
        Ok(())
    } else {
        Err(DebError::Another {
            path: path.to_owned(),
            expected: Box::new(expected.clone()),
            found: Box::new(found),
        })
    }
}

/// Which package says this of itself.
fn identity(said: &str) -> Option<PackageId> {
    let field = |name: &str| {
        said.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let name = field("Package")?.parse().ok()?;
    let version = field("Version")?.parse().ok()?;
    PackageId::new(name, version, field("Architecture")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_file_says_which_package_it_is() {
        let said = "Package: docker-ce\nVersion: 5:24.0.1-1\nArchitecture: amd64\n";
        let id = identity(said).expect("it says");
        assert_eq!(id.to_string(), "docker-ce=5:24.0.1-1 (amd64)");
        for said in [
            "",
            "Package: docker-ce\nVersion: 5:24.0.1-1\n",
            "Package: --all\nVersion: 1\nArchitecture: all\n",
        ] {
            assert_eq!(identity(said), None, "{said}");
        }
    }
}
