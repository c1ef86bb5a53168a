//! `ctl diff`: what differs between two revisions.

use sternway_proto::v1;

use super::{App, Ended, Found, get_target};
use crate::{args::TargetArgs, exit_code::ExitCode, json::target as document, render};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A revision is 12, '#12', current, previous, known-good, or the beginning of an \
                        id.\n\nExamples:\n  ctl diff --host web-1\n  ctl diff --host web-1 11 12"
)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The revision before
    #[arg(default_value = "previous")]
    before: String,
    /// The revision after
    #[arg(default_value = "current")]
    after: String,
}

pub(crate) async fn run(args: Args, app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let Found { host, target, .. } = get_target(&client, &args.target).await?;
    let doing = format!(
        "compare {} and {} of {}",
        args.before, args.after, target.name
    );
    let message = v1::DiffRevisionsRequest {
        host: host.name.clone(),
        target: target.name.clone(),
        before: args.before,
        after: args.after,
    };
    let answer = client.diff_revisions(&doing, message).await?;
    let document = document::Diff {
        host: host.name,
        target: target.name,
        before: answer.before.as_ref().map(Into::into),
        after: answer.after.as_ref().map(Into::into),
        changes: answer.changes.iter().map(Into::into).collect(),
    };
    app.answer(&document, &render::target::diff(app.ui.view, &answer))?;
    Ok(ExitCode::Done)
}
