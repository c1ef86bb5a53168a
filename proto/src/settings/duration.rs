//! Durations as people write them: `10m`, `1h 30m`, `500ms`. For `#[serde(with = "duration")]`.

use std::time::Duration;

use jiff::{SignedDuration, fmt::friendly::SpanPrinter};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
use thiserror::Error;

/// Why a text is no duration. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DurationError {
    #[error("it is no duration, for instance 90s, 10m or 1h 30m")]
    NotOne,
    #[error("a duration cannot be negative")]
    Negative,
}

/// Reads a duration.
///
/// # Errors
/// It is none, or negative.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let signed: SignedDuration = text.parse().map_err(|_| DurationError::NotOne)?;
    Duration::try_from(signed).map_err(|_| DurationError::Negative)
}

/// Writes a duration so that it reads back the same.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let signed = SignedDuration::try_from(*value).unwrap_or(SignedDuration::MAX);
    to.serialize_str(&SpanPrinter::new().duration_to_string(&signed))
}

/// Reads a duration.
///
/// # Errors
/// It is no text, no duration, or negative.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("-5s"), Err(DurationError::Negative));
        for wrong in ["", "soon", "10"] {
            assert_eq!(parse(wrong), Err(DurationError::NotOne), "{wrong:?}");
        }
    }
}
