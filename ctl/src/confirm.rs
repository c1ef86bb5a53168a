//! The question before anything changes. Where the host is in production, for its name.

use sternway_proto::v1;

use crate::{
    error::{CtlError, Kind},
    text::{clean, clip},
    ui::Ui,
};

/// What somebody has to say yes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// What cannot be done without a yes: `roll back`.
    pub(crate) doing: &'a str,
    /// What is asked, without the answers: `Roll back?`.
    pub(crate) ask: &'a str,
    /// What a typed name does: `roll it back`.
    pub(crate) by_name: &'a str,
    /// What to do where nobody can be asked.
    pub(crate) instead: &'a str,
}

/// Nothing can be asked where nobody sits.
///
/// # Errors
/// Stdin is no terminal.
pub(crate) fn somebody_there(ui: &Ui, question: Question<'_>) -> Result<(), CtlError> {
    if ui.interactive {
        return Ok(());
    }
    let refused = format!("cannot {} without a yes", question.doing);
    Err(CtlError::new(Kind::Refused, refused)
        .because("stdin is no terminal, so nobody can be asked")
        .next(question.instead))
}

/// Asks.
///
/// # Errors
/// Nobody is there to answer, or the answer is no.
pub(crate) async fn agree(
    ui: &mut Ui,
    question: Question<'_>,
    host: Option<&v1::Host>,
) -> Result<(), CtlError> {
    somebody_there(ui, question)?;
    let production = host.filter(|it| it.labels.get("env").is_some_and(|env| env == "production"));
    let Some(host) = production else {
        let answer = ui.ask(&format!("\n{} [y/N] ", question.ask)).await;
        return if is_yes(answer.as_deref()) {
            Ok(())
        } else {
            Err(CtlError::declined())
        };
    };
    let ask = format!(
        "\n{} is labelled env=production. Type its name to {}: ",
        clean(&host.name),
        question.by_name
    );
    match ui.ask(&ask).await.as_deref() {
        Some(name) if name == host.name => Ok(()),
        None | Some("") => Err(CtlError::declined().because("no name was typed")),
        Some(other) => Err(CtlError::declined()
            .because(format!("{} is not the name of the host", clip(other, 60)))
            .next(format!("type {}, or give --yes", clean(&host.name)))),
    }
}

/// Whether an answer at a prompt means yes.
fn is_yes(answer: Option<&str>) -> bool {
    answer.is_some_and(|text| matches!(text.to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes(Some("y")) && is_yes(Some("YES")));
        for no in [None, Some(""), Some("n"), Some("yeah, no")] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
