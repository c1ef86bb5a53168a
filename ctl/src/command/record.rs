//! `ctl record`: list, verify, export.

use std::time::Duration;

use clap::Subcommand;
use futures_util::StreamExt as _;
use sternway_proto::v1;
use tonic::Status;

use super::{App, Ended};
use crate::{
    error::CtlError,
    exit_code::ExitCode,
    json::{self, record as document},
    render,
};

/// The longest pause between two entries of an export.
const SILENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The newest entries, or those before a number
    #[command(after_help = "Examples:\n  ctl record ls --limit 20\n  ctl record ls --before 1200")]
    Ls {
        /// Only entries before this number
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        before: u64,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Check the chain of hashes: exit code 13 where it is broken
    #[command(after_help = "Example:\n  ctl record verify")]
    Verify,
    /// Every entry as a JSON line, oldest first
    #[command(
        after_help = "Examples:\n  ctl record export > record.jsonl\n  ctl record export --from 1200 >> record.jsonl"
    )]
    Export {
        /// From this number on
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        from: u64,
    },
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Ls { before, limit } => list(app, before, limit).await,
        Command::Verify => verify(app).await,
        Command::Export { from } => export(app, from).await,
    }
}

async fn list(app: &mut App<'_>, before_number: u64, limit: u32) -> Ended {
    let client = app.client().await?;
    let message = v1::ListRecordRequest {
        before_number,
        limit,
    };
    let entries = client
        .list_record("list the record", message)
        .await?
        .entries;
    let document = document::Entries {
        entries: entries.iter().map(Into::into).collect(),
    };
    app.answer(&document, &render::record::list(app.ui.view, &entries))?;
    Ok(ExitCode::Done)
}

async fn verify(app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let message = v1::VerifyRecordRequest {};
    let answer = client.verify_record("verify the record", message).await?;
    let document = document::Verified {
        holds: answer.problem.is_none(),
        entries: answer.entries,
        head_hash: answer.head_hash.clone(),
        broken_at: (answer.broken_at > 0).then_some(answer.broken_at),
        problem: answer.problem.as_ref().map(Into::into),
    };
    app.answer(&document, &render::record::verified(&answer))?;
    Ok(match answer.problem {
        None => ExitCode::Done,
        Some(_) => ExitCode::AnswerIsNo,
    })
}

async fn export(app: &mut App<'_>, from: u64) -> Ended {
    let doing = "export the record";
    let client = app.client().await?;
    let mut entries = client.export_record(doing, from).await?;
    loop {
        let silent = Status::deadline_exceeded("the controller sent nothing for a minute");
        let next = tokio::time::timeout(SILENCE, entries.next()).await;
        let Some(entry) = next.map_err(|_| CtlError::from_status(doing, &silent))? else {
            return Ok(ExitCode::Done);
        };
        let entry = entry.map_err(|status| CtlError::from_status(doing, &status))?;
        app.ui.data(&json::line(&document::Entry::from(&entry)))?;
        if app.ui.closed() {
            return Ok(ExitCode::Done);
        }
    }
}
