//! Takes the image's own configuration out of a container's. The engine merges the two at creation;
//! this is that merge, backwards (`daemon.mergeAndVerifyConfig` in its sources).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Settings, list, object};
use crate::targets::docker::labels::{PREFIX, is_own};

/// The container's configuration less what it got from its image.
pub(super) fn subtract(config: &Map<String, Value>, image: &Value) -> Settings {
    let base = object(image, "Config");
    let mut rest: Settings = config.clone().into_iter().collect();
    for key in ["User", "WorkingDir", "StopSignal", "Shell"] {
        if rest.get(key) == base.get(key) {
            rest.remove(key);
        }
    }
    for key in ["Labels", "ExposedPorts", "Volumes"] {
        subtract_entries(&mut rest, &base, key);
    }
    subtract_environment(&mut rest, &base);
    subtract_command(&mut rest, &base);
    subtract_health(&mut rest, &base);
    rest
}

fn subtract_entries(rest: &mut Settings, base: &Map<String, Value>, key: &str) {
    let (Some(Value::Object(own)), Some(Value::Object(given))) = (rest.get_mut(key), base.get(key))
    else {
        return;
    };
    own.retain(|name, value| given.get(name) != Some(value));
}

fn subtract_environment(rest: &mut Settings, base: &Map<String, Value>) {
    let given = base.get("Env").map_or(&[][..], list);
    if let Some(Value::Array(own)) = rest.get_mut("Env") {
        own.retain(|variable| !given.contains(variable));
    }
}

/// An entry point of its own keeps the image's command out, so the two belong together: either both
/// are the image's, or what is left must lead to the same pair again.
fn subtract_command(rest: &mut Settings, base: &Map<String, Value>) {
    let value = |map: Option<&Value>| map.filter(|value| !list(value).is_empty()).cloned();
    let (entry, command) = (
        value(rest.remove("Entrypoint").as_ref()),
        rest.remove("Cmd"),
    );
    let command = value(command.as_ref());
    let (base_entry, base_command) = (value(base.get("Entrypoint")), value(base.get("Cmd")));
    let (entry, command) = if entry == base_entry {
        if command == base_command {
            (None, None)
        } else if command.is_some() {
            (None, command)
        } else {
            // The same entry point, given again to be rid of the image's command.
            (entry, None)
        }
    } else if entry.is_none() {
        // `--entrypoint ""`: one empty string resets the image's.
        (Some(json!([""])), command)
    } else {
        (entry, command)
    };
    for (key, value) in [("Entrypoint", entry), ("Cmd", command)] {
        if let Some(value) = value {
            rest.insert(key.to_owned(), value);
        }
    }
}

/// A field of the health check that is zero is the image's.
fn subtract_health(rest: &mut Settings, base: &Map<String, Value>) {
    let given = object(&Value::Object(base.clone()), "Healthcheck");
    if let Some(Value::Object(own)) = rest.get_mut("Healthcheck") {
        own.retain(|key, value| given.get(key) != Some(value) && *value != json!(0));
    }
}

/// What an image's own labels say to Sternway.
pub fn labels(image: &Value) -> BTreeMap<String, String> {
    object(&image["Config"], "Labels")
        .into_iter()
        .filter(|(key, _)| key.starts_with(PREFIX) && !is_own(key))
        .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
        .collect()
}

/// Volumes that an image declares.
pub fn volumes(image: &Value) -> Vec<String> {
    object(&image["Config"], "Volumes")
        .keys()
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(config: &Value, image: &Value) -> Value {
        let config = config.as_object().expect("an object");
        json!(subtract(config, &json!({"Config": image})))
    }

    #[test]
    fn command_and_entry_point_are_taken_apart_as_the_engine_joins_them() {
        let image = json!({"Entrypoint": ["/e"], "Cmd": ["c"]});
        let case = |entry: Value, command: Value| {
            rest(&json!({"Entrypoint": entry, "Cmd": command}), &image)
        };
        assert_eq!(case(json!(["/e"]), json!(["c"])), json!({}));
        assert_eq!(case(json!(["/e"]), json!(["d"])), json!({"Cmd": ["d"]}));
        assert_eq!(
            case(json!(["/e"]), json!(null)),
            json!({"Entrypoint": ["/e"]})
        );
        assert_eq!(
            case(json!(["/x"]), json!(null)),
            json!({"Entrypoint": ["/x"]})
        );
        assert_eq!(
            case(json!(["/x"]), json!(["c"])),
            json!({"Entrypoint": ["/x"], "Cmd": ["c"]})
        );
        assert_eq!(
            case(json!(null), json!(["c"])),
            json!({"Entrypoint": [""], "Cmd": ["c"]})
        );
    }

    #[test]
    fn of_an_images_labels_those_count_that_speak_to_us_and_are_not_ours() {
        let image = json!({"Config": {"Labels": {
            "app": "shop",
            "sternway.exclusive": "true",
            "sternway.order": "x",
            "sternway.soak": 1,
        }}});
        let found = labels(&image);
        assert_eq!(json!(found), json!({"sternway.exclusive": "true"}));
        assert!(labels(&json!({"Config": null})).is_empty());
    }

    #[test]
    fn only_what_the_image_gives_is_taken_away() {
        let left = rest(
            &json!({
                "Env": ["A=1", "PATH=/bin"],
                "Labels": {"a": "1", "image": "x"},
                "Volumes": {"/own": {}, "/image": {}},
                "User": "7",
                "WorkingDir": "/w",
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 0},
            }),
            &json!({
                "Env": ["PATH=/bin"],
                "Labels": {"image": "x"},
                "Volumes": {"/image": {}},
                "WorkingDir": "/w",
                "Healthcheck": {"Test": ["CMD", "x"]},
            }),
        );
        assert_eq!(
            left,
            json!({
                "Env": ["A=1"],
                "Labels": {"a": "1"},
                "Volumes": {"/own": {}},
                "User": "7",
                "Healthcheck": {"Interval": 5},
            })
        );
    }
}
