//! There and back again, on a real file system.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use proptest::{collection::btree_map, prelude::*};
use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use super::*;
use crate::store::artifacts::Artifacts;

const LIMITS: Limits = Limits {
    file_bytes: 1_000_000,
    paths: 1000,
};

/// A folder of files, and a store beside it.
struct Ground {
    dir: TempDir,
    store: Artifacts,
}

impl Ground {
    fn new() -> Self {
        let dir = TempDir::new().expect("folder");
        let store = Artifacts::open(&dir.path().join("artifacts"), 10_000_000).expect("opened");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("made");
        // Whatever the umask: a folder that others may write to is another story.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("set");
        Self { dir, store }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        path
    }

    fn capture(&self) -> Captured {
        capture(&[self.root()], &self.store, LIMITS, &mut Seen::default()).expect("captured")
    }

    fn put_back(&self, then: &Snapshot) {
        for change in self.capture().snapshot.changes_to(then) {
            restore(&change, "test", &self.store).expect("restored");
        }
        assert_eq!(self.capture().snapshot, *then);
    }
}

fn put(path: &Path, thing: Option<&Thing>) -> Change {
    Change {
        path: path.to_owned(),
        root: path.to_owned(),
        action: Action::Put(thing.expect("captured").clone()),
    }
}

impl Captured {
    fn at(&self, path: &Path) -> Option<&Thing> {
        self.snapshot.0.get(path).and_then(Option::as_ref)
    }
}

#[test]
fn files_links_and_folders_come_back_as_they_were() {
    let ground = Ground::new();
    let program = ground.write("program", "v1");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4750)).expect("set");
    // Where the file system has none, there is none to keep.
    let _ = setxattr(&program, "user.note", b"kept", XattrFlags::empty());
    fs::create_dir(ground.path("releases")).expect("made");
    symlink("releases/1", ground.path("current")).expect("linked");
    ground.write("releases/1", "one");
    let before = ground.capture();

    fs::write(&program, "v2").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    fs::remove_file(ground.path("current")).expect("removed");
    ground.write("current", "no link any more");
    fs::remove_dir_all(ground.path("releases")).expect("removed");
    ground.write("releases", "no folder any more");
    ground.write("added", "by the bad one");
    let after = ground.capture();

    ground.put_back(&before.snapshot);
    assert_eq!(fs::read(&program).expect("there"), b"v1");
    assert!(!ground.path("added").exists());
    ground.put_back(&after.snapshot);
    assert_eq!(fs::read(&program).expect("there"), b"v2");
}

#[test]
fn a_file_comes_back_with_the_folders_that_were_cleared_away() {
    let ground = Ground::new();
    let folder = ground.path("releases/1");
    fs::create_dir_all(&folder).expect("made");
    let path = ground.write("releases/1/run", "one");
    let captured = capture(
        std::slice::from_ref(&path),
        &ground.store,
        LIMITS,
        &mut Seen::default(),
    );
    let captured = captured.expect("captured");
    fs::remove_dir_all(ground.path("releases")).expect("removed");
    let change = put(&path, captured.at(&path));
    let done = restore(&change, "test", &ground.store).expect("restored");
    assert_eq!(done, Restored::Changed);
    assert_eq!(fs::read(&path).expect("there"), b"one");
    let mode = fs::metadata(&folder).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "as the folder above it");

    // What is to be away makes none, and a link that leads nowhere is not replaced.
    fs::remove_dir_all(ground.path("releases")).expect("removed");
    let away = Change {
        action: Action::RemoveFile,
        ..change.clone()
    };
    let done = restore(&away, "test", &ground.store).expect("restored");
    assert_eq!(done, Restored::Already);
    symlink("nowhere", ground.path("releases")).expect("linked");
    let error = restore(&change, "test", &ground.store).expect_err("it leads nowhere");
    assert!(error.is_nothing(), "{error:?}");
}

#[test]
fn what_stands_there_already_is_not_touched() {
    use std::os::unix::fs::MetadataExt as _;
    let ground = Ground::new();
    let path = ground.write("file", "content");
    let captured = ground.capture();
    let inode = fs::metadata(&path).expect("there").ino();
    for (path, thing) in &captured.snapshot.0 {
        let done = restore(&put(path, thing.as_ref()), "test", &ground.store);
        assert_eq!(done.expect("restored"), Restored::Already);
    }
    assert_eq!(fs::metadata(&path).expect("there").ino(), inode);
}

#[test]
fn who_has_the_file_open_keeps_what_it_was() {
    use std::io::Read as _;
    let ground = Ground::new();
    let path = ground.write("file", "old");
    let old = ground.capture();
    fs::write(&path, "new").expect("written");
    let mut reads = File::open(&path).expect("opened");
    ground.put_back(&old.snapshot);
    let mut seen = String::new();
    reads.read_to_string(&mut seen).expect("read");
    assert_eq!(seen, "new", "exchanged, not written over");
}

#[test]
fn what_an_attempt_left_that_was_cut_off_is_taken_away_by_the_next() {
    let ground = Ground::new();
    let path = ground.write("file", "old");
    let old = ground.capture();
    fs::write(&path, "new").expect("written");
    let cut_off = ground.write(".file.sternway-test", "half of o");
    let change = put(&path, old.at(&path));
    restore(&change, "test", &ground.store).expect("restored");
    assert_eq!(fs::read(&path).expect("there"), b"old");
    assert!(!cut_off.exists());
    // Until then it is no part of what stands there.
    ground.write(".other.sternway-test", "half");
    assert_eq!(ground.capture().snapshot, old.snapshot);
}

#[test]
fn a_damaged_artifact_changes_nothing() {
    let ground = Ground::new();
    let path = ground.write("file", "old");
    let old = ground.capture();
    fs::write(&path, "new").expect("written");
    let new = ground.capture();
    let content = old.snapshot.artifacts().next().expect("one");
    let shelf: String = content.as_str().chars().take(2).collect();
    let kept = ground
        .dir
        .path()
        .join("artifacts")
        .join(shelf)
        .join(content.as_str());
    fs::write(&kept, "0ld").expect("damaged");
    let change = put(&path, old.at(&path));
    let refused = restore(&change, "test", &ground.store).expect_err("refused");
    assert_eq!(refused.code(), "artifact-damaged");
    assert_eq!(ground.capture().snapshot, new.snapshot);
}

#[test]
fn a_folder_with_something_of_others_in_it_is_not_removed() {
    let ground = Ground::new();
    let before = ground.capture();
    fs::create_dir(ground.path("added")).expect("made");
    let after = ground.capture();
    ground.write("added/of-others", "data");
    let changes = after.snapshot.changes_to(&before.snapshot);
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    let refused = restore(change, "test", &ground.store).expect_err("refused");
    assert_eq!(refused.code(), "in-the-way");
    assert!(ground.path("added/of-others").exists());
}

#[test]
fn paths_and_sizes_are_bounded() {
    let ground = Ground::new();
    let path = ground.write("file", "content");
    let code = |paths: &[PathBuf], limits| {
        let refused =
            capture(paths, &ground.store, limits, &mut Seen::default()).expect_err("refused");
        refused.code()
    };
    for path in [
        "relative", "/", "/a/../b", "/a\nb", "/a/", "/a/.", "/a//b", "/./a",
    ] {
        assert_eq!(code(&[path.into()], LIMITS), "path-invalid");
    }
    let small = Limits {
        file_bytes: 6,
        ..LIMITS
    };
    assert_eq!(code(std::slice::from_ref(&path), small), "too-large");
    let few = Limits { paths: 1, ..LIMITS };
    assert_eq!(code(&[ground.root()], few), "too-large");
    assert_eq!(code(&["/dev/null".into()], LIMITS), "not-a-file");
    let nowhere = ground.path("nowhere/at/all");
    let captured = capture(
        std::slice::from_ref(&nowhere),
        &ground.store,
        LIMITS,
        &mut Seen::default(),
    );
    let captured = captured.expect("captured").snapshot;
    assert_eq!(captured.0.get(&nowhere), Some(&None));
}

#[test]
fn the_longest_name_has_room_beside_it() {
    let ground = Ground::new();
    let name = "ä".repeat(127);
    let path = ground.write(&name, "old");
    let old = ground.capture();
    fs::write(path, "new").expect("written");
    ground.put_back(&old.snapshot);
}

/// What may stand at a path of a small tree.
#[derive(Debug, Clone)]
enum Made {
    File(u8, u32),
    Link(u8),
}

/// Builds a tree: names are paths of up to two folders.
fn build(ground: &Ground, tree: &BTreeMap<(u8, u8), Made>) {
    fs::remove_dir_all(ground.root()).expect("removed");
    fs::create_dir(ground.root()).expect("made");
    for ((folder, name), made) in tree {
        let folder = match folder {
            0 => ground.root(),
            folder => ground.path(&format!("n{folder}")),
        };
        // A file may stand where the folder would.
        if fs::create_dir_all(&folder).is_err() {
            continue;
        }
        let path = folder.join(format!("n{name}"));
        match made {
            Made::File(content, mode) => {
                if fs::write(&path, [*content]).is_ok() {
                    let mode = fs::Permissions::from_mode(*mode);
                    fs::set_permissions(&path, mode).expect("set");
                }
            }
            Made::Link(to) => {
                let _ = symlink(format!("n{to}"), &path);
            }
        }
    }
}

fn trees() -> impl Strategy<Value = BTreeMap<(u8, u8), Made>> {
    let modes = prop_oneof![Just(0o600), Just(0o644), Just(0o4755)];
    let made = prop_oneof![
        (0..3u8, modes).prop_map(|(content, mode)| Made::File(content, mode)),
        (0..4u8).prop_map(Made::Link),
    ];
    btree_map((0..4u8, 1..4u8), made, 0..8)
}

/// Does some of a list of changes, as far as it gets.
fn carry_out(ground: &Ground, changes: &[Change]) {
    for change in changes {
        restore(change, "test", &ground.store).expect("restored");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn from_any_tree_there_is_a_way_to_any_other(from in trees(), to in trees()) {
        let ground = Ground::new();
        build(&ground, &to);
        let then = ground.capture();
        build(&ground, &from);
        let now = ground.capture();
        ground.put_back(&then.snapshot);
        ground.put_back(&now.snapshot);
    }

    #[test]
    fn wherever_it_was_cut_off_it_is_gone_on_with_or_taken_back(
        from in trees(), to in trees(), cut in 0..20usize, forward in any::<bool>(),
    ) {
        let ground = Ground::new();
        build(&ground, &to);
        let then = ground.capture();
        build(&ground, &from);
        let now = ground.capture();
        let there = now.snapshot.changes_to(&then.snapshot);
        let back = then.snapshot.changes_to(&now.snapshot);
        carry_out(&ground, there.get(..cut).unwrap_or(&there));
        let (changes, end) = if forward { (&there, &then) } else { (&back, &now) };
        carry_out(&ground, changes);
        assert_eq!(ground.capture().snapshot, end.snapshot);
    }
}

#[test]
fn what_a_revision_did_not_look_at_is_left_as_it_is() {
    let ground = Ground::new();
    let (known, secret) = (ground.write("known", "1"), ground.write("secret", "kept"));
    let one = capture(
        std::slice::from_ref(&known),
        &ground.store,
        LIMITS,
        &mut Seen::default(),
    )
    .expect("captured");
    fs::write(&known, "2").expect("written");
    let both = [known.clone(), secret.clone()];
    let two = capture(&both, &ground.store, LIMITS, &mut Seen::default()).expect("captured");
    carry_out(&ground, &two.snapshot.changes_to(&one.snapshot));
    assert_eq!(fs::read(&known).expect("there"), b"1");
    assert_eq!(fs::read(&secret).expect("there"), b"kept");
    // What it looked for, and what was not there, goes.
    let missing = ground.path("missing");
    let absent = capture(
        std::slice::from_ref(&missing),
        &ground.store,
        LIMITS,
        &mut Seen::default(),
    );
    let absent = absent.expect("captured").snapshot;
    fs::write(&missing, "added").expect("written");
    let added = capture(
        std::slice::from_ref(&missing),
        &ground.store,
        LIMITS,
        &mut Seen::default(),
    );
    let added = added.expect("captured").snapshot;
    carry_out(&ground, &added.changes_to(&absent));
    assert!(!missing.exists());
}

#[test]
fn a_link_that_others_may_have_put_on_the_way_is_not_followed() {
    let ground = Ground::new();
    fs::create_dir(ground.path("real")).expect("made");
    ground.write("real/file", "content");
    symlink("real", ground.path("ours")).expect("linked");
    let through = |name: &str| {
        capture(
            &[ground.path(name)],
            &ground.store,
            LIMITS,
            &mut Seen::default(),
        )
    };
    let captured = through("ours/file").expect("captured");
    assert!(captured.at(&ground.path("ours/file")).is_some());
    // A folder that others may write to, as that of an application's own user.
    let shared = ground.path("shared");
    fs::create_dir(&shared).expect("made");
    symlink("../real", shared.join("theirs")).expect("linked");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("set");
    let refused = through("shared/theirs/file").expect_err("refused");
    assert_eq!(refused.code(), "link-untrusted");
    let change = put(
        &shared.join("theirs/file"),
        captured.at(&ground.path("ours/file")),
    );
    let refused = restore(&change, "test", &ground.store).expect_err("refused");
    assert_eq!(refused.code(), "link-untrusted");
    let away = Change {
        action: Action::RemoveFile,
        ..change
    };
    let refused = restore(&away, "test", &ground.store).expect_err("refused");
    assert_eq!(refused.code(), "link-untrusted");
    assert!(ground.path("real/file").exists());
}

#[test]
fn a_path_that_leads_over_a_link_below_another_is_put_back_by_that_way() {
    let ground = Ground::new();
    for release in ["releases", "releases/1", "releases/2", "data"] {
        fs::create_dir(ground.path(release)).expect("made");
    }
    let app = ground.path("app");
    fs::create_dir(&app).expect("made");
    fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).expect("set");
    ground.write("releases/1/program", "v1");
    ground.write("releases/2/program", "v2");
    symlink("../releases/1", app.join("current")).expect("linked");
    symlink("../data", app.join("data")).expect("linked");
    let paths = [
        app.clone(),
        app.join("current/program"),
        app.join("data/extra"),
    ];
    let before = capture(&paths, &ground.store, LIMITS, &mut Seen::default()).expect("captured");
    fs::remove_file(app.join("current")).expect("removed");
    symlink("../releases/2", app.join("current")).expect("linked");
    ground.write("data/extra", "by the bad one");
    let after = capture(&paths, &ground.store, LIMITS, &mut Seen::default()).expect("captured");
    carry_out(&ground, &after.snapshot.changes_to(&before.snapshot));
    let now = capture(&paths, &ground.store, LIMITS, &mut Seen::default()).expect("captured");
    assert_eq!(now.snapshot, before.snapshot);
    assert!(!ground.path("data/extra").exists());
}

#[test]
fn where_nothing_can_be_synced_what_is_so_is_so() {
    let ground = Ground::new();
    let path = PathBuf::from("/proc/sternway-is-not-here");
    let away = Change {
        root: path.clone(),
        path,
        action: Action::RemoveFile,
    };
    let done = restore(&away, "test", &ground.store).expect("as it is");
    assert_eq!(done, Restored::Already);
}

#[test]
fn a_file_that_nobody_touched_is_not_read_again() {
    let ground = Ground::new();
    // Older than the clock of any file system ticks.
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut seen = Seen::default();
    let mut look = |path: &PathBuf| {
        let captured = capture(std::slice::from_ref(path), &ground.store, LIMITS, &mut seen);
        captured.expect("captured")
    };
    let first = look(&old);
    let content = first.snapshot.artifacts().next().expect("a file").clone();
    // Read, it would be found damaged, and mended.
    let kept = ground.store.path_of(&content);
    fs::write(&kept, "damaged").expect("written");
    let second = look(&old);
    assert_eq!(second.snapshot, first.snapshot);
    assert_eq!(second.held, first.held);
    assert!(ground.store.verify(&content).is_err());
    // What is kept no more is read again.
    fs::remove_file(&kept).expect("removed");
    assert_eq!(look(&old).snapshot, first.snapshot);
    ground.store.verify(&content).expect("whole again");

    let fresh = ground.write("fresh", "1");
    let one = look(&fresh);
    ground.write("fresh", "2");
    assert_ne!(look(&fresh).snapshot, one.snapshot);
}

#[test]
fn a_look_sees_what_a_capture_sees_and_keeps_nothing() {
    let ground = Ground::new();
    ground.write("one", "1");
    symlink("one", ground.path("link")).expect("linked");
    let size = || ground.store.size().expect("listed");
    let empty = size();
    let seen = look(&[ground.root()], LIMITS).expect("seen");
    assert_eq!(size(), empty);
    assert_eq!(seen, ground.capture().snapshot);
    assert_ne!(size(), empty);
}
