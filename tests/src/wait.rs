//! Waiting for conditions, never for time: every wait has a deadline and says what it saw last.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// The pause after the first look. Each pause is half as long again, up to [`LONGEST_PAUSE`]: many looks start a
/// process, and what has not come in a second is seldom missed for an eighth of one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(120);

/// Looks until `look` answers `Ok`; its error says what it saw instead.
///
/// # Errors
/// The deadline passed: what was waited for, how long, and what was seen last.
pub async fn try_until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, String> {
    let end = Instant::now() + deadline;
    let mut last = "nothing: the first look did not come back".to_owned();
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => return Err(format!("waited {deadline:?} for {what}; last seen: {last}")),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("waited {deadline:?} for {what}; last seen: {last}"));
        }
        sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// As [`try_until`], and the test fails at the deadline.
///
/// # Panics
/// The deadline passed.
pub async fn until<T, E: Display>(
    what: &str,
    deadline: Duration,
    look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    match try_until(what, deadline, look).await {
        Ok(value) => value,
        Err(problem) => panic!("{problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_condition_or_says_what_it_saw() {
        let mut looks = 0;
        let seen = until("three looks", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(format!("{looks} looks"))
            }
        })
        .await;
        assert_eq!(seen, 3);
        let problem = try_until("rain", Duration::from_millis(200), async || {
            Err::<(), _>("sun")
        })
        .await
        .expect_err("it never rains");
        assert_eq!(problem, "waited 200ms for rain; last seen: sun");
    }
}
