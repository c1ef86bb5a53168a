//! The services: one file a service, thin: they convert, call, and convert back; and the table of who may
//! call what.

pub mod agent;
pub mod allow;
mod caller;
mod convert;
pub mod enrolment;
mod fault;
pub mod operator;
