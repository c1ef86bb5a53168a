//! The Docker engine over its unix socket. Every call has a deadline: a hung engine is an error, not
//! a hung agent. Settings travel as raw JSON, because typed models lose fields they do not know;
//! streams (events, logs, exec) go through bollard, pinned to the same API version.

mod calls;
mod error;
mod streams;
mod unended;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use serde_json::Value;

pub(crate) use error::NO_SPACE;
pub use error::{EngineError, EngineErrorKind};
pub use streams::ExecOutcome;

/// A call that should answer at once.
pub const QUICK: Duration = Duration::from_secs(15);
/// A call that makes the engine work: create, start, remove, connect.
pub const WORK: Duration = Duration::from_mins(1);
/// Pulling an image.
pub const PULL: Duration = Duration::from_mins(10);

/// How often the engine is asked whether it still answers while a longer call is under way, and how long it may
/// take to say so.
const PULSE: Duration = Duration::from_secs(15);
/// Behind a call that got no answer: is it the call or the engine?
const SECOND_LOOK: Duration = Duration::from_secs(3);
/// Between two looks at an engine that is away.
const PAUSE: Duration = Duration::from_millis(250);

/// The oldest API this speaks: that of Docker 20.10, Debian 12's.
const FLOOR: u32 = 41;
/// The newest dialect this was written for. A newer engine is asked to speak this one, so that an
/// engine's upgrade does not change what is recorded.
const CEILING: u32 = 51;

/// The engine's API version, `1.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32);

impl ApiVersion {
    /// Several endpoints can be given at creation, and the MAC address belongs to the endpoint.
    pub fn takes_many_endpoints(self) -> bool {
        self.0 >= 44
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// A client of the engine. Cheap to clone; connects with each call, so that it survives any number
/// of the engine's restarts.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: Arc<PathBuf>,
    /// The agreed minor version; 0: to be negotiated.
    minor: Arc<AtomicU32>,
    /// It took a call and did not answer: until it does, calls do not wait long.
    silent: Arc<AtomicBool>,
    /// Commands in containers that were given up.
    unended: unended::Unended,
}

impl Engine {
    /// A client of the engine behind that socket. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: Arc::new(socket.into()),
            minor: Arc::new(AtomicU32::new(0)),
            silent: Arc::new(AtomicBool::new(false)),
            unended: unended::Unended::default(),
        }
    }

    /// Where the engine is expected.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The API version both sides speak. Negotiated with the first call, and again after the engine
    /// was away: it may have been upgraded.
    ///
    /// # Errors
    /// The engine does not answer, or is older than Docker 20.10.
    pub async fn api(&self) -> Result<ApiVersion, EngineError> {
        let known = self.minor.load(Ordering::Acquire);
        if known != 0 {
            return Ok(ApiVersion(known));
        }
        let what = "ask the engine for its version";
        let request = wire::request(Method::GET, "/version", None, &[]);
        let answer = self.exchange(what, request, QUICK).await?;
        let minor = agree(what, &wire::json(what, &answer)?)?;
        self.minor.store(minor, Ordering::Release);
        Ok(ApiVersion(minor))
    }

    /// One call; the answer's body. `path` begins with a slash, its variable parts encoded.
    pub(super) async fn call(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        deadline: Duration,
    ) -> Result<Bytes, EngineError> {
        self.call_with(what, method, path, body, &[], deadline)
            .await
    }

    /// As [`Self::call`], with further headers.
    pub(super) async fn call_with(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&'static str, String)],
        deadline: Duration,
    ) -> Result<Bytes, EngineError> {
        let version = self.api().await?;
        let path = format!("/v{version}{path}");
        let request = wire::request(method, &path, body, headers);
        self.exchange(what, request, deadline).await
    }

    /// As [`Self::call`], and the answer is JSON.
    pub(super) async fn ask(
        &self,
        what: &str,
        path: &str,
        deadline: Duration,
    ) -> Result<Value, EngineError> {
        let answer = self.call(what, Method::GET, path, None, deadline).await?;
        wire::json(what, &answer)
    }

    /// Whether the engine answers at all.
    ///
    /// # Errors
    /// It does not, within the deadline.
    pub async fn ping(&self, deadline: Duration) -> Result<(), EngineError> {
        let what = "ask the engine whether it is there";
        let request = wire::request(Method::GET, "/_ping", None, &[])
            .map_err(|error| EngineError::new(what, EngineErrorKind::Refused, error.to_string()))?;
        let asked = tokio::time::timeout(deadline, wire::exchange(&self.socket, what, request));
        let answer = asked.await;
        self.silent.store(answer.is_err(), Ordering::Release);
        answer.map_or_else(
            |_| Err(EngineError::silent(what, deadline)),
            |answer| answer.map(drop),
        )
    }

    /// Waits until the engine answers: one that is being restarted is back in some seconds.
    ///
    /// # Errors
    /// It did not within `patience`.
    pub async fn awaited(&self, patience: Duration) -> Result<(), EngineError> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            match self.ping(left.clamp(PAUSE, QUICK)).await {
                Err(error) if error.is_transient() => {
                    if left <= PAUSE {
                        return Err(error);
                    }
                }
                // An answer of any kind is one: what it means is the next call's business.
                _ => return Ok(()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends once the engine has stopped answering anything: then nothing comes of a longer call either.
    pub async fn falls_silent(&self) {
        loop {
            tokio::time::sleep(PULSE).await;
            match self.ping(PULSE).await {
                Err(error) if error.kind == EngineErrorKind::Timeout => return,
                _ => {}
            }
        }
    }

    async fn unanswered(&self, what: &str, deadline: Duration) -> EngineError {
        if self.ping(SECOND_LOOK).await.is_err() {
            return EngineError::silent(what, deadline);
        }
        let message = format!(
            "no answer within {} s, though the engine answers otherwise",
            deadline.as_secs()
        );
        EngineError::new(what, EngineErrorKind::Timeout, message)
    }

    async fn exchange(
        &self,
        what: &str,
        request: Result<wire::Outgoing, http::Error>,
        deadline: Duration,
    ) -> Result<Bytes, EngineError> {
        let request = request
            .map_err(|error| EngineError::new(what, EngineErrorKind::Refused, error.to_string()))?;
        if self.silent.load(Ordering::Acquire)
            && let Err(error) = self.ping(SECOND_LOOK).await
        {
            return Err(EngineError {
                what: what.to_owned(),
                ..error
            });
        }
        let exchanged = tokio::time::timeout(deadline, wire::exchange(&self.socket, what, request));
        let answer = tokio::select! {
            biased;
            answer = exchanged => match answer {
                Ok(answer) => answer,
                Err(_) => Err(self.unanswered(what, deadline).await),
            },
            () = self.falls_silent(), if deadline > WORK => {
                Err(EngineError::silent(what, PULSE))
            }
        };
        if let Err(error) = &answer
            && error.kind == EngineErrorKind::Unreachable
        {
            self.minor.store(0, Ordering::Release);
        }
        answer
    }
}

/// The minor version to speak with an engine that said this of itself.
fn agree(what: &str, version: &Value) -> Result<u32, EngineError> {
    let minor =
        |key: &str| -> Option<u32> { version.get(key)?.as_str()?.strip_prefix("1.")?.parse().ok() };
    let newest = minor("ApiVersion").unwrap_or(0);
    let oldest = minor("MinAPIVersion").unwrap_or(0);
    if newest < FLOOR {
        let message =
            format!("it speaks API 1.{newest}; at least 1.{FLOOR} (Docker 20.10) is needed");
        return Err(EngineError::new(what, EngineErrorKind::Refused, message));
    }
    Ok(newest.min(CEILING).max(oldest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agreed(newest: &str, oldest: &str) -> Option<u32> {
        agree("x", &json!({"ApiVersion": newest, "MinAPIVersion": oldest})).ok()
    }

    #[test]
    fn an_engine_is_asked_for_a_version_both_sides_know() {
        assert_eq!(agreed("1.41", "1.12"), Some(41));
        assert_eq!(agreed("1.45", "1.24"), Some(45));
        assert_eq!(agreed("1.90", "1.44"), Some(CEILING));
        assert_eq!(agreed("1.90", "1.60"), Some(60));
        assert_eq!(agreed("1.40", "1.12"), None);
        assert_eq!(agreed("", ""), None);
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_an_error_not_a_hang() {
        let folder = tempfile::tempdir().expect("folder");
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
        let engine = Engine::new(&socket);
        let request = wire::request(Method::GET, "/version", None, &[]);
        let answer = engine
            .exchange("ask", request, Duration::from_millis(50))
            .await;
        let error = answer.expect_err("hangs");
        assert_eq!(error.kind, EngineErrorKind::Timeout);
        assert!(
            error.message.contains("the engine does not answer"),
            "{error}"
        );
        drop(listener);
        let gone = engine.api().await.expect_err("nobody listens");
        assert_eq!(gone.kind, EngineErrorKind::Unreachable);
    }
}
