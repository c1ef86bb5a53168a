//! Real binaries, a real engine: what an operator sees from end to end. One module a story.

mod harness;
