//! `ctl config`: where the configuration is and what it says.

use clap::Subcommand;
use serde::Serialize;

use super::{App, Ended};
use crate::{exit_code::ExitCode, render::pairs, text::clean};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What the configuration says, with its paths resolved
    #[command(after_help = "Example:\n  ctl config show")]
    Show,
    /// Where the configuration is read from
    #[command(after_help = "Example:\n  ctl config path")]
    Path,
}

#[derive(Serialize)]
struct Path {
    path: String,
}

#[derive(Serialize)]
struct Shown {
    path: String,
    controller: String,
    cluster: String,
    certificate: String,
    key: String,
    trust: String,
}

pub(crate) fn run(command: &Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Path => {
            let path = app.config_path()?.display().to_string();
            let text = clean(&path) + "\n";
            app.answer(&Path { path }, &text)?;
        }
        Command::Show => {
            let config = app.config()?;
            let shown = Shown {
                path: config.file.display().to_string(),
                controller: config.controller,
                cluster: config.cluster,
                certificate: config.certificate.display().to_string(),
                key: config.key.display().to_string(),
                trust: config.trust.display().to_string(),
            };
            let text = pairs(
                app.ui.view,
                &[
                    ("file", clean(&shown.path)),
                    ("controller", clean(&shown.controller)),
                    ("cluster", clean(&shown.cluster)),
                    ("certificate", clean(&shown.certificate)),
                    ("key", clean(&shown.key)),
                    ("trust", clean(&shown.trust)),
                ],
            );
            app.answer(&shown, &text)?;
        }
    }
    Ok(ExitCode::Done)
}
