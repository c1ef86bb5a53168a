//! What the hosts have to say when a test fails.

use std::process::Command;

/// What is printed of one host: the end of what ours say, and what anybody else complains of.
const SHOWN: [(&str, &[&str]); 2] = [
    ("Sternway", &["--lines=80", "--unit=sternway-*"]),
    ("complaints", &["--lines=40", "--priority=warning"]),
];

/// Prints the end of a host's journal, of this boot and of those before: of the host where it answers, else of its disk.
/// Blocking, for it works in a panic.
#[expect(clippy::print_stderr, reason = "for the person who reads the failure")]
pub(super) fn print(host: &str, container: &str) {
    for (what, which) in SHOWN {
        let show = [&["--no-pager", "--output=short-iso-precise"], which].concat();
        let exec = ["15", "docker", "exec", container, "journalctl"];
        let text = said("timeout", &[&exec[..], &show[..]].concat())
            .or_else(|| of_its_disk(container, &show))
            .unwrap_or_else(|| "it cannot be read".to_owned());
        eprintln!("--- journal of {host}: {what} ---\n{text}\n---");
    }
}

fn of_its_disk(container: &str, show: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().ok()?;
    let to = folder.path().to_str()?;
    let from = format!("{container}:/var/log/journal");
    said("docker", &["cp", &from, to])?;
    let of = ["--directory", to];
    said("journalctl", &[&of[..], show].concat())
}

/// What it says, if it ends well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
