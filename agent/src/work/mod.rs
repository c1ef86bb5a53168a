//! Changes of the host that the agent's own sandbox forbids, and that outlive it: done by the agent's program in a
//! transient unit of its own. What is to be done, and how it ended, are files in a folder of the order's: a unit's result
//! is gone with a reboot, or with anybody's `systemctl reset-failed`.
//!
//! Every task may be done again, also where it was cut off in its middle.

mod error;
mod office;
mod task;

pub use self::{
    error::{Failure, WorkError},
    office::Works,
    task::{PACKAGES_TAKE, Task, carry_out},
};
