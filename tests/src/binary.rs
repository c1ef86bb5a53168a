//! Finds the binaries under test beside the test executable, and the scripts in the source tree.

use std::path::PathBuf;

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_owned()
}

/// A binary of the workspace, as built for the profile of the running test.
///
/// # Panics
/// It is not there: nobody built the workspace.
pub fn find(name: &str) -> PathBuf {
    let executable = std::env::current_exe().expect("the test executable has a path");
    // target/PROFILE/deps/TEST-HASH, or target/PROFILE/NAME for a binary.
    let folder = executable
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_some_and(|name| name != "deps"))
        .expect("a test executable lies in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first with `make build` (cargo build --workspace --bins)",
        path.display()
    );
    path
}

/// A script of the source tree, for instance `deploy/scripts/engine`.
pub fn script(path: &str) -> PathBuf {
    workspace().join(path)
}
