//! Orders that are open and cannot be gone on with: told, and in the way of every other order for their target.

use sternway_proto::{name::TargetName, v1};
use uuid::Uuid;

use super::core::Core;

/// An order that is open and cannot be gone on with: what it did is not known.
#[derive(Debug, Clone)]
pub(super) struct Stranded {
    /// None: not even that is known, so that no target is safe.
    pub(super) target: Option<TargetName>,
    pub(super) problem: v1::Problem,
}

impl Stranded {
    /// What is told of it, and said in the log at once.
    pub(super) fn new(core: &Core, order: Uuid, target: Option<TargetName>, reason: &str) -> Self {
        let path = core.ledger().path(order);
        let see = target.as_ref().map_or(String::new(), |target| {
            format!("; see what runs (`{}`)", core.hands(target).see)
        });
        let what = target
            .as_ref()
            .map_or("this host".to_owned(), ToString::to_string);
        tracing::error!(order.id = %order, path = %path.display(), "order {order} cannot be gone on with: {reason}; what runs on {what} is left as it is, and new orders for it are refused");
        let problem = v1::Problem::new(
            "cannot-resume",
            format!(
                "order {order} is open and cannot be gone on with: {reason}; what it did to {what} is not known"
            ),
            format!(
                "move {} out of its folder on the host and start the agent again: it then starts what can run where nothing does, and says so{see}",
                path.display()
            ),
        );
        Self { target, problem }
    }
}
