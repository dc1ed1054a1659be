//! Removes the messages kept with events before the events themselves: `retention.payloads`. A
//! message is as large as the rest of its row, and has no use once the field numbers are verified. Events are visited in the order of their momentum, a few thousand at a time, so that
//! neither the writer nor maintenance waits for long.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use crate::event::EventKind;
use crate::store::Store;
use crate::store::error::{DbError, StoreError};
use crate::store::kinds;
use crate::store::query::Db;

/// Events visited by one statement: well below a second.
const CHUNK: i64 = 5_000;

/// Chunks done at once, between two heartbeats.
const CHUNKS: usize = 20;

/// Wait before the next sweep: the retention is counted in days.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// A sweep begins so long before the end of the last one, for events that came late.
const LATE: time::Duration = time::Duration::days(7);

/// Progress of the removal. It is kept in memory: a new process visits all events once more.
#[derive(Debug, Default)]
pub(in crate::store) struct PayloadSweep {
    /// `retention.payloads` as of the last step.
    kept: Option<Duration>,
    /// Start of the next chunk. `None` is the beginning.
    next: Option<OffsetDateTime>,
    /// Time of the next sweep. `None` during one.
    due: Option<Instant>,
    /// Removed in this sweep.
    cleared: u64,
}

impl PayloadSweep {
    /// Does a few chunks. Returns how many messages a sweep removed that came to its end.
    pub async fn advance(
        &mut self,
        store: &Store,
        kept: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, StoreError> {
        if self.kept != kept {
            *self = Self { kept, ..Self::default() };
        }
        let Some(cutoff) = kept.and_then(|kept| now.checked_sub(kept.try_into().ok()?)) else {
            return Ok(None);
        };
        if self.due.is_some_and(|due| Instant::now() < due) {
            return Ok(None);
        }
        self.due = None;
        for _ in 0..CHUNKS {
            let (cleared, next) = store.clear_payloads(self.next, cutoff, CHUNK).await?;
            self.cleared += cleared;
            self.next = next;
            if next.is_none() {
                self.next = cutoff.checked_sub(LATE);
                self.due = Some(Instant::now() + EVERY);
                return Ok(Some(std::mem::take(&mut self.cleared)));
            }
        }
        Ok(None)
    }
}

impl Store {
    /// Removes the messages kept with the next `chunk` events from `from` on that happened and came
    /// before `cutoff`. Returns how many, and where to go on. `None` at the end.
    pub async fn clear_payloads(
        &self,
        from: Option<OffsetDateTime>,
        cutoff: OffsetDateTime,
        chunk: i64,
    ) -> Result<(u64, Option<OffsetDateTime>), StoreError> {
        let mut db = self.acquire().await?;
        let from = from.unwrap_or(time::macros::datetime!(0001-01-01 00:00 UTC));
        let result = clear(&mut db, from, cutoff, chunk).await;
        Ok(db.finish(result)?)
    }
}

async fn clear(
    db: &mut Db,
    from: OffsetDateTime,
    cutoff: OffsetDateTime,
    chunk: i64,
) -> Result<(u64, Option<OffsetDateTime>), DbError> {
    // Ranges of momentum are found by the primary key, and touch only the partitions they lie in.
    let tables = EventKind::ALL.map(|kind| kinds::tables(kind).event_table());
    let ends = tables.map(|table| {
        format!(
            "(select momentum from centiloc.{table}
               where momentum >= $1 and momentum < $2
               order by momentum offset $3 limit 1)"
        )
    });
    let sql = AssertSqlSafe(format!("select least({})", ends.join(", ")));
    let end = sqlx::query_scalar(sql).bind(from).bind(cutoff).bind(chunk);
    let end: Option<OffsetDateTime> = db.query(|conn| end.fetch_one(conn)).await?;
    // Events of one momentum are never split: a chunk of nothing else would not come to an end.
    let end = end.map(|end| end + time::Duration::MICROSECOND);
    let mut cleared = 0;
    for table in tables {
        let sql = AssertSqlSafe(format!(
            "update centiloc.{table} set payload = null
              where momentum >= $1 and momentum < $2 and received_at < $3
                and payload is not null"
        ));
        let update = sqlx::query(sql).bind(from).bind(end.unwrap_or(cutoff)).bind(cutoff);
        cleared += db.query(|conn| update.execute(conn)).await?.rows_affected();
    }
    Ok((cleared, end))
}
