//! `ctl rollout`: list, show, watch.

use std::time::Duration;

use clap::Subcommand;
use sternway_proto::v1;
use tokio::time::Instant;

use super::{App, Ended, empty_answer, parse_duration};
use crate::{
    exit_code::ExitCode,
    json::rollout as document,
    render,
    text::clean,
    watch::{
        fold::Watch,
        follow::{End, follow},
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The newest rollouts
    #[command(after_help = "Example:\n  ctl rollout ls --host web-1 --limit 5")]
    Ls {
        /// Only those of this host
        #[arg(long, default_value = "", hide_default_value = true)]
        host: String,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// One rollout with everything that happened
    #[command(after_help = "Example:\n  ctl rollout show 0198a1b2-0000-7000-8000-000000000001")]
    Show {
        /// The id or a unique beginning of it; that of one of its orders will do, too
        rollout: String,
    },
    /// Follow a rollout to its end; the exit code tells how it ended
    #[command(
        after_help = "Example:\n  ctl rollout watch 0198a1b2-0000-7000-8000-000000000001 --timeout 10m"
    )]
    Watch(WatchArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The id or a unique beginning of it; that of one of its orders will do, too
    rollout: String,
    /// Stop watching after so long; the rollout goes on
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Ls { host, limit } => list(app, host, limit).await,
        Command::Show { rollout } => show(app, rollout).await,
        Command::Watch(args) => {
            let client = app.client().await?;
            let mut watch = Watch::default();
            watch_to_end(app, &client, &mut watch, &args.rollout, false, args.timeout).await
        }
    }
}

async fn list(app: &mut App<'_>, host: String, limit: u32) -> Ended {
    let client = app.client().await?;
    let message = v1::ListRolloutsRequest { host, limit };
    let answer = client.list_rollouts("list rollouts", message).await?;
    let (rollouts, thinned) = (answer.rollouts, answer.thinned);
    let document = document::Rollouts {
        rollouts: rollouts.iter().map(Into::into).collect(),
        thinned,
    };
    app.answer(&document, &render::rollout::list(app.ui.view, &rollouts))?;
    app.ui.thinned(thinned);
    Ok(ExitCode::Done)
}

async fn show(app: &mut App<'_>, rollout: String) -> Ended {
    let doing = format!("show rollout {rollout}");
    let client = app.client().await?;
    let message = v1::GetRolloutRequest { rollout };
    let answer = client.get_rollout(&doing, message).await?;
    let rollout = answer.rollout.ok_or_else(|| empty_answer(&doing))?;
    let document = document::RolloutDetail {
        rollout: (&rollout).into(),
        events: answer.events.iter().map(Into::into).collect(),
    };
    let mut watch = Watch::new(rollout, app.ui.view.now_ms);
    let mut news = Vec::new();
    for event in answer.events {
        let event = v1::RolloutEvent {
            event: Some(v1::rollout_event::Event::OrderEvent(event)),
        };
        news.extend(watch.apply(event, app.ui.view.now_ms).news);
    }
    let view = app.ui.view;
    let text = render::rollout::show(view, &watch, &news);
    app.answer(&document, &text)?;
    Ok(ExitCode::Done)
}

/// Follows a rollout, and answers with how it ended or how to come back. `ours`: we have started it ourselves.
pub(crate) async fn watch_to_end(
    app: &mut App<'_>,
    client: &crate::client::Client,
    watch: &mut Watch,
    rollout: &str,
    ours: bool,
    timeout: Option<Duration>,
) -> Ended {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let interrupt = app.interrupt.clone();
    let end = follow(client, watch, rollout, ours, app.ui, &interrupt, deadline).await?;
    // What was asked for may be a prefix; what came back is the id.
    let id = match watch.rollout.id.as_str() {
        "" => clean(rollout),
        id => clean(id),
    };
    match end {
        End::Over => {
            if !app.ui.json() {
                let text = render::rollout::summary(app.ui.view, watch);
                app.ui.data(&text)?;
            }
            Ok(watch.exit_code())
        }
        End::Detached | End::TimedOut => {
            app.ui.note(&format!(
                "{}The rollout goes on without us. Come back with `ctl rollout watch {id}`.",
                render::rollout::left(app.ui.err_view, watch)
            ));
            Ok(ExitCode::StillRunning)
        }
    }
}
