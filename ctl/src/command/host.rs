//! `ctl host`: list, show, make a join token, revoke.

use std::time::Duration;

use clap::Subcommand;
use sternway_proto::{name::check_label, v1};

use super::{App, Ended, empty_answer, parse_duration, wire_ms};
use crate::{
    confirm::{self, Question},
    exit_code::ExitCode,
    json::{self, host as document, target::Target},
    render,
    text::{clean, until},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// All hosts
    #[command(after_help = "Examples:\n  ctl host ls\n  ctl host ls -o json")]
    Ls,
    /// One host with its targets
    #[command(after_help = "Example:\n  ctl host show web-1")]
    Show {
        /// The host, by name or id
        host: String,
    },
    /// A one-time token that joins a host
    #[command(
        after_help = "Examples:\n  ctl host token --name web-1 --label env=staging --label role=web\n  \
                            ctl host token --valid-for 10m > token"
    )]
    Token {
        /// The name the host shall have [default: what the machine calls itself]
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// A label, KEY=VALUE; may be given again
        #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// How long the token may be used [default: the controller's]
        #[arg(long, value_parser = parse_duration, value_name = "TIME")]
        valid_for: Option<Duration>,
    },
    /// Cut a host off for good: its certificate is worth nothing any more
    #[command(after_help = "Example:\n  ctl host revoke web-1 --reason 'sold'")]
    Revoke {
        /// The host, by name or id
        host: String,
        /// Why, for the record
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label reads KEY=VALUE")?;
    check_label(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: Command, app: &mut App<'_>) -> Ended {
    match command {
        Command::Ls => list(app).await,
        Command::Show { host } => show(app, host).await,
        Command::Token {
            name,
            labels,
            valid_for,
        } => token(app, name, labels, valid_for).await,
        Command::Revoke { host, reason, yes } => revoke(app, host, reason, yes).await,
    }
}

async fn list(app: &mut App<'_>) -> Ended {
    let client = app.client().await?;
    let answer = client
        .list_hosts("list hosts", v1::ListHostsRequest {})
        .await?;
    let (mut hosts, thinned) = (answer.hosts, answer.thinned);
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    let document = document::Hosts {
        hosts: hosts.iter().map(Into::into).collect(),
        thinned,
    };
    app.answer(&document, &render::host::list(app.ui.view, &hosts))?;
    app.ui.thinned(thinned);
    Ok(ExitCode::Done)
}

async fn show(app: &mut App<'_>, host: String) -> Ended {
    let doing = format!("show host {host}");
    let client = app.client().await?;
    let answer = client.get_host(&doing, v1::GetHostRequest { host }).await?;
    let host = answer.host.ok_or_else(|| empty_answer(&doing))?;
    let document = document::HostDetail {
        host: (&host).into(),
        targets: answer
            .targets
            .iter()
            .map(|target| Target::new(&host, target))
            .collect(),
        thinned: answer.thinned,
    };
    let view = app.ui.view;
    let with_host = |target| v1::HostTarget {
        host: Some(host.clone()),
        target: Some(target),
    };
    let targets: Vec<v1::HostTarget> = answer.targets.into_iter().map(with_host).collect();
    let text = render::host::show(view, &host) + "\n" + &render::target::list(view, &targets);
    app.answer(&document, &text)?;
    app.ui.thinned(answer.thinned);
    Ok(ExitCode::Done)
}

async fn token(
    app: &mut App<'_>,
    host_name: String,
    labels: Vec<(String, String)>,
    valid_for: Option<Duration>,
) -> Ended {
    let client = app.client().await?;
    let labels = labels.into_iter().collect();
    let left_out = match host_name.as_str() {
        "" => None,
        // Where that cannot be said, the token is as good.
        name => {
            let host = name.to_owned();
            let found = client.get_host("", v1::GetHostRequest { host }).await;
            let earlier = found.ok().and_then(|answer| answer.host);
            earlier.and_then(|it| render::host::labels_left_out(&it, &labels))
        }
    };
    let message = v1::CreateJoinTokenRequest {
        host_name,
        labels,
        valid_for_ms: wire_ms(valid_for),
    };
    let answer = client
        .create_join_token("make a join token", message)
        .await?;
    let until = until(app.ui.view, answer.expires_ms);
    let document = document::Token {
        token: answer.token.clone(),
        expires: json::time(answer.expires_ms),
    };
    let token = clean(&answer.token);
    app.answer(&document, &format!("{token}\n"))?;
    if let Some(left_out) = left_out {
        app.ui.note(&left_out);
    }
    if app.ui.json() {
        return Ok(ExitCode::Done);
    }
    // In a pipe the token goes where it was sent, and not a second time to whoever keeps stderr.
    let (join, how) = if app.ui.person_reads_data() {
        (token.as_str(), "")
    } else {
        ("-", ", with the token on its standard input")
    };
    app.ui.note(&format!(
        "\nThe token works once, until {until}, and is shown only now. On the host, as root{how}:\n\n  \
         sternway-agent join {join}\n"
    ));
    Ok(ExitCode::Done)
}

async fn revoke(app: &mut App<'_>, host: String, reason: String, yes: bool) -> Ended {
    let doing = format!("revoke host {host}");
    let question = Question {
        doing: &doing,
        ask: "Cut it off for good? It has to join again.",
        by_name: "cut it off for good",
        instead: "add --yes where that is meant",
    };
    if !yes {
        confirm::somebody_there(app.ui, question)?;
    }
    let controller = app.config()?.controller;
    let client = app.client().await?;
    // By its id from here on: asked again after a lost answer, its name may already be another's.
    let found = client.get_host(&doing, v1::GetHostRequest { host }).await?;
    let host = found.host.ok_or_else(|| empty_answer(&doing))?;
    if !yes {
        let text =
            render::host::before_revocation(app.ui.err_view, &controller, &host, &found.targets);
        app.ui.note(&text);
        confirm::agree(app.ui, question, Some(&host)).await?;
    }
    let message = v1::RevokeHostRequest {
        host: host.id,
        reason,
    };
    let answer = client
        .revoke_host(&doing, message, |text| app.ui.note(text))
        .await?;
    let host = answer.host.ok_or_else(|| empty_answer(&doing))?;
    let document = document::HostDetail {
        host: (&host).into(),
        targets: Vec::new(),
        thinned: false,
    };
    app.answer(&document, &format!("✔ {} is revoked\n", clean(&host.name)))?;
    Ok(ExitCode::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_before_they_are_sent() {
        assert_eq!(parse_label("env=prod"), Ok(("env".into(), "prod".into())));
        assert!(parse_label("env").is_err());
        assert!(parse_label("e v=x").is_err());
    }
}
