//! A rate limit for published events. Pure: time is an argument.

use std::time::Duration;

/// After a pause (a lost connection), at most the events of this period are sent in a burst.
const MAX_BURST: Duration = Duration::from_secs(1);

/// A limiter that spreads events evenly over time.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    /// Events per second, 0 for no limit.
    rate: u64,
    /// Start of the even distribution: the elapsed time and the events published by then.
    from: (Duration, u64),
}

impl RateLimiter {
    /// Creates a limiter. The first event is due at once.
    pub fn new(rate: u64) -> Self {
        Self { rate, from: (Duration::ZERO, 0) }
    }

    /// Returns the wait before the next event, or `None` if it is due. `elapsed` is the time since
    /// the start, and `published` the number of distinct events so far.
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
        fn rate_is_exceeded_by_one_burst_at_most(
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
        fn returned_waits_keep_the_rate(rate in 1u64..5_000) {
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
    fn rate_zero_never_waits() {
        assert_eq!(RateLimiter::new(0).wait(Duration::ZERO, u64::MAX), None);
    }
}
