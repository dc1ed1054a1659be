//! The waits of the writer after a failure.

use std::time::Duration;

use crate::config::BackoffBounds;

/// Waits of the writer after a failure.
#[derive(Debug, Clone, Copy)]
pub struct RetryWaits {
    /// Bounds of the wait after a transient failure.
    pub retry: BackoffBounds,
    /// Wait after a failure that requires operator action.
    pub stop: Duration,
}

impl Default for RetryWaits {
    fn default() -> Self {
        Self {
            // A failover takes seconds. Longer waits would only add to it.
            retry: BackoffBounds { min: Duration::from_millis(100), max: Duration::from_secs(10) },
            stop: Duration::from_secs(60),
        }
    }
}
