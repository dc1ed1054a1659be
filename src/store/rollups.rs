//! Computes the sums of hours and days that have ended: `board_hour`, `location_hour`,
//! `product_day` and `dwell_day`. The computation of stays marks the hours and days of new events in
//! `rollup_pending`. Each is computed from its events and stays as a whole, again after a late event.

use sqlx::AssertSqlSafe;
use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;

use super::Store;
use super::error::{DbError, StoreError};
use super::query::Db;
use super::stays::begin_computing;
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

/// Span of the hours and days of one transaction: the events of a day are read at most.
const ONE_DAY: PgInterval = PgInterval { months: 0, days: 0, microseconds: 24 * 3_600_000_000 };

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
    pub async fn compute_rollups(&self) -> Result<bool, StoreError> {
        let mut is_more = false;
        self.with_db(async |db| mark(db).await).await?;
        for hours in [1, 24] {
            is_more |= self.with_db(async |db| compute(db, hours).await).await?;
        }
        Ok(is_more)
    }

    /// Computes the sums of all hours and days that have ended.
    pub async fn compute_all_rollups(&self) -> Result<(), StoreError> {
        while self.compute_rollups().await? {
            progress::tick();
        }
        Ok(())
    }

    /// Makes the sums of all hours and days before a time final, because events before it are about
    /// to be deleted.
    pub(super) async fn keep_rollups_before(&self, cutoff: OffsetDateTime) -> Result<(), DbError> {
        const RAISE: &str = "
            update centiloc.rollup_floor
               set kept = date_bin('24 hours', $1 + interval '24 hours' - interval '1 microsecond',
                                   timestamptz '2000-01-01 00:00+00')
             where kept < $1";
        let raise = sqlx::query(RAISE).bind(cutoff);
        self.with_db(async |db| db.query(|conn| raise.execute(conn)).await.map(drop)).await
    }
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
async fn compute(db: &mut Db, hours: i64) -> Result<bool, DbError> {
    const FINAL: &str = "
        delete from centiloc.rollup_pending
         where start < (select kept from centiloc.rollup_floor)";
    const NEXT: &str = "
        select start
          from centiloc.rollup_pending
         where width = $1
           and start + $1 <= now()
           and start < $2 + (select min(start) from centiloc.rollup_pending where width = $1)";
    const DONE: &str = "delete from centiloc.rollup_pending where width = $1 and start = any ($2)";
    let width = PgInterval { months: 0, days: 0, microseconds: hours * 3_600_000_000 };
    db.transaction(async |db| {
        if !begin_computing(db).await? {
            return Ok(false);
        }
        db.execute(FINAL).await?;
        let next = sqlx::query_scalar(NEXT).bind(width).bind(ONE_DAY);
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
