//! The calls, one method each. Containers are best named by id: a name may have moved on.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Engine, EngineError, EngineErrorKind, PULL, QUICK, WORK, wire};

/// What an engine is given beyond a container's own grace before a stop counts as hung.
const STOP_SLACK: Duration = Duration::from_secs(30);

impl Engine {
    /// What the engine says of itself: `Version`, `ApiVersion`, …
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn version(&self) -> Result<Value, EngineError> {
        self.ask("ask the engine for its version", "/version", QUICK)
            .await
    }

    /// The engine's settings: `Name`, `DockerRootDir`, …
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn info(&self) -> Result<Value, EngineError> {
        self.ask("ask the engine for its settings", "/info", QUICK)
            .await
    }

    /// All containers, running or not, that bear all of these labels (`key` or `key=value`); the
    /// short form the list gives.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn containers(&self, labels: &[String]) -> Result<Vec<Value>, EngineError> {
        let mut path = "/containers/json?all=true".to_owned();
        if !labels.is_empty() {
            let filters = json!({"label": labels}).to_string();
            path = format!("{path}&filters={}", wire::encode(&filters));
        }
        let what = "list containers";
        match self.ask(what, &path, QUICK).await? {
            Value::Array(containers) => Ok(containers),
            _ => Err(no_list(what)),
        }
    }

    /// The whole inspect answer of a container, by id or name.
    ///
    /// # Errors
    /// `NotFound`; the engine does not answer.
    pub async fn container(&self, id: &str) -> Result<Value, EngineError> {
        let path = format!("/containers/{}/json", wire::encode(id));
        self.ask(&format!("inspect container {id}"), &path, QUICK)
            .await
    }

    /// Creates a container; its id.
    ///
    /// # Errors
    /// `Conflict`: the name is taken. `NotFound`: the image is not there.
    pub async fn create_container(&self, name: &str, body: &Value) -> Result<String, EngineError> {
        let what = format!("create container {name}");
        let path = format!("/containers/create?name={}", wire::encode(name));
        let answer = self
            .call(&what, Method::POST, &path, Some(body), WORK)
            .await?;
        let answer = wire::json(&what, &answer)?;
        match answer.get("Id").and_then(Value::as_str) {
            Some(id) => Ok(id.to_owned()),
            None => Err(EngineError::new(
                what,
                EngineErrorKind::Refused,
                "no id in the answer",
            )),
        }
    }

    /// Starts a container. One that runs already is a success.
    ///
    /// # Errors
    /// `NotFound`; `Refused`: it cannot start, with the engine's reason.
    pub async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        self.act(id, "start", Method::POST, "start", WORK).await
    }

    /// Asks a container to stop, kills it after `grace` (whole seconds; None: its own setting, for which
    /// the engine is given ten minutes). One that is stopped already is a success.
    ///
    /// # Errors
    /// `NotFound`; `Timeout`: neither signal ended it.
    pub async fn stop_container(
        &self,
        id: &str,
        grace: Option<Duration>,
    ) -> Result<(), EngineError> {
        let (verb, deadline) = match grace {
            Some(grace) => (format!("stop?t={}", grace.as_secs()), grace + STOP_SLACK),
            None => ("stop".to_owned(), PULL),
        };
        self.act(id, &verb, Method::POST, "stop", deadline).await
    }

    /// Resumes a paused container. `Conflict` or `Refused`: it is not paused.
    ///
    /// # Errors
    /// As said.
    pub async fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        self.act(id, "unpause", Method::POST, "resume", WORK).await
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// `Conflict`: the name is taken (also by itself, on some engines).
    pub async fn rename_container(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let verb = format!("rename?name={}", wire::encode(name));
        self.act(id, &verb, Method::POST, "rename", WORK).await
    }

    /// Changes what can be changed on a living container: restart policy and limits.
    ///
    /// # Errors
    /// `NotFound`; `Refused`.
    pub async fn update_container(&self, id: &str, changes: &Value) -> Result<(), EngineError> {
        let path = format!("/containers/{}/update", wire::encode(id));
        let what = format!("update container {id}");
        self.call(&what, Method::POST, &path, Some(changes), WORK)
            .await
            .map(drop)
    }

    /// Removes a container, with force if it runs. Its volumes stay. One that is gone is a success.
    ///
    /// # Errors
    /// The engine does not answer or refuses.
    pub async fn remove_container(&self, id: &str, force: bool) -> Result<(), EngineError> {
        let path = format!("/containers/{}?force={force}&v=false", wire::encode(id));
        let what = format!("remove container {id}");
        gone_is_fine(
            self.call(&what, Method::DELETE, &path, None, WORK)
                .await
                .map(drop),
        )
    }

    /// The inspect answer of a network, by id or name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn network(&self, name: &str) -> Result<Value, EngineError> {
        let path = format!("/networks/{}", wire::encode(name));
        self.ask(&format!("inspect network {name}"), &path, QUICK)
            .await
    }

    /// Connects a container to a network with these endpoint settings.
    ///
    /// # Errors
    /// `NotFound`; `Refused`: connected already, address taken, …
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        endpoint: &Value,
    ) -> Result<(), EngineError> {
        let path = format!("/networks/{}/connect", wire::encode(network));
        let what = format!("connect container {container} to network {network}");
        let body = json!({"Container": container, "EndpointConfig": endpoint});
        self.call(&what, Method::POST, &path, Some(&body), WORK)
            .await
            .map(drop)
    }

    /// Disconnects a container from a network.
    ///
    /// # Errors
    /// The engine does not answer or refuses.
    pub async fn disconnect_network(
        &self,
        network: &str,
        container: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/networks/{}/disconnect", wire::encode(network));
        let what = format!("disconnect container {container} from network {network}");
        let body = json!({"Container": container, "Force": false});
        self.call(&what, Method::POST, &path, Some(&body), WORK)
            .await
            .map(drop)
    }

    /// The inspect answer of a volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn volume(&self, name: &str) -> Result<Value, EngineError> {
        let path = format!("/volumes/{}", wire::encode(name));
        self.ask(&format!("inspect volume {name}"), &path, QUICK)
            .await
    }

    /// The inspect answer of an image, by id or reference.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn image(&self, reference: &str) -> Result<Value, EngineError> {
        let path = format!("/images/{}/json", wire::encode(reference));
        self.ask(&format!("inspect image {reference}"), &path, QUICK)
            .await
    }

    /// The images with a tag in that repository, in the short form of the list.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn images(&self, repository: &str) -> Result<Vec<Value>, EngineError> {
        let filters = json!({"reference": [repository]}).to_string();
        let path = format!("/images/json?filters={}", wire::encode(&filters));
        let what = "list images";
        match self.ask(what, &path, QUICK).await? {
            Value::Array(images) => Ok(images),
            _ => Err(no_list(what)),
        }
    }

    /// What a registry says of `name@sha256:…`, without pulling it.
    ///
    /// # Errors
    /// The registry does not have it, does not answer, or does not let us in.
    pub async fn distribution(
        &self,
        reference: &str,
        credentials: Option<String>,
    ) -> Result<Value, EngineError> {
        let what = format!("ask the registry for {reference}");
        // The slashes of a name stay: the engine's router takes the rest of the path for it.
        let path = format!("/distribution/{}/json", wire::encode_path(reference));
        let headers = auth(credentials);
        let answer = self
            .call_with(&what, Method::GET, &path, None, &headers, QUICK)
            .await?;
        wire::json(&what, &answer)
    }

    /// Gives an image a further tag.
    ///
    /// # Errors
    /// `NotFound`: no such image.
    pub async fn tag_image(
        &self,
        id: &str,
        repository: &str,
        tag: &str,
    ) -> Result<(), EngineError> {
        let path = format!(
            "/images/{}/tag?repo={}&tag={}",
            wire::encode(id),
            wire::encode(repository),
            wire::encode(tag),
        );
        let what = format!("tag image {id}");
        self.call(&what, Method::POST, &path, None, QUICK)
            .await
            .map(drop)
    }

    /// Takes a tag from an image; the image goes with its last tag unless a container uses it. One that
    /// is gone is a success.
    ///
    /// # Errors
    /// `Conflict`: a container uses the image, and this is its last tag.
    pub async fn untag_image(&self, reference: &str) -> Result<(), EngineError> {
        let path = format!("/images/{}?noprune=true", wire::encode(reference));
        let what = format!("remove tag {reference}");
        gone_is_fine(
            self.call(&what, Method::DELETE, &path, None, WORK)
                .await
                .map(drop),
        )
    }

    /// Pulls `name@sha256:…`, with the value of the `X-Registry-Auth` header where there is one.
    ///
    /// # Errors
    /// The registry's or the engine's reason; `NoSpace`.
    pub async fn pull_image(
        &self,
        reference: &str,
        credentials: Option<String>,
    ) -> Result<(), EngineError> {
        let what = format!("pull {reference}");
        let path = format!("/images/create?fromImage={}", wire::encode(reference));
        let headers = auth(credentials);
        let progress = self
            .call_with(&what, Method::POST, &path, None, &headers, PULL)
            .await?;
        // The status was sent before the pull began: a failure stands in the last lines.
        match pull_failure(&progress) {
            Some(message) => Err(EngineError::of_status(&what, 500, message)),
            None => Ok(()),
        }
    }

    async fn act(
        &self,
        id: &str,
        verb: &str,
        method: Method,
        what: &str,
        deadline: Duration,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{}/{verb}", wire::encode(id));
        let what = format!("{what} container {id}");
        self.call(&what, method, &path, None, deadline)
            .await
            .map(drop)
    }
}

fn auth(credentials: Option<String>) -> Vec<(&'static str, String)> {
    let header = credentials.map(|value| ("X-Registry-Auth", value));
    header.into_iter().collect()
}

fn pull_failure(progress: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(progress);
    text.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let message = line.get("error")?.as_str()?;
        Some(sternway_proto::name::clean_text(message))
    })
}

fn gone_is_fine(answer: Result<(), EngineError>) -> Result<(), EngineError> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer,
    }
}

fn no_list(what: &str) -> EngineError {
    EngineError::new(what, EngineErrorKind::Refused, "the answer is no list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_that_failed_after_its_headers_is_a_failure() {
        let progress = b"{\"status\":\"Pulling\"}\r\n{\"error\":\"manifest unknown\"}\r\n";
        assert_eq!(pull_failure(progress).as_deref(), Some("manifest unknown"));
        assert_eq!(pull_failure(b"{\"status\":\"Done\"}\n"), None);
    }
}
