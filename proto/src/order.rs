//! Orders on the wire: the only place where one is sealed, and the only place where one is opened.
//!
//! An agent acts on nothing but a [`VerifiedOrder`], which only [`verify`] makes. Here signatures of
//! operators will be checked, with no change elsewhere.

use prost::Message as _;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    limits,
    name::{NameError, RevisionId, TargetName, clean_text},
    v1,
};

/// An epoch more than this above the highest seen is refused, so that one bad message cannot lock a
/// host out for ever.
pub const EPOCH_JUMP: u64 = 1 << 20;

/// How far the controller's clock and the corrected clock of the host may differ before a fresh
/// order is taken for one from the future, milliseconds.
pub const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;

/// What the agent knows when an order arrives.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// This host.
    pub host_id: Uuid,
    /// The highest epoch of any accepted order.
    pub highest_epoch: u64,
    /// The host's clock corrected by the offset to the controller's, Unix milliseconds.
    pub now_ms: i64,
}

impl v1::Outcome {
    /// The word for it, wherever a program reads one.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Unspecified => None,
            Self::Restored => Some("restored"),
            Self::Unchanged => Some("unchanged"),
            Self::Undone => Some("undone"),
            Self::Refused => Some("refused"),
            Self::Expired => Some("expired"),
            Self::NeedsHuman => Some("needs-human"),
        }
    }
}

/// An order that was well-formed, for this host, current and in time when it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedOrder {
    id: Uuid,
    target: TargetName,
    expected: Option<RevisionId>,
    revision: RevisionId,
    order: v1::Order,
}

/// Why an order was refused before anything was done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OrderError {
    #[error("the order has {bytes} bytes, more than {}", limits::ORDER_BYTES)]
    TooLong { bytes: usize },
    #[error("the order cannot be read: {0}")]
    Malformed(String),
    #[error("the order's {field} is missing or not valid")]
    Field { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the order is for host {audience}, this is host {this}")]
    Audience { audience: Uuid, this: Uuid },
    #[error(
        "the order has epoch {found}, this host has accepted {highest}: its controller was superseded"
    )]
    Stale { found: u64, highest: u64 },
    #[error("the order's epoch {found} is too far above {highest}")]
    EpochJump { found: u64, highest: u64 },
    #[error("the order's deadline passed {late_ms} ms ago")]
    Expired { late_ms: i64 },
    #[error("the order was issued {ahead_ms} ms in the future")]
    Future { ahead_ms: i64 },
}

impl OrderError {
    /// Stable, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::Malformed(_) | Self::Field { .. } | Self::Name(_) => {
                "order-malformed"
            }
            Self::Audience { .. } => "order-for-another-host",
            Self::Stale { .. } => "order-stale",
            Self::EpochJump { .. } => "order-epoch-jump",
            Self::Expired { .. } => "order-expired",
            Self::Future { .. } => "order-from-the-future",
        }
    }
}

/// Seals an order for the wire.
#[must_use]
pub fn seal(order: &v1::Order) -> v1::SealedOrder {
    v1::SealedOrder {
        order: order.encode_to_vec(),
    }
}

/// Reads a sealed order without judging it: only to learn which order a refusal is about, and to
/// read an order back from the journal that was verified when it came.
///
/// # Errors
/// The bytes are too long, are no order, or a field is not valid.
pub fn parse(sealed: &v1::SealedOrder) -> Result<VerifiedOrder, OrderError> {
    let bytes = sealed.order.len();
    if bytes > limits::ORDER_BYTES {
        return Err(OrderError::TooLong { bytes });
    }
    let mut order = v1::Order::decode(sealed.order.as_slice())
        .map_err(|error| OrderError::Malformed(error.to_string()))?;
    let id = uuid("order_id", &order.order_id)?;
    uuid("rollout_id", &order.rollout_id)?;
    uuid("host_id", &order.host_id)?;
    if order.epoch == 0 {
        return Err(OrderError::Field { field: "epoch" });
    }
    if order.sequence == 0 {
        return Err(OrderError::Field { field: "sequence" });
    }
    if order.not_after_ms <= order.issued_at_ms || order.issued_at_ms <= 0 {
        return Err(OrderError::Field {
            field: "not_after_ms",
        });
    }
    if matches!(
        v1::RestoreScope::try_from(order.scope),
        Err(_) | Ok(v1::RestoreScope::Unspecified)
    ) {
        return Err(OrderError::Field { field: "scope" });
    }
    if v1::Swap::try_from(order.swap).is_err() {
        return Err(OrderError::Field { field: "swap" });
    }
    let target = order.target.parse()?;
    let revision = order.revision.parse()?;
    let expected = match order.expected_revision.as_str() {
        "" => None,
        id => Some(id.parse()?),
    };
    order.operator = clean_text(&order.operator);
    order.reason = clean_text(&order.reason);
    Ok(VerifiedOrder {
        id,
        target,
        expected,
        revision,
        order,
    })
}

/// Opens and judges a sealed order.
///
/// # Errors
/// The order is malformed, for another host, stale, expired or from the future.
pub fn verify(sealed: &v1::SealedOrder, context: &Context) -> Result<VerifiedOrder, OrderError> {
    let verified = parse(sealed)?;
    let order = &verified.order;
    let audience = uuid("host_id", &order.host_id)?;
    if audience != context.host_id {
        return Err(OrderError::Audience {
            audience,
            this: context.host_id,
        });
    }
    let highest = context.highest_epoch;
    if order.epoch < highest {
        return Err(OrderError::Stale {
            found: order.epoch,
            highest,
        });
    }
    if order.epoch - highest > EPOCH_JUMP {
        return Err(OrderError::EpochJump {
            found: order.epoch,
            highest,
        });
    }
    if context.now_ms >= order.not_after_ms {
        return Err(OrderError::Expired {
            late_ms: context.now_ms - order.not_after_ms,
        });
    }
    let ahead_ms = order.issued_at_ms.saturating_sub(context.now_ms);
    if ahead_ms > CLOCK_TOLERANCE_MS {
        return Err(OrderError::Future { ahead_ms });
    }
    Ok(verified)
}

fn uuid(field: &'static str, text: &str) -> Result<Uuid, OrderError> {
    Uuid::try_parse(text).map_err(|_| OrderError::Field { field })
}

impl VerifiedOrder {
    /// The id by which the order takes effect at most once.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The target to restore.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.target
    }

    /// The revision that must run now; none: nothing may run.
    #[must_use]
    pub fn expected(&self) -> Option<&RevisionId> {
        self.expected.as_ref()
    }

    /// The revision to restore.
    #[must_use]
    pub fn revision(&self) -> &RevisionId {
        &self.revision
    }

    /// The other fields, as they were on the wire; free texts cleaned.
    #[must_use]
    pub fn order(&self) -> &v1::Order {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Uuid = Uuid::from_u128(7);

    fn order() -> v1::Order {
        v1::Order {
            order_id: Uuid::from_u128(1).to_string(),
            rollout_id: Uuid::from_u128(2).to_string(),
            host_id: HOST.to_string(),
            epoch: 3,
            sequence: 9,
            target: "docker/shop".into(),
            expected_revision: "b".repeat(64),
            revision: "a".repeat(64),
            scope: v1::RestoreScope::Both.into(),
            swap: v1::Swap::Unspecified.into(),
            issued_at_ms: 1_000_000,
            not_after_ms: 2_000_000,
            operator: "alice".into(),
            reason: "500s\u{1b}".into(),
        }
    }

    fn judged(order: &v1::Order) -> Result<VerifiedOrder, OrderError> {
        verify(
            &seal(order),
            &Context {
                host_id: HOST,
                highest_epoch: 3,
                now_ms: 1_500_000,
            },
        )
    }

    #[test]
    fn a_good_order_is_accepted_and_its_texts_are_cleaned() {
        let verified = judged(&order()).expect("good");
        assert_eq!(verified.id(), Uuid::from_u128(1));
        assert_eq!(verified.order().reason, "500s\\u{1b}");
    }

    #[test]
    fn never_stale_an_old_epoch_a_passed_deadline_and_a_jump_are_refused() {
        let code = |change: fn(&mut v1::Order)| {
            let mut order = order();
            change(&mut order);
            judged(&order).expect_err("refused").code()
        };
        assert_eq!(code(|o| o.epoch = 2), "order-stale");
        assert_eq!(code(|o| o.epoch = u64::MAX), "order-epoch-jump");
        assert_eq!(code(|o| o.not_after_ms = 1_500_000), "order-expired");
        assert_eq!(
            code(|o| {
                o.issued_at_ms = 1_900_000;
            }),
            "order-from-the-future"
        );
        assert_eq!(
            code(|o| o.host_id = Uuid::from_u128(8).to_string()),
            "order-for-another-host"
        );
    }

    #[test]
    fn each_field_that_is_missing_or_hostile_is_refused() {
        let changes: [fn(&mut v1::Order); 12] = [
            |o| o.order_id.clear(),
            |o| o.rollout_id = "x".into(),
            |o| o.host_id = "../".into(),
            |o| o.epoch = 0,
            |o| o.sequence = 0,
            |o| o.target = "docker/../../etc".into(),
            |o| o.revision = "A".repeat(64),
            |o| o.expected_revision = "x".into(),
            |o| o.scope = 0,
            |o| o.scope = 99,
            |o| o.swap = 99,
            |o| o.not_after_ms = 0,
        ];
        for change in changes {
            let mut order = order();
            change(&mut order);
            assert_eq!(
                judged(&order).expect_err("refused").code(),
                "order-malformed",
                "{order:?}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_order_are_refused() {
        let sealed = |order: Vec<u8>| parse(&v1::SealedOrder { order }).expect_err("refused");
        assert!(matches!(
            sealed(vec![0; limits::ORDER_BYTES + 1]),
            OrderError::TooLong { .. }
        ));
        assert!(matches!(sealed(vec![0xff; 40]), OrderError::Malformed(_)));
        assert!(matches!(sealed(Vec::new()), OrderError::Field { .. }));
    }
}
