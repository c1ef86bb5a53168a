//! `ctl.toml`: where the controller is and which credentials speak to it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sternway_proto::settings::{self, SettingsError};

use crate::error::{CtlError, Kind};

const KEYS: [&str; 5] = ["controller", "cluster", "certificate", "key", "trust"];

/// The configuration, with its paths resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The file it was read from.
    pub(crate) file: PathBuf,
    /// `host:port`.
    pub(crate) controller: String,
    /// The id of the cluster that the certificates are of.
    pub(crate) cluster: String,
    /// PEM: the operator's certificate and its issuer.
    pub(crate) certificate: PathBuf,
    /// PEM: the operator's key.
    pub(crate) key: PathBuf,
    /// PEM: the CAs that controllers are trusted by.
    pub(crate) trust: PathBuf,
}

/// Where the configuration is: the flag or `STERNWAY_CONFIG`, else the user's own folder.
pub(crate) fn locate(given: Option<&Path>) -> Result<PathBuf, CtlError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let folder = match env::var_os("XDG_CONFIG_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => match env::var_os("HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home).join(".config"),
            _ => {
                return Err(CtlError::new(Kind::Error, "cannot tell where ctl.toml is")
                    .because("neither HOME nor XDG_CONFIG_HOME is set")
                    .next("name it: `ctl --config FILE …` or STERNWAY_CONFIG=FILE"));
            }
        },
    };
    Ok(folder.join("sternway").join("ctl.toml"))
}

/// Reads the configuration.
///
/// # Errors
/// The file cannot be read, is not TOML, lacks a key or has one that is not known.
pub(crate) fn load(file: &Path) -> Result<Config, CtlError> {
    let doing = format!("cannot read the configuration {}", file.display());
    let text = fs::read_to_string(file).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let error = CtlError::new(Kind::Error, doing.as_str()).because_of(&error);
        if missing {
            error.next(
                "`sternway-controller init` and `sternway-controller operator issue` write one; name it \
                 with `--config FILE` or STERNWAY_CONFIG=FILE",
            )
        } else {
            error
        }
    })?;
    parse(file, &text)
}

/// Parses the text of a configuration. Relative paths are relative to the file's folder.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Config, CtlError> {
    let wrong = |why: String| {
        CtlError::new(
            Kind::Error,
            format!("the configuration {} is not right", file.display()),
        )
        .because(why)
    };
    let table = settings::table(file, text).map_err(|error| match error {
        SettingsError::Syntax { message, .. } => wrong(message),
        error => wrong(error.to_string()),
    })?;
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(
            wrong(format!("there is no key `{}`", crate::text::clip(key, 60)))
                .next(settings::hint(key, &KEYS, "")),
        );
    }
    let string = |key: &str| match table.get(key) {
        Some(toml::Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(_) => Err(wrong(format!("`{key}` is no text, or empty"))),
        None => Err(wrong(format!("`{key}` is missing"))),
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    Ok(Config {
        file: file.to_owned(),
        controller: string("controller")?,
        cluster: string("cluster")?,
        certificate: folder.join(string("certificate")?),
        key: folder.join(string("key")?),
        trust: folder.join(string("trust")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::View;

    const GOOD: &str = r#"
        controller = "127.0.0.1:7443"
        cluster = "0198"
        certificate = "operator.pem"
        key = "/keys/operator.key"
        trust = "trust.pem"
    "#;

    fn error(text: &str) -> String {
        let error = parse(Path::new("/etc/x/ctl.toml"), text).expect_err("wrong");
        error.render(View::plain(0))
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(Path::new("/etc/x/ctl.toml"), GOOD).expect("right");
        assert_eq!(config.certificate, Path::new("/etc/x/operator.pem"));
        assert_eq!(config.key, Path::new("/keys/operator.key"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_right_one() {
        let text = GOOD.replace("certificate", "certifcate");
        insta::assert_snapshot!(error(&text), @r"
        error: the configuration /etc/x/ctl.toml is not right
          because: there is no key `certifcate`
          next: did you mean `certificate`?
        ");
        let text = format!("{GOOD}\nqqqq = 1");
        insta::assert_snapshot!(error(&text), @r"
        error: the configuration /etc/x/ctl.toml is not right
          because: there is no key `qqqq`
          next: the keys are controller, cluster, certificate, key, trust
        ");
    }

    #[test]
    fn missing_and_wrong_values_are_named() {
        insta::assert_snapshot!(error("controller = 'x'"), @r"
        error: the configuration /etc/x/ctl.toml is not right
          because: `cluster` is missing
        ");
        insta::assert_snapshot!(error("controller = 5"), @r"
        error: the configuration /etc/x/ctl.toml is not right
          because: `controller` is no text, or empty
        ");
        assert!(error("key = ").contains("because: "));
    }
}
