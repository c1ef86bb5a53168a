//! Finds keys that do not exist, and what was probably meant.

use std::{collections::HashMap, path::Path};

use super::{PREFIX, Settings, SettingsError};
use crate::select::nearest;

/// Refuses a file with a key that does not exist.
pub(super) fn file(path: &Path, text: &str) -> Result<(), SettingsError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| SettingsError::Syntax {
        path: path.to_owned(),
        // Only the message: the excerpt that Display adds could hold anything.
        message: error.message().to_owned(),
    })?;
    let place = path.display().to_string();
    let keys = Settings::keys();
    match table.keys().find(|key| !keys.contains(key)) {
        Some(key) => Err(refuse(place, key.clone(), key, "", &keys)),
        None => Ok(()),
    }
}

/// Refuses an environment with a key that begins like ours and does not exist.
pub(super) fn environment(ours: &HashMap<String, String>) -> Result<(), SettingsError> {
    let keys: Vec<String> = Settings::keys()
        .iter()
        .map(|key| key.to_uppercase())
        .collect();
    let wrong = ours.keys().find_map(|key| {
        let name = key.strip_prefix(PREFIX)?;
        (!keys.iter().any(|known| known == name)).then_some((key, name))
    });
    match wrong {
        Some((key, name)) => Err(refuse(
            "the environment".to_owned(),
            key.clone(),
            name,
            PREFIX,
            &keys,
        )),
        None => Ok(()),
    }
}

fn refuse(place: String, key: String, name: &str, prefix: &str, keys: &[String]) -> SettingsError {
    let hint = match nearest(name, keys.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{prefix}{near}`?"),
        None => format!("the keys are {}", keys.join(", ")),
    };
    SettingsError::Unknown { place, key, hint }
}
