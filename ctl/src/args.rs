//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{command, exit_code, ui::Format};

/// Undo any deployment on any host
///
/// Asks the Sternway controller that `ctl.toml` names (see `ctl config path`). Data goes to stdout,
/// progress and questions to stderr. `-o json` is stable; what people read is not.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, after_long_help = exit_code::table(), arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration [default: ~/.config/sternway/ctl.toml]
    #[arg(long, global = true, env = "STERNWAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What stdout carries
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// No colour, as with NO_COLOR set
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hosts: list, show, make a join token, revoke
    #[command(subcommand)]
    Host(command::host::Command),
    /// Targets: what can be restored on the hosts
    #[command(subcommand)]
    Target(command::target::Command),
    /// The revisions of a target, newest first
    History(command::history::Args),
    /// What differs between two revisions
    Diff(command::diff::Args),
    /// Restore a target to an earlier revision
    Rollback(command::rollback::Args),
    /// Rollouts: rollbacks that run or have run
    #[command(subcommand)]
    Rollout(command::rollout::Command),
    /// Say what a revision is worth
    #[command(subcommand)]
    Revision(command::revision::Command),
    /// What CI knows about deployments
    #[command(subcommand)]
    Deployment(command::deployment::Command),
    /// The record of everything ordered, done and seen
    #[command(subcommand)]
    Record(command::record::Command),
    /// Whether every target could be rolled back now
    Readiness(command::readiness::Args),
    /// Who you are to the controller, and what it is
    Status,
    /// Completions for a shell, to stdout
    Completions(command::completions::Args),
    /// The configuration of ctl itself
    #[command(subcommand)]
    Config(command::config::Command),
    /// The exit codes and what they mean
    #[command(long_about = exit_code::table())]
    ExitCodes,
}

impl Command {
    /// Whether it deals with the first Ctrl-C itself.
    pub(crate) fn follows(&self) -> bool {
        matches!(
            self,
            Self::Rollback(_) | Self::Rollout(command::rollout::Command::Watch(_))
        )
    }
}

/// Which target is meant.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The host, by name or id
    #[arg(long, value_name = "HOST")]
    pub(crate) host: String,
    /// The target, for instance docker/web; not needed where the host has one
    #[arg(
        long,
        value_name = "TARGET",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) target: String,
}
