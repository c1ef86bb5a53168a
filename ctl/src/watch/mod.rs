//! Following a rollout: a pure fold over its events, the loop that feeds it, and what is shown meanwhile.

pub(crate) mod display;
pub(crate) mod fold;
pub(crate) mod follow;
