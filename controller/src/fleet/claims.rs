//! Which orders agents say they are at, and which open ones none of them is at any more, though it is there: its
//! journal cannot be read, or its folder is of an older day. Pure: what agents say, what is open and the time come
//! in.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sternway_proto::{
    name::clean_text,
    v1::{self, Problem},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::validate;
use crate::{
    rollout::order::Lost,
    store::types::{SentOrder, TARGETS},
};

/// How long an agent that is there must not be at an order without a break before it is given up. An agent that has
/// it says so with its first message about the target, and what it has to tell of one that is over comes within
/// seconds; the rest is for machines that are slow.
pub const UNCLAIMED: Duration = Duration::from_mins(2);

/// What stands at a target whose agent has an order that it cannot go on with.
const STRANDED: &str = "cannot-resume";

/// What an agent has said on its session about the orders of its targets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims {
    targets: HashMap<String, Claim>,
}

#[derive(Debug, Clone, PartialEq)]
struct Claim {
    order: Option<Uuid>,
    stranded: Vec<Problem>,
}

impl Claims {
    /// Those of an inventory, as it came: also a target that is not kept may be at an order.
    #[must_use]
    pub fn of(inventory: &v1::Inventory) -> Self {
        let mut claims = Self::default();
        for target in &inventory.targets {
            claims.said(target);
        }
        claims
    }

    /// A target is so now.
    pub fn said(&mut self, target: &v1::Target) {
        let claim = Claim {
            order: Uuid::try_parse(&target.active_order).ok(),
            stranded: target
                .readiness
                .iter()
                .flat_map(|readiness| &readiness.problems)
                .filter(|problem| problem.code == STRANDED)
                .take(validate::FEW)
                .map(|problem| {
                    Problem::new(
                        STRANDED,
                        clean_text(&problem.message),
                        clean_text(&problem.next_step),
                    )
                })
                .collect(),
        };
        if claim.order.is_none() && claim.stranded.is_empty() {
            self.targets.remove(&target.name);
        } else if self.targets.len() < 2 * TARGETS {
            // Bounded: an agent that makes up more than this harms its own orders only.
            self.targets.insert(target.name.clone(), claim);
        }
    }

    /// A target is no longer looked after.
    pub fn removed(&mut self, target: &str) {
        self.targets.remove(target);
    }

    /// Why the agent is not at that order. None: it is.
    #[must_use]
    pub fn lost(&self, order: &SentOrder) -> Option<Lost> {
        if self.targets.values().any(|c| c.order == Some(order.id)) {
            return None;
        }
        let id = order.id.to_string();
        let said = self
            .targets
            .get(&order.target)
            .and_then(|claim| claim.stranded.iter().find(|p| p.message.contains(&id)));
        Some(Lost::NotAtIt(said.cloned()))
    }
}

/// Orders that nobody is at, and since when.
#[derive(Debug, Default)]
pub struct Unclaimed {
    since: HashMap<Uuid, Since>,
}

#[derive(Debug)]
struct Since {
    session: u64,
    last_event: u64,
    at: Instant,
}

impl Unclaimed {
    /// Looks at every open order. `said` answers with the number of its host's session and why the agent is not at
    /// it; with nothing where it is, where the host is away, or has not said yet what it is at. Answers with the
    /// orders that are to be given up after so long.
    pub fn look(
        &mut self,
        open: &[SentOrder],
        (now, now_ms): (Instant, i64),
        after: Duration,
        said: impl Fn(&SentOrder) -> Option<(u64, Lost)>,
    ) -> Vec<(Uuid, Lost)> {
        let ids: HashSet<Uuid> = open.iter().map(|order| order.id).collect();
        self.since.retain(|id, _| ids.contains(id));
        let mut lost = Vec::new();
        for order in open {
            // Until its deadline one that was not answered may still be on its way. Behind it the agent refuses it.
            let on_its_way = order.last_event == 0 && now_ms < order.not_after_ms;
            let Some((session, why)) = said(order).filter(|_| !on_its_way) else {
                self.since.remove(&order.id);
                continue;
            };
            let fresh = Since {
                session,
                last_event: order.last_event,
                at: now,
            };
            let since = self.since.entry(order.id).or_insert(fresh);
            if (since.session, since.last_event) != (session, order.last_event) {
                *since = Since {
                    session,
                    last_event: order.last_event,
                    at: now,
                };
            }
            if now.duration_since(since.at) >= after {
                lost.push((order.id, why));
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Uuid = Uuid::from_u128(1);

    fn open(last_event: u64, not_after_ms: i64) -> [SentOrder; 1] {
        [SentOrder {
            id: ORDER,
            rollout: Uuid::from_u128(8),
            host: Uuid::from_u128(9),
            target: "docker/shop".into(),
            last_event,
            not_after_ms,
        }]
    }

    fn target(order: Option<Uuid>, problem: Option<Problem>) -> v1::Target {
        v1::Target {
            name: "docker/shop".into(),
            active_order: order.map(|id| id.to_string()).unwrap_or_default(),
            readiness: Some(v1::Readiness {
                problems: problem.into_iter().collect(),
                ..v1::Readiness::default()
            }),
            ..v1::Target::default()
        }
    }

    /// Seconds at which the order is looked at, and what is said of it then. Answers at which it is lost.
    fn lost_at(
        mut story: impl FnMut(u64) -> (u64, Option<(u64, Lost)>),
        not_after: u64,
    ) -> Option<u64> {
        let (begun, mut unclaimed) = (Instant::now(), Unclaimed::default());
        (0..1000).find(|second| {
            let (last_event, said) = story(*second);
            let not_after_ms = i64::try_from(not_after * 1000).expect("small");
            let now_ms = i64::try_from(second * 1000).expect("small");
            let lost = unclaimed.look(
                &open(last_event, not_after_ms),
                (begun + Duration::from_secs(*second), now_ms),
                UNCLAIMED,
                |_| said.clone(),
            );
            !lost.is_empty()
        })
    }

    #[test]
    fn an_accepted_order_that_its_agent_is_not_at_is_lost_after_a_while_and_not_before() {
        let not_at_it = || Some((1, Lost::NotAtIt(None)));
        assert_eq!(lost_at(|_| (3, not_at_it()), 600), Some(120));
        assert_eq!(lost_at(|_| (3, None), 600), None, "at it, or away");
        // Something new is said of it: its story is on the way.
        let telling = |second| (if second < 50 { 3 } else { 4 }, not_at_it());
        assert_eq!(lost_at(telling, 600), Some(170));
        // A new session counts anew, and so does one after the agent was at it.
        let dialled = |second| (3, Some((second / 50 + 1, Lost::NotAtIt(None))));
        assert_eq!(lost_at(dialled, 600), None);
        let back = |second| (3, not_at_it().filter(|_| second != 100));
        assert_eq!(lost_at(back, 600), Some(221));
    }

    #[test]
    fn an_order_that_was_not_answered_is_not_lost_before_its_deadline_is_past() {
        let not_at_it = || Some((1, Lost::NotAtIt(None)));
        assert_eq!(lost_at(|_| (0, not_at_it()), 600), Some(720));
    }

    #[test]
    fn an_agent_is_at_an_order_or_says_why_it_is_not() {
        let order = &open(3, 0)[0];
        let mut claims = Claims::of(&v1::Inventory {
            targets: vec![target(Some(ORDER), None)],
        });
        assert_eq!(claims.lost(order), None);
        claims.said(&target(Some(Uuid::from_u128(2)), None));
        assert_eq!(claims.lost(order), Some(Lost::NotAtIt(None)));
        let other = Problem::new(STRANDED, "order x is open", "");
        claims.said(&target(None, Some(other)));
        assert_eq!(claims.lost(order), Some(Lost::NotAtIt(None)));
        let said = Problem::new(STRANDED, format!("order {ORDER} is\nopen"), "move it");
        claims.said(&target(None, Some(said)));
        let Some(Lost::NotAtIt(Some(said))) = claims.lost(order) else {
            panic!("it was said");
        };
        assert_eq!(said.message, format!("order {ORDER} is\\nopen"));
        claims.removed("docker/shop");
        assert_eq!(claims, Claims::default());
    }
}
