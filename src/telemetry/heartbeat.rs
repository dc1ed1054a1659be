//! Proof that the process makes progress: beaten by the composition root, looked at by `/livez`.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Without a beat for this long the process counts as stuck. It beats every second; a runtime
/// that cannot run a timer for half a minute will not recover by itself.
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// The time of the last beat. Begins fresh.
#[derive(Debug)]
pub struct Heartbeat {
    origin: Instant,
    /// Milliseconds since `origin`.
    last_ms: AtomicI64,
}

impl Heartbeat {
    /// The process makes progress.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Release);
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        let ms = self.now_ms().saturating_sub(self.last_ms.load(Ordering::Acquire));
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { origin: Instant::now(), last_ms: AtomicI64::new(0) }
    }
}

#[cfg(test)]
impl Heartbeat {
    /// One whose last beat was this long ago.
    pub(crate) fn stopped_for(age: Duration) -> Self {
        let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        Self { origin: Instant::now(), last_ms: AtomicI64::new(-ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_makes_it_young_again() {
        let heartbeat = Heartbeat::stopped_for(Duration::from_secs(60));
        assert!(heartbeat.age() >= Duration::from_secs(60));
        heartbeat.beat();
        assert!(heartbeat.age() < Duration::from_secs(10));
    }

    #[test]
    fn it_begins_fresh() {
        assert!(Heartbeat::default().age() < Duration::from_secs(10));
    }
}
