//! One HTTP exchange over the unix socket: request out, bounded body in.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{EngineError, EngineErrorKind};

/// The largest answer that is read, bytes. The inspect answer of a container with 10 kB labels and a
/// hundred mounts is far below it; a pull reports some kB a layer.
const ANSWER_BYTES: usize = 32 * 1024 * 1024;

pub(super) type Outgoing = Request<Full<Bytes>>;

pub(super) fn request(
    method: Method,
    path: &str,
    body: Option<&Value>,
    headers: &[(&'static str, String)],
) -> Result<Outgoing, http::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "docker");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    request.body(Full::new(body))
}

/// A fresh connection for each call: idle ones would not survive the engine's restarts, and a unix
/// socket costs some 50 µs.
pub(super) async fn exchange(
    socket: &Path,
    what: &str,
    request: Outgoing,
) -> Result<Bytes, EngineError> {
    let broken = |error: &dyn std::fmt::Display| {
        let message = format!("the engine broke off: {error}");
        EngineError::new(what, EngineErrorKind::Unreachable, message)
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let message = format!("the engine does not answer: {}: {error}", socket.display());
        EngineError::new(what, EngineErrorKind::Unreachable, message)
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // The connection is driven beside the request and dropped with it, so that a call past its
    // deadline leaves nothing behind.
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| broken(&e))?
            .to_bytes();
        Ok((status, body))
    };
    tokio::pin!(answered);
    tokio::pin!(connection);
    let (status, body) = tokio::select! {
        biased;
        answer = &mut answered => answer?,
        ended = &mut connection => match ended {
            // The connection may end first, with the whole answer already handed over.
            Ok(()) => answered.await?,
            Err(error) => return Err(broken(&error)),
        },
    };
    // 304: it was so already.
    if status.is_success() || status == http::StatusCode::NOT_MODIFIED {
        Ok(body)
    } else {
        let message = said(&body);
        Err(EngineError::of_status(what, status.as_u16(), message))
    }
}

/// The engine's words in an error's body, cleaned: they may quote names and labels.
fn said(body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed
        .as_ref()
        .and_then(|body| body.get("message")?.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    sternway_proto::name::clean_text(text.trim())
}

pub(super) fn json(what: &str, body: &[u8]) -> Result<Value, EngineError> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the answer is no JSON: {error}");
        EngineError::new(what, EngineErrorKind::Refused, message)
    })
}

/// One part of a path or a value of a query, percent-encoded.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// As [`encode`], the slashes kept: for a name that is the rest of a path.
pub(super) fn encode_path(text: &str) -> String {
    text.split('/').map(encode).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_leaves_its_part_of_the_path() {
        assert_eq!(encode("../a?b#c d"), "..%2Fa%3Fb%23c%20d");
        assert_eq!(encode("r/shop@sha256:1"), "r%2Fshop%40sha256%3A1");
    }

    #[test]
    fn the_engines_words_are_cleaned() {
        assert_eq!(said(b"{\"message\":\"no \\u001b x\"}"), "no \\u{1b} x");
        assert_eq!(said(b"plain\n"), "plain");
    }
}
