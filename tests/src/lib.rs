//! The harness of the end-to-end tests, fault tests and benches: real binaries as child processes, a real
//! engine, a real registry. Whatever a test makes bears its scope's label and is removed with the scope, also
//! when the test panics.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness fails the test it serves: it panics and says why"
)]

pub mod agent;
pub mod binary;
pub mod controller;
pub mod ctl;
pub mod dockerd;
pub mod dutiful;
pub mod engine;
pub mod gate;
pub mod ground;
pub mod http;
pub mod lab;
pub mod netns;
pub mod port;
pub mod prober;
pub mod process;
pub mod registry;
pub mod scripted;
pub mod shop;
pub mod simulated;
pub mod stage;
pub mod torn;
pub mod wait;
