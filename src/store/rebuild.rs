//! Computes all stays or all sums again, next to a running bridge. Everything to compute is queued in
//! one transaction, and what was there remains until it is computed again. The queue is the one that
//! the bridge works on too, so that an interruption leaves old rows and queued work.

use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::error::{DbError, StoreError};
use super::query::Db;
use super::rollups::DueRollups;
use super::stays::{FIRST_EVENTS, LEAST_EVENTS, OTHERS_PAUSE, fewer, next_events};

/// Bounds the statement that queues everything, which reads all states of tags.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(600);

/// Table to compute again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildTarget {
    /// Stays and boards of tags.
    Stays,
    /// Sums of hours and days.
    Rollups,
}

/// Progress of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Tags, or hours and days, that were queued.
    pub total: u64,
    /// Those that are computed.
    pub done: u64,
    /// True if an earlier run queued them and was interrupted.
    pub continued: bool,
}

// A tag is computed from its first event or stay on whose events are complete. A row for each twenty
// tags, as a batch has.
const QUEUE_STAYS: &str = "
    with started as (
        insert into centiloc.rebuild (target, total)
        values ('stays', 0)
        on conflict (target) do update set started_at = clock_timestamp()
        returning started_at
    ), tag as (
        select tenant, uid, greatest(min(since), (select kept from centiloc.rollup_floor)) as since
          from (select tenant, uid, min(first_seen_at) as since
                  from centiloc.item_state
                 group by tenant, uid
                 union all
                select tenant, uid, min(entered_at)
                  from centiloc.stay
                 group by tenant, uid) known
         group by tenant, uid
    ), batch as (
        select (number - 1) / 20 as batch, tenant, uid, since
          from (select *, row_number() over (order by tenant, uid) as number from tag) numbered
    ), queued as (
        insert into centiloc.stay_pending (committed_at, tenants, uids, momenta)
        select (select started_at from started), array_agg(tenant), array_agg(uid), array_agg(since)
          from batch
         group by batch
    )
    select count(*) from tag";

const QUEUE_ROLLUPS: &str = "
    with started as (
        insert into centiloc.rebuild (target, total)
        values ('rollups', 0)
        on conflict (target) do update set started_at = clock_timestamp()
        returning started_at
    ), oldest as (
        -- Not finite without events and sums.
        select greatest(least((select min(momentum) from centiloc.item_event
                                where momentum >= '2015-01-01'),
                              (select min(entered_at) from centiloc.stay
                                where entered_at >= '2015-01-01'),
                              (select min(hour) from centiloc.board_hour),
                              (select min(hour) from centiloc.location_hour),
                              (select min(day) from centiloc.product_day)),
                        (select kept from centiloc.rollup_floor)) as since
    ), span as (
        select w.width, start
          from (select since from oldest where isfinite(since)) oldest
         cross join (values (interval '1 hour'), (interval '24 hours')) as w (width)
         cross join lateral generate_series(
                   date_bin(w.width, oldest.since, timestamptz '2000-01-01 00:00+00'),
                   (select started_at from started) - w.width, w.width) as start
    ), queued as (
        insert into centiloc.rollup_pending (width, start)
        select case when width = interval '1 hour' then width else interval '1 day' end, start
          from span
        on conflict (width, start) do nothing
    )
    select count(*) from span";

impl RebuildTarget {
    /// Returns the name in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stays => "stays",
            Self::Rollups => "rollups",
        }
    }

    fn queue_sql(self) -> &'static str {
        match self {
            Self::Stays => QUEUE_STAYS,
            Self::Rollups => QUEUE_ROLLUPS,
        }
    }

    /// Returns the statement that counts what was queued and is left.
    fn left_sql(self) -> &'static str {
        match self {
            Self::Stays => {
                "select coalesce(sum(cardinality(p.uids)), 0)::bigint
                   from centiloc.stay_pending p
                   join centiloc.rebuild r on r.target = 'stays' and p.committed_at <= r.started_at"
            }
            Self::Rollups => {
                "select count(*)
                   from centiloc.rollup_pending p
                   join centiloc.rebuild r
                     on r.target = 'rollups' and p.start + p.width <= r.started_at"
            }
        }
    }
}

impl Store {
    /// Computes everything of `target` again, or continues a run that was interrupted, and calls
    /// `report` after each step. Stays that began before the retained events are kept as they are,
    /// and so are the sums of that time.
    pub async fn rebuild(
        &self,
        target: RebuildTarget,
        report: &mut (dyn FnMut(RebuildProgress) + Send),
    ) -> Result<RebuildProgress, StoreError> {
        let mut progress = self.with_db(async |db| begin(db, target).await).await?;
        report(progress);
        let mut events = FIRST_EVENTS;
        loop {
            let left = self.with_db(async |db| left(db, target).await).await?;
            progress.done = progress.total.saturating_sub(left);
            report(progress);
            if left == 0 {
                break;
            }
            let started = Instant::now();
            let computed = match target {
                RebuildTarget::Stays => self.compute_stays(events).await.map(|r| r.tags > 0),
                RebuildTarget::Rollups => self.compute_rollups(DueRollups::All).await,
            };
            match computed {
                Ok(true) => events = next_events(events, started.elapsed()),
                Ok(false) => tokio::time::sleep(OTHERS_PAUSE).await,
                Err(StoreError::Halve(_)) if events > LEAST_EVENTS => events = fewer(events),
                Err(error) => return Err(error),
            }
        }
        let sql = "delete from centiloc.rebuild where target = $1";
        let end = sqlx::query(sql).bind(target.as_str());
        self.with_db(async |db| db.query(|conn| end.execute(conn)).await).await?;
        Ok(progress)
    }
}

async fn left(db: &mut Db, target: RebuildTarget) -> Result<u64, DbError> {
    let query = sqlx::query_scalar(target.left_sql());
    let left: i64 = db.query(|conn| query.fetch_one(conn)).await?;
    Ok(left.try_into().unwrap_or(0))
}

/// Queues everything, unless an earlier run did and some of it is left.
async fn begin(db: &mut Db, target: RebuildTarget) -> Result<RebuildProgress, DbError> {
    const TOTAL: &str = "select total from centiloc.rebuild where target = $1";
    const NOTE: &str = "update centiloc.rebuild set total = $2 where target = $1";
    if left(db, target).await? > 0 {
        let query = sqlx::query_scalar(TOTAL).bind(target.as_str());
        let total: i64 = db.query(|conn| query.fetch_one(conn)).await?;
        let total = total.try_into().unwrap_or(0);
        return Ok(RebuildProgress { total, done: 0, continued: true });
    }
    let total = db
        .transaction(async |db| {
            let milliseconds = QUEUE_TIMEOUT.as_millis();
            db.execute(format!("set local statement_timeout = {milliseconds}")).await?;
            let queue = sqlx::query_scalar(target.queue_sql());
            let total: i64 = db.query_within(QUEUE_TIMEOUT, |conn| queue.fetch_one(conn)).await?;
            let note = sqlx::query(NOTE).bind(target.as_str()).bind(total);
            db.query(|conn| note.execute(conn)).await?;
            Ok(total)
        })
        .await?;
    Ok(RebuildProgress { total: total.try_into().unwrap_or(0), done: 0, continued: false })
}
