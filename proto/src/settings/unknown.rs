//! Finds keys that do not exist, and what was probably meant.

use std::{collections::HashMap, path::Path};

use super::{Schema, SettingsError, flat};

/// Below this likeness (of 1) a name is no typing error of another.
const LIKENESS: f64 = 0.75;

/// The name that is most like the one that does not exist, if any is like it.
#[must_use]
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// What to do about a key that does not exist. `prefix` goes before the nearest right one.
#[must_use]
pub fn hint<K: AsRef<str>>(name: &str, keys: &[K], prefix: &str) -> String {
    nearest(name, keys.iter().map(AsRef::as_ref)).map_or_else(
        || {
            let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
            format!("the keys are {}", keys.join(", "))
        },
        |near| format!("did you mean `{prefix}{near}`?"),
    )
}

/// Refuses a file with a key that does not exist.
pub(super) fn file(schema: &Schema, path: &Path, table: &toml::Table) -> Result<(), SettingsError> {
    let keys = &schema.keys;
    match flat(table).into_iter().find(|key| !keys.contains(key)) {
        Some(key) => Err(SettingsError::Unknown {
            place: path.display().to_string(),
            hint: hint(&key, keys, ""),
            key,
        }),
        None => Ok(()),
    }
}

/// Refuses an environment with a key that begins like ours and does not exist.
pub(super) fn environment(
    schema: &Schema,
    begin: &str,
    ours: &HashMap<String, String>,
) -> Result<(), SettingsError> {
    let keys: Vec<String> = schema
        .keys
        .iter()
        .map(|key| key.replace('.', super::SEPARATOR).to_uppercase())
        .collect();
    let wrong = ours.keys().find_map(|key| {
        let name = key.strip_prefix(begin)?;
        (!keys.iter().any(|known| known == name)).then_some((key, name))
    });
    match wrong {
        Some((key, name)) => Err(SettingsError::Unknown {
            place: "the environment".to_owned(),
            key: key.clone(),
            hint: hint(name, &keys, begin),
        }),
        None => Ok(()),
    }
}
