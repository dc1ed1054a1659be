//! Exponential backoff with jitter, reset only after a connection has stayed up.

use std::time::Duration;

use crate::config::BackoffBounds;

/// Time after which a connection counts as stable and the backoff starts over. A flapping link
/// therefore keeps its long waits.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// A sequence of waits whose ceiling doubles from `min` to `max`. Pure: time and randomness are
/// arguments.
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: BackoffBounds,
    /// Invariant: `limits.min <= ceiling <= limits.max`.
    ceiling: Duration,
}

impl Backoff {
    /// Makes a backoff that starts at `limits.min`.
    pub fn new(limits: BackoffBounds) -> Self {
        Self { limits, ceiling: limits.min }
    }

    /// Returns the next wait, between half of the present ceiling and the ceiling. `jitter` is uniform
    /// in `0.0..=1.0`. It keeps many clients from reconnecting at once, and the lower half of the range
    /// is left out so that no wait is too short.
    pub fn next(&mut self, jitter: f64) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.limits.max);
        ceiling.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Returns the maximum delay and stays there, for failures that need operator action.
    pub fn longest(&mut self) -> Duration {
        self.ceiling = self.limits.max;
        self.limits.max
    }

    /// Replaces the bounds and keeps the present ceiling within them.
    pub fn set_limits(&mut self, limits: BackoffBounds) {
        self.limits = limits;
        self.ceiling = self.ceiling.clamp(limits.min, limits.max);
    }

    /// Records how long the connection had been up. After a stable one the backoff starts over.
    pub fn was_up(&mut self, uptime: Duration) {
        if uptime >= STABLE_AFTER {
            self.ceiling = self.limits.min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> impl Strategy<Value = BackoffBounds> {
        (1u64..10_000, 0u64..100_000).prop_map(|(min, more)| BackoffBounds {
            min: Duration::from_millis(min),
            max: Duration::from_millis(min + more),
        })
    }

    #[derive(Debug, Clone)]
    enum BackoffStep {
        Wait(f64),
        Longest,
        Up(Duration),
        Limits(BackoffBounds),
    }

    fn step() -> impl Strategy<Value = BackoffStep> {
        prop_oneof![
            4 => (0.0f64..=1.0).prop_map(BackoffStep::Wait),
            1 => Just(BackoffStep::Longest),
            1 => (0u64..120).prop_map(|seconds| BackoffStep::Up(Duration::from_secs(seconds))),
            1 => limits().prop_map(BackoffStep::Limits),
        ]
    }

    proptest! {
        #[test]
        fn waits_follow_the_ceiling_of_the_model(
            first in limits(), steps in prop::collection::vec(step(), 0..64)
        ) {
            let (mut backoff, mut limits, mut ceiling) = (Backoff::new(first), first, first.min);
            for step in steps {
                match step {
                    BackoffStep::Wait(jitter) => {
                        let wait = backoff.next(jitter);
                        prop_assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?}");
                        ceiling = (ceiling * 2).min(limits.max);
                    }
                    BackoffStep::Longest => {
                        ceiling = limits.max;
                        prop_assert_eq!(backoff.longest(), ceiling);
                    }
                    BackoffStep::Up(uptime) => {
                        backoff.was_up(uptime);
                        if uptime >= STABLE_AFTER { ceiling = limits.min; }
                    }
                    BackoffStep::Limits(new) => {
                        backoff.set_limits(new);
                        limits = new;
                        ceiling = ceiling.max(new.min).min(new.max);
                    }
                }
                prop_assert_eq!(backoff.ceiling, ceiling);
                prop_assert!(limits.min <= ceiling && ceiling <= limits.max);
            }
        }

        #[test]
        fn waits_stay_within_half_minimum_and_maximum(
            limits in limits(), jitters in prop::collection::vec(0.0f64..=1.0, 1..64)
        ) {
            let mut backoff = Backoff::new(limits);
            for jitter in jitters {
                let wait = backoff.next(jitter);
                prop_assert!(wait >= limits.min / 2 && wait <= limits.max);
            }
        }

        #[test]
        fn waits_never_shrink_until_the_link_was_stable(limits in limits()) {
            let mut backoff = Backoff::new(limits);
            let mut last = Duration::ZERO;
            for _ in 0..32 {
                backoff.was_up(STABLE_AFTER.saturating_sub(Duration::from_millis(1)));
                let wait = backoff.next(1.0);
                prop_assert!(wait >= last);
                last = wait;
            }
            prop_assert_eq!(last, limits.max);
            backoff.was_up(STABLE_AFTER);
            prop_assert_eq!(backoff.next(1.0), limits.min);
        }
    }
}
