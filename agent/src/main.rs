//! The agent's binary: parses, reads the settings, and hands over to the library.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use sternway_agent::{
    cli::{Cli, Command, ConfigCommand, Join},
    config::{LogFormat, Settings},
    identity::{Identity, IdentityError},
};
use sternway_proto::{
    enrol::{self, JoinError},
    fault,
    token::JoinToken,
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
        Command::Join(arguments) => join(&settings, &arguments),
        Command::Run => run(settings),
        Command::Status => status(&settings),
        Command::Config(ConfigCommand::Show) => say(settings.to_toml().trim_end()),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // Whoever read it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write the answer"),
    }
}

/// Two threads: the agent must not compete with what it looks after.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime does not start")
}

fn join(settings: &Settings, arguments: &Join) -> anyhow::Result<()> {
    let _lock = sternway_agent::run::lock(&settings.data_dir)?;
    if !arguments.again {
        Identity::check_free(&settings.data_dir).map_err(|error| match error {
            IdentityError::Joined { .. } => anyhow::Error::new(error)
                .context("nothing was done; with --again it joins as another host"),
            other => other.into(),
        })?;
    }
    let text = match arguments.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context("no token could be read")?,
        text => text.to_owned(),
    };
    let token: JoinToken = text.parse()?;
    let hostname = match &arguments.name {
        Some(name) => name.clone(),
        None => machine_name(),
    };
    let joined = runtime()?
        .block_on(enrol::join(
            &token,
            arguments.controller.as_deref(),
            &hostname,
            env!("CARGO_PKG_VERSION"),
        ))
        .map_err(explain)?;
    Identity::store(&settings.data_dir, &joined).with_context(|| {
        format!(
            "host {} was made, but its identity could not be written: revoke it (`ctl host revoke {}`), make room, and \
             join with a new token",
            joined.host_name, joined.host_name
        )
    })?;
    say(&format!(
        "joined as {} ({})\nnow start the agent: systemctl enable --now sternway-agent, or sternway-agent run",
        joined.host_name, joined.host_id
    ))
}

/// A refusal with the controller's own words and next step.
fn explain(error: JoinError) -> anyhow::Error {
    let JoinError::Refused(status) = &error else {
        return error.into();
    };
    match fault::from_status(status) {
        Some(problem) if problem.next_step.is_empty() => {
            anyhow::anyhow!("the controller refused: {}", problem.message)
        }
        Some(problem) => anyhow::anyhow!(
            "the controller refused: {}\nnext: {}",
            problem.message,
            problem.next_step
        ),
        None => error.into(),
    }
}

/// What the machine calls itself, up to the first dot.
fn machine_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().into_owned();
    name.split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
}

fn status(settings: &Settings) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.data_dir)?;
    let certificate = identity.certificate()?;
    let until = jiff::Timestamp::from_millisecond(certificate.not_after_ms)
        .map_or_else(|_| "?".to_owned(), |time| time.to_string());
    say(&format!(
        "host         {} ({})\ncluster      {}\ncontroller   {}\ncertificate  {}, valid until {until}",
        identity.host_name,
        identity.host_id,
        identity.cluster,
        identity.controller,
        certificate.serial
    ))
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

fn run(settings: Settings) -> anyhow::Result<()> {
    log(&settings)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async move {
        let shutdown = CancellationToken::new();
        let mut terminate =
            signal(SignalKind::terminate()).context("no signals can be received")?;
        let mut interrupt =
            signal(SignalKind::interrupt()).context("no signals can be received")?;
        let asked = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        });
        sternway_agent::run::run(settings, shutdown).await
    });
    // A look-up or a write that hangs does not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended
}
