//! What `sternway-controller init` leaves in the folder of a service that has a user of its own. The binary, as root.
#![expect(
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output},
};

/// Nobody's on this machine, as those that a service manager gives.
const OWNER: u32 = 61_234;

fn controller(data: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sternway-controller"))
        .arg("--data-dir")
        .arg(data)
        .args(["--listen", "127.0.0.1:7443"])
        .args(words)
        .output()
        .expect("it starts")
}

/// Everything below a folder, with its owner and group.
fn owned(folder: &Path) -> Vec<(String, u32, u32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = path.symlink_metadata().expect("it is there");
        all.push((path.display().to_string(), meta.uid(), meta.gid()));
        if meta.is_dir() {
            all.extend(owned(&path));
        }
    }
    all
}

#[test]
fn what_root_makes_in_a_services_folder_is_the_services() {
    let around = tempfile::tempdir().expect("a folder");
    let (data, out) = (around.path().join("data"), around.path().join("alice"));
    fs::create_dir(&data).expect("made");
    chown(&data, Some(OWNER), Some(OWNER)).expect("these tests are root's");
    // What somebody else has put there stays whose it was.
    fs::write(data.join("theirs"), "root's").expect("written");

    let out = out.display().to_string();
    let words = ["--operator", "alice", "--operator-dir", &out];
    let made = controller(&data, &[&["init"], &words[..]].concat());
    assert!(made.status.success(), "{made:?}");

    let all = owned(&data);
    for name in ["pki", "pki/root-key.pem", "controller.db", "lock"] {
        let path = data.join(name).display().to_string();
        assert!(all.iter().any(|it| it.0 == path), "{name}: {all:?}");
    }
    let other: Vec<_> = all
        .iter()
        .filter(|it| (it.1, it.2) != (OWNER, OWNER))
        .collect();
    let theirs = (data.join("theirs").display().to_string(), 0, 0);
    assert_eq!(other, [&theirs]);
    // The operator's credentials are of who has made them.
    assert_eq!(fs::metadata(&out).expect("there").uid(), 0);
}

#[test]
fn who_has_no_cluster_is_told_all_that_it_takes_to_make_one() {
    let data = tempfile::tempdir().expect("a folder");
    let refused = controller(data.path(), &["run"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for word in ["init", "--operator NAME", "--operator-dir DIR", "--config"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_unit_whose_data_is_elsewhere_is_told_what_it_takes() {
    let around = tempfile::tempdir().expect("a folder");
    let data = around.path().join("data");
    let out = around.path().join("alice").display().to_string();
    let made = controller(
        &data,
        &["init", "--operator", "alice", "--operator-dir", &out],
    );
    assert!(made.status.success(), "{made:?}");
    // As the unit's user, that may look at root's folder, and no more.
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    for path in [around.path(), &data] {
        open(path).expect("opened");
    }
    let ran = |state: &str| {
        let refused = Command::new(env!("CARGO_BIN_EXE_sternway-controller"))
            .arg("--data-dir")
            .arg(&data)
            .arg("run")
            .env("STATE_DIRECTORY", state)
            .uid(OWNER)
            .gid(OWNER)
            .output()
            .expect("it starts");
        assert!(!refused.status.success());
        String::from_utf8_lossy(&refused.stderr).into_owned()
    };
    let said = ran("/var/lib/sternway-controller");
    let file = data.join("controller.db").display().to_string();
    for word in ["/var/lib/sternway-controller", "drop-in", &file] {
        assert!(said.contains(word), "{said}");
    }
    let at_home = ran(&data.display().to_string());
    assert!(!at_home.contains("drop-in"), "{at_home}");
}

#[test]
fn a_folder_with_credentials_is_left_alone_and_what_to_do_is_said() {
    let around = tempfile::tempdir().expect("a folder");
    let data = around.path().join("data");
    let out = around.path().join("alice").display().to_string();
    let words = ["--operator", "alice", "--operator-dir", &out];
    let made = controller(&data, &[&["init"], &words[..]].concat());
    assert!(made.status.success(), "{made:?}");
    let again = [&["operator", "issue", "--role", "admin"], &words[..]].concat();
    let refused = controller(&data, &again);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains(&out) && said.contains("choose a new folder, then put it in the place"),
        "{said}"
    );
}
