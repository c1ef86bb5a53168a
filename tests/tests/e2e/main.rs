//! Real binaries, a real engine: what an operator sees from end to end. One module a story.
#![expect(
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]

mod enrolment;
mod harness;
