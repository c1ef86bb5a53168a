//! `ctl readiness`: whether every target could be rolled back now.

use sternway_proto::v1;

use super::{App, Ended, target::documents};
use crate::{exit_code::ExitCode, render};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit code is 13 where a target is not ready, or its host is not online, so that nobody \
                        knows; one that has nothing to go back to yet counts as ready.\n\nExamples:\n  ctl readiness\n  ctl readiness -o json"
)]
pub(crate) struct Args {
    /// Only the targets of this host
    #[arg(long, default_value = "", hide_default_value = true)]
    host: String,
}

pub(crate) async fn run(args: Args, app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let message = v1::ListTargetsRequest { host: args.host };
    let answer = client.list_targets("ask for readiness", message).await?;
    let targets = &answer.targets;
    let text = render::target::readiness(app.ui.view, targets);
    app.answer(&documents(&answer), &text)?;
    app.ui.thinned(answer.thinned);
    Ok(if render::target::all_ready(targets) {
        ExitCode::Done
    } else {
        ExitCode::AnswerIsNo
    })
}
