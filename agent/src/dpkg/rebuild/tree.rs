//! A copy of a package's files as they are on the disk, in the places in which the package brings them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, utimensat};

use super::{RebuildError, failed, mode};

/// A file, folder or link of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    path: PathBuf,
    /// Where it is: elsewhere, if another package or the administrator has put something in its place.
    stands_at: PathBuf,
}

impl Listed {
    /// Where the package brings it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a package brought, by what `dpkg-query --listfiles` says.
///
/// # Errors
/// The line that cannot be read.
pub(super) fn listed(said: &[u8]) -> Result<Vec<Listed>, String> {
    let mut all: Vec<Listed> = Vec::new();
    for line in said.split(|&byte| byte == b'\n') {
        if line.is_empty() || line == b"/." {
            continue;
        }
        let unreadable = || String::from_utf8_lossy(line).into_owned();
        if line.starts_with(b"/") {
            let path = absolute(line).ok_or_else(unreadable)?;
            all.push(Listed {
                stands_at: path.clone(),
                path,
            });
            continue;
        }
        // What the package itself puts in another's place stands where it says.
        if line.starts_with(b"package diverts others to: ") {
            continue;
        }
        let to = b" to: ";
        let at = line.windows(to.len()).position(|some| some == to);
        let at = at.filter(|_| {
            line.starts_with(b"diverted by ") || line.starts_with(b"locally diverted ")
        });
        let path = at.and_then(|at| absolute(line.get(at + to.len()..)?));
        let last = all.last_mut().ok_or_else(unreadable)?;
        last.stands_at = path.ok_or_else(unreadable)?;
    }
    Ok(all)
}

/// A path from the root down, and nowhere else.
fn absolute(bytes: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(OsStr::from_bytes(bytes));
    let mut components = path.components();
    let is_from_root = components.next() == Some(Component::RootDir);
    let is_down = components.all(|part| matches!(part, Component::Normal(_)));
    (is_from_root && is_down).then_some(path)
}

/// The copy.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    missing: usize,
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Result<Self, RebuildError> {
        fs::create_dir(&root).map_err(failed("make folder", &root))?;
        mode(&root, 0o755)?;
        Ok(Self { root, missing: 0 })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// How many there are that are not on the disk.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// There is something in that place of the package.
    pub(super) fn has(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.place(path)).is_ok()
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Copies them all. Folders come before what is in them.
    pub(super) fn fill(&mut self, all: &[Listed]) -> Result<(), RebuildError> {
        let above: BTreeSet<&Path> = all
            .iter()
            .flat_map(|one| one.path.ancestors().skip(1))
            .collect();
        let mut folders: Vec<(PathBuf, Metadata)> = Vec::new();
        let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        for one in all {
            let has_more = above.contains(one.path.as_path());
            let from = &one.stands_at;
            // Where `/usr` is merged, `/lib` is a link; the package brings a folder.
            let found = if has_more {
                fs::metadata(from)
            } else {
                fs::symlink_metadata(from)
            };
            let found = match found {
                Ok(found) => found,
                Err(error) if is_away(&error) => {
                    self.missing += 1;
                    continue;
                }
                Err(error) => return Err(failed("look at", from)(error)),
            };
            let to = self.place(&one.path);
            // Above what is there everything is, and some packages do not list it.
            let parent = to.parent().unwrap_or(&self.root);
            fs::create_dir_all(parent).map_err(failed("make folder", parent))?;
            if found.is_dir() {
                fs::create_dir_all(&to).map_err(failed("make folder", &to))?;
                folders.push((to, found));
                continue;
            }
            if found.is_file() {
                let key = (found.dev(), found.ino());
                if let Some(first) = links.get(&key).filter(|_| found.nlink() > 1) {
                    fs::hard_link(first, &to).map_err(failed("link", &to))?;
                    continue;
                }
                copy(from, &to)?;
                links.insert(key, to.clone());
            } else if found.is_symlink() {
                let leads = fs::read_link(from).map_err(failed("read", from))?;
                symlink(leads, &to).map_err(failed("link", &to))?;
            } else {
                return Err(RebuildError::Unfit { path: from.clone() });
            }
            dress(&to, &found)?;
        }
        // Last: what is written into a folder changes its time.
        for (path, found) in folders.iter().rev() {
            dress(path, found)?;
        }
        Ok(())
    }
}

fn is_away(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn copy(from: &Path, to: &Path) -> Result<(), RebuildError> {
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = File::options();
    let source = options.read(true).custom_flags(nofollow).open(from);
    let mut source = source.map_err(failed("open", from))?;
    let mut copy = File::create_new(to).map_err(failed("make", to))?;
    io::copy(&mut source, &mut copy).map_err(failed("copy", from))?;
    Ok(())
}

/// Gives it the owner, the mode and the time of what was found.
fn dress(path: &Path, found: &Metadata) -> Result<(), RebuildError> {
    let owner = lchown(path, Some(found.uid()), Some(found.gid()));
    owner.map_err(failed("set the owner of", path))?;
    if !found.is_symlink() {
        // After the owner, which takes the bits away by which a program runs as another.
        mode(path, found.mode() & 0o7777)?;
    }
    let time = Timespec {
        tv_sec: found.mtime(),
        tv_nsec: found.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the time of", path)(error.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn paths(said: &str) -> Vec<(String, String)> {
        let all = listed(said.as_bytes()).expect("read");
        let text = |path: PathBuf| path.display().to_string();
        all.into_iter()
            .map(|one| (text(one.path), text(one.stands_at)))
            .collect()
    }

    #[test]
    fn what_was_diverted_stands_elsewhere() {
        let said = "/.\n/bin\n/bin/sh\ndiverted by dash to: /bin/sh.distrib\n/bin/x to: y\n\
                    /bin/z\nlocally diverted to: /bin/z.mine\n/bin/d\npackage diverts others to: /bin/d.theirs\n";
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(
            paths(said),
            [
                pair("/bin", "/bin"),
                pair("/bin/sh", "/bin/sh.distrib"),
                pair("/bin/x to: y", "/bin/x to: y"),
                pair("/bin/z", "/bin/z.mine"),
                pair("/bin/d", "/bin/d"),
            ]
        );
        for said in [
            "/a/../b\n",
            "a\n",
            "diverted by x to: /y\n",
            "/x\nsomething new: /y\n",
        ] {
            assert!(listed(said.as_bytes()).is_err(), "{said}");
        }
    }

    #[test]
    fn files_are_copied_as_they_are_and_what_is_missing_is_counted() {
        let dir = TempDir::new().expect("folder");
        let at = |name: &str| dir.path().join("host").join(name);
        fs::create_dir_all(at("usr/lib/x")).expect("made");
        symlink("usr/lib", at("lib")).expect("made");
        fs::write(at("usr/lib/x/a"), "content").expect("written");
        mode(&at("usr/lib/x/a"), 0o4755).expect("set");
        fs::hard_link(at("usr/lib/x/a"), at("usr/lib/x/b")).expect("made");
        symlink("nowhere", at("usr/lib/x/link")).expect("made");
        fs::write(at("elsewhere"), "moved").expect("written");
        let list: Vec<Listed> = [
            "lib",
            "lib/x",
            "lib/x/a",
            "lib/x/b",
            "lib/x/link",
            "lib/y",
            "lib/x/gone",
        ]
        .iter()
        .map(|name| Listed {
            path: at(name),
            stands_at: match *name {
                "lib/y" => at("elsewhere"),
                _ => at(name),
            },
        })
        .collect();
        let mut tree = Tree::new(dir.path().join("tree")).expect("made");
        tree.fill(&list).expect("copied");
        let copy = |name: &str| tree.place(&at(name));
        let mode_of = |name| {
            fs::metadata(copy(name))
                .expect("there")
                .permissions()
                .mode()
        };
        assert!(fs::symlink_metadata(copy("lib")).expect("there").is_dir());
        assert_eq!(fs::read(copy("lib/x/b")).expect("there"), b"content");
        assert_eq!(mode_of("lib/x/b") & 0o7777, 0o4755);
        assert_eq!(fs::metadata(copy("lib/x/a")).expect("there").nlink(), 2);
        let link = fs::read_link(copy("lib/x/link")).expect("a link");
        assert_eq!(link, Path::new("nowhere"));
        assert_eq!(fs::read(copy("lib/y")).expect("there"), b"moved");
        assert_eq!(tree.missing(), 1);
        assert!(tree.has(&at("lib/x/a")) && !tree.has(&at("lib/x/gone")));
    }
}
