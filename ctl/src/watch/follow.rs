//! Follows a rollout to its end: attaches, feeds the fold, and attaches again when the connection breaks.

use std::time::Duration;

use futures_util::StreamExt as _;
use sternway_proto::v1;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::{display::Display, fold::Watch};
use crate::{
    client::{Client, pause},
    error::{CtlError, is_transient},
    interrupt::Interrupt,
    ui::Ui,
};

/// How often in a row, without an event between, a broken stream is taken up again: with the pauses of
/// [`pause`] about a minute and a half, enough for a controller to be started again.
const ATTEMPTS: u32 = 20;

/// After so long a silence the stream is opened anew: a replay costs little and heals whatever hangs.
const SILENCE: Duration = Duration::from_mins(2);

/// Why following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The rollout is over.
    Over,
    /// The person asked to be let go.
    Detached,
    /// The time the caller gave is up.
    TimedOut,
}

/// Follows a rollout until it is over, `interrupt` fires, or `deadline` passes. `ours`: we have started it ourselves.
///
/// # Errors
/// The controller refuses, or cannot be reached for longer than the attempts last.
pub(crate) async fn follow(
    client: &Client,
    watch: &mut Watch,
    rollout: &str,
    ours: bool,
    ui: &mut Ui,
    interrupt: &Interrupt,
    deadline: Option<Instant>,
) -> Result<End, CtlError> {
    let display = Display::of(ui);
    let end = tokio::select! {
        biased;
        () = interrupt.first() => Ok(End::Detached),
        () = until(deadline) => Ok(End::TimedOut),
        end = attach_until_over(client, watch, rollout, ours, ui, &display) => end,
    };
    display.finish();
    end
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn attach_until_over(
    client: &Client,
    watch: &mut Watch,
    rollout: &str,
    ours: bool,
    ui: &mut Ui,
    display: &Display,
) -> Result<End, CtlError> {
    let (mut failures, mut known) = (0, ours);
    loop {
        let lost = match client.watch_rollout(rollout).await {
            Ok(stream) => {
                known = true;
                read(stream, watch, ui, display, &mut failures).await?
            }
            Err(status) => Some(status),
        };
        if watch.over() || ui.closed() {
            return Ok(End::Over);
        }
        let Some(status) = lost else { continue };
        failures += 1;
        if failures > ATTEMPTS || !is_transient(&status) {
            let error = CtlError::from_status(&format!("follow rollout {rollout}"), &status);
            let come_back = format!(
                "the rollout goes on without us; come back with `ctl rollout watch {rollout}`"
            );
            let refused = matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied
            );
            return Err(match status.code() {
                // We are not let in any more; that says nothing of the rollout.
                _ if known && refused => error.out_of_reach().next(come_back),
                Code::Unavailable => error.next(come_back),
                _ if is_transient(&status) => error.next(come_back),
                // What the controller refuses may not even exist.
                _ => error,
            });
        }
        if failures == 1 {
            display.note(
                ui,
                "⚠ the connection to the controller is lost, attaching again",
            );
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

/// Reads a stream to its end. None: it went silent, or ended as it should.
async fn read(
    mut stream: Streaming<v1::RolloutEvent>,
    watch: &mut Watch,
    ui: &mut Ui,
    display: &Display,
    failures: &mut u32,
) -> Result<Option<Status>, CtlError> {
    loop {
        let event = match tokio::time::timeout(SILENCE, stream.next()).await {
            Err(_) => return Ok(None),
            Ok(None) if watch.over() => return Ok(None),
            Ok(None) => return Ok(Some(Status::unavailable("the stream ended too early"))),
            Ok(Some(Err(status))) => return Ok(Some(status)),
            Ok(Some(Ok(event))) => event,
        };
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let applied = watch.apply(event.clone(), now_ms);
        if applied.fresh {
            *failures = 0;
            display.event(ui, watch, &event, &applied.news)?;
        }
        if ui.closed() {
            return Ok(None);
        }
    }
}
