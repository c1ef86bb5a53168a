//! What the hosts of the lab are made of.

use std::fmt;

use tokio::process::Command;

use crate::binary;

/// Makes the images.
const SCRIPT: &str = "deploy/lab/image";

/// A generation of host: what is claimed of engines and of systemd is shown on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Debian 12: systemd 252, Docker 20.10 (API 1.41).
    Bookworm,
    /// Debian 13: systemd 257, Docker 26.1 (API 1.45).
    Trixie,
}

impl Generation {
    /// All of them, the oldest first.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The image of its hosts: made by the first one that asks for it.
    ///
    /// # Panics
    /// It cannot be made.
    pub async fn image(self) -> String {
        let output = Command::new(binary::script(SCRIPT))
            .arg(self.to_string())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the script starts");
        assert!(
            output.status.success(),
            "the image of {self} hosts: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        })
    }
}
