//! Whether there is a cluster in a data folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The folder of the authority, within the data folder.
pub(crate) const PKI: &str = "pki";

/// It cannot be said what is there.
#[derive(Debug, Error)]
#[error("cannot look at {}{}", path.display(), next_step(source))]
pub struct Unreadable {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn next_step(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run this as root, or as the controller's user)",
        _ => "",
    }
}

/// Whether something is there. That nobody may look is no answer.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn there(path: &Path) -> Result<bool, Unreadable> {
    path.try_exists().map_err(|source| Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Whether a data folder has the authority of a cluster.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn is_in(data_dir: &Path) -> Result<bool, Unreadable> {
    there(&data_dir.join(PKI))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_called_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!is_in(folder.path()).expect("looked at"));
        std::fs::create_dir(folder.path().join(PKI)).expect("made");
        assert!(is_in(folder.path()).expect("looked at"));
        let around = folder.path().join("around");
        std::os::unix::fs::symlink(&around, &around).expect("linked");
        let error = is_in(&around).expect_err("it leads nowhere");
        assert!(error.to_string().contains("around/pki"), "{error}");
    }

    #[test]
    fn who_may_not_look_is_told_who_may() {
        let error = Unreadable {
            path: "/var/lib/sternway-controller/pki".into(),
            source: io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            error.to_string(),
            "cannot look at /var/lib/sternway-controller/pki (run this as root, or as the controller's user)"
        );
    }
}
