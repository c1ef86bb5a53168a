//! The labels Sternway reads and writes on containers. Those it writes itself are never part of a
//! record: a restored container has the same revision as the original.

use std::collections::BTreeMap;

use sternway_proto::name::TargetName;
use uuid::Uuid;

/// Prefix of everything that is ours or speaks to us.
pub const PREFIX: &str = "sternway.";

/// The order that made this container (UUID).
pub const ORDER: &str = "sternway.order";
/// What a container of ours is for: one of the values of [`Role`]. A container without it is the
/// target itself.
pub const ROLE: &str = "sternway.role";
/// The target a container of ours belongs to: `docker/web`.
pub const TARGET: &str = "sternway.target";
/// The image as the recorded container asked for it, where it was created by the image's id.
pub const IMAGE: &str = "sternway.image";
/// The id of the image a keeper keeps.
pub const KEEPS: &str = "sternway.keeps";

/// The ports of the host that lead to a standby while it serves, in JSON: it publishes none of them itself.
pub const DOORS: &str = "sternway.doors";

/// `true`: the container is none of our business. Written by people.
pub const IGNORE: &str = "sternway.ignore";
/// `warm` or `cold`: how to swap unless the operator says otherwise. Written by people.
pub const SWAP: &str = "sternway.swap";

/// There may never be two instances: never warm. Written by people; anything but `false`, `no`, `0` or nothing says so.
pub const EXCLUSIVE: &str = "sternway.exclusive";

/// Written by earlier versions: containers that they made still bear it.
const EPOCH: &str = "sternway.epoch";

/// Labels that Sternway writes: left out of records.
const OWN: [&str; 7] = [ORDER, ROLE, TARGET, IMAGE, EPOCH, KEEPS, DOORS];

/// What a container of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Created, never started: keeps its image from being pruned.
    Keeper,
    /// Serves while the target is exchanged.
    Standby,
    /// The new container before it bears the target's name.
    Replacement,
    /// The container that was replaced, stopped and renamed, for the post-mortem.
    Previous,
    /// One that an order made, that ran, and that its undo took back: stopped and renamed, for the post-mortem.
    Failed,
    /// The container that was replaced, created again by an undo because it had removed itself: the target itself.
    Again,
}

impl Role {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Standby => "standby",
            Self::Replacement => "replacement",
            Self::Previous => "previous",
            Self::Failed => "failed",
            Self::Again => "again",
        }
    }
}

/// What the names of all containers of ours begin with while they are not a target: a container that
/// was moved aside cannot be labelled any more, so its name has to tell.
pub const NAME_PREFIX: &str = "sternway-";

/// The name of a container of ours, unique to its order, readable with the target's name in it. One that was put
/// aside bears the whole id of its order, which carries its time.
pub fn own_name(role: Role, order: Uuid, target: &TargetName) -> String {
    let order = match role {
        Role::Previous | Role::Failed => order.simple().to_string(),
        _ => order_tail(order),
    };
    format!("{NAME_PREFIX}{}-{order}-{}", role.as_str(), target.local())
}

/// The local name of the target of a container that was put aside.
pub fn put_aside(name: &str) -> Option<&str> {
    [Role::Previous, Role::Failed]
        .into_iter()
        .find_map(|role| of_role(name, role))
        .map(|(_, local)| local)
}

/// Whether a container bears the name of one that an undo put aside. Its labels still say what it was made for.
pub fn is_failed(name: &str) -> bool {
    of_role(name, Role::Failed).is_some()
}

/// What stands in the name of a container of ours with that role: its order, and the local name of its target.
pub fn of_role(name: &str, role: Role) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(NAME_PREFIX)?;
    let rest = rest.strip_prefix(role.as_str())?;
    rest.strip_prefix('-')?.split_once('-')
}

/// What the names of all containers of an order have in common: the random part of a version 7 UUID.
pub fn order_tail(order: Uuid) -> String {
    order.simple().to_string().split_off(20)
}

/// Whether the label is one that Sternway writes itself.
pub fn is_own(key: &str) -> bool {
    OWN.contains(&key)
}

/// Why a container is no target of this kind, if so. None: it is one.
pub fn not_ours(name: &str, labels: &BTreeMap<String, String>) -> Option<&'static str> {
    if name.starts_with(NAME_PREFIX) {
        Some("it is one of Sternway's own")
    } else if labels.contains_key("com.docker.compose.project") {
        Some("it belongs to a compose project")
    } else if labels.contains_key("com.docker.swarm.service.id")
        || labels.contains_key("com.docker.swarm.task.id")
    {
        Some("it belongs to a swarm service")
    } else if labels.get(ROLE).is_some_and(|role| !is_target_role(role)) {
        Some("it is kept by Sternway")
    } else if labels.get(IGNORE).is_some_and(|value| value == "true") {
        Some("its label sternway.ignore says so")
    } else {
        None
    }
}

/// Labels cannot be changed on a living container: a replacement that has taken the target's name
/// still bears its role, and only its name tells that it is the target now.
fn is_target_role(role: &str) -> bool {
    [Role::Replacement, Role::Again]
        .iter()
        .any(|one| one.as_str() == role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn plain_containers_are_targets_and_those_of_others_are_not() {
        assert_eq!(not_ours("web", &labels(&[("app", "shop")])), None);
        assert_eq!(not_ours("web", &labels(&[(ROLE, "replacement")])), None);
        assert_eq!(not_ours("web", &labels(&[(ROLE, "again")])), None);
        let target = "docker/web".parse().expect("valid");
        for role in [Role::Previous, Role::Failed] {
            let aside = own_name(role, Uuid::nil(), &target);
            assert!(not_ours(&aside, &labels(&[])).is_some(), "{aside}");
            assert_eq!(put_aside(&aside), Some("web"));
            assert_eq!(is_failed(&aside), role == Role::Failed);
        }
        let made = own_name(Role::Replacement, Uuid::nil(), &target);
        assert_eq!(put_aside(&made), None);
        for other in [
            ("com.docker.compose.project", "x"),
            ("com.docker.swarm.service.id", "x"),
            (ROLE, "keeper"),
            (ROLE, "standby"),
            (IGNORE, "true"),
        ] {
            assert!(not_ours("web", &labels(&[other])).is_some(), "{other:?}");
        }
    }

    #[test]
    fn checks_and_wishes_of_people_are_part_of_the_record() {
        assert!(is_own(ORDER) && is_own(ROLE));
        assert!(!is_own("sternway.check.http") && !is_own(SWAP) && !is_own(IGNORE));
    }
}
