//! One file a command: ask, show, answer with an exit code.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod deployment;
pub(crate) mod diff;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod readiness;
pub(crate) mod record;
pub(crate) mod revision;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub(crate) mod status;
pub(crate) mod target;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use sternway_proto::{settings, v1};

use crate::{
    args::{Command, TargetArgs},
    client::Client,
    connect,
    error::{CtlError, Kind},
    exit_code::{self, ExitCode},
    interrupt::Interrupt,
    json,
    ui::Ui,
};

/// What a command works with.
pub(crate) struct App<'a> {
    pub(crate) ui: &'a mut Ui,
    pub(crate) interrupt: Interrupt,
    config: Option<PathBuf>,
}

pub(crate) type Ended = Result<ExitCode, CtlError>;

impl<'a> App<'a> {
    pub(crate) fn new(ui: &'a mut Ui, config: Option<PathBuf>, interrupt: Interrupt) -> Self {
        Self {
            ui,
            interrupt,
            config,
        }
    }

    /// Where the configuration is.
    pub(crate) fn config_path(&self) -> Result<PathBuf, CtlError> {
        crate::config::locate(self.config.as_deref())
    }

    /// The configuration.
    pub(crate) fn config(&self) -> Result<crate::config::Config, CtlError> {
        crate::config::load(&self.config_path()?)
    }

    /// Connects to the controller.
    pub(crate) async fn client(&mut self) -> Result<Client, CtlError> {
        let config = self.config()?;
        connect::connect(&config, self.ui).await
    }

    /// Shows an answer: the document for programs, or the text for people.
    pub(crate) fn answer<T: Serialize>(
        &mut self,
        document: &T,
        text: &str,
    ) -> Result<(), CtlError> {
        if self.ui.json() {
            self.ui.data(&json::document(document))
        } else {
            self.ui.data(text)
        }
    }
}

/// Runs a command.
pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Host(command) => host::run(command, app).await,
        Command::Target(command) => target::run(command, app).await,
        Command::History(args) => history::run(args, app).await,
        Command::Diff(args) => diff::run(args, app).await,
        Command::Rollback(args) => rollback::run(args, app).await,
        Command::Rollout(command) => rollout::run(command, app).await,
        Command::Revision(command) => revision::run(command, app).await,
        Command::Deployment(command) => deployment::run(command, app).await,
        Command::Record(command) => record::run(command, app).await,
        Command::Readiness(args) => readiness::run(args, app).await,
        Command::Status => status::run(app).await,
        Command::Completions(args) => completions::run(&args, app),
        Command::Config(command) => config::run(&command, app),
        Command::ExitCodes => {
            app.answer(&exit_code::document(), &exit_code::table())?;
            Ok(ExitCode::Done)
        }
    }
}

/// A length of time on the command line: `90s`, `10m`, `1h30m`; more than none, a month at most.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = settings::duration::parse(text).map_err(|error| error.to_string())?;
    let month = Duration::from_hours(31 * 24);
    if duration.as_millis() == 0 || duration > month {
        return Err("a duration here is between 1 ms and 31 days".to_owned());
    }
    Ok(duration)
}

/// A duration as the wire has it.
pub(crate) fn wire_ms(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX))
}

/// A target with its host, and what is known of its past.
pub(crate) struct Found {
    pub(crate) host: v1::Host,
    pub(crate) target: v1::Target,
    pub(crate) deployments: Vec<v1::Deployment>,
    pub(crate) failures: Vec<v1::FailedRestore>,
    /// The controller left parts out.
    pub(crate) thinned: bool,
}

impl Found {
    /// The document of `ctl target show` and `ctl history`.
    pub(crate) fn document(&self) -> json::target::TargetDetail {
        json::target::TargetDetail {
            target: json::target::HostTarget::new(&self.host, &self.target),
            deployments: self.deployments.iter().map(Into::into).collect(),
            failures: self.failures.iter().map(Into::into).collect(),
            thinned: self.thinned,
        }
    }
}

/// The target that is meant. Without a name it is the host's only one.
pub(crate) async fn get_target(client: &Client, args: &TargetArgs) -> Result<Found, CtlError> {
    let doing = match args.target.as_str() {
        "" => format!("show the target of {}", args.host),
        target => format!("show {target} on {}", args.host),
    };
    let message = v1::GetTargetRequest {
        host: args.host.clone(),
        target: args.target.clone(),
    };
    let answer = client.get_target(&doing, message).await?;
    let found = answer.target.and_then(|it| Some((it.host?, it.target?)));
    let (host, target) = found.ok_or_else(|| empty_answer(&doing))?;
    Ok(Found {
        host,
        target,
        deployments: answer.deployments,
        failures: answer.failures,
        thinned: answer.thinned,
    })
}

/// An answer without what was asked for.
pub(crate) fn empty_answer(doing: &str) -> CtlError {
    CtlError::new(Kind::Error, format!("cannot {doing}"))
        .because("the controller's answer is empty")
        .next("compare `ctl --version` with the controller's (`ctl status`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        for bad in ["", "x", "0s", "-5s", "99999h", "10"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
