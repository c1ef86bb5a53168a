//! `ctl history`: the revisions of a target.

use super::{App, Ended, get_target};
use crate::{args::TargetArgs, exit_code::ExitCode, render};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ctl history --host web-1\n  \
                        ctl history --host web-1 --target docker/shop -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) async fn run(args: Args, app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let found = get_target(&client, &args.target).await?;
    let text = render::target::history(
        app.ui.view,
        &found.target,
        &found.deployments,
        &found.failures,
    );
    app.answer(&found.document(), &text)?;
    app.ui.thinned(found.thinned);
    Ok(ExitCode::Done)
}
