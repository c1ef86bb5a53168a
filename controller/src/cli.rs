//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sternway_proto::identity::Role;

use sternway_proto::service::LogFormat;

use crate::config::Flags;

/// Keeps the record of a fleet and rolls it back
#[derive(Debug, Parser)]
#[command(name = "sternway-controller", version)]
pub struct Cli {
    /// Read settings from this file
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Settings that have a flag; a flag goes before the environment and the file.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// Keep everything in this folder
    #[arg(long, visible_alias = "data", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Listen here for agents and operators
    #[arg(long, value_name = "IP:PORT", global = true)]
    pub listen: Option<String>,
    /// Listen here for machines that join
    #[arg(long, value_name = "IP:PORT", global = true)]
    pub listen_enrolment: Option<String>,
    /// Listen here for Prometheus; empty: off
    #[arg(long, value_name = "IP:PORT", global = true)]
    pub listen_metrics: Option<String>,
    /// Tell hosts and operators this address
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub advertise: Option<String>,
    /// Tell machines that join this address
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub advertise_enrolment: Option<String>,
    /// Log what passes this filter
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<String>,
    /// Log for people or for programs
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

impl SettingsArgs {
    /// The flags that were given.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let format = self.log_format.and_then(|format| {
            let value = format.to_possible_value()?;
            Some(value.get_name().to_owned())
        });
        [
            (
                "data_dir",
                self.data_dir.as_ref().map(|dir| dir.display().to_string()),
            ),
            ("listen", self.listen.clone()),
            ("listen_enrolment", self.listen_enrolment.clone()),
            ("listen_metrics", self.listen_metrics.clone()),
            ("advertise", self.advertise.clone()),
            ("advertise_enrolment", self.advertise_enrolment.clone()),
            ("log", self.log.clone()),
            ("log_format", format),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key, value)))
        .collect()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster: its certificate authority and the first operator's credentials
    #[command(
        after_help = "Examples:\n  sternway-controller init --operator alice --operator-dir ~/.config/sternway\n  sternway-controller init --advertise controller.example:7443 --operator alice --operator-dir alice"
    )]
    Init(Operator),
    /// Make credentials for operators
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Run the controller
    #[command(
        after_help = "Examples:\n  sternway-controller run\n  sternway-controller run --data-dir /srv/sternway --log-format json"
    )]
    Run,
    /// Copy the data folder, also while the controller runs
    #[command(
        after_help = "Example:\n  sternway-controller backup /srv/backup/sternway-2026-05-01"
    )]
    Backup {
        /// A new folder for the copy, which holds the cluster's keys
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Show the settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// An operator and where the credentials go.
#[derive(Debug, Args)]
pub struct Operator {
    /// The operator's name, as it will stand in the record
    #[arg(long, value_name = "NAME")]
    pub operator: String,
    /// Put the credentials and a ctl.toml into this folder
    #[arg(long, visible_alias = "out", value_name = "DIR")]
    pub operator_dir: PathBuf,
}

/// Commands about operators.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Issue a certificate to an operator, with the cluster's own keys
    #[command(
        after_help = "Example:\n  sternway-controller operator issue --operator bob --role viewer --operator-dir bob"
    )]
    Issue {
        #[command(flatten)]
        operator: Operator,
        /// What the operator may do
        #[arg(long, value_enum)]
        role: OperatorRole,
    },
    /// List the certificates that were issued to operators
    #[command(after_help = "Example:\n  sternway-controller operator ls")]
    Ls,
    /// Refuse the certificates of an operator from now on, and cut their connections
    #[command(
        after_help = "Examples:\n  sternway-controller operator revoke bob --reason stolen\n  sternway-controller operator revoke 52ff0a1b3c4d5e6f708192a3b4c5d6e7"
    )]
    Revoke {
        /// Every certificate that was issued to this operator until now, or the one of this serial. With the name
        /// goes what the operator left: orders that were not sent, and join tokens that nobody used
        #[arg(value_name = "NAME|SERIAL")]
        operator: String,
        /// Why, for the record
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// The roles of operators.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OperatorRole {
    /// Reads
    Viewer,
    /// Reads and rolls back
    Operator,
    /// Also enrols and revokes
    Admin,
}

impl From<OperatorRole> for Role {
    fn from(role: OperatorRole) -> Self {
        match role {
            OperatorRole::Viewer => Self::Viewer,
            OperatorRole::Operator => Self::Operator,
            OperatorRole::Admin => Self::Admin,
        }
    }
}

/// Commands about settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings that hold, as a file that says the same
    #[command(after_help = "Example:\n  sternway-controller config show > controller.toml")]
    Show,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Holds the examples of a command, and of those below it, against the command line.
    fn hold(command: &clap::Command, path: &str) {
        for below in command.get_subcommands() {
            hold(below, &format!("{path} {}", below.get_name()));
        }
        if command.has_subcommands() {
            return;
        }
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let examples = help
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with(path));
        for example in examples.clone() {
            let words = example
                .split(' ')
                .take_while(|word| !["<", ">"].contains(word));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{example}: {error}");
            }
        }
        assert!(examples.count() > 0, "{path} has an example");
    }

    #[test]
    fn every_command_has_examples_of_itself_and_each_is_accepted() {
        let command = Cli::command();
        hold(&command, command.get_name());
    }
}
