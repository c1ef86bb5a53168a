//! `ctl rollback`: plan, ask, start, follow.

use std::{cell::RefCell, time::Duration};

use clap::ValueEnum;
use sternway_proto::v1;
use uuid::Uuid;

use super::{App, Ended, empty_answer, parse_duration, rollout::watch_to_end, wire_ms};
use crate::{
    client::Client,
    confirm::{self, Question},
    error::{CtlError, Kind},
    exit_code::ExitCode,
    json::{self, rollout as document},
    render::plan,
    text::clean,
    watch::fold::Watch,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Shows the plan, asks, and follows the rollout to its end; the exit code tells how \
it ended (see `ctl exit-codes`). Ctrl-C lets go of it and says how to come back; it goes on.\n\n\
Examples:\n  ctl rollback --host web-1\n  ctl rollback --host web-1 --dry-run\n  \
ctl rollback --host web-1 --target docker/shop --to 12 --reason '500s on checkout'\n  \
ctl rollback --host web-1 --yes --no-wait -o json"
)]
pub(crate) struct Args {
    /// The host, by name or id
    #[arg(long, value_name = "HOST", required_unless_present = "plan")]
    host: Option<String>,
    /// The target, for instance docker/web; not needed where the host has one
    #[arg(
        long,
        value_name = "TARGET",
        default_value = "",
        hide_default_value = true
    )]
    target: String,
    /// Carry out the plan that a dry run by the same operator has shown, as it was shown; refused where the host has
    /// changed since, or where it has expired
    #[arg(
        long,
        value_name = "ID",
        requires = "yes",
        conflicts_with_all = ["host", "target", "to", "dry_run", "only", "swap"]
    )]
    plan: Option<String>,
    /// 12, '#12', previous, known-good, or the beginning of an id [default: the newest known-good
    /// revision before the one that runs]
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "REVISION"
    )]
    to: String,
    /// Show the plan and stop: exit code 0 where nothing would change, 20 where something would, 4 where
    /// it would be refused
    #[arg(long)]
    dry_run: bool,
    /// Put back only the image, or only the configuration
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Overrule how the container is exchanged; warm is refused where two instances could harm, or where it is not
    /// possible
    #[arg(long, value_enum)]
    swap: Option<Swap>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// How long the order may wait for its host [default: the controller's]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    deadline: Option<Duration>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Start it, print its id, and do not wait
    #[arg(long)]
    no_wait: bool,
    /// Stop waiting after so long; the rollout goes on
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Only {
    Image,
    Config,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Swap {
    /// A proven standby serves meanwhile: no request is lost
    Warm,
    /// Create, stop, start: never two at once
    Cold,
}

pub(crate) async fn run(args: Args, app: &mut App<'_>) -> Ended {
    if let Some(plan_id) = &args.plan {
        let client = app.client().await?;
        return start_and_follow(&args, app, &client, plan_id.clone()).await;
    }
    let interrupt = app.interrupt.clone();
    let agreed = tokio::select! {
        biased;
        () = interrupt.first() => return Err(CtlError::declined()),
        agreed = plan_and_agree(&args, app) => agreed?,
    };
    match agreed {
        Agreed::Stop(code) => Ok(code),
        Agreed::Go { client, plan_id } => start_and_follow(&args, app, &client, plan_id).await,
    }
}

enum Agreed {
    Stop(ExitCode),
    Go { client: Client, plan_id: String },
}

async fn plan_and_agree(args: &Args, app: &mut App<'_>) -> Result<Agreed, CtlError> {
    let doing = doing("plan a rollback of", args);
    let client = app.client().await?;
    let planned = client.plan_rollback(&doing, plan_request(args)).await?;
    let plan = planned.plan.clone().ok_or_else(|| empty_answer(&doing))?;
    show_plan(args, app, &planned, &plan)?;
    if !plan.blockers.is_empty() {
        return Err(blocked(args, &plan));
    }
    if args.dry_run {
        return Ok(Agreed::Stop(if plan::nothing_to_do(&plan) {
            ExitCode::Done
        } else {
            ExitCode::WouldChange
        }));
    }
    if args.yes && args.to.is_empty() {
        not_once_more(args, &plan)?;
    }
    if !args.yes {
        confirm::agree(app.ui, QUESTION, planned.host.as_ref()).await?;
    }
    Ok(Agreed::Go {
        client,
        plan_id: planned.plan_id,
    })
}

const QUESTION: Question<'static> = Question {
    doing: "roll back",
    ask: "Roll back?",
    by_name: "roll it back",
    instead: "add --yes where that is meant, or --dry-run to see the plan",
};

fn doing(verb: &str, args: &Args) -> String {
    let host = args.host.as_deref().unwrap_or_default();
    match (&args.plan, args.target.as_str()) {
        (Some(plan), _) => format!("{verb} plan {plan}"),
        (None, "") => format!("{verb} {host}"),
        (None, target) => format!("{verb} {target} on {host}"),
    }
}

fn plan_request(args: &Args) -> v1::PlanRollbackRequest {
    let scope = match args.only {
        None => v1::RestoreScope::Both,
        Some(Only::Image) => v1::RestoreScope::Image,
        Some(Only::Config) => v1::RestoreScope::Config,
    };
    let swap = match args.swap {
        None => v1::Swap::Unspecified,
        Some(Swap::Warm) => v1::Swap::Warm,
        Some(Swap::Cold) => v1::Swap::Cold,
    };
    v1::PlanRollbackRequest {
        host: args.host.clone().unwrap_or_default(),
        target: args.target.clone(),
        to: args.to.clone(),
        scope: scope.into(),
        swap: swap.into(),
    }
}

/// For a dry run the plan is the data; before a question it is part of the question.
fn show_plan(
    args: &Args,
    app: &mut App<'_>,
    planned: &v1::PlanRollbackResponse,
    plan: &v1::Plan,
) -> Result<(), CtlError> {
    if app.ui.json() {
        let line = document::Line::Plan(Box::new(document::PlannedRollback {
            plan_id: planned.plan_id.clone(),
            host: planned
                .host
                .as_ref()
                .map_or_else(String::new, |it| it.name.clone()),
            host_offline: planned.host_offline,
            chosen_because: planned.chosen_because.clone(),
            nothing_to_do: plan::nothing_to_do(plan),
            plan: Some(plan.into()),
        }));
        app.ui.data(&json::line(&line))?;
        if args.yes || args.dry_run {
            return Ok(());
        }
    }
    let controller = app.config()?.controller;
    if args.dry_run {
        let text = plan::show(app.ui.view, &controller, planned);
        app.ui.data(&text)?;
        if !planned.plan_id.is_empty() {
            let id = clean(&planned.plan_id);
            app.ui.note(&format!(
                "\nFor some minutes this very plan can be carried out: ctl rollback --plan {id} --yes"
            ));
        }
        return Ok(());
    }
    let text = plan::show(app.ui.err_view, &controller, planned);
    app.ui.note(&text);
    Ok(())
}

fn blocked(args: &Args, plan: &v1::Plan) -> CtlError {
    let error = CtlError::new(
        Kind::Refused,
        format!("cannot {}", doing("roll back", args)),
    );
    let first = plan.blockers.first().map_or("", |it| it.code.as_str());
    let error = error.coded(first);
    plan.blockers.iter().fold(error, |error, blocker| {
        let error = error.because(clean(&blocker.message));
        match blocker.next_step.as_str() {
            "" => error,
            step => error.next(clean(step)),
        }
    })
}

/// A program that repeats itself shall not go back one revision further each time: what a rollback has just put there is
/// left only by somebody who says where to.
fn not_once_more(args: &Args, plan: &v1::Plan) -> Result<(), CtlError> {
    let just_now = |it: &&v1::Problem| it.code == "restored-just-now";
    let Some(why) = plan.warnings.iter().find(just_now) else {
        return Ok(());
    };
    let refused = format!("cannot {} unasked", doing("roll back", args));
    Err(CtlError::new(Kind::Refused, refused)
        .coded(&why.code)
        .because(clean(&why.message))
        .next(clean(&why.next_step)))
}

async fn start_and_follow(
    args: &Args,
    app: &mut App<'_>,
    client: &Client,
    plan_id: String,
) -> Ended {
    let doing = doing("start the rollback of", args);
    let message = v1::StartRollbackRequest {
        plan_id,
        reason: args.reason.clone(),
        deadline_ms: wire_ms(args.deadline),
        request_id: Uuid::new_v4().to_string(),
    };
    let answer = start(&doing, message, app, client).await?;
    let rollout = answer.rollout.ok_or_else(|| empty_answer(&doing))?;
    if args.no_wait {
        return print_id(app, &rollout);
    }
    app.ui.note(&format!("rollout {}", clean(&rollout.id)));
    let mut watch = Watch::default();
    watch_to_end(app, client, &mut watch, &rollout.id, true, args.timeout).await
}

/// Starts it. A Ctrl-C meanwhile is kept for later: without the answer nobody knows what to come back to.
async fn start(
    doing: &str,
    message: v1::StartRollbackRequest,
    app: &mut App<'_>,
    client: &Client,
) -> Result<v1::StartRollbackResponse, CtlError> {
    let interrupt = app.interrupt.clone();
    let ui = RefCell::new(&mut *app.ui);
    let start = client.start_rollback(doing, message, |text| ui.borrow_mut().note(text));
    tokio::pin!(start);
    tokio::select! {
        biased;
        answer = &mut start => return answer,
        () = interrupt.first() => {}
    }
    ui.borrow_mut()
        .note(
            "Waiting for the controller's answer. Ctrl-C again quits at once; `ctl rollout ls` then says \
             whether the rollback was started.",
        );
    start.await
}

fn print_id(app: &mut App<'_>, rollout: &v1::Rollout) -> Ended {
    let text = if app.ui.json() {
        json::line(&document::Line::Rollout {
            rollout: Box::new(rollout.into()),
        })
    } else {
        clean(&rollout.id) + "\n"
    };
    app.ui.data(&text)?;
    Ok(ExitCode::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::View;

    fn args(more: &[&str]) -> Args {
        let words = [&["ctl", "rollback", "--host", "web-1"], more].concat();
        let cli = <crate::args::Cli as clap::Parser>::try_parse_from(words);
        let crate::args::Command::Rollback(args) = cli.expect("parses").command else {
            panic!("another command");
        };
        args
    }

    #[test]
    fn what_was_restored_just_now_is_left_by_name_only() {
        let plan = |code: &str| v1::Plan {
            warnings: vec![v1::Problem::new(
                code,
                "what runs, #2, was put there by rollout r1, 40 s ago: this goes back one more, to #1",
                "where that is meant, name it: `--to 1`",
            )],
            ..Default::default()
        };
        assert!(not_once_more(&args(&[]), &plan("restored-before")).is_ok());
        let error = not_once_more(&args(&[]), &plan("restored-just-now")).expect_err("refused");
        assert_eq!(error.exit_code(), ExitCode::Refused);
        let told = error.document();
        assert!(told.contains(r#""code":"restored-just-now""#), "{told}");
        insta::assert_snapshot!(error.render(View::plain(0)), @r"
        error: cannot roll back web-1 unasked
          because: what runs, #2, was put there by rollout r1, 40 s ago: this goes back one more, to #1
          next: where that is meant, name it: `--to 1`
        ");
    }

    #[test]
    fn every_blocker_is_a_reason() {
        let plan = v1::Plan {
            blockers: vec![
                v1::Problem::new("image-missing", "the image is gone", "push it"),
                v1::Problem::new("no-disk-space", "the disk is full", ""),
            ],
            ..Default::default()
        };
        let error = blocked(&args(&[]), &plan);
        assert_eq!(error.exit_code(), ExitCode::Refused);
        let told = error.document();
        assert!(told.contains(r#""code":"image-missing""#), "{told}");
        insta::assert_snapshot!(error.render(View::plain(0)), @r"
        error: cannot roll back web-1
          because: the image is gone
          because: the disk is full
          next: push it
        ");
    }
}
