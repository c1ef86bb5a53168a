//! Following a rollout: a pure fold over its events, the loop that feeds it, and what is shown meanwhile.

pub mod display;
pub mod fold;
pub mod follow;
