//! When the link does what: pure functions of what it knows; randomness comes in as a number in `0..1`.

use std::{collections::VecDeque, time::Duration};

/// The first wait before a dial, before jitter.
const BASE: Duration = Duration::from_millis(500);

/// The longest: with full jitter, ten thousand agents come back within half a minute of a controller's
/// restart at some three hundred handshakes a second.
const CAP: Duration = Duration::from_secs(30);

/// A session that lived for this long was a good one: the next dial begins anew.
pub(super) const GOOD: Duration = Duration::from_secs(10);

/// Full jitter: anything between nothing and an upper bound that doubles with each failure.
pub(super) fn back_off(failures: u32, random: f64) -> Duration {
    let bound = BASE
        .saturating_mul(2u32.saturating_pow(failures.min(16)))
        .min(CAP);
    bound.mul_f64(random.clamp(0.0, 1.0))
}

/// An interval, a tenth shorter or longer.
pub(super) fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
}

/// When to renew: at half of the time from obtaining a certificate to its end, a tenth earlier or later.
pub(super) fn renew_at(obtained_ms: i64, not_after_ms: i64, random: f64) -> i64 {
    let life = Duration::from_millis(u64::try_from(not_after_ms - obtained_ms).unwrap_or_default());
    let wait = jittered(life / 2, random);
    obtained_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Measurements kept.
const SAMPLES: usize = 8;

/// A measurement that took longer says too little.
const ROUND_TRIP_LIMIT_MS: i64 = 5_000;

/// What reading and halving whole milliseconds on both sides may add.
const ROUNDING_MS: u64 = 4;

/// The controller's clock minus the host's, from exchanges of clock readings.
#[derive(Debug, Default)]
pub(super) struct ClockOffset {
    /// Round trip and offset, milliseconds, oldest first.
    samples: VecDeque<(i64, i64)>,
}

impl ClockOffset {
    /// Takes an exchange in: sent at `sent_ms`, answered by a clock that read `theirs_ms`, back at
    /// `back_ms`. Answers with the best estimate: that of the shortest round trip since a clock was set last.
    pub(super) fn measured(&mut self, sent_ms: i64, theirs_ms: i64, back_ms: i64) -> Option<i64> {
        let trip = back_ms - sent_ms;
        // A slow one is better than none: without any the host's own clock would be believed.
        let usable =
            (0..=ROUND_TRIP_LIMIT_MS).contains(&trip) || (trip >= 0 && self.samples.is_empty());
        if usable {
            let newest = (trip, theirs_ms - (sent_ms + trip / 2));
            self.samples.retain(|sample| agree(*sample, newest));
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(newest);
        }
        self.samples.iter().min().map(|(_, offset)| *offset)
    }
}

/// Whether two measurements can both be right: each is off by half of its trip at most. Where not, one of the
/// clocks was set between them.
fn agree(one: (i64, i64), other: (i64, i64)) -> bool {
    one.1.abs_diff(other.1) * 2 <= one.0.unsigned_abs() + other.0.unsigned_abs() + ROUNDING_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_before_a_dial_grows_to_a_bound_and_is_spread_over_all_of_it() {
        assert_eq!(back_off(0, 1.0), BASE);
        assert_eq!(back_off(3, 1.0), BASE * 8);
        for failures in [6, 100, u32::MAX] {
            assert_eq!(back_off(failures, 1.0), CAP);
            assert_eq!(back_off(failures, 0.0), Duration::ZERO);
        }
    }

    #[test]
    fn renewal_comes_at_half_life_give_or_take_a_tenth() {
        assert_eq!(renew_at(1_000, 11_000, 0.5), 6_000);
        assert_eq!(renew_at(1_000, 11_000, 0.0), 5_500);
        assert_eq!(renew_at(1_000, 11_000, 1.0), 6_500);
        assert_eq!(renew_at(1_000, 0, 0.5), 1_000, "at once when it has ended");
    }

    #[test]
    fn the_offset_is_that_of_the_shortest_round_trip() {
        let mut clock = ClockOffset::default();
        assert_eq!(clock.measured(1_000, 5_100, 1_200), Some(4_000));
        assert_eq!(
            clock.measured(2_000, 8_000, 4_000),
            Some(4_000),
            "a slow one counts less"
        );
        assert_eq!(clock.measured(3_000, 7_001, 3_000), Some(4_001));
        assert_eq!(
            clock.measured(9_000, 0, 8_000),
            Some(4_001),
            "a clock that jumped back"
        );
        for _ in 0..SAMPLES {
            clock.measured(1_000, 11_000, 1_000);
        }
        assert_eq!(
            clock.measured(1_000, 11_000, 1_000),
            Some(10_000),
            "old ones are forgotten"
        );
    }

    #[test]
    fn a_first_exchange_that_was_slow_is_better_than_none() {
        let mut clock = ClockOffset::default();
        assert_eq!(clock.measured(0, 3_604_000, 8_000), Some(3_600_000));
        assert_eq!(clock.measured(0, 3_600_500, 200), Some(3_600_400));
        assert_eq!(
            clock.measured(0, 0, 9_000),
            Some(3_600_400),
            "there is a better one"
        );
    }

    #[test]
    fn after_a_step_of_a_clock_what_was_measured_before_counts_no_more() {
        let mut clock = ClockOffset::default();
        assert_eq!(clock.measured(1_000, 4_601_001, 1_002), Some(4_600_000));
        // The host's clock is set, and the next exchange is a slower one.
        assert_eq!(clock.measured(4_700_000, 4_700_100, 4_700_200), Some(0));
        // Of those that agree the shortest still counts.
        assert_eq!(clock.measured(4_800_000, 4_800_900, 4_801_000), Some(0));
        assert_eq!(clock.measured(4_900_000, 4_900_011, 4_900_020), Some(1));
        // A small step, too, once it is more than the trips explain.
        assert_eq!(clock.measured(5_000_000, 5_000_310, 5_000_020), Some(300));
    }
}
