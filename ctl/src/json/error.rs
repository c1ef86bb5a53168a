//! An error as a document.

use serde::Serialize;

/// The line on stderr with which a run ends that could not do what it was asked for.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "error")]
pub(crate) struct Failure<'a> {
    pub(crate) exit_code: u8,
    /// The stable word for the problem, where the controller gave one.
    pub(crate) code: Option<&'a str>,
    pub(crate) message: &'a str,
    pub(crate) because: &'a [String],
    pub(crate) next: &'a [String],
}
