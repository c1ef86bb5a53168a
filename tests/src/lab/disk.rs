//! A disk for one host, small enough to be filled: a file of the scope with a file system in it.

use std::{path::Path, process::Command};

use crate::engine::Scope;

/// Of the volume: the file that its loop device is made of. Devices have numbers that others get after them.
const LABEL: &str = "sternway.lab.disk";

/// A loop device and the volume by which the engine mounts it: both go with their scope.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) volume: String,
}

impl Disk {
    /// Makes it, empty: the engine fills it with what the image has there.
    ///
    /// # Panics
    /// It cannot be made.
    pub(super) async fn make(scope: &Scope, host: &str, mib: u32) -> Self {
        let file = scope.folder().join(format!("disk-{host}"));
        let mount = scope.folder().join(format!("mount-{host}"));
        std::fs::create_dir(&mount).expect("a folder is made");
        run("truncate", &["--size", &format!("{mib}M")], &file);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-b", "4096"], &file);
        let device = run("losetup", &["--find", "--show"], &file);
        run("mount", &[&device], &mount);
        // One that is not empty is not filled with what the image has.
        run("rmdir", &[], &mount.join("lost+found"));
        run("umount", &[], &mount);
        let device = format!("device={device}");
        let label = format!("{LABEL}={}", file.display());
        let flags = [
            "--driver=local",
            "--opt=type=ext4",
            "--opt",
            &device,
            "--label",
            &label,
        ];
        let volume = scope.volume_with(&format!("disk-{host}"), &flags).await;
        Self { volume }
    }
}

fn run(program: &str, arguments: &[&str], on: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(on).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
