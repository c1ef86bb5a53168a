//! Which bridges we let accept loopback addresses, and what they did before. It is written down in the
//! kernel, as an empty chain in the table of each redirect: so it outlives this process, and ends with the
//! next boot as the setting itself does. The last redirect of a bridge puts it back. Further empty chains say
//! whose the redirect is and how far it got.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::redirect::PREFIX;

/// What one redirect says of its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) order: Uuid,
    pub(super) bridge: String,
    /// What the bridge did before any redirect.
    pub(super) before: bool,
    /// The target's own name. None: an earlier version did not write it down.
    pub(super) owner: Option<String>,
    /// New connections are not redirected any more; those that were made are still to end.
    pub(super) over: bool,
}

/// The chain of a redirect that is over.
pub(super) const OVER: &str = "over";

/// The kernel takes no longer name.
const CHAIN_BYTES: usize = 127;

/// The name of the chain that says whose the redirect is. None: the name does not fit.
pub(super) fn owner_chain(local: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let chain = format!("of_{local}");
    (chain.len() <= CHAIN_BYTES && local.bytes().all(plain)).then_some(chain)
}

/// The name of the chain that says so.
pub(super) fn chain(bridge: &str, before: bool) -> String {
    format!("localnet_{}_{bridge}", u8::from(before))
}

/// All marks in what `nft list chains ip` prints.
pub(super) fn marks(listed: &str) -> Vec<Mark> {
    let mut order = None;
    let mut marks: Vec<Mark> = Vec::new();
    let mut owners = BTreeMap::new();
    let mut over = BTreeSet::new();
    for line in listed.lines() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix("table ip ") {
            let name = table.split(' ').next().unwrap_or_default();
            let id = name.strip_prefix(PREFIX).map(Uuid::try_parse);
            order = id.and_then(Result::ok);
            continue;
        }
        let chain = line
            .strip_prefix("chain ")
            .and_then(|rest| rest.split(' ').next());
        let (Some(order), Some(chain)) = (order, chain) else {
            continue;
        };
        let mark = chain
            .strip_prefix("localnet_")
            .and_then(|rest| rest.split_once('_'));
        if let Some((before, bridge)) = mark {
            marks.push(Mark {
                order,
                bridge: bridge.to_owned(),
                before: before == "1",
                owner: None,
                over: false,
            });
        } else if let Some(owner) = chain.strip_prefix("of_") {
            owners.insert(order, owner.to_owned());
        } else if chain == OVER {
            over.insert(order);
        }
    }
    for mark in &mut marks {
        mark.owner = owners.get(&mark.order).cloned();
        mark.over = over.contains(&mark.order);
    }
    marks
}

/// What a bridge did before any of these redirects. None: none of them uses it.
pub(super) fn before(marks: &[Mark], bridge: &str) -> Option<bool> {
    marks
        .iter()
        .find(|mark| mark.bridge == bridge)
        .map(|mark| mark.before)
}

/// The bridges to put back when the redirect of `order` ends: those that no other one uses.
pub(super) fn put_back(marks: &[Mark], order: Uuid) -> Vec<String> {
    let own = marks.iter().filter(|mark| mark.order == order);
    own.filter(|mark| !mark.before)
        .filter(|mark| {
            !marks
                .iter()
                .any(|other| other.order != order && other.bridge == mark.bridge)
        })
        .map(|mark| mark.bridge.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_redirect_of_a_bridge_puts_it_back() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let listed = format!(
            "table ip nat {{\n\tchain DOCKER {{\n\t}}\n\tchain localnet_0_other {{\n\t}}\n}}\n\
             table ip {PREFIX}{} {{\n\tchain {} {{\n\t}}\n\tchain output {{\n\t\ttype nat\n\t}}\n}}\n\
             table ip {PREFIX}{} {{\n\tchain {} {{\n\t}}\n\tchain {} {{\n\t}}\n\tchain {OVER} {{\n\t}}\n}}\n",
            one.simple(),
            chain("br-0a1b", false),
            two.simple(),
            chain("br-0a1b", false),
            owner_chain("my-shop.1").expect("it fits"),
        );
        let both = marks(&listed);
        assert_eq!(both.len(), 2, "{both:?}");
        assert_eq!((both[0].owner.as_deref(), both[0].over), (None, false));
        assert_eq!(both[1].owner.as_deref(), Some("my-shop.1"));
        assert!(both[1].over);
        assert_eq!(owner_chain(&"x".repeat(200)), None);
        assert_eq!(owner_chain("a b"), None);
        assert_eq!(before(&both, "br-0a1b"), Some(false));
        assert_eq!(before(&both, "docker0"), None);
        assert_eq!(put_back(&both, one), Vec::<String>::new());
        assert_eq!(put_back(&both[1..], two), ["br-0a1b"]);
        let kept = [Mark {
            before: true,
            ..both[1].clone()
        }];
        assert_eq!(put_back(&kept, two), Vec::<String>::new());
    }
}
