//! The step engine: what happens next in a restore, decided without I/O, and the write-ahead journal
//! that every decision goes through first.
//!
//! An order's journal is a list of [`event::Event`]s. [`machine::Run`] is that list, folded; it
//! answers what to do next. Whoever drives it writes the event that announces an action, fsynced, before
//! the action; after a crash the journal is read again, folded again, and asked again. An action that was
//! announced and never heard of again is done again: applying and undoing a step are idempotent.

pub mod event;
pub mod journal;
pub mod machine;
pub mod step;
