//! The agent's binary: parses, reads the settings, and hands over to the library.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use sternway_agent::{
    cli::{Cli, Command, ConfigCommand, Join},
    clock::now_ms,
    config::Settings,
    engine::journal::file_name,
    executor::ledger::Ledger,
    identity::{Identity, IdentityError},
    work::carry_out,
};
use sternway_proto::{
    enrol::{self, JoinError},
    fault,
    service::{self, LogFormat},
    settings::Sources,
    token::JoinToken,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Everything that it needs is in its folder: the settings of a moment later are none of it.
    if let Command::Work { folder } = &cli.command {
        let ended = carry_out(folder).map_err(anyhow::Error::from);
        return service::end(ended.map_err(|error| (format!("{error:#}"), LogFormat::Human)));
    }
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
        Command::Join(arguments) => join(&settings, &arguments),
        Command::Run => run(settings),
        Command::Status => status(&settings),
        Command::Work { folder } => Ok(carry_out(&folder)?),
        Command::Config(ConfigCommand::Show) => say(settings.to_toml().trim_end()),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    service::say(text).context("failed to write the answer")
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
    // The journal of an order tells the controller that gave it, which is this host's no more.
    let orders = settings.data_dir.join("orders");
    let open = Ledger::unfinished(&orders).context("the orders of this host cannot be read")?;
    if let Some(order) = open.first() {
        anyhow::bail!(
            "order {order} is open on this host; nothing was done. Start the agent and let it come to its end \
             (sternway-agent run), then join again. Where it cannot: see what runs, and move {} out of its folder",
            orders.join("open").join(file_name(*order)).display()
        );
    }
    let text = match arguments.token.as_str() {
        "-" => token_from_stdin().context("no token could be read")?,
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

/// All of stdin; on a terminal one line of it, which is asked for.
fn token_from_stdin() -> std::io::Result<String> {
    use std::io::{IsTerminal as _, Write as _};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return std::io::read_to_string(stdin);
    }
    std::io::stderr().write_all(b"the join token, then Enter: ")?;
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    Ok(line)
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
    let standing = if certificate.not_after_ms > now_ms() {
        format!("valid until {until}")
    } else {
        format!("ENDED {until}: see \"A host that was away\" in the README")
    };
    say(&format!(
        "host         {} ({})\ncluster      {}\ncontroller   {}\ncertificate  {}, {standing}",
        identity.host_name,
        identity.host_id,
        identity.cluster,
        identity.controller,
        certificate.serial
    ))
}

fn run(settings: Settings) -> anyhow::Result<()> {
    service::log(&settings.log, settings.log_format)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async move {
        let shutdown = CancellationToken::new();
        service::end_by_signal(shutdown.clone()).context("no signals can be received")?;
        sternway_agent::run::run(settings, shutdown).await
    });
    // A look-up or a write that hangs does not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended
}
