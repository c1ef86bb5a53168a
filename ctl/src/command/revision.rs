//! `ctl revision mark`: say that a revision is good or bad.

use clap::{Subcommand, ValueEnum};
use sternway_proto::v1;

use super::{App, Ended, empty_answer};
use crate::{
    args::TargetArgs, client::Client, error::CtlError, exit_code::ExitCode,
    json::target as document, render,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mark a revision good, bad (no rollback goes to it), or take its mark away
    #[command(after_help = "Examples:\n  \
        ctl revision mark bad 12 --host web-1 --reason '500s on checkout'\n  \
        ctl revision mark none '#12' --host web-1 --target docker/shop")]
    Mark {
        mark: Mark,
        /// 12, '#12', current, previous, known-good, or the beginning of an id
        revision: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Why, for the record and for whoever tries to go back to it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mark {
    Good,
    Bad,
    None,
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    let Command::Mark {
        mark,
        revision,
        target,
        reason,
    } = command;
    let client = app.client().await?;
    // The target may be one that nobody looks after any more: asked for by itself it would not be found.
    let doing = match target.target.as_str() {
        "" => format!("mark revision {revision} on {}", target.host),
        name => format!("mark revision {revision} of {name} on {}", target.host),
    };
    let revision = resolve(&client, &doing, &target, revision).await?;
    let mark = match mark {
        Mark::Good => v1::Mark::Good,
        Mark::Bad => v1::Mark::Bad,
        Mark::None => v1::Mark::Unspecified,
    };
    let message = v1::MarkRevisionRequest {
        host: target.host,
        target: target.target,
        revision,
        mark: mark.into(),
        reason,
    };
    let answer = client
        .mark_revision(&doing, message, |text| app.ui.note(text))
        .await?;
    let revision = answer.revision.ok_or_else(|| empty_answer(&doing))?;
    let text = render::target::marked(app.ui.view, &answer.host, &answer.target, &revision);
    let document = document::Marked {
        host: answer.host,
        target: answer.target,
        revision: (&revision).into(),
    };
    app.answer(&document, &text)?;
    Ok(ExitCode::Done)
}

/// The id behind a word that counts from what runs and leaves the bad ones out: after the mark it may mean another, and
/// the mark may be asked for twice.
async fn resolve(
    client: &Client,
    doing: &str,
    target: &TargetArgs,
    word: String,
) -> Result<String, CtlError> {
    if !matches!(word.as_str(), "current" | "previous" | "known-good") {
        return Ok(word);
    }
    let message = v1::DiffRevisionsRequest {
        host: target.host.clone(),
        target: target.target.clone(),
        before: word.clone(),
        after: word,
    };
    let answer = client.diff_revisions(doing, message).await?;
    let revision = answer.after.ok_or_else(|| empty_answer(doing))?;
    Ok(revision.id)
}
