//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{command, exit_code, ui::Format};

/// What most people come for.
const EXAMPLES: &str = "Examples:
  ctl rollback --host web-1 --dry-run
  ctl rollback --host web-1 --reason '500s on checkout'
  ctl history --host web-1";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit_code::table())
}

/// Undo any deployment on any host
///
/// Asks the Sternway controller that `ctl.toml` names (see `ctl config path`). Data goes to stdout,
/// progress and questions to stderr. `-o json` is stable; what people read is not.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, after_help = EXAMPLES, after_long_help = long_help(), arg_required_else_help = true)]
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
    #[command(after_help = "Example:\n  ctl status")]
    Status,
    /// Completions for a shell, to stdout
    Completions(command::completions::Args),
    /// The configuration of ctl itself
    #[command(subcommand)]
    Config(command::config::Command),
    /// The exit codes and what they mean
    #[command(long_about = exit_code::table(), after_help = "Example:\n  ctl exit-codes -o json")]
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The words of a command line as a shell makes them, up to what is the shell's own.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for letter in line.chars() {
            match (quote, letter) {
                (None, '\'' | '"') => quote = Some(letter),
                (Some(open), _) if open == letter => quote = None,
                (None, ' ') => words.push(std::mem::take(&mut word)),
                _ => word.push(letter),
            }
        }
        words.push(word);
        let own = |word: &String| matches!(word.as_str(), ">" | ">>" | "|" | "||" | "&&");
        let end = words.iter().position(own).unwrap_or(words.len());
        words.truncate(end);
        words
    }

    fn examples(help: &str) -> Vec<&str> {
        let parts = help
            .split_once("Example")
            .map_or("", |(_, examples)| examples);
        let lines = parts.lines().map(str::trim);
        lines.filter(|line| line.starts_with("ctl ")).collect()
    }

    /// Every command below, with the words that lead to it, and its help.
    fn commands(command: &clap::Command, path: &str) -> Vec<(String, String)> {
        let help = command.get_after_help().map(ToString::to_string);
        let mut all = vec![(path.to_owned(), help.unwrap_or_default())];
        for below in command.get_subcommands() {
            all.extend(commands(below, &format!("{path} {}", below.get_name())));
        }
        // What only leads to others needs no example.
        if all.len() > 1 && path.contains(' ') {
            all.remove(0);
        }
        all
    }

    #[test]
    fn every_command_has_examples_of_itself_and_each_is_accepted() {
        for (path, help) in commands(&Cli::command(), "ctl") {
            let examples = examples(&help);
            assert!(!examples.is_empty(), "{path} has an example");
            for example in examples {
                assert!(example.starts_with(&path), "{path}: {example}");
                if let Err(error) = Cli::try_parse_from(words(example)) {
                    panic!("{example}: {error}");
                }
            }
        }
    }
}
