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
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain without a backtrace; where even that cannot be written nobody reads it.
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let settings = Settings::load(cli.config.as_deref(), environment, cli.settings.flags())?;
    match cli.command {
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
