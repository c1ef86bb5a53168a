//! Durations as people write them: `10m`, `1h 30m`, `500ms`.

use std::time::Duration;

use jiff::{SignedDuration, fmt::friendly::SpanPrinter};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let signed = SignedDuration::try_from(*value).unwrap_or(SignedDuration::MAX);
    to.serialize_str(&SpanPrinter::new().duration_to_string(&signed))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let signed: SignedDuration = text
        .parse()
        .map_err(|_| D::Error::custom("it is no duration, for instance 10m or 1h 30m"))?;
    Duration::try_from(signed).map_err(|_| D::Error::custom("a duration cannot be negative"))
}
