//! The controller's settings: defaults, then the file, then the environment, then flags; the later wins.
//! A key that does not exist is refused, with the nearest right one and where it stands.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sternway_proto::{
    address,
    service::LogFormat,
    settings::{self, Schema, Sources, duration},
};

use crate::pki::Lifetimes;

/// What the environment's keys begin with: `STERNWAY_CONTROLLER__DATA_DIR`.
pub const PREFIX: &str = "STERNWAY_CONTROLLER__";

/// Everything that can be set. Keys are flat; durations read like `10m` or `1h 30m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The database, the certificate authority, and what runs now.
    pub data_dir: PathBuf,
    /// Where agents and operators connect: mutual TLS.
    pub listen: String,
    /// Where machines join: TLS, tokens and signing requests only.
    pub listen_enrolment: String,
    /// Plain HTTP for Prometheus and health. Empty: off.
    pub listen_metrics: String,
    /// `host:port` by which hosts and operators reach `listen`. Empty: made from it.
    pub advertise: String,
    /// The same for `listen_enrolment`. Empty: at the host of `advertise`, where that is set.
    pub advertise_enrolment: String,
    pub log_format: LogFormat,
    /// A filter as of `tracing`: `info`, `sternway_controller=debug,info`.
    pub log: String,
    #[serde(with = "duration")]
    pub heartbeat_interval: Duration,
    /// How long an order waits for its host where the operator says nothing.
    #[serde(with = "duration")]
    pub order_deadline: Duration,
    /// The longest deadline an operator may ask for.
    #[serde(with = "duration")]
    pub order_deadline_at_most: Duration,
    /// How long past its deadline, and past the last sign of its host, an order that was sent stays open.
    #[serde(with = "duration")]
    pub order_lost_after: Duration,
    /// For an agent's answer to a plan request.
    #[serde(with = "duration")]
    pub plan_timeout: Duration,
    /// How long a plan may be carried out.
    #[serde(with = "duration")]
    pub plan_lifetime: Duration,
    #[serde(with = "duration")]
    pub token_lifetime: Duration,
    #[serde(with = "duration")]
    pub host_certificate_lifetime: Duration,
    #[serde(with = "duration")]
    pub operator_certificate_lifetime: Duration,
    /// From being asked to stop to stopping, at most.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            data_dir: "/var/lib/sternway-controller".into(),
            listen: "0.0.0.0:7443".into(),
            listen_enrolment: "0.0.0.0:7444".into(),
            listen_metrics: "127.0.0.1:7445".into(),
            advertise: String::new(),
            advertise_enrolment: String::new(),
            log_format: LogFormat::Human,
            log: "info".into(),
            heartbeat_interval: Duration::from_secs(10),
            order_deadline: minutes(10),
            order_deadline_at_most: minutes(7 * 24 * 60),
            order_lost_after: minutes(60),
            plan_timeout: Duration::from_secs(20),
            plan_lifetime: minutes(10),
            token_lifetime: minutes(60),
            host_certificate_lifetime: minutes(7 * 24 * 60),
            operator_certificate_lifetime: minutes(30 * 24 * 60),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

pub use sternway_proto::settings::{Flags, SettingsError};

impl Settings {
    /// Every key, as it stands in the file.
    #[must_use]
    pub fn keys() -> Vec<String> {
        settings::keys_of(&Self::default())
    }

    /// What they look like, for whoever reads them.
    #[must_use]
    pub fn schema() -> Schema {
        Schema {
            prefix: "STERNWAY_CONTROLLER",
            keys: Self::keys(),
            lists: &[],
        }
    }

    /// Reads them: flags before the environment before the file before the defaults.
    ///
    /// # Errors
    /// The file cannot be read, a key does not exist, or a value is not valid.
    pub fn load(
        file: Option<&Path>,
        environment: HashMap<String, String>,
        flags: Flags,
    ) -> Result<Self, SettingsError> {
        let settings: Self = Self::schema().load(Sources {
            file,
            environment,
            flags,
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// The settings as a file that says the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// `host:port` by which operators reach the controller, known before it listens.
    ///
    /// # Errors
    /// It is not configured, and `listen` leaves the port open.
    pub fn controller_address(&self) -> Result<String, SettingsError> {
        let bound: Option<std::net::SocketAddr> = self.listen.parse().ok();
        match bound {
            Some(bound) if bound.port() != 0 || !self.advertise.is_empty() => {
                Ok(crate::serve::advertised(&self.advertise, bound))
            }
            _ => Err(SettingsError::Invalid {
                key: "advertise".to_owned(),
                message: "set it to HOST:PORT: the port of listen is not fixed".to_owned(),
            }),
        }
    }

    /// How long certificates are valid.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            agent: self.host_certificate_lifetime,
            operator: self.operator_certificate_lifetime,
            ..Lifetimes::default()
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        let invalid = |key: &str, message: &str| {
            Err(SettingsError::Invalid {
                key: key.to_owned(),
                message: message.to_owned(),
            })
        };
        for (key, address, optional) in [
            ("listen", &self.listen, false),
            ("listen_enrolment", &self.listen_enrolment, false),
            ("listen_metrics", &self.listen_metrics, true),
        ] {
            let right: Result<std::net::SocketAddr, _> = address.parse();
            if right.is_err() && !(optional && address.is_empty()) {
                return invalid(key, "it is no IP:PORT, for instance 0.0.0.0:7443");
            }
        }
        // They go into join tokens and to operators: what is wrong with them is otherwise told to somebody else, later.
        for (key, told) in [
            ("advertise", &self.advertise),
            ("advertise_enrolment", &self.advertise_enrolment),
        ] {
            if !told.is_empty()
                && let Err(why) = address::check(told)
            {
                return invalid(key, &format!("{told:?} is no address: {why}"));
            }
        }
        for (key, duration, least) in [
            ("heartbeat_interval", self.heartbeat_interval, 100),
            ("order_deadline", self.order_deadline, 1000),
            ("order_lost_after", self.order_lost_after, 1000),
            ("plan_timeout", self.plan_timeout, 100),
            ("plan_lifetime", self.plan_lifetime, 1000),
            ("token_lifetime", self.token_lifetime, 1000),
            (
                "host_certificate_lifetime",
                self.host_certificate_lifetime,
                1000,
            ),
            (
                "operator_certificate_lifetime",
                self.operator_certificate_lifetime,
                1000,
            ),
            ("shutdown_timeout", self.shutdown_timeout, 100),
        ] {
            if duration < Duration::from_millis(least) {
                return invalid(key, &format!("it is shorter than {least} ms"));
            }
        }
        if self.order_deadline > self.order_deadline_at_most {
            return invalid("order_deadline", "it is longer than order_deadline_at_most");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
            .collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn flags_go_before_the_environment_before_the_file_before_the_defaults() {
        let file = file("log = \"file\"\nlisten = \"127.0.0.1:1\"\nplan_lifetime = \"3m\"\n");
        let settings = Settings::load(
            Some(file.path()),
            environment(&[("LOG", "environment"), ("LISTEN", "127.0.0.1:2")]),
            vec![("listen", "127.0.0.1:3".into())],
        )
        .expect("valid");
        assert_eq!(settings.log, "environment");
        assert_eq!(settings.listen, "127.0.0.1:3");
        assert_eq!(settings.plan_lifetime, Duration::from_mins(3));
        assert_eq!(settings.listen_enrolment, "0.0.0.0:7444");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_right_one_and_its_place() {
        let wrong = file("\nlisten_enrollment = \"0.0.0.0:1\"\n");
        let said = Settings::load(Some(wrong.path()), HashMap::new(), Vec::new())
            .expect_err("unknown")
            .to_string();
        assert!(said.contains("listen_enrollment"), "{said}");
        assert!(said.contains("did you mean `listen_enrolment`?"), "{said}");
        assert!(said.contains(&wrong.path().display().to_string()), "{said}");
        let said = Settings::load(None, environment(&[("DATADIR", "/x")]), Vec::new())
            .expect_err("unknown")
            .to_string();
        assert!(said.contains("STERNWAY_CONTROLLER__DATADIR"), "{said}");
        assert!(said.contains("STERNWAY_CONTROLLER__DATA_DIR"), "{said}");
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        for (text, key) in [
            ("plan_lifetime = \"soon\"", "plan_lifetime"),
            ("listen = \"everywhere\"", "listen"),
            ("heartbeat_interval = \"0s\"", "heartbeat_interval"),
            ("advertise = \"controller.example\"", "it has no port"),
            (
                "advertise = \"https://controller.example:1\"",
                "it has a scheme",
            ),
            ("advertise_enrolment = \":7444\"", "advertise_enrolment"),
        ] {
            let file = file(text);
            let said = Settings::load(Some(file.path()), HashMap::new(), Vec::new())
                .expect_err("wrong")
                .to_string();
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn a_word_that_is_none_of_a_settings_words_brings_those_that_are() {
        let given = [
            (file("log_format = \"xml\""), environment(&[])),
            (file(""), environment(&[("LOG_FORMAT", "xml")])),
        ];
        for (file, environment) in given {
            let refused = Settings::load(Some(file.path()), environment, Vec::new());
            assert_eq!(
                refused.expect_err("wrong").to_string(),
                "the setting log_format is not valid: it is one of human, json"
            );
        }
    }

    #[test]
    fn the_sample_file_says_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/controller.toml");
        let sample = Settings::load(Some(&path), HashMap::new(), Vec::new()).expect("valid");
        assert_eq!(sample, Settings::default());
        let text = std::fs::read_to_string(&path).expect("read");
        let table: toml::Table = text.parse().expect("TOML");
        assert_eq!(table.keys().cloned().collect::<Vec<_>>(), Settings::keys());
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        let shown = file(&Settings::default().to_toml());
        let again = Settings::load(Some(shown.path()), HashMap::new(), Vec::new());
        assert_eq!(again.expect("valid"), Settings::default());
    }
}
