//! `ctl target`: what can be restored.

use clap::Subcommand;
use sternway_proto::v1;

use super::{App, Ended, get_target};
use crate::{args::TargetArgs, exit_code::ExitCode, json::target as document, render};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// All targets
    #[command(after_help = "Examples:\n  ctl target ls\n  ctl target ls --host web-1")]
    Ls {
        /// Only those of this host
        #[arg(long, default_value = "", hide_default_value = true)]
        host: String,
    },
    /// One target with what its checks say
    #[command(after_help = "Example:\n  ctl target show --host web-1 --target docker/shop")]
    Show(TargetArgs),
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    match command {
        Command::Ls { host } => {
            let message = v1::ListTargetsRequest { host };
            let answer = client.list_targets("list targets", message).await?;
            let text = render::target::list(app.ui.view, &answer.targets);
            app.answer(&documents(&answer), &text)?;
            app.ui.thinned(answer.thinned);
        }
        Command::Show(args) => {
            let found = get_target(&client, &args).await?;
            let text = render::target::show(app.ui.view, &found.host, &found.target);
            app.answer(&found.document(), &text)?;
            app.ui.thinned(found.thinned);
        }
    }
    Ok(ExitCode::Done)
}

/// The document of a list of targets.
pub(crate) fn documents(answer: &v1::ListTargetsResponse) -> document::Targets {
    let both = |it: &v1::HostTarget| {
        let (host, target) = (it.host.as_ref()?, it.target.as_ref()?);
        Some(document::HostTarget::new(host, target))
    };
    document::Targets {
        targets: answer.targets.iter().filter_map(both).collect(),
        thinned: answer.thinned,
    }
}
