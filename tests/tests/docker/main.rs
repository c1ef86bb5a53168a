//! The kind `docker` against the real engine: what is recorded, created again, swapped, kept and seen.
#![expect(clippy::expect_used, reason = "a test fails by panicking and says why")]

mod archive;
mod commands;
mod handover;
mod images;
mod observe;
mod round_trip;
mod runner;
mod sharers;
mod support;
mod swap;
