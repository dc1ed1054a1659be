//! How many events may have been published by now. Pure: time is an argument.

use std::time::Duration;

/// After a pause (a lost connection) at most this much is caught up in a burst.
const MAX_BURST: Duration = Duration::from_secs(1);

/// Spreads events evenly.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    /// Events a second; 0 is no limit.
    rate: u64,
    /// Where the even line begins: elapsed time, and events published by then.
    from: (Duration, u64),
}

impl RateLimiter {
    /// Begins with the first event at once.
    pub fn new(rate: u64) -> Self {
        Self { rate, from: (Duration::ZERO, 0) }
    }

    /// How long to wait before the next event; `None` is not at all. `elapsed` is since the
    /// start, `published` counts distinct events.
    pub fn wait(&mut self, elapsed: Duration, published: u64) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        let due = self.due(published);
        let wait = due.saturating_sub(elapsed);
        if elapsed.saturating_sub(due) > MAX_BURST {
            self.from = (elapsed.saturating_sub(MAX_BURST), published);
        }
        (!wait.is_zero()).then_some(wait)
    }

    fn due(&self, published: u64) -> Duration {
        let events = u128::from(published.saturating_sub(self.from.1));
        let ns = events * 1_000_000_000 / u128::from(self.rate);
        self.from.0.saturating_add(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_burst(
            rate in 1u64..5_000, pauses in prop::collection::vec(0u64..3_000, 1..100)
        ) {
            let (mut limiter, mut published, mut ms) = (RateLimiter::new(rate), 0u64, 0u64);
            for pause in pauses {
                ms += pause;
                let before = published;
                while limiter.wait(Duration::from_millis(ms), published).is_none() {
                    published += 1;
                }
                let burst = published - before;
                prop_assert!(burst <= rate * 2 + 1, "{burst} at once");
                prop_assert!(published <= rate * ms / 1_000 + 1);
            }
        }

        #[test]
        fn waiting_as_told_keeps_the_rate(rate in 1u64..5_000) {
            let (mut limiter, mut elapsed) = (RateLimiter::new(rate), Duration::ZERO);
            for published in 0..rate {
                if let Some(wait) = limiter.wait(elapsed, published) {
                    elapsed += wait;
                }
                prop_assert!(limiter.wait(elapsed, published).is_none());
            }
            prop_assert!(elapsed <= Duration::from_secs(1));
            let last = Duration::from_secs(1) / u32::try_from(rate).expect("small");
            prop_assert!(elapsed + last >= Duration::from_millis(999));
        }
    }

    #[test]
    fn no_rate_is_no_wait() {
        assert_eq!(RateLimiter::new(0).wait(Duration::ZERO, u64::MAX), None);
    }
}
