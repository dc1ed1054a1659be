//! The wall clock, as an argument: stages read the time from it, and the fault simulator supplies a
//! time of its own. Monotonic time is [`tokio::time::Instant`], which a paused runtime controls.

use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;

/// Source of the time of day in UTC.
#[derive(Clone, Default)]
pub struct WallClock(Option<Arc<dyn Fn() -> OffsetDateTime + Send + Sync>>);

impl WallClock {
    /// Returns the clock of the operating system.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that shows what `read` answers.
    pub fn simulated(read: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(read)))
    }

    /// Returns the present time. It may jump in both directions when the clock is set.
    pub fn now_utc(&self) -> OffsetDateTime {
        self.0.as_ref().map_or_else(OffsetDateTime::now_utc, |read| read())
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(simulated)" } else { "Clock(system)" })
    }
}
