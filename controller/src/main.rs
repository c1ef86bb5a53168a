//! The controller's binary: parses, reads the settings, and hands over to the library.

use std::{ffi::OsString, io::ErrorKind, path::Path, process::ExitCode, time::SystemTime};

use anyhow::Context as _;
use clap::Parser as _;
use sternway_controller::{
    backup,
    cli::{Cli, Command, ConfigCommand, OperatorCommand},
    clock::now_ms,
    cluster_in,
    config::Settings,
    operators, pki,
};
use sternway_proto::{
    service::{self, LogFormat},
    settings::Sources,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Only what runs as a service has a log; everything else speaks to a person.
    let logs = matches!(cli.command, Command::Run);
    let ended = settings(&cli).and_then(|settings| {
        let format = settings.log_format;
        act(cli.command, settings).map_err(|error| (error, format))
    });
    service::end(ended.map_err(|(error, format)| {
        let format = if logs { format } else { LogFormat::Human };
        (format!("{error:#}"), format)
    }))
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
        let format = LogFormat::guess(&Settings::schema(), &sources);
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
                settings.lifetimes(),
                SystemTime::now(),
                pki::Database {
                    make: &mut || Ok(wait(operators::make_database(&settings.data_dir))??),
                    keep: &mut |issued| Ok(wait(operators::note(&settings.data_dir, issued))??),
                },
            )?;
            say(&format!(
                "cluster {} is in {}\n\
                 {} is an admin: STERNWAY_CONFIG={} ctl status\n\
                 keep {} somewhere safe and offline: running does not need it\n\
                 now start it: systemctl enable --now sternway-controller, or sternway-controller run",
                made.cluster,
                settings.data_dir.display(),
                operator.operator,
                made.ctl_config.display(),
                made.root_key.display()
            ))
        }
        Command::Operator(OperatorCommand::Issue { operator, role }) => {
            cluster_in(&settings.data_dir)?;
            let pki = settings.data_dir.join("pki");
            let authority = pki::Authority::open(&pki, settings.lifetimes())
                .context("the certificate authority cannot be used")?;
            let made = pki::issue_operator(
                &authority,
                &operator.operator,
                role.into(),
                &settings.controller_address()?,
                &operator.operator_dir,
                SystemTime::now(),
                &mut |issued| Ok(wait(operators::note(&settings.data_dir, issued))??),
            )
            .context("no credentials were made")?;
            say(&format!(
                "{}: STERNWAY_CONFIG={} ctl status",
                operator.operator,
                made.ctl_config.display()
            ))
        }
        Command::Operator(OperatorCommand::Ls) => {
            cluster_in(&settings.data_dir)?;
            let listed = wait(operators::list(&settings.data_dir))??;
            say(&operators::all(&listed, now_ms()))
        }
        Command::Operator(OperatorCommand::Revoke { operator, reason }) => {
            cluster_in(&settings.data_dir)?;
            let revoked = wait(operators::revoke(&settings.data_dir, &operator, &reason))??;
            say(&operators::told(&operator, &revoked, now_ms()))
        }
        Command::Backup { to } => {
            wait(backup::backup(&settings.data_dir, &to))??;
            say(&format!(
                "{} is a copy of {}: guard it, for it holds the cluster's keys.\n\
                 To go back to it: stop the controller, put the copy in the place of the data folder, start it",
                to.display(),
                settings.data_dir.display()
            ))
        }
        Command::Config(ConfigCommand::Show) => say(settings.to_toml().trim_end()),
        Command::Run => run(settings),
    }
}

/// Carries out what a command waits for.
fn wait<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

fn say(text: &str) -> anyhow::Result<()> {
    service::say(text).context("failed to write the answer")
}

#[tokio::main]
async fn run(settings: Settings) -> anyhow::Result<()> {
    service::log(&settings.log, settings.log_format)?;
    sternway_controller::listen::raise_limit();
    let shutdown = CancellationToken::new();
    service::end_by_signal(shutdown.clone()).context("no signals can be received")?;
    let elsewhere = elsewhere(&settings.data_dir, std::env::var_os("STATE_DIRECTORY"));
    let running = match sternway_controller::run(settings, shutdown).await {
        Ok(running) => running,
        Err(error) => {
            let error = anyhow::Error::new(error);
            return Err(match elsewhere {
                Some(hint) if may_not(&error) => error.context(hint),
                _ => error,
            });
        }
    };
    running.wait().await?;
    Ok(())
}

/// What is to be said of a data folder that is none of those that a service manager has made for its unit.
fn elsewhere(data_dir: &Path, made: Option<OsString>) -> Option<String> {
    let made = made?.into_string().ok()?;
    if made.split(':').any(|folder| data_dir.starts_with(folder)) {
        return None;
    }
    Some(format!(
        "data_dir is {}, and this unit has its data in {made} (StateDirectory=); keep it there, or give the unit a drop-in \
         that lets it use the other folder (ReadWritePaths=, and a User= to whom the folder and all that is in it \
         belongs, in the place of DynamicUser=)",
        data_dir.display()
    ))
}

/// Whether that is because of what this process may not do.
fn may_not(error: &anyhow::Error) -> bool {
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| kinds.contains(&error.kind()))
}
