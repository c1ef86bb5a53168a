//! The one mapping between a reason for a person ([`Problem`](crate::v1::Problem)) and a gRPC status.

use prost::Message as _;
use tonic::{Code, Status};

use crate::{
    name::clean_text,
    v1::{FaultDetail, Problem},
};

const TRAILER: &str = "sternway-fault-bin";

impl Problem {
    /// A reason with a stable code for programs, what happened and why, and what to do next.
    #[must_use]
    pub fn new(code: &str, message: impl AsRef<str>, next_step: impl AsRef<str>) -> Self {
        Self {
            code: code.to_owned(),
            message: clean_text(message.as_ref()),
            next_step: clean_text(next_step.as_ref()),
        }
    }
}

/// A status that carries the problem in a trailer, and its message as the status message.
#[must_use]
pub fn to_status(code: Code, problem: Problem) -> Status {
    let mut status = Status::new(code, problem.message.clone());
    let detail = FaultDetail {
        problem: Some(problem),
    };
    let value = tonic::metadata::MetadataValue::from_bytes(&detail.encode_to_vec());
    status.metadata_mut().insert_bin(TRAILER, value);
    status
}

/// The problem that a status carries, if any. What it says is cleaned: it came off the wire.
#[must_use]
pub fn from_status(status: &Status) -> Option<Problem> {
    let bytes = status.metadata().get_bin(TRAILER)?.to_bytes().ok()?;
    let problem = FaultDetail::decode(bytes).ok()?.problem?;
    Some(Problem {
        code: clean_text(&problem.code),
        message: clean_text(&problem.message),
        next_step: clean_text(&problem.next_step),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire_and_is_cleaned() {
        let status = to_status(
            Code::NotFound,
            Problem::new("host-unknown", "no host \x1b named x", "run `ctl host ls`"),
        );
        let back = from_status(&status).expect("carried");
        assert_eq!(back.code, "host-unknown");
        assert_eq!(back.message, "no host \\u{1b} named x");
        assert_eq!(back.next_step, "run `ctl host ls`");
        assert_eq!(from_status(&Status::internal("plain")), None);
    }
}
