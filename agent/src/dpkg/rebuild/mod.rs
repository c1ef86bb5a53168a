//! Makes a package file of a package's installed files, for a version whose file is nowhere to be had. For the process that
//! does the privileged work, as root: owners are as they are on the disk.
//!
//! What it installs is what is there now: a conffile that was changed is in it as it was changed, and a file that is missing
//! is not in it. Capabilities of files cannot be in a package; its scripts set them.

mod stanza;
mod tree;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::tree::Tree;
use super::{
    DpkgError, Package, PackageId, ask,
    deb::{self, DebError},
    run::{Run, RunError},
};
use crate::store::files::FileError;

/// How long it may take to pack the files.
const PACK: Duration = Duration::from_mins(10);

/// A package file that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    pub file: PathBuf,
    /// How many of the package's files are not on this host, and so not in it: a minimal host does without manuals.
    pub missing: usize,
}

/// Why a package cannot be made of its installed files.
#[derive(Debug, Error)]
pub enum RebuildError {
    #[error("{package} is not what is installed, whole")]
    NotInstalled { package: Box<PackageId> },
    #[error("what dpkg says of {package} cannot be read: {what}")]
    Unreadable {
        package: Box<PackageId>,
        what: String,
    },
    /// A device, for instance.
    #[error("{} is nothing that can be packed", path.display())]
    Unfit { path: PathBuf },
    #[error("dpkg-deb failed: {said}")]
    Failed { said: String },
    #[error(transparent)]
    Dpkg(#[from] DpkgError),
    #[error(transparent)]
    Deb(#[from] DebError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    File(#[from] FileError),
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RebuildError + 'a {
    move |source| {
        let path = path.to_owned();
        RebuildError::File(FileError {
            action,
            path,
            source,
        })
    }
}

/// Makes the file of a package that is installed, below an empty folder that is the caller's own.
///
/// # Errors
/// Exactly that version is not installed, whole, the whole time; a file cannot be read; or there is no room.
pub fn rebuild(package: &PackageId, into: &Path) -> Result<Rebuilt, RebuildError> {
    let installed = installed(package)?;
    let name = package.qualified_name();
    let mut tree = Tree::new(into.join("tree"))?;
    let list = ask::query(&["--listfiles", "--", &name])?;
    let files = tree::listed(&list).map_err(|what| unreadable(package, what))?;
    // What only older versions brought is still listed.
    let old: BTreeSet<&Path> = conffiles(&installed, true).collect();
    let files: Vec<_> = files
        .into_iter()
        .filter(|one| !old.contains(one.path()))
        .collect();
    tree.fill(&files)?;
    let conffiles = conffiles(&installed, false).filter(|path| tree.has(path));
    control(package, &tree, &conffiles.collect::<Vec<_>>())?;
    let file = into.join(package.file_name());
    // Quickly rather than small, and by a compression that every dpkg knows. Its checks are for those who write packages.
    let options = ["--nocheck", "-Zgzip", "-z1", "--build", "--"].map(OsString::from);
    let paths = [tree.root(), &file].map(|path| path.as_os_str().to_owned());
    let ended = Run::new("dpkg-deb", options.into_iter().chain(paths)).until_it_ends(PACK)?;
    if !ended.succeeded() {
        let said = ended.stderr().lines().last().unwrap_or_default().to_owned();
        return Err(RebuildError::Failed { said });
    }
    deb::check(&file, package, into)?;
    // An upgrade may have begun meanwhile: then the files are of both versions.
    self::installed(package)?;
    fs::remove_dir_all(tree.root()).map_err(failed("remove folder", tree.root()))?;
    Ok(Rebuilt {
        file,
        missing: tree.missing(),
    })
}

fn installed(package: &PackageId) -> Result<Package, RebuildError> {
    let found = ask::packages(Some(&[&package.name]))?;
    let found = found.into_iter().find(|one| one.is_whole(package));
    found.ok_or_else(|| RebuildError::NotInstalled {
        package: Box::new(package.clone()),
    })
}

/// Its conffiles that this version brings, or those that it brings no more.
fn conffiles(installed: &Package, obsolete: bool) -> impl Iterator<Item = &Path> {
    let all = installed.conffiles.iter();
    all.filter(move |one| one.obsolete == obsolete)
        .map(|one| one.path.as_path())
}

fn unreadable(package: &PackageId, what: impl Into<String>) -> RebuildError {
    RebuildError::Unreadable {
        package: Box::new(package.clone()),
        what: what.into(),
    }
}

/// Writes what dpkg knows of the package: its fields, its scripts, its lists.
fn control(package: &PackageId, tree: &Tree, conffiles: &[&Path]) -> Result<(), RebuildError> {
    let name = package.qualified_name();
    let folder = tree.root().join("DEBIAN");
    fs::create_dir(&folder).map_err(failed("make folder", &folder))?;
    mode(&folder, 0o755)?;
    let said = ask::query(&["--status", "--", &name])?;
    let fields = String::from_utf8(said).ok();
    let fields = fields.as_deref().and_then(stanza::of_a_file);
    let fields = fields.ok_or_else(|| unreadable(package, "its fields"))?;
    write(&folder.join("control"), fields.as_bytes(), 0o644)?;
    // It is not among those that dpkg shows.
    if !conffiles.is_empty() {
        let lines: Vec<&[u8]> = conffiles
            .iter()
            .flat_map(|path| [path.as_os_str().as_bytes(), b"\n"])
            .collect();
        write(&folder.join("conffiles"), &lines.concat(), 0o644)?;
    }
    let names = ask::query(&["--control-list", "--", &name])?;
    let names = String::from_utf8_lossy(&names).into_owned();
    for kind in names.lines() {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if kind.is_empty() || !kind.bytes().all(is_name) {
            return Err(unreadable(package, kind));
        }
        let mut content = ask::query(&["--control-show", "--", &name, kind])?;
        if kind == "md5sums" {
            content = stanza::without(&content, conffiles);
        }
        let executable = matches!(kind, "preinst" | "postinst" | "prerm" | "postrm" | "config");
        let mode = if executable { 0o755 } else { 0o644 };
        write(&folder.join(kind), &content, mode)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], with: u32) -> Result<(), RebuildError> {
    fs::write(path, content).map_err(failed("write", path))?;
    mode(path, with)
}

fn mode(path: &Path, mode: u32) -> Result<(), RebuildError> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(failed("set the mode of", path))
}
