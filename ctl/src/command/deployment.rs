//! `ctl deployment`: CI says what it deployed, and asks whether it may.

use clap::{Subcommand, ValueEnum};
use sternway_proto::v1;
use uuid::Uuid;

use super::{App, Ended, empty_answer};
use crate::{exit_code::ExitCode, json::target as document, text::clean};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what was deployed
    #[command(
        after_help = "Example:\n  ctl deployment record --digest \"$DIGEST\" --host web-1 \
                            --target docker/shop --commit \"$COMMIT\" --migration compatible"
    )]
    Record(Box<RecordArgs>),
    /// Ask whether a digest is marked bad: exit code 13 where it is
    #[command(
        after_help = "Example:\n  ctl deployment check \"$DIGEST\" && docker pull \"shop@$DIGEST\""
    )]
    Check {
        /// sha256:…, or NAME@sha256:…
        digest: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// sha256:…, or NAME@sha256:…
    #[arg(long)]
    digest: String,
    /// The host, by name or id
    #[arg(long, default_value = "", hide_default_value = true)]
    host: String,
    /// The target, for instance docker/web
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// The version as people call it
    #[arg(long = "version", default_value = "", hide_default_value = true)]
    deployed_version: String,
    /// The commit it was built from
    #[arg(long, default_value = "", hide_default_value = true)]
    commit: String,
    /// Who deployed it
    #[arg(long, default_value = "", hide_default_value = true)]
    author: String,
    /// Why
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// What it did to the database
    #[arg(long, value_enum)]
    migration: Option<Migration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Migration {
    None,
    Compatible,
    Reversible,
    Destructive,
}

impl Migration {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Compatible => "compatible",
            Self::Reversible => "reversible",
            Self::Destructive => "destructive",
        }
    }
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Record(args) => record(*args, app).await,
        Command::Check { digest } => check(digest, app).await,
    }
}

async fn record(args: RecordArgs, app: &mut App<'_>) -> Ended {
    let doing = "record the deployment";
    let deployment = v1::Deployment {
        host: args.host,
        target: args.target,
        digest: args.digest,
        version: args.deployed_version,
        commit: args.commit,
        author: args.author,
        reason: args.reason,
        migration: args.migration.map_or("", Migration::word).to_owned(),
        ..Default::default()
    };
    let client = app.client().await?;
    let message = v1::RecordDeploymentRequest {
        deployment: Some(deployment),
        request_id: Uuid::new_v4().to_string(),
    };
    let note = |text: &str| app.ui.note(text);
    let answer = client.record_deployment(doing, message, note).await?;
    let deployment = answer.deployment.ok_or_else(|| empty_answer(doing))?;
    let text = format!("✔ recorded {}\n", clean(&deployment.id));
    app.answer(&document::Deployment::from(&deployment), &text)?;
    Ok(ExitCode::Done)
}

async fn check(digest: String, app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let message = v1::CheckDeploymentRequest {
        digest: digest.clone(),
    };
    let answer = client.check_deployment("check the digest", message).await?;
    let text = if answer.bad {
        let reasons = answer.reasons.iter().map(|it| format!("  {}\n", clean(it)));
        format!("✖ {} is marked bad\n", clean(&digest)) + &reasons.collect::<String>()
    } else {
        format!("✔ {} is not marked bad\n", clean(&digest))
    };
    let document = document::DeploymentCheck {
        digest,
        bad: answer.bad,
        reasons: answer.reasons,
    };
    app.answer(&document, &text)?;
    Ok(if answer.bad {
        ExitCode::AnswerIsNo
    } else {
        ExitCode::Done
    })
}
