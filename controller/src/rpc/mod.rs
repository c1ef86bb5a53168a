//! The services: one file a service, thin; and the table of who may call what.

pub mod allow;
pub mod enrolment;
