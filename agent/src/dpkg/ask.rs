//! Questions to dpkg by whoever has a process of its own to wait in.

use std::time::Duration;

use super::{
    DpkgError, Package, PackageName, parse,
    run::{Ended, Run, RunError},
    sequence::{self, Replaces},
};

/// How long a question may take.
const LIMIT: Duration = Duration::from_secs(30);

const QUERY: &str = "dpkg-query";

/// Packages of these names, or all, as dpkg has them. One that it knows nothing of is not among them.
pub(super) fn packages(names: Option<&[&PackageName]>) -> Result<Vec<Package>, DpkgError> {
    let format = format!("--showformat={}", parse::FORMAT);
    let names = names.into_iter().flatten().map(|name| name.as_str());
    let arguments: Vec<&str> = ["--show", &format, "--"].into_iter().chain(names).collect();
    let ended = ask(QUERY, &arguments)?;
    match ended.code {
        // 1: one of them is unknown.
        Some(0 | 1) => parse::packages(&ended.stdout()),
        _ => Err(failed(QUERY, &ended)),
    }
}

/// Whose files these packages take, as they are installed.
pub(super) fn replaces(names: &[&PackageName]) -> Result<Replaces, DpkgError> {
    let names = names.iter().map(|name| name.as_str());
    let show = ["--show", "--showformat=${Package}\\t${Replaces}\\n", "--"];
    let arguments: Vec<&str> = show.into_iter().chain(names).collect();
    let ended = ask(QUERY, &arguments)?;
    match ended.code {
        // 1: one of them is unknown.
        Some(0 | 1) => Ok(sequence::replaces(&ended.stdout())),
        _ => Err(failed(QUERY, &ended)),
    }
}

/// What `dpkg-query` says to that, as it says it.
pub(super) fn query(arguments: &[&str]) -> Result<Vec<u8>, DpkgError> {
    let ended = ask(QUERY, arguments)?;
    if ended.succeeded() {
        Ok(ended.stdout)
    } else {
        Err(failed(QUERY, &ended))
    }
}

/// What is half done of these packages, in dpkg's words. Empty: nothing.
pub(super) fn audit(names: &[String]) -> Result<String, DpkgError> {
    let names = names.iter().map(String::as_str);
    let arguments: Vec<&str> = ["--audit", "--"].into_iter().chain(names).collect();
    let ended = ask("dpkg", &arguments)?;
    match ended.code {
        Some(0 | 1) => Ok(ended.stdout().trim().to_owned()),
        _ => Err(failed("dpkg", &ended)),
    }
}

fn ask(program: &'static str, arguments: &[&str]) -> Result<Ended, DpkgError> {
    let ended = Run::new(program, arguments).until_it_ends(LIMIT);
    ended.map_err(|error| match error {
        RunError::Program { program, source } => DpkgError::Program {
            program,
            reason: source.to_string(),
        },
        RunError::Late { program, limit } => DpkgError::Late { program, limit },
    })
}

fn failed(program: &'static str, ended: &Ended) -> DpkgError {
    let said = ended.stderr();
    let said = said.lines().next().unwrap_or("it says nothing");
    DpkgError::Failed {
        program,
        said: format!("{said} (exit status {:?})", ended.code),
    }
}
