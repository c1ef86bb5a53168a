//! What a binary that runs as a service has in common with the others: its log, its answers to a person, the
//! signals that end it, and [`notify`], its service manager.

pub mod notify;

use std::{
    fmt,
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};

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
        LogFormat::Human => {
            let lines = tracing_subscriber::fmt::format().with_ansi(false);
            let journal = for_journal();
            let lines = Lines { lines, journal };
            builder.with_ansi(false).event_format(lines).init();
        }
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Whether the standard error is what systemd reads for its journal, by the device and inode that it names, as of
/// systemd.exec(5): the variable alone is inherited by whatever a service starts.
fn for_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let own = rustix::fs::fstat(io::stderr()).ok();
    named
        .zip(own)
        .is_some_and(|(named, own)| named == format!("{}:{}", own.st_dev, own.st_ino))
}

/// Lines for a person. The journal learns of each how grave it is, so that `journalctl -p warning` finds it.
struct Lines<F> {
    lines: F,
    journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.journal {
            let priority = priority(*event.metadata().level());
            write!(writer, "<{priority}>")?;
        }
        self.lines.format_event(context, writer, event)
    }
}

/// The priority of syslog, as of sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
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
            let grave = if for_journal() { "<3>" } else { "" };
            let _ = writeln!(io::stderr().lock(), "{grave}error: {error}");
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
