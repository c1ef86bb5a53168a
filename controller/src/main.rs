//! The controller's binary: parses, reads the settings, and hands over to the library.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context as _;
use clap::Parser as _;
use sternway_controller::{
    cli::{Cli, Command, ConfigCommand, OperatorCommand},
    config::{LogFormat, Settings},
    pki,
};
use sternway_proto::settings::Sources;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Only what runs as a service has a log; everything else speaks to a person.
    let logs = matches!(cli.command, Command::Run);
    let ended = settings(&cli).and_then(|settings| {
        let format = settings.log_format;
        act(cli.command, settings).map_err(|error| (error, format))
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, LogFormat::Json)) if logs => {
            log_end(&error);
            ExitCode::FAILURE
        }
        Err((error, _)) => {
            // The chain without a backtrace; where even that cannot be written nobody reads it.
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The error that ends a service, as a line of its log, whatever the filter lets pass.
fn log_end(error: &anyhow::Error) {
    let log = tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .finish();
    tracing::subscriber::with_default(log, || {
        tracing::error!(error = format!("{error:#}"), "ended by an error");
    });
}

/// The settings, or why there are none and how that is told.
fn settings(cli: &Cli) -> Result<Settings, (anyhow::Error, LogFormat)> {
    let sources = Sources {
        file: cli.config.as_deref(),
        environment: std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: cli.settings.flags(),
    };
    Settings::load(
        sources.file,
        sources.environment.clone(),
        sources.flags.clone(),
    )
    .map_err(|error| {
        let format = match Settings::schema().guess(&sources, "log_format") {
            Some(format) if format == "json" => LogFormat::Json,
            _ => LogFormat::Human,
        };
        (error.into(), format)
    })
}

fn act(command: Command, settings: Settings) -> anyhow::Result<()> {
    match command {
        Command::Init(operator) => {
            let made = pki::init(
                &settings.data_dir,
                &settings.controller_address()?,
                &operator.operator,
                &operator.operator_dir,
                SystemTime::now(),
            )
            .context("no cluster was made")?;
            say(&format!(
                "cluster {} is in {}\n\
                 {} is an admin: STERNWAY_CONFIG={} ctl status\n\
                 keep {} somewhere safe and offline: running does not need it",
                made.cluster,
                settings.data_dir.display(),
                operator.operator,
                made.ctl_config.display(),
                made.root_key.display()
            ))
        }
        Command::Operator(OperatorCommand::Issue { operator, role }) => {
            let lifetimes = pki::Lifetimes {
                operator: settings.operator_certificate_lifetime,
                ..pki::Lifetimes::default()
            };
            let authority = pki::Authority::open(&settings.data_dir.join("pki"), lifetimes)
                .context("the certificate authority cannot be used")?;
            let made = pki::issue_operator(
                &authority,
                &operator.operator,
                role.into(),
                &settings.controller_address()?,
                &operator.operator_dir,
                SystemTime::now(),
            )
            .context("no credentials were made")?;
            say(&format!(
                "{}: STERNWAY_CONFIG={} ctl status",
                operator.operator,
                made.ctl_config.display()
            ))
        }
        Command::Config(ConfigCommand::Show) => say(settings.to_toml().trim_end()),
        Command::Run => run(settings),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // Whoever read it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write the answer"),
    }
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log)
        .context("the setting log is no filter")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Human => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

#[tokio::main]
async fn run(settings: Settings) -> anyhow::Result<()> {
    log(&settings)?;
    sternway_controller::listen::raise_limit();
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("no signals can be received")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals can be received")?;
    let running = sternway_controller::run(settings, shutdown.clone()).await?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    running.wait().await?;
    Ok(())
}
