//! Real binaries, a real engine: what an operator sees from end to end. One module a story.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking, in their helpers too"
)]

mod beside;
mod checks;
mod controller_crash;
mod controller_deaths;
mod crash;
mod deliveries;
mod demo;
mod disk_full;
mod engine_days;
mod enrolment;
mod forgotten;
mod harness;
mod images_gone;
mod killed_calls;
mod last_resort;
mod lost_answers;
mod meddling;
mod metrics;
mod no_redirect;
mod programs;
mod refusals;
mod restarts;
mod roles;
mod rollback;
mod service_manager;
mod silence;
mod stranded;
mod strangers;
mod together;
mod torn_writes;
mod wire;
