//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use sternway_proto::service::LogFormat;

use crate::config::Flags;

/// Records what is deployed on this host, and restores it when ordered to
#[derive(Debug, Parser)]
#[command(name = "sternway-agent", version)]
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
    #[arg(long, visible_alias = "state", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
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
        let format = self
            .log_format
            .and_then(|format| Some(format.to_possible_value()?.get_name().to_owned()));
        let dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        [
            ("data_dir", dir),
            ("log", self.log.clone()),
            ("log_format", format),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine a host, with a token from `ctl host token`
    #[command(
        after_help = "Examples:\n  sternway-agent join TOKEN\n  sternway-agent join - < token"
    )]
    Join(Join),
    /// Look after this host (what the service runs)
    #[command(after_help = "Example:\n  sternway-agent run")]
    Run,
    /// Show who this host is and how long its certificate is valid; needs no controller
    #[command(after_help = "Example:\n  sternway-agent status")]
    Status,
    /// Do what an order of the agent asks of a unit of its own
    #[command(hide = true, after_help = "Example:\n  sternway-agent work FOLDER")]
    Work {
        /// Where what is to be done is written down
        folder: PathBuf,
    },
    /// Show the settings that are in force
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct Join {
    /// The token, as `ctl host token` printed it. `-`: read it from standard input
    pub token: String,
    /// Reach the controller here instead of where the token says
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: Option<String>,
    /// Call the host this, where the token names none; else what the machine calls itself
    #[arg(long)]
    pub name: Option<String>,
    /// Join although this machine has joined before: it becomes another host
    #[arg(long)]
    pub again: bool,
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print them as a file that says the same
    #[command(after_help = "Example:\n  sternway-agent config show > agent.toml")]
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
