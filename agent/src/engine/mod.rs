//! The step engine: what happens next in a restore, decided without I/O, and the write-ahead journal
//! that every decision goes through first.

pub mod step;
