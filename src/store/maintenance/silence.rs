//! Boards that are silent for longer than is usual for them. A board that loses power cannot say so.

use std::time::{Duration, Instant};

use crate::store::maintenance::{MaintenanceParts, RepeatedWarning};
use crate::store::{Store, StoreError};

/// Interval between two counts of silent boards.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Boards whose usual interval is learned between two heartbeats: some ten milliseconds.
const BOARDS: i64 = 20;

/// Schedules the counts of silent boards.
#[derive(Debug, Default)]
pub(super) struct SilenceWatch {
    counted: Option<Instant>,
    problem: RepeatedWarning,
}

impl SilenceWatch {
    /// Learns the usual intervals that are due, and counts the silent boards once a minute.
    pub async fn look(&mut self, parts: &MaintenanceParts) {
        let result = self.learn_and_count(parts).await;
        let problem = result.err().map(|error| error.to_string());
        if let Some(error) = self.problem.changed(problem) {
            tracing::warn!(error, "could not look for silent boards; retrying");
        }
    }

    async fn learn_and_count(&mut self, parts: &MaintenanceParts) -> Result<(), StoreError> {
        parts.store.learn_usual_intervals(BOARDS).await?;
        if self.counted.is_none_or(|at| at.elapsed() >= COUNT_INTERVAL) {
            let silent = parts.store.count_silent_boards().await?;
            parts.metrics.boards_silent.set(silent);
            self.counted = Some(Instant::now());
        }
        Ok(())
    }
}

impl Store {
    /// Learns how long boards are usually silent, for at most so many boards. Each is due once an
    /// hour. Returns the number of boards.
    pub async fn learn_usual_intervals(&self, boards: i64) -> Result<i64, StoreError> {
        const LEARN: &str = include_str!("../sql/usual_intervals.sql");
        let learn = sqlx::query_scalar(LEARN).bind(boards);
        Ok(self.with_db(async |db| db.query(|conn| learn.fetch_one(conn)).await).await?)
    }

    /// Counts the boards that are silent for longer than is usual for them.
    pub async fn count_silent_boards(&self) -> Result<i64, StoreError> {
        const COUNT: &str = "select count(*) from centiloc.board_silence where is_silent";
        let count = sqlx::query_scalar(COUNT);
        Ok(self.with_db(async |db| db.query(|conn| count.fetch_one(conn)).await).await?)
    }
}
