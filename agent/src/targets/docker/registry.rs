//! Credentials for registries from a Docker `config.json`, as the engine wants them in a header.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE};
use serde_json::{Value, json};
use tracing::warn;

/// Where the hub's credentials stand in a `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// The value of `X-Registry-Auth` for the registry of that image. None: it is asked without.
pub(super) async fn credentials(config: Option<&Path>, image: &str) -> Option<String> {
    let path = config?;
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(error) => {
            warn!(
                "registry credentials cannot be read from {}: {error}",
                path.display()
            );
            return None;
        }
    };
    header(&serde_json::from_slice(&text).ok()?, image)
}

fn header(config: &Value, image: &str) -> Option<String> {
    let host = registry_of(image);
    let auths = config.get("auths")?;
    let entry = [
        host,
        &format!("https://{host}"),
        &format!("https://{host}/v1/"),
    ]
    .into_iter()
    .find_map(|key| auths.get(key))?;
    let mut answer = json!({"serveraddress": host});
    if let Some(token) = entry.get("identitytoken").and_then(Value::as_str) {
        answer["identitytoken"] = json!(token);
    } else {
        let pair = STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        answer["username"] = json!(user);
        answer["password"] = json!(password);
    }
    Some(URL_SAFE.encode(answer.to_string()))
}

/// The registry in an image's name: what stands before the first slash, if it looks like a host.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => host,
        _ => HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_gets_its_own_credentials_and_no_other() {
        let config = json!({"auths": {
            "reg.example:5000": {"auth": STANDARD.encode("ann:p:w")},
            HUB: {"identitytoken": "t"},
        }});
        let decoded = |image: &str| -> Option<Value> {
            let bytes = URL_SAFE.decode(header(&config, image)?).expect("base64");
            serde_json::from_slice(&bytes).ok()
        };
        let own = decoded("reg.example:5000/shop@sha256:1").expect("known");
        assert_eq!(
            (&own["username"], &own["password"]),
            (&json!("ann"), &json!("p:w"))
        );
        assert_eq!(decoded("library/shop").expect("hub")["identitytoken"], "t");
        assert_eq!(decoded("other.example/shop"), None);
    }
}
