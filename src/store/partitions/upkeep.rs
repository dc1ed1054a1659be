//! Keeps the partitions whole beside the ingest: makes them ahead of time, and moves rows out of the
//! default partition in small steps, with pauses for readers and writers.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::Moved;
use crate::progress::idle;
use crate::store::fault::{Fault, StoreError};
use crate::store::span::{AHEAD, EARLIEST, Range};
use crate::store::{Store, timestamp};

/// Rows are moved for at most this long before the other duties get their turn.
const MOVING_FOR: Duration = Duration::from_secs(5);

/// Partitions made ahead of the present one: two spans are a day or a month of a database that
/// nobody can write DDL to.
const SPANS_AHEAD: usize = 2;

/// Attempts at a step that others hold up, before it is left for the next time.
const ATTEMPTS: u32 = 5;

/// Between two steps that hold writers up, milliseconds: they have most of the time.
const PAUSE_MS: std::ops::Range<u64> = 150..450;

/// Whether upkeep came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing is left to do.
    Done,
    /// Rows of the default partition are left to move.
    Unfinished,
}

impl Store {
    /// Makes the present partition and the next ones, looks up which exist, and moves the rows that
    /// the default partition holds though they have or could have one of their own. A step that
    /// fails keeps none of the others from being taken; the first failure is returned.
    pub async fn make_partitions_ahead(&self, now: OffsetDateTime) -> Result<Upkeep, StoreError> {
        self.partitions.forget();
        let moved = self.move_misplaced(now).await;
        let ahead = self.make_ahead(now).await;
        let (moved, ()) = (moved?, ahead?);
        Ok(moved)
    }

    async fn move_misplaced(&self, now: OffsetDateTime) -> Result<Upkeep, Fault> {
        let started = Instant::now();
        let mut rest = Range { from: EARLIEST, to: now + AHEAD };
        let mut failed = None;
        while rest.from < rest.to {
            let mut conn = self.acquire().await?;
            let first = self.partitions.first_misplaced(&mut conn, rest).await;
            let Some(first) = conn.finish(first)? else { break };
            match self.move_at(first, started).await {
                Ok(Moved::Done) => rest.from = first,
                Ok(Moved::More) => return Ok(Upkeep::Unfinished),
                Ok(Moved::Blocked) => rest.from = next_day(first),
                // Who holds the default partition holds up every step.
                Err(fault) if fault.is_contention() || !fault.is_from_server() => {
                    return Err(fault);
                }
                Err(fault) => {
                    rest.from = next_day(first);
                    failed.get_or_insert(fault);
                }
            }
            if started.elapsed() > MOVING_FOR {
                break;
            }
        }
        failed.map_or(Ok(Upkeep::Done), Err)
    }

    async fn make_ahead(&self, now: OffsetDateTime) -> Result<(), Fault> {
        let mut at = now;
        for _ in 0..=SPANS_AHEAD {
            let mut conn = self.acquire().await?;
            let listed = super::list(&mut conn, self.link.answer_within).await;
            let listed = conn.finish(listed)?;
            if !listed.iter().any(|named| named.range.contains(at)) {
                self.move_at(at, Instant::now()).await?;
            }
            match Range::around(at, self.partitions.span()) {
                Some(range) => at = range.to,
                None => break,
            }
        }
        Ok(())
    }

    /// Takes steps until the partition of a momentum is whole, or the time is up.
    async fn move_at(&self, momentum: OffsetDateTime, started: Instant) -> Result<Moved, Fault> {
        let mut attempt = 1;
        loop {
            let begun = Instant::now();
            let mut conn = self.acquire().await?;
            let moved = self.partitions.move_step(&mut conn, momentum).await;
            match conn.finish(moved) {
                Ok(Moved::More) => attempt = 1,
                Ok(done) => return Ok(done),
                Err(fault) if fault.is_contention() && attempt < ATTEMPTS => {
                    attempt += 1;
                    pause().await;
                }
                Err(fault) => return Err(fault),
            }
            if started.elapsed() > MOVING_FOR {
                return Ok(Moved::More);
            }
            // Writers have half of the time.
            idle(tokio::time::sleep(begun.elapsed())).await;
        }
    }
}

/// Lets writers and readers pass between two steps.
pub(in crate::store) async fn pause() {
    let pause = Duration::from_millis(rand::random_range(PAUSE_MS));
    idle(tokio::time::sleep(pause)).await;
}

fn next_day(momentum: OffsetDateTime) -> OffsetDateTime {
    let day = Range::around(momentum, crate::config::PartitionSpan::Day);
    day.map_or(timestamp::GREATEST, |day| day.to)
}
