//! What `ctl` says when something is not right: what, why, and what to do next, with its exit code.

use std::error::Error as StdError;

use sternway_proto::{fault, name::clean_text, v1::Problem};
use tonic::{Code, Status};

use crate::{
    exit_code::ExitCode,
    json,
    text::{Tone, View, paint},
};

/// The kind of an error decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something the person or the surroundings can mend.
    Error,
    /// The controller did not answer.
    Unreachable,
    /// The controller or the plan says no.
    Refused,
    /// The person said no.
    Declined,
}

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct CtlError {
    kind: Kind,
    code: Option<String>,
    what: String,
    because: Vec<String>,
    next: Vec<String>,
}

impl CtlError {
    /// An error of that kind; `what` is a lower-case fragment.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            what: what.into(),
            because: Vec::new(),
            next: Vec::new(),
        }
    }

    /// The person said no at a question.
    pub(crate) fn declined() -> Self {
        Self::new(Kind::Declined, "declined; nothing was changed")
    }

    /// Gives it the controller's word for the problem.
    #[must_use]
    pub(crate) fn coded(self, code: &str) -> Self {
        let code = (!code.is_empty()).then(|| clean_text(code));
        Self { code, ..self }
    }

    /// Adds a reason.
    #[must_use]
    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.because.push(reason.into());
        self
    }

    /// Adds every cause of an error, outermost first.
    #[must_use]
    pub(crate) fn because_of(mut self, error: &dyn StdError) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = clean_text(&error.to_string());
            // Some libraries repeat their source in their own text.
            if self.because.last() != Some(&text) {
                self.because.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Adds a next step.
    #[must_use]
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }

    /// Makes it say that what goes on, or may, is out of reach: a refusal would say that nothing was changed.
    #[must_use]
    pub(crate) fn out_of_reach(self) -> Self {
        let kind = Kind::Unreachable;
        Self { kind, ..self }
    }

    /// What a problem says.
    pub(crate) fn of_problem(kind: Kind, what: impl Into<String>, problem: Problem) -> Self {
        let error = Self::new(kind, what)
            .coded(&problem.code)
            .because(problem.message);
        match problem.next_step {
            step if step.is_empty() => error,
            step => error.next(step),
        }
    }

    /// What a failed call says. `doing` reads after "cannot": `roll back web-1`.
    pub(crate) fn from_status(doing: &str, status: &Status) -> Self {
        let (kind, what) = (kind_of(status), format!("cannot {doing}"));
        if let Some(problem) = fault::from_status(status) {
            return Self::of_problem(kind, what, problem);
        }
        let error = Self::new(kind, what);
        let error = match clean_text(status.message()) {
            text if text.is_empty() => error.because(code_text(status.code())),
            text => error.because(text),
        };
        let error = match status.source() {
            Some(source) => error.because_of(source),
            None => error,
        };
        match status.code() {
            _ if is_transient(status) => {
                error.next("check the address with `ctl config show`, and that the controller runs")
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                error.next("`ctl status` says who you are to the controller")
            }
            _ => error,
        }
    }

    /// The exit code that goes with it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Error => ExitCode::Error,
            Kind::Unreachable => ExitCode::Unreachable,
            Kind::Refused => ExitCode::Refused,
            Kind::Declined => ExitCode::Declined,
        }
    }

    /// One line for a program, with its line end.
    pub(crate) fn document(&self) -> String {
        json::line(&json::error::Failure {
            exit_code: self.exit_code().number(),
            code: self.code.as_deref(),
            message: &self.what,
            because: &self.because,
            next: &self.next,
        })
    }

    /// The text for a terminal, with its last line end.
    pub(crate) fn render(&self, view: View) -> String {
        let mut text = format!("{} {}\n", paint(view, Tone::Bad, "error:"), self.what);
        for reason in &self.because {
            text.push_str(&format!("  because: {reason}\n"));
        }
        for step in &self.next {
            text.push_str(&format!("  next: {step}\n"));
        }
        text
    }
}

/// What a controller says when it stops.
const STOPPING: &str = "controller-stopping";

/// Problems that pass by themselves.
const PASSING: [&str; 3] = [STOPPING, "store-busy", "store-locked"];

/// Whether the answer to a call may be had by asking again: none came, or it says so.
pub(crate) fn is_transient(status: &Status) -> bool {
    fault::from_status(status).map_or_else(
        || is_lost(status),
        |problem| PASSING.contains(&problem.code.as_str()),
    )
}

/// Whether nothing is known of what became of a call: every answer of a controller that is not a success carries a
/// problem, and a connection that breaks in mid-call surfaces as Unknown or Internal ("h2 protocol error"), too.
pub(crate) fn is_lost(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    );
    code && fault::from_status(status).is_none()
}

fn kind_of(status: &Status) -> Kind {
    let stopping = || fault::from_status(status).is_some_and(|problem| problem.code == STOPPING);
    match status.code() {
        _ if is_lost(status) || stopping() => Kind::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => Kind::Refused,
        _ => Kind::Error,
    }
}

fn code_text(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "the controller is not available",
        Code::DeadlineExceeded => "the controller did not answer in time",
        Code::Unauthenticated => "the controller does not accept this certificate",
        Code::PermissionDenied => "this role may not do that",
        Code::Unimplemented => "this controller does not know that call",
        _ => "the controller gave no reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_what_why_and_next() {
        let status = fault::to_status(
            Code::NotFound,
            Problem::new(
                "host-unknown",
                "no host is named wbe-1\x1b[2J",
                "did you mean web-1?",
            ),
        );
        let error = CtlError::from_status("show host wbe-1", &status);
        assert_eq!(error.exit_code(), ExitCode::Error);
        insta::assert_snapshot!(error.render(View::plain(0)), @r"
        error: cannot show host wbe-1
          because: no host is named wbe-1\u{1b}[2J
          next: did you mean web-1?
        ");
    }

    #[test]
    fn a_program_gets_one_line() {
        let problem = Problem::new("host-unknown", "no host is named wbe-1\x1b[2J", "web-1?");
        let status = fault::to_status(Code::NotFound, problem);
        let error = CtlError::from_status("show host wbe-1", &status);
        insta::assert_snapshot!(error.document(), @r#"{"version":1,"type":"error","exit_code":1,"code":"host-unknown","message":"cannot show host wbe-1","because":["no host is named wbe-1\\u{1b}[2J"],"next":["web-1?"]}"#);
    }

    #[test]
    fn a_status_without_a_problem_still_says_why_and_what_next() {
        let error = CtlError::from_status("list hosts", &Status::unavailable(""));
        assert_eq!(error.exit_code(), ExitCode::Unreachable);
        insta::assert_snapshot!(error.render(View::plain(0)), @r"
        error: cannot list hosts
          because: the controller is not available
          next: check the address with `ctl config show`, and that the controller runs
        ");
    }

    #[test]
    fn only_a_lost_answer_is_asked_again() {
        assert!(is_transient(&Status::unavailable("gone")));
        assert!(is_transient(&Status::internal("h2 protocol error")));
        let said = fault::to_status(Code::Internal, Problem::new("store-failed", "x", ""));
        assert!(!is_transient(&said));
        assert!(!is_transient(&Status::permission_denied("no")));
    }

    #[test]
    fn an_answer_is_asked_for_again_only_where_it_says_that_this_helps() {
        for (problem, again, exit_code) in [
            ("controller-stopping", true, ExitCode::Unreachable),
            ("store-locked", true, ExitCode::Error),
            ("store-busy", true, ExitCode::Error),
            ("store-full", false, ExitCode::Error),
            ("agent-late", false, ExitCode::Error),
        ] {
            for code in [Code::Unavailable, Code::DeadlineExceeded] {
                let said = fault::to_status(code, Problem::new(problem, "why", "then"));
                assert_eq!(is_transient(&said), again, "{problem}");
                let error = CtlError::from_status("list hosts", &said);
                assert_eq!(error.exit_code(), exit_code, "{problem}");
            }
        }
    }
}
