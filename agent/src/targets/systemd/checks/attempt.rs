//! One attempt at one check. What a unit answers or logs is its own: only whether it is good is told.

use std::{process::Stdio, time::Duration};

use tokio::{net::lookup_host, process::Command, time::timeout};
use uuid::Uuid;

use super::Check;
use crate::{
    systemd::{Bus, BusError, UnitName, Work, WorkState},
    targets::probe::{ATTEMPT, Seen, bad, good, request, tcp},
};

/// How long a command may take, and what it may use.
const COMMAND: Duration = Duration::from_secs(30);
const MEMORY: u64 = 256 * 1024 * 1024;
const TASKS: u64 = 64;

/// What of a journal is read, lines.
const LINES: &str = "5000";

/// One attempt. `invocation`: of the unit; `since`: Unix seconds, before which its journal is of no interest.
pub(super) async fn attempt(bus: &Bus, check: &Check, invocation: &str, since: i64) -> Seen {
    match check {
        Check::Http {
            place,
            path,
            status,
        } => within(http(place, path, *status)).await,
        Check::Tcp { place } => {
            within(async {
                match address(place).await {
                    Ok(address) => tcp(address).await,
                    Err(reason) => bad(reason),
                }
            })
            .await
        }
        Check::Command { argv, user } => command(bus, argv, user)
            .await
            .unwrap_or_else(|error| bad(error.to_string())),
        Check::Log { text, max } => log(text, *max, invocation, since).await,
    }
}

async fn within(attempt: impl Future<Output = Seen>) -> Seen {
    let seen = timeout(ATTEMPT, attempt).await;
    seen.unwrap_or_else(|_| bad(format!("no answer within {} s", ATTEMPT.as_secs())))
}

async fn address(place: &str) -> Result<std::net::SocketAddr, String> {
    let mut found = lookup_host(place)
        .await
        .map_err(|error| error.to_string())?;
    found
        .next()
        .ok_or_else(|| "its name has no address".to_owned())
}

async fn http(place: &str, path: &str, status: Option<u16>) -> Seen {
    let answered = match address(place).await {
        Ok(address) => request(address, path).await,
        Err(reason) => Err(reason),
    };
    match answered {
        Ok((found, _)) => {
            let fits = match status {
                Some(wanted) => found == wanted,
                None => (200..400).contains(&found),
            };
            let said = format!("answers {found}");
            if fits { good(said) } else { bad(said) }
        }
        Err(reason) => bad(reason),
    }
}

/// In a unit of its own, so that it can do no harm to the agent, or outlive its time.
async fn command(bus: &Bus, argv: &[String], user: &str) -> Result<Seen, BusError> {
    let name = format!("sternway-check-{}.service", Uuid::new_v4());
    let Ok(unit) = name.parse::<UnitName>() else {
        return Ok(bad("its unit has no name"));
    };
    let Some((program, arguments)) = argv.split_first() else {
        return Ok(bad("there is no command"));
    };
    bus.begin(&Work {
        unit: unit.clone(),
        description: "Sternway checks a unit".to_owned(),
        program: program.into(),
        arguments: arguments.to_vec(),
        environment: Vec::new(),
        user: Some(user.to_owned()),
        deadline: COMMAND,
        memory: Some(MEMORY),
        tasks: Some(TASKS),
    })
    .await?;
    let state = bus.finished(&unit, COMMAND).await;
    bus.forget(&unit).await?;
    Ok(match state? {
        WorkState::Succeeded => good("exits with 0"),
        WorkState::Failed { result, status } if result == "exit-code" => {
            bad(format!("exits with {status}"))
        }
        WorkState::Failed { result, .. } => bad(format!("does not end well: {result}")),
        WorkState::Running => bad(format!("does not end within {} s", COMMAND.as_secs())),
        WorkState::Unknown => bad("its end is not known"),
    })
}

async fn log(text: &str, max: u32, invocation: &str, since: i64) -> Seen {
    let child = Command::new("journalctl")
        .args(["--no-pager", "--quiet", "--output=cat", "--lines", LINES])
        .arg(format!("--since=@{since}"))
        .arg(format!("_SYSTEMD_INVOCATION_ID={invocation}"))
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(ATTEMPT, child).await {
        Ok(Ok(output)) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            let lines = said.lines().filter(|line| line.contains(text)).count();
            let seen = format!("{lines} lines");
            if lines <= max as usize {
                good(seen)
            } else {
                bad(seen)
            }
        }
        Ok(Ok(_)) => bad("the journal cannot be read"),
        Ok(Err(error)) => bad(format!("journalctl cannot be run: {error}")),
        Err(_) => bad(format!(
            "the journal was not read within {} s",
            ATTEMPT.as_secs()
        )),
    }
}
