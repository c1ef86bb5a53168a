//! `ctl status`: who is asking whom.

use sternway_proto::v1;

use super::{App, Ended};
use crate::{exit_code::ExitCode, json, render::pairs, text::clean};

pub(crate) async fn run(app: &mut App<'_>) -> Ended {
    let controller = app.config()?.controller;
    let client = app.client().await?;
    let message = v1::GetStatusRequest {};
    let status = client.get_status("ask for the status", message).await?;
    let text = pairs(
        app.ui.view,
        &[
            ("controller", clean(&controller)),
            ("version", clean(&status.controller_version)),
            ("cluster", clean(&status.cluster_id)),
            ("epoch", status.epoch.to_string()),
            ("you are", clean(&status.caller_name)),
            ("your role", clean(&status.caller_role)),
        ],
    );
    let document = json::host::Status {
        controller,
        controller_version: status.controller_version,
        cluster: status.cluster_id,
        epoch: status.epoch,
        caller_name: status.caller_name,
        caller_role: status.caller_role,
        controller_time: json::time(status.clock_ms),
    };
    app.answer(&document, &text)?;
    Ok(ExitCode::Done)
}
