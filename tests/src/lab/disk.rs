//! A disk for one host, small enough to be filled: a file of the scope with a file system in it.

use std::{path::Path, process::Command};

use crate::engine::Scope;

/// A loop device and the volume by which the engine mounts it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) volume: String,
    device: String,
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
        let disk = Self {
            volume: scope.named(&format!("disk-{host}")),
            device,
        };
        run("mount", &[&disk.device], &mount);
        // One that is not empty is not filled with what the image has.
        run("rmdir", &[], &mount.join("lost+found"));
        run("umount", &[], &mount);
        let device = format!("device={}", disk.device);
        let flags = ["--driver=local", "--opt=type=ext4", "--opt", &device];
        let local = format!("disk-{host}");
        scope.volume_with(&local, &flags).await;
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // While it is mounted it stays, and goes with the host.
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}

fn run(program: &str, arguments: &[&str], on: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(on).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
