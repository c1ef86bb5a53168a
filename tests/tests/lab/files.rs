//! Snapshots of files where only root may: owners, capabilities and access lists, immutable files, mounts.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{IFlags, XattrFlags, ioctl_getflags, ioctl_setflags, removexattr, setxattr};
use sternway_agent::{
    snapshot::{
        Action, Captured, Change, Limits, Restored, Seen, Snapshot, SnapshotError, capture, restore,
    },
    store::artifacts::Artifacts,
};
use sternway_tests::engine::Scope;

const LIMITS: Limits = Limits {
    file_bytes: 1_000_000,
    paths: 100,
};

/// `cap_net_bind_service=ep`, as the kernel keeps it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `user::rwx user:77:r-- group::r-x mask::r-x other::r-x`, likewise.
const LIST: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 7, 0, 255, 255, 255, 255, // owner
    2, 0, 4, 0, 77, 0, 0, 0, // a user
    4, 0, 5, 0, 255, 255, 255, 255, // group
    16, 0, 5, 0, 255, 255, 255, 255, // mask
    32, 0, 5, 0, 255, 255, 255, 255, // others
];

struct Ground {
    scope: Scope,
    store: Artifacts,
}

impl Ground {
    async fn new() -> Self {
        let scope = Scope::new().await;
        let store = Artifacts::open(&scope.folder().join("artifacts"), 10_000_000);
        fs::create_dir(scope.folder().join("root")).expect("made");
        Self {
            scope,
            store: store.expect("opened"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scope.folder().join("root").join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        path
    }

    fn capture(&self, path: &Path) -> Captured {
        capture(
            &[path.to_owned()],
            &self.store,
            LIMITS,
            &mut Seen::default(),
        )
        .expect("captured")
    }

    fn put_back(&self, path: &Path, then: &Snapshot) -> Result<Restored, SnapshotError> {
        let thing = then.0.get(path).and_then(Option::as_ref);
        let change = Change {
            path: path.to_owned(),
            root: path.to_owned(),
            action: Action::Put(thing.expect("captured").clone()),
        };
        restore(&change, "test", &self.store)
    }
}

#[tokio::test]
async fn owners_capabilities_and_access_lists_come_back() {
    let ground = Ground::new().await;
    let program = ground.write("program", "v1");
    chown(&program, Some(1234), Some(2345)).expect("set");
    setxattr(
        &program,
        "system.posix_acl_access",
        &LIST,
        XattrFlags::empty(),
    )
    .expect("set");
    setxattr(&program, "user.note", b"kept", XattrFlags::empty()).expect("set");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("set");
    setxattr(
        &program,
        "security.capability",
        &CAPABILITY,
        XattrFlags::empty(),
    )
    .expect("set");
    let before = ground.capture(&program);
    let seen = format!("{:?}", before.snapshot);
    for part in [
        "1234",
        "2345",
        "security.capability",
        "posix_acl_access",
        "user.note",
    ] {
        assert!(seen.contains(part), "{seen}");
    }

    fs::write(&program, "v2").expect("written");
    chown(&program, Some(0), Some(0)).expect("set");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("set");
    let _ = removexattr(&program, "security.capability");
    setxattr(
        &program,
        "user.other",
        b"by the bad one",
        XattrFlags::empty(),
    )
    .expect("set");
    let after = ground.capture(&program);
    assert_ne!(before.snapshot, after.snapshot);
    for then in [&before, &after, &before] {
        let done = ground.put_back(&program, &then.snapshot).expect("restored");
        assert_eq!(done, Restored::Changed);
        assert_eq!(ground.capture(&program).snapshot, then.snapshot);
    }
    // The same content under another owner is another thing.
    chown(&program, Some(0), Some(0)).expect("set");
    let done = ground
        .put_back(&program, &before.snapshot)
        .expect("restored");
    assert_eq!(done, Restored::Changed);
    assert_eq!(ground.capture(&program).snapshot, before.snapshot);
}

/// A flag that is taken away again, else nobody could remove the file.
struct Immutable(File);

impl Immutable {
    fn set(path: &Path) -> Self {
        let file = File::open(path).expect("opened");
        let flags = ioctl_getflags(&file).expect("flags");
        ioctl_setflags(&file, flags | IFlags::IMMUTABLE).expect("set");
        Self(file)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        if let Ok(flags) = ioctl_getflags(&self.0) {
            let _ = ioctl_setflags(&self.0, flags - IFlags::IMMUTABLE);
        }
    }
}

#[tokio::test]
async fn what_is_immutable_is_told_as_that_and_left() {
    let ground = Ground::new().await;
    let path = ground.write("file", "old");
    let old = ground.capture(&path);
    fs::write(&path, "new").expect("written");
    let immutable = Immutable::set(&path);
    let refused = ground.put_back(&path, &old.snapshot).expect_err("refused");
    assert_eq!(refused.code(), "immutable", "{refused}");
    assert_eq!(fs::read(&path).expect("there"), b"new");
    let beside = fs::read_dir(ground.path("")).expect("a folder").count();
    assert_eq!(beside, 1, "nothing is left beside it");
    drop(immutable);
    ground.put_back(&path, &old.snapshot).expect("restored");
    // What stands there already is no reason to change it.
    let _immutable = Immutable::set(&path);
    let done = ground.put_back(&path, &old.snapshot).expect("as it is");
    assert_eq!(done, Restored::Already);
}

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    fn make(arguments: &[&str], at: &Path) -> Self {
        let done = Command::new("mount").args(arguments).arg(at).output();
        let done = done.expect("mount starts");
        assert!(done.status.success(), "{done:?}");
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[tokio::test]
async fn on_a_read_only_mount_only_what_differs_is_refused() {
    let ground = Ground::new().await;
    let path = ground.write("file", "old");
    let old = ground.capture(&path);
    fs::write(&path, "new").expect("written");
    let new = ground.capture(&path);
    let folder = ground.path("");
    let at = folder.to_string_lossy().trim_end_matches('/').to_owned();
    let _mount = Mount::make(&["--bind", &at], Path::new(&at));
    let remount = Command::new("mount")
        .args(["-o", "remount,bind,ro", &at])
        .output();
    assert!(remount.expect("mount starts").status.success());
    let refused = ground.put_back(&path, &old.snapshot).expect_err("refused");
    assert_eq!(refused.code(), "read-only", "{refused}");
    let done = ground.put_back(&path, &new.snapshot).expect("as it is");
    assert_eq!(done, Restored::Already);
}

#[tokio::test]
async fn what_is_mounted_at_the_very_path_is_told_as_that() {
    let ground = Ground::new().await;
    let path = ground.write("file", "old");
    let old = ground.capture(&path);
    fs::write(&path, "new").expect("written");
    let other = ground.write("other", "mounted");
    let from = other.to_string_lossy().into_owned();
    let _mount = Mount::make(&["--bind", &from], &path);
    let refused = ground.put_back(&path, &old.snapshot).expect_err("refused");
    assert_eq!(refused.code(), "mount-point", "{refused}");
    assert_eq!(fs::read(&path).expect("there"), b"mounted");
}
