//! `ctl completions`: for the shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{App, Ended};
use crate::{args::Cli, exit_code::ExitCode};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ctl completions bash > /etc/bash_completion.d/ctl")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: &Args, app: &mut App<'_>) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ctl", &mut script);
    app.ui.data(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Done)
}
