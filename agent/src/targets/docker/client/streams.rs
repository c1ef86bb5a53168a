//! What comes as a stream, through bollard: events, logs, the output of a command in a container, and the archives of
//! images.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecResults},
    models::EventMessage,
    query_parameters::{EventsOptionsBuilder, ImportImageOptionsBuilder, LogsOptionsBuilder},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::{ApiVersion, Engine, EngineError, EngineErrorKind, PULL, PULSE, QUICK};

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// None: the engine does not know (any more).
    pub exit_code: Option<i64>,
    /// Both streams as they came, cut to the limit asked for.
    pub output: Vec<u8>,
}

impl Engine {
    /// The events of these types from now on, until the stream is cut.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn events(
        &self,
        types: &[&str],
    ) -> Result<impl Stream<Item = Result<EventMessage, EngineError>> + use<>, EngineError> {
        let docker = self.bollard().await?;
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        let filters: HashMap<String, Vec<String>> = HashMap::from([("type".to_owned(), types)]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let events = docker.events(Some(options));
        Ok(events
            .map(|event| event.map_err(|error| translate("follow the engine's events", &error))))
    }

    /// What a container wrote since then (Unix seconds): at most the last `lines` lines, and of these the last
    /// `limit` bytes.
    ///
    /// # Errors
    /// `NotFound`; `Refused`: its log driver cannot be read; `Timeout`.
    pub async fn logs(
        &self,
        id: &str,
        since: i64,
        lines: u32,
        limit: usize,
    ) -> Result<Vec<u8>, EngineError> {
        let what = format!("read the log of container {id}");
        let docker = self.bollard().await?;
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .since(i32::try_from(since).unwrap_or(i32::MAX))
            .tail(&lines.to_string())
            .build();
        let read = gather_newest(docker.logs(id, Some(options)), &what, limit);
        within(&what, QUICK, read).await
    }

    /// Runs a command in a running container: argv, never a shell. Past the deadline the outcome is an
    /// error; the command itself cannot be ended from here and goes on in the container. Until it has ended, the
    /// same command is not started there again: each would be one more process of the user's container.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`: the container does not run; `Timeout`: also where the one before still runs.
    pub async fn exec(
        &self,
        id: &str,
        argv: &[String],
        limit: usize,
        deadline: Duration,
    ) -> Result<ExecOutcome, EngineError> {
        let what = format!("run a command in container {id}");
        within(&what, deadline, self.exec_unbounded(&what, id, argv, limit)).await
    }

    async fn exec_unbounded(
        &self,
        what: &str,
        id: &str,
        argv: &[String],
        limit: usize,
    ) -> Result<ExecOutcome, EngineError> {
        let docker = self.bollard().await?;
        let failed = |error: bollard::errors::Error| translate(what, &error);
        if let Some(before) = self.unended.of(id, argv) {
            match docker.inspect_exec(&before).await.map_err(failed) {
                Ok(inspect) if inspect.running == Some(true) => {
                    let message = "the one started before still runs in the container";
                    return Err(EngineError::new(what, EngineErrorKind::Timeout, message));
                }
                Ok(_) => {}
                // Gone with its container, or with the memory of an engine that was restarted.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let options = CreateExecOptions {
            cmd: Some(argv.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = docker.create_exec(id, options).await.map_err(failed)?;
        let watched = self.unended.watch(id, argv, &exec.id);
        let started = docker.start_exec(&exec.id, None).await.map_err(failed)?;
        let output = match started {
            StartExecResults::Attached { output, .. } => gather(output, what, limit).await?,
            StartExecResults::Detached => Vec::new(),
        };
        let ended = docker.inspect_exec(&exec.id).await.map_err(failed)?;
        watched.ended();
        Ok(ExecOutcome {
            exit_code: ended.exit_code,
            output,
        })
    }

    /// An image, by its id, as an archive, in pieces. The engine writes all of it to its own disk before the first one.
    ///
    /// # Errors
    /// `NotFound`; the engine does not answer. In the stream: it broke off, or no piece came for that long.
    pub async fn export_image(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, EngineError>> + use<>, EngineError> {
        let what = format!("export image {id}");
        let docker = self.bollard_within(PULL).await?;
        let pieces = docker.export_image(id);
        Ok(
            tokio_stream::StreamExt::timeout(pieces, PULL).map(move |piece| match piece {
                Ok(piece) => piece.map_err(|error| translate(&what, &error)),
                Err(_) => Err(EngineError::silent(&what, PULL)),
            }),
        )
    }

    /// Loads images from an archive. Whoever asks looks afterwards whether it is the one that was meant.
    ///
    /// # Errors
    /// The archive broke off, or the engine refused it; `NoSpace`; `Timeout`.
    pub async fn load_image<S>(&self, what: &str, archive: S) -> Result<(), EngineError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let docker = self.bollard_within(PULL).await?;
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let said = docker.import_image_stream(options, archive, None);
        let load = async {
            tokio::pin!(said);
            while let Some(line) = said.next().await {
                line.map_err(|error| translate(what, &error))?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            loaded = within(what, PULL, load) => loaded,
            () = self.falls_silent() => Err(EngineError::silent(what, PULSE)),
        }
    }

    /// A typed client for streams that begin at once.
    async fn bollard(&self) -> Result<Docker, EngineError> {
        self.bollard_within(QUICK).await
    }

    /// A typed client for streams that begin within that time. bollard leaves the version out of its URLs, and an engine
    /// then answers in its newest dialect, so the version is put in front of every path here.
    async fn bollard_within(&self, deadline: Duration) -> Result<Docker, EngineError> {
        let version = self.api().await?;
        let socket = self.socket.to_string_lossy();
        let seconds = deadline.as_secs();
        Docker::connect_with_unix(&socket, seconds, bollard::API_DEFAULT_VERSION)
            .map(|docker| docker.with_request_modifier(move |request| pin(request, version)))
            .map_err(|error| translate("connect to the engine", &error))
    }
}

fn pin<B>(mut request: http::Request<B>, version: ApiVersion) -> http::Request<B> {
    let mut parts = request.uri().clone().into_parts();
    let path = parts
        .path_and_query
        .as_ref()
        .map_or("/", |path| path.as_str());
    if let Ok(pinned) = format!("/v{version}{path}").parse() {
        parts.path_and_query = Some(pinned);
        if let Ok(uri) = http::Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

async fn gather(
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>>,
    what: &str,
    limit: usize,
) -> Result<Vec<u8>, EngineError> {
    tokio::pin!(output);
    let mut gathered = Vec::new();
    while let Some(piece) = output.next().await {
        let piece = piece.map_err(|error| translate(what, &error))?.into_bytes();
        // Read to the end even past the limit: the command would block on a full pipe.
        let room = limit.saturating_sub(gathered.len());
        gathered.extend(piece.iter().take(room));
    }
    Ok(gathered)
}

/// The newest bytes: memory holds twice the limit at most.
async fn gather_newest(
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>>,
    what: &str,
    limit: usize,
) -> Result<Vec<u8>, EngineError> {
    tokio::pin!(output);
    let mut gathered = Vec::new();
    while let Some(piece) = output.next().await {
        let piece = piece.map_err(|error| translate(what, &error))?.into_bytes();
        gathered.extend_from_slice(&piece);
        if gathered.len() > limit.saturating_mul(2) {
            gathered.drain(..gathered.len() - limit);
        }
    }
    gathered.drain(..gathered.len().saturating_sub(limit));
    Ok(gathered)
}

async fn within<T>(
    what: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            let message = format!("no end within {} s", deadline.as_secs());
            Err(EngineError::new(what, EngineErrorKind::Timeout, message))
        })
}

fn translate(what: &str, error: &bollard::errors::Error) -> EngineError {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => {
            let message = sternway_proto::name::clean_text(message);
            EngineError::of_status(what, *status_code, message)
        }
        // The status was sent before the work began.
        Error::DockerStreamError { error } => {
            EngineError::of_status(what, 500, sternway_proto::name::clean_text(error))
        }
        Error::RequestTimeoutError => {
            EngineError::new(what, EngineErrorKind::Timeout, "no answer in time")
        }
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => {
            EngineError::new(what, EngineErrorKind::Refused, "the answer is no JSON")
        }
        error => EngineError::new(what, EngineErrorKind::Unreachable, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_long_log_the_newest_bytes_are_kept() {
        let pieces = (0..100u32).map(|number| {
            let message = format!("line {number:03}\n").into();
            Ok(LogOutput::StdOut { message })
        });
        let kept = gather_newest(futures_util::stream::iter(pieces), "read", 18).await;
        assert_eq!(kept.expect("read"), b"line 098\nline 099\n");
    }

    #[test]
    fn every_path_gets_the_agreed_version_in_front() {
        let request = http::Request::get("unix://2f76/events?filters=x")
            .body(())
            .expect("valid");
        let pinned = pin(request, ApiVersion(41));
        assert_eq!(
            pinned.uri().to_string(),
            "unix://2f76/v1.41/events?filters=x"
        );
    }
}
