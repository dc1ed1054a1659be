//! Maintains the partitions during ingestion: makes them ahead of time, and moves rows out of the
//! default partition in small steps, with pauses for readers and writers.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::{MoveProgress, STEP_ANSWER};
use crate::progress::idle;
use crate::store::error::{DbError, StoreError};
use crate::store::partitions::span::{AHEAD, EARLIEST, PartitionRange};
use crate::store::{Store, pg_timestamp};

/// Longest time of moving rows before the other duties of maintenance run.
const MOVING_FOR: Duration = Duration::from_secs(5);

/// Partitions made ahead of the present one. Two spans cover at least a day, or a month, in which
/// the database accepts no DDL.
const SPANS_AHEAD: usize = 2;

/// Attempts at a step that other statements block, before it is left for the next run.
const ATTEMPTS: u32 = 5;

/// Pause between two steps that block writers, milliseconds: writers have most of the time.
const PAUSE_MS: std::ops::Range<u64> = 150..450;

/// Outcome of a run of upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpkeepOutcome {
    /// Nothing is left to do.
    Done,
    /// Rows of the default partition are left to move.
    Unfinished,
}

impl Store {
    /// Makes the present partition and the next ones, looks up which exist, and moves the rows that
    /// the default partition holds though they have or could have one of their own. A step that
    /// fails keeps none of the others from being taken. The first failure is returned.
    pub async fn make_partitions_ahead(
        &self,
        now: OffsetDateTime,
    ) -> Result<UpkeepOutcome, StoreError> {
        self.partitions.forget();
        let moved = self.move_misplaced(now).await;
        let ahead = self.make_ahead(now).await;
        let (moved, ()) = (moved?, ahead?);
        Ok(moved)
    }

    async fn move_misplaced(&self, now: OffsetDateTime) -> Result<UpkeepOutcome, DbError> {
        let started = Instant::now();
        let mut rest = PartitionRange { from: EARLIEST, to: now + AHEAD };
        let mut failed = None;
        while rest.from < rest.to {
            let mut db = self.acquire().await?.with_timeout(STEP_ANSWER);
            let first = self.partitions.first_misplaced(&mut db, rest).await;
            let Some(first) = db.finish(first)? else { break };
            match self.move_at(first, started).await {
                Ok(MoveProgress::Done) => rest.from = first,
                Ok(MoveProgress::More) => return Ok(UpkeepOutcome::Unfinished),
                Ok(MoveProgress::Blocked) => rest.from = next_day(first),
                // A lock on the default partition blocks every step.
                Err(error) if error.is_contention() || !error.is_from_server() => {
                    return Err(error);
                }
                Err(error) => {
                    rest.from = next_day(first);
                    failed.get_or_insert(error);
                }
            }
            if started.elapsed() > MOVING_FOR {
                break;
            }
        }
        failed.map_or(Ok(UpkeepOutcome::Done), Err)
    }

    async fn make_ahead(&self, now: OffsetDateTime) -> Result<(), DbError> {
        let mut at = now;
        for _ in 0..=SPANS_AHEAD {
            let listed = self.with_db(async |db| super::list(db).await).await?;
            if !listed.iter().any(|named| named.range.contains(at)) {
                self.move_at(at, Instant::now()).await?;
            }
            match PartitionRange::around(at, self.partitions.span()) {
                Some(range) => at = range.to,
                None => break,
            }
        }
        Ok(())
    }

    /// Takes steps until the partition of a momentum is complete, or the time is over.
    async fn move_at(
        &self,
        momentum: OffsetDateTime,
        started: Instant,
    ) -> Result<MoveProgress, DbError> {
        let mut attempt = 1;
        loop {
            let begun = Instant::now();
            let mut db = self.acquire().await?.with_timeout(STEP_ANSWER);
            let moved = self.partitions.move_step(&mut db, momentum).await;
            match db.finish(moved) {
                Ok(MoveProgress::More) => attempt = 1,
                Ok(done) => return Ok(done),
                Err(error) if error.is_contention() && attempt < ATTEMPTS => {
                    attempt += 1;
                    pause().await;
                }
                Err(error) => return Err(error),
            }
            if started.elapsed() > MOVING_FOR {
                return Ok(MoveProgress::More);
            }
            // Writers have half of the time.
            idle(tokio::time::sleep(begun.elapsed())).await;
        }
    }
}

/// Pauses between two steps, for writers and readers.
pub(in crate::store) async fn pause() {
    let pause = Duration::from_millis(rand::random_range(PAUSE_MS));
    idle(tokio::time::sleep(pause)).await;
}

fn next_day(momentum: OffsetDateTime) -> OffsetDateTime {
    let day = PartitionRange::around(momentum, crate::config::PartitionSpan::Day);
    day.map_or(pg_timestamp::GREATEST, |day| day.to)
}
