//! The newest gaps, dead letters and connections, read from the database only while somebody watches, and
//! at most every few seconds: a hundred viewers cost as much as one.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::store::overview::Overview;

/// Shortest time between two reads.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// A request waits this long for a read, then it shows the rows of the one before.
const WAIT: Duration = Duration::from_millis(700);

/// The result of the last reads.
#[derive(Debug, Clone, Default)]
pub struct CachedOverview {
    /// Rows of the last read that succeeded, and its time.
    pub rows: Option<(Overview, OffsetDateTime)>,
    /// Error of the last read, if it failed.
    pub problem: Option<String>,
    /// Time of the last read.
    read: Option<Instant>,
}

impl CachedOverview {
    fn is_due(&self) -> bool {
        self.read.is_none_or(|at| at.elapsed() >= REFRESH_INTERVAL)
    }

    /// Returns the rows, however old.
    pub fn overview(&self) -> Option<&Overview> {
        self.rows.as_ref().map(|(overview, _)| overview)
    }
}

/// The cache, shared between requests and the task that reads.
#[derive(Debug, Default)]
pub struct OverviewCache {
    wanted: Notify,
    state: watch::Sender<CachedOverview>,
}

impl OverviewCache {
    /// Returns rows that are a few seconds old, or older ones while the database does not answer.
    pub async fn current(&self) -> CachedOverview {
        let mut state = self.state.subscribe();
        if state.borrow_and_update().is_due() {
            self.wanted.notify_one();
            // Without an answer the earlier rows are shown with their age.
            let _ = timeout(WAIT, state.changed()).await;
        }
        self.latest()
    }

    /// Returns the result of the last reads without starting one.
    pub fn latest(&self) -> CachedOverview {
        self.state.borrow().clone()
    }

    /// Waits until rows are wanted and the last read is old enough.
    pub(super) async fn due(&self) {
        loop {
            self.wanted.notified().await;
            if self.state.borrow().is_due() {
                return;
            }
        }
    }

    /// Records the result of a read.
    pub(super) fn note(&self, result: Result<Overview, String>) {
        self.state.send_modify(|state| {
            state.read = Some(Instant::now());
            match result {
                Ok(overview) => {
                    state.rows = Some((overview, OffsetDateTime::now_utc()));
                    state.problem = None;
                }
                Err(problem) => state.problem = Some(problem),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_read_keeps_earlier_rows() {
        let cache = OverviewCache::default();
        cache.note(Ok(Overview { open_gaps: 3, ..Overview::default() }));
        cache.note(Err("no route".into()));
        let cached = cache.current().await;
        assert_eq!(cached.overview().map(|overview| overview.open_gaps), Some(3));
        assert_eq!(cached.problem.as_deref(), Some("no route"));
    }

    #[tokio::test]
    async fn viewers_within_seconds_share_a_read() {
        let cache = OverviewCache::default();
        cache.note(Ok(Overview::default()));
        for _ in 0..100 {
            cache.current().await;
        }
        let wanted = timeout(Duration::from_millis(1), cache.wanted.notified()).await;
        assert!(wanted.is_err(), "no read was wanted");
    }
}
