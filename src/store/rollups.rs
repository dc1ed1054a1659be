//! Computes the sums of hours and days that have ended: `board_hour`, `location_hour`,
//! `product_day` and `dwell_day`. The computation of stays marks the hours and days of new events in
//! `rollup_pending`. Each is computed from its events and stays as a whole, again after a late event.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Store;
use super::error::{DbError, ErrorClass, StoreError};
use super::query::Db;
use super::stays::{
    FIRST_EVENTS, LEAST_EVENTS, LOCK, OTHERS_PAUSE, begin_computing, fewer, next_events, next_size,
};
use crate::event::plausibility::EARLIEST;
use crate::progress;

const TEMPLATE: &str = include_str!("sql/rollups.sql");

const DWELL_DAYS: &str = include_str!("sql/dwell_days.sql");

const MARK: &str = include_str!("sql/rollup_marks.sql");

/// A table of sums.
struct Rollup {
    table: &'static str,
    key: &'static str,
    key_of_event: &'static str,
    /// Name of the column with the start of the hour or day.
    start: &'static str,
    hours: i64,
}

const ROLLUPS: [Rollup; 3] = [
    Rollup {
        table: "board_hour",
        key: "board_sn",
        key_of_event: "coalesce(board_sn, '')",
        start: "hour",
        hours: 1,
    },
    Rollup {
        table: "location_hour",
        key: "loc_reference",
        key_of_event: "loc_reference",
        start: "hour",
        hours: 1,
    },
    Rollup {
        table: "product_day",
        key: "product_reference",
        key_of_event: "product_reference",
        start: "day",
        hours: 24,
    },
];

/// Time that a retention run spends on stays and sums. The connection's `last_seen_at` waits for it.
const COMPUTED_BEFORE_DELETION: Duration = Duration::from_secs(5);

/// Sums that are final.
#[derive(Debug)]
pub(super) struct FinalRollups {
    /// End of their time. Before the time that was asked for if not all are computed.
    pub before: OffsetDateTime,
    /// Reason why they could not be computed.
    pub problem: Option<String>,
}

/// Hours and days to compute of those that are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueRollups {
    /// Those that have been marked for 1/500 of their age, or for an hour: each late event changes sums,
    /// and further ones often follow.
    Settled,
    /// All.
    All,
    /// All before a time.
    Before(OffsetDateTime),
}

impl DueRollups {
    /// Returns the time before which they start, if any, and whether they need not be settled.
    fn bounds(self) -> (Option<OffsetDateTime>, bool) {
        match self {
            Self::Settled => (None, false),
            Self::All => (None, true),
            Self::Before(time) => (Some(time), true),
        }
    }
}

/// Most days of one transaction.
const MOST_DAYS: i64 = 64;

/// Number of days whose sums one transaction computes: more while that takes little time.
#[derive(Debug)]
pub(super) struct RollupSpan(AtomicI64);

impl Default for RollupSpan {
    fn default() -> Self {
        Self(AtomicI64::new(1))
    }
}

impl RollupSpan {
    fn days(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adapts it to the duration of a transaction. One without work tells nothing.
    fn adapt(&self, computed: &Result<bool, DbError>, took: Duration) {
        let days = self.days();
        let next = match computed {
            Ok(true) => next_size(days, took, 1..=MOST_DAYS),
            Err(error) if error.class == ErrorClass::Halve => (days / 4).max(1),
            _ => days,
        };
        self.0.store(next, Ordering::Relaxed);
    }
}

impl Rollup {
    fn insert(&self) -> String {
        TEMPLATE
            .replace("{table}", self.table)
            .replace("{key_of_event}", self.key_of_event)
            .replace("{key}", self.key)
            .replace("{start}", self.start)
    }

    fn delete(&self) -> String {
        let Self { table, start, .. } = self;
        format!("delete from centiloc.{table} where {start} = any ($1)")
    }
}

impl Store {
    /// Computes the sums of some hours and days that have ended. Returns true if more are left. Does
    /// nothing while another process computes.
    pub async fn compute_rollups(&self, due: DueRollups) -> Result<bool, StoreError> {
        Ok(self.compute_some_rollups(due).await?)
    }

    async fn compute_some_rollups(&self, due: DueRollups) -> Result<bool, DbError> {
        self.with_db(async |db| mark(db).await).await?;
        let (days, started) = (self.rollup_span.days(), Instant::now());
        let computed = self
            .with_db(async |db| {
                Ok(compute(db, 1, due, days).await? | compute(db, 24, due, days).await?)
            })
            .await;
        self.rollup_span.adapt(&computed, started.elapsed());
        computed
    }

    /// Computes the sums of all hours and days that have ended.
    pub async fn compute_all_rollups(&self) -> Result<(), StoreError> {
        while self.compute_rollups(DueRollups::All).await? {
            progress::tick();
        }
        Ok(())
    }

    /// Makes the sums of hours and days before a time final, because events before it are about to be
    /// deleted: as far as stays and sums are computed.
    pub(super) async fn keep_rollups_before(
        &self,
        cutoff: OffsetDateTime,
    ) -> Result<FinalRollups, DbError> {
        const RAISE: &str = "
            update centiloc.rollup_floor f
               set kept = greatest(kept, least(
                       $1, date_bin('24 hours', marked, timestamptz '2000-01-01 00:00+00'),
                       (select date_bin('24 hours', min(start), timestamptz '2000-01-01 00:00+00')
                          from centiloc.rollup_pending
                         where start >= f.kept),
                       (select date_bin('24 hours', min(m), timestamptz '2000-01-01 00:00+00')
                          from centiloc.stay_pending
                         cross join lateral unnest(momenta) as m
                         where m < $1)))
            returning greatest(kept, '2015-01-01') as kept";
        let until = day_after(cutoff);
        let mut problem = None;
        match self.compute_before(until).await {
            Err(error) if error.is_from_server() => problem = Some(error.to_string()),
            other => other?,
        }
        let raise = async |db: &mut Db| {
            // What is marked and what is computed belong together.
            db.execute(LOCK).await?;
            let raise = sqlx::query_scalar(RAISE).bind(until);
            db.query(|conn| raise.fetch_one(conn)).await
        };
        let before = match self.with_db(async |db| db.transaction(raise).await).await {
            Err(error) if error.is_from_server() => {
                problem = Some(error.to_string());
                EARLIEST
            }
            other => other?,
        };
        Ok(FinalRollups { before, problem })
    }

    /// Computes stays and sums before a time, for some seconds at most: the task `stays` does most of it.
    async fn compute_before(&self, until: OffsetDateTime) -> Result<(), DbError> {
        const IS_PENDING: &str = "
            select exists (
                   select
                     from centiloc.stay_pending
                    cross join lateral unnest(momenta) as m
                    where m < $1),
                   exists (
                   select
                     from centiloc.rollup_pending
                    where start >= (select kept from centiloc.rollup_floor)
                      and start < $1)
                   or (select marked < $1 from centiloc.rollup_floor)";
        let end = Instant::now() + COMPUTED_BEFORE_DELETION;
        let mut events = FIRST_EVENTS;
        while Instant::now() < end {
            progress::tick();
            let pending = sqlx::query_as(IS_PENDING).bind(until);
            let pending = self.with_db(async |db| db.query(|conn| pending.fetch_one(conn)).await);
            let started = Instant::now();
            let computed = match pending.await? {
                (true, _) => self.compute_some_stays(events).await.map(|round| round.tags > 0),
                (false, true) => self.compute_some_rollups(DueRollups::Before(until)).await,
                (false, false) => break,
            };
            match computed {
                Ok(true) => events = next_events(events, started.elapsed()),
                Ok(false) => tokio::time::sleep(OTHERS_PAUSE).await,
                Err(error) if error.class == ErrorClass::Halve && events > LEAST_EVENTS => {
                    events = fewer(events);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the start of the first day (UTC) that begins at `time` or later.
fn day_after(time: OffsetDateTime) -> OffsetDateTime {
    let day = time.to_offset(time::UtcOffset::UTC).replace_time(time::Time::MIDNIGHT);
    if day == time { day } else { day.saturating_add(time::Duration::DAY) }
}

/// Marks the hours and days that have begun since the last call, also those without an event: items lie
/// on boards all the time.
async fn mark(db: &mut Db) -> Result<(), DbError> {
    db.transaction(async |db| {
        if begin_computing(db).await? {
            db.query(|conn| sqlx::query(MARK).execute(conn)).await?;
        }
        Ok(())
    })
    .await
}

/// Computes the tables with starts of this width. Returns true if more starts are left.
async fn compute(db: &mut Db, hours: i64, due: DueRollups, days: i64) -> Result<bool, DbError> {
    const FINAL: &str = "
        delete from centiloc.rollup_pending
         where start < (select kept from centiloc.rollup_floor)";
    // From the day of the one that waits for the longest time on.
    const NEXT: &str = "
        with due as (
            select start, marked_at
              from centiloc.rollup_pending
             where width = $1
               and start + $1 <= now()
               and start < coalesce($2, 'infinity')
               and ($3 or marked_at <= now() - least((now() - start) / 500, interval '1 hour'))
        ), first as (
            select date_bin('24 hours', start, timestamptz '2000-01-01 00:00+00') as day
              from due
             order by marked_at, start
             limit 1
        )
        select start
          from due
          join first on start >= day and start < day + $4 * interval '24 hours'";
    const DONE: &str = "delete from centiloc.rollup_pending where width = $1 and start = any ($2)";
    let width = PgInterval { months: 0, days: 0, microseconds: hours * 3_600_000_000 };
    db.transaction(async |db| {
        if !begin_computing(db).await? {
            return Ok(false);
        }
        db.execute(FINAL).await?;
        let (until, all) = due.bounds();
        let next = sqlx::query_scalar(NEXT).bind(width).bind(until).bind(all).bind(days);
        let starts: Vec<OffsetDateTime> = db.query(|conn| next.fetch_all(conn)).await?;
        if starts.is_empty() {
            return Ok(false);
        }
        for rollup in ROLLUPS.iter().filter(|rollup| rollup.hours == hours) {
            let delete = sqlx::query(AssertSqlSafe(rollup.delete())).bind(&starts);
            db.query(|conn| delete.execute(conn)).await?;
            let insert = sqlx::query(AssertSqlSafe(rollup.insert()));
            let insert = insert.bind(&starts).bind(width);
            db.query(|conn| insert.execute(conn)).await?;
        }
        if hours == 24 {
            const DELETE: &str = "delete from centiloc.dwell_day where day = any ($1)";
            for statement in [DELETE, DWELL_DAYS] {
                let statement = sqlx::query(statement).bind(&starts);
                db.query(|conn| statement.execute(conn)).await?;
            }
        }
        let done = sqlx::query(DONE).bind(width).bind(&starts);
        db.query(|conn| done.execute(conn)).await?;
        Ok(true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::stays::{LONG_ROUND, SHORT_ROUND};
    use super::*;

    #[test]
    fn quick_transactions_span_more_days() {
        let span = RollupSpan::default();
        for _ in 0..20 {
            span.adapt(&Ok(true), SHORT_ROUND / 2);
        }
        assert_eq!(span.days(), MOST_DAYS);
        span.adapt(&Ok(false), LONG_ROUND * 2);
        assert_eq!(span.days(), MOST_DAYS, "nothing was computed");
        span.adapt(&Ok(true), LONG_ROUND * 2);
        assert_eq!(span.days(), MOST_DAYS / 2);
        for _ in 0..20 {
            span.adapt(&Ok(true), LONG_ROUND * 2);
        }
        assert_eq!(span.days(), 1);
    }

    #[test]
    fn final_days_begin_after_cutoff() {
        let time = time::macros::datetime!(2025-03-10 23:30 -2);
        assert_eq!(day_after(time), time::macros::datetime!(2025-03-12 0:00 UTC));
        let midnight = time::macros::datetime!(2025-03-12 0:00 UTC);
        assert_eq!(day_after(midnight), midnight);
    }
}
