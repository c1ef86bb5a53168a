//! The operator's tool: asks the controller, shows what it says, follows what it does. Rendering and the
//! fold over events are pure; the terminal, the clock and the network are at the edge.

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "text for one screen: plain reading before saved allocations"
)]

mod args;
mod client;
mod command;
mod config;
mod confirm;
mod connect;
mod error;
mod exit_code;
mod interrupt;
mod json;
mod render;
mod table;
mod text;
mod ui;
mod watch;

use clap::Parser as _;

pub use exit_code::ExitCode;

use crate::{args::Cli, command::App, error::CtlError, interrupt::Interrupt, ui::Ui};

/// Runs `ctl` with the process's arguments and terminal.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where the terminal is gone there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Done
            };
        }
    };
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let mut ui = Ui::of_process(cli.global.output, cli.global.no_color, now_ms);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.note(&format!("error: cannot start: {error}"));
            return ExitCode::Error;
        }
    };
    let code = runtime.block_on(run(cli, &mut ui));
    // A thread may still wait for an answer on stdin.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli, ui: &mut Ui) -> ExitCode {
    let interrupt = Interrupt::install();
    let mut app = App::new(ui, cli.global.config, interrupt.clone());
    let follows = cli.command.follows();
    let ended = tokio::select! {
        biased;
        () = interrupt.second() => return ExitCode::StillRunning,
        // A command that follows nothing just ends; at a question, Ctrl-C is a no.
        () = interrupt.first(), if !follows => if app.ui.asking() {
            Err(CtlError::declined())
        } else {
            Ok(ExitCode::Interrupted)
        },
        ended = command::run(cli.command, &mut app) => ended,
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            let text = if ui.json() {
                error.document()
            } else {
                error.render(ui.err_view)
            };
            ui.note(&text);
            error.exit_code()
        }
    }
}
