//! What a binary that runs as a service has in common with the others: its log, its answers to a person, the
//! signals that end it, and [`notify`], its service manager.

pub mod notify;

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::settings::{Schema, Sources};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Human,
    Json,
}

impl<'de> Deserialize<'de> for LogFormat {
    /// By hand: an error names what there is, and not what was given.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(D::Error::custom("it is one of human, json")),
        }
    }
}

impl LogFormat {
    /// As far as that can be told from settings that are not right as a whole: the form in which their own
    /// error is to be told.
    #[must_use]
    pub fn guess(schema: &Schema, sources: &Sources<'_>) -> Self {
        match schema.guess(sources, "log_format") {
            Some(format) if format == "json" => Self::Json,
            _ => Self::Human,
        }
    }
}

/// The setting `log` is no filter.
#[derive(Debug, Error)]
#[error("the setting log is no filter")]
pub struct FilterError(#[from] ParseError);

/// Starts the log, on the standard error.
///
/// # Errors
/// The filter is none.
pub fn log(filter: &str, format: LogFormat) -> Result<(), FilterError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(io::stderr);
    match format {
        LogFormat::Human => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// How the process ends, the error told in that form: a sentence for a person, or a line of the log, whatever
/// its filter lets pass.
pub fn end(ended: Result<(), (String, LogFormat)>) -> ExitCode {
    match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err((error, LogFormat::Json)) => {
            let log = tracing_subscriber::fmt()
                .json()
                .with_writer(io::stderr)
                .finish();
            tracing::subscriber::with_default(log, || tracing::error!(error, "ended by an error"));
        }
        // Where even that cannot be written nobody reads it.
        Err((error, LogFormat::Human)) => {
            let _ = writeln!(io::stderr().lock(), "error: {error}");
        }
    }
    ExitCode::FAILURE
}

/// Answers a person on the standard output.
///
/// # Errors
/// It cannot be written, but for a reader who has read enough.
pub fn say(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Cancels the token at the first SIGTERM or SIGINT. From the call on neither ends the process by itself. Inside a
/// runtime only.
///
/// # Errors
/// No signals can be received.
pub fn end_by_signal(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
