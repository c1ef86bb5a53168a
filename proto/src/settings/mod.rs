//! How programs read their settings: defaults, then the file, then the environment, then flags; the later
//! wins. A key that does not exist is refused, with the nearest right one and where it stands. No error
//! holds a value.

pub mod duration;
mod unknown;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, Environment, File, FileFormat};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use self::unknown::{hint, nearest};

/// What stands between the levels of a key in the environment.
const SEPARATOR: &str = "__";

/// Settings from flags: key and value.
pub type Flags = Vec<(&'static str, String)>;

/// Why settings cannot be used. Never holds a value: only keys, and where they stand.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("failed to read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration {} is not TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{place} has a key {key:?} that does not exist; {hint}")]
    Unknown {
        place: String,
        key: String,
        hint: String,
    },
    #[error("the setting {key} is not valid: {message}")]
    Invalid { key: String, message: String },
}

/// What the settings of a program look like.
#[derive(Debug, Clone)]
pub struct Schema {
    /// What its keys in the environment begin with, without the separator: `STERNWAY_AGENT`.
    pub prefix: &'static str,
    /// Every key, with a dot between levels.
    pub keys: Vec<String>,
    /// Keys whose value in the environment is a list, with commas.
    pub lists: &'static [&'static str],
}

/// Where settings come from, beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    pub file: Option<&'a Path>,
    /// The whole environment; what is not the program's own is passed over.
    pub environment: HashMap<String, String>,
    pub flags: Flags,
}

impl Schema {
    fn separated(&self) -> String {
        format!("{}{SEPARATOR}", self.prefix)
    }

    /// Reads the settings: flags before the environment before the file before the defaults. The library leaves
    /// empty lists of the defaults out: such a field needs `#[serde(default)]`.
    ///
    /// # Errors
    /// The file cannot be read, a key does not exist, or a value is of the wrong kind.
    pub fn load<S>(&self, sources: Sources<'_>) -> Result<S, SettingsError>
    where
        S: Default + Serialize + DeserializeOwned,
    {
        let begin = self.separated();
        let ours: HashMap<String, String> = sources
            .environment
            .into_iter()
            .filter(|(key, _)| key.starts_with(&begin))
            .collect();
        unknown::environment(self, &begin, &ours)?;
        let mut builder = Config::builder().add_source(built(Config::try_from(&S::default()))?);
        if let Some(path) = sources.file {
            let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
                path: path.to_owned(),
                source,
            })?;
            unknown::file(self, path, &table(path, &text)?)?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        builder = builder.add_source(self.environment().source(Some(ours)));
        for (key, value) in sources.flags {
            builder = built(builder.set_override(key, value))?;
        }
        let merged = built(builder.build())?;
        serde_path_to_error::deserialize(merged).map_err(|error| SettingsError::Invalid {
            key: error.path().to_string(),
            message: reason(error.inner()),
        })
    }

    fn environment(&self) -> Environment {
        let environment = Environment::with_prefix(self.prefix)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .try_parsing(true);
        if self.lists.is_empty() {
            return environment;
        }
        self.lists
            .iter()
            .fold(environment.list_separator(","), |environment, key| {
                environment.with_list_parse_key(key)
            })
    }

    /// What one key says, as far as that can be told from sources that are not right as a whole. For the
    /// form in which the error itself is to be told.
    #[must_use]
    pub fn guess(&self, sources: &Sources<'_>, key: &str) -> Option<String> {
        let flag = sources.flags.iter().find(|(name, _)| *name == key);
        if let Some((_, value)) = flag {
            return Some(value.clone());
        }
        let name = self.separated() + &key.to_uppercase();
        if let Some(value) = sources.environment.get(&name) {
            return Some(value.clone());
        }
        let text = std::fs::read_to_string(sources.file?).ok()?;
        let table: toml::Table = toml::from_str(&text).ok()?;
        Some(table.get(key)?.as_str()?.to_owned())
    }
}

/// Every key of a value, with a dot between levels, as a file has them.
#[must_use]
pub fn keys_of<S: Serialize>(settings: &S) -> Vec<String> {
    flat(&toml::Table::try_from(settings).unwrap_or_default())
}

/// Parses a file of settings.
///
/// # Errors
/// It is not TOML.
pub fn table(path: &Path, text: &str) -> Result<toml::Table, SettingsError> {
    toml::from_str(text).map_err(|error| SettingsError::Syntax {
        path: path.to_owned(),
        // Only the message: the excerpt that Display adds could hold anything.
        message: error.message().to_owned(),
    })
}

fn flat(table: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        match value.as_table() {
            None => keys.push(key.clone()),
            Some(below) => keys.extend(below.keys().map(|sub| format!("{key}.{sub}"))),
        }
    }
    keys
}

/// What is wrong, without the key, which is told before.
fn reason(error: &ConfigError) -> String {
    match error {
        ConfigError::At { error, .. } => reason(error),
        other => other.to_string(),
    }
}

fn built<T>(result: Result<T, ConfigError>) -> Result<T, SettingsError> {
    result.map_err(|error| SettingsError::Invalid {
        key: "configuration".into(),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        name: String,
        #[serde(with = "duration")]
        interval: Duration,
        below: Below,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Below {
        size: u32,
        #[serde(default)]
        names: Vec<String>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self {
                name: "default".into(),
                interval: Duration::from_mins(1),
                below: Below {
                    size: 1,
                    names: Vec::new(),
                },
            }
        }
    }

    fn schema() -> Schema {
        Schema {
            prefix: "STERNWAY_TEST",
            keys: keys_of(&Settings::default()),
            lists: &["below.names"],
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(pair).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn said(sources: Sources<'_>) -> String {
        let error = schema().load::<Settings>(sources).expect_err("wrong");
        error.to_string()
    }

    #[test]
    fn the_later_source_wins_and_the_rest_of_the_environment_is_passed_over() {
        let file = file("name = \"file\"\ninterval = \"2m\"\n[below]\nsize = 2\n");
        let read: Settings = schema()
            .load(Sources {
                file: Some(file.path()),
                environment: environment(&[
                    ("STERNWAY_TEST__NAME", "environment"),
                    ("STERNWAY_TEST__BELOW__NAMES", "a,b"),
                    ("STERNWAY_TESTING", "another's"),
                ]),
                flags: vec![("below.size", "4".into())],
            })
            .expect("right");
        let expected = Settings {
            name: "environment".into(),
            interval: Duration::from_mins(2),
            below: Below {
                size: 4,
                names: vec!["a".into(), "b".into()],
            },
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn an_unknown_key_is_refused_wherever_it_stands() {
        for (text, hint) in [
            ("nane = \"x\"", "did you mean `name`?"),
            ("[below]\nsizes = 1", "did you mean `below.size`?"),
            (
                "qqqq = 1",
                "the keys are below.names, below.size, interval, name",
            ),
        ] {
            let wrong = file(text);
            let said = said(Sources {
                file: Some(wrong.path()),
                ..Sources::default()
            });
            assert!(said.contains(hint), "{said}");
            assert!(said.contains(&wrong.path().display().to_string()), "{said}");
        }
        let said = said(Sources {
            environment: environment(&[("STERNWAY_TEST__BELOW__SISE", "1")]),
            ..Sources::default()
        });
        assert!(
            said.contains("did you mean `STERNWAY_TEST__BELOW__SIZE`?"),
            "{said}"
        );
    }

    #[test]
    fn an_error_names_the_key_and_never_a_value() {
        for (text, key) in [
            ("interval = \"hunter2\"", "interval"),
            ("[below]\nnames = 3", "below.names"),
            ("name = hunter2", "is not TOML"),
        ] {
            let file = file(text);
            let said = said(Sources {
                file: Some(file.path()),
                ..Sources::default()
            });
            assert!(said.contains(key), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn one_key_can_be_told_although_another_is_wrong() {
        let file = file("name = \"file\"\nwrong = 1\n");
        let mut sources = Sources {
            file: Some(file.path()),
            ..Sources::default()
        };
        let guess = |sources: &Sources<'_>| schema().guess(sources, "name");
        assert_eq!(guess(&sources).as_deref(), Some("file"));
        sources.environment = environment(&[("STERNWAY_TEST__NAME", "environment")]);
        assert_eq!(guess(&sources).as_deref(), Some("environment"));
        sources.flags = vec![("name", "flag".into())];
        assert_eq!(guess(&sources).as_deref(), Some("flag"));
        assert_eq!(guess(&Sources::default()), None);
    }
}
