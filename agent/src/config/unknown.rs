//! Finds keys that do not exist, and what was probably meant.

use std::{collections::HashMap, path::Path};

use super::{PREFIX, Settings, SettingsError};

/// Below this likeness (of 1) a key is no typing error of another.
const LIKENESS: f64 = 0.75;

/// Refuses a file with a key that does not exist.
pub(super) fn file(path: &Path, text: &str) -> Result<(), SettingsError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| SettingsError::Syntax {
        path: path.to_owned(),
        // Only the message: the excerpt that Display adds could hold anything.
        message: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    for (key, value) in &table {
        match value.as_table() {
            None => found.push(key.clone()),
            Some(below) => found.extend(below.keys().map(|sub| format!("{key}.{sub}"))),
        }
    }
    let keys = Settings::keys();
    match found.into_iter().find(|key| !keys.contains(key)) {
        Some(key) => Err(refuse(
            path.display().to_string(),
            key.clone(),
            &key,
            &keys,
            String::clone,
        )),
        None => Ok(()),
    }
}

/// Refuses an environment with a key that begins like ours and does not exist.
pub(super) fn environment(ours: &HashMap<String, String>) -> Result<(), SettingsError> {
    let keys: Vec<String> = Settings::keys()
        .iter()
        .map(|key| key.replace('.', "__").to_uppercase())
        .collect();
    let wrong = ours.keys().find_map(|key| {
        let name = key.strip_prefix(PREFIX)?;
        (!keys.iter().any(|known| known == name)).then_some((key, name))
    });
    match wrong {
        Some((key, name)) => {
            let place = "the environment".to_owned();
            Err(refuse(place, key.clone(), name, &keys, |near| {
                format!("{PREFIX}{near}")
            }))
        }
        None => Ok(()),
    }
}

fn refuse(
    place: String,
    key: String,
    name: &str,
    keys: &[String],
    write: impl Fn(&String) -> String,
) -> SettingsError {
    let nearest = keys
        .iter()
        .map(|key| (strsim::jaro_winkler(key, name), key))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= LIKENESS);
    let hint = match nearest {
        Some((_, near)) => format!("did you mean `{}`?", write(near)),
        None => format!("the keys are {}", keys.join(", ")),
    };
    SettingsError::Unknown { place, key, hint }
}
