//! Registries: whether one has an image, and the credentials for it from a Docker `config.json`, as the engine wants them
//! in a header.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE};
use serde_json::{Value, json};
use sternway_proto::name::clean_text;
use tokio::time::timeout;
use tracing::warn;

use super::client::{Engine, EngineError};

/// Where the hub's credentials stand in a `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// How long the registries of an image are asked, all together: below what a plan and a look at readiness may take, so
/// that one which swallows every packet is told as what it is.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What is shown of the engine's words about a registry, characters.
const SHOWN: usize = 200;

/// Whether a registry has an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InRegistry {
    Yes,
    No,
    /// It does not let us in.
    Denied,
    /// Nobody said in time.
    Silent,
    /// It could not be asked, in the engine's words.
    Unknown(String),
}

/// What the registries say of these digests (`name@sha256:…`), asked by the engine.
pub(super) async fn asked(
    engine: &Engine,
    config: Option<&Path>,
    digests: &[String],
) -> InRegistry {
    let asked = async {
        let mut found = InRegistry::No;
        for digest in digests {
            let credentials = credentials(config, digest).await;
            match engine.distribution(digest, credentials).await {
                Ok(_) => return InRegistry::Yes,
                // Of several registries the first that may have it is the one to mend.
                Err(error) if found == InRegistry::No => found = without(&error),
                Err(_) => {}
            }
        }
        found
    };
    timeout(PATIENCE, asked).await.unwrap_or(InRegistry::Silent)
}

/// What an engine that did not find an image in its registry says of that: only a registry that answered knows that it
/// does not have it.
fn without(error: &EngineError) -> InRegistry {
    let said = error.message.to_lowercase();
    let unknown = ["manifest unknown", "name unknown", "no such manifest"];
    if error.is_denied() {
        InRegistry::Denied
    } else if error.is_not_found() || unknown.iter().any(|words| said.contains(words)) {
        InRegistry::No
    } else {
        let said = clean_text(error.message.trim());
        InRegistry::Unknown(said.chars().take(SHOWN).collect())
    }
}

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
    fn only_a_registry_that_answered_is_said_not_to_have_an_image() {
        let judge = |status, message: &str| {
            without(&EngineError::of_status("x", status, message.to_owned()))
        };
        assert_eq!(
            judge(404, "manifest unknown: manifest unknown"),
            InRegistry::No
        );
        assert_eq!(
            judge(500, "errors:\nname unknown: repository"),
            InRegistry::No
        );
        assert_eq!(judge(401, "unauthorized: no"), InRegistry::Denied);
        for (status, said) in [
            (
                500,
                "Get \"https://r/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
            ),
            (
                500,
                "Get \"https://r/v2/\": dial tcp: lookup r: no such host",
            ),
            (
                500,
                "tls: failed to verify certificate: x509: unknown authority",
            ),
            (
                429,
                "toomanyrequests: You have reached your pull rate limit.",
            ),
            (
                503,
                "received unexpected HTTP status: 503 Service Unavailable",
            ),
        ] {
            assert_eq!(judge(status, said), InRegistry::Unknown(said.to_owned()));
        }
    }

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
