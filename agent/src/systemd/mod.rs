//! The service manager of the host, by D-Bus: what units are, jobs on them, and work in transient units of its own.
//!
//! Nothing here knows targets or orders. Every call has a deadline. A call that is not answered may have been carried
//! out all the same ([`BusError::Unanswered`]): who asked looks at the unit again, or asks for the same once more, which
//! every verb here bears.

mod bus;
mod error;
mod job;
mod name;
mod proxy;
mod state;
mod watch;
mod work;

pub use self::{
    bus::{Bus, Verb},
    error::BusError,
    job::JobEnd,
    name::{InvalidUnitName, UnitName},
    state::{Active, Exec, Load, UnitState},
    work::{Work, WorkState},
};
