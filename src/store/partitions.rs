//! Makes the partitions of `item_event` that rows need. What is known to exist is remembered, so
//! that the hot path asks nothing; what lands in the default partition although it should not
//! makes us look again.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::fault::{Class, Fault};
use super::span::{Range, is_plausible, range_to_make};
use super::write::bounded;
use crate::config::PartitionSpan;

/// Serialises the makers of partitions, in any process: "centpart" as bytes.
pub(super) const LOCK: &str = "select pg_advisory_xact_lock(7161677110969590388)";

/// How long to wait for readers of the default partition. Rows that need the new partition wait
/// meanwhile; past this they go to the default partition, and are moved later.
const LOCK_TIMEOUT: &str = "2s";

/// After a partition could not be made, its rows go to the default partition for this long.
const DEFERRED_FOR: Duration = Duration::from_secs(60);

const LIST: &str = r"
    select i.inhrelid::regclass::text as name,
           bounds[1]::timestamptz as lower, bounds[2]::timestamptz as upper
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
     cross join lateral regexp_match(
               pg_get_expr(c.relpartbound, c.oid),
               '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$') as bounds
     where i.inhparent = to_regclass('centiloc.item_event') and bounds is not null";

const HAS_DEFAULT: &str = "
    select exists (select from pg_partitioned_table
                    where partrelid = to_regclass('centiloc.item_event') and partdefid <> 0)";

const MAKE_DEFAULT: &str =
    "create table centiloc.item_event_default partition of centiloc.item_event default";

/// The partitions as last seen.
#[derive(Debug)]
pub(super) struct Partitions {
    span: PartitionSpan,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ranges: Vec<Range>,
    /// Ranges that could not be made, and until when not to try again.
    deferred: Vec<(Range, Instant)>,
}

impl Known {
    fn covers(&self, momentum: OffsetDateTime) -> bool {
        self.ranges.iter().any(|r| r.contains(momentum))
    }

    fn is_deferred(&self, momentum: OffsetDateTime, now: Instant) -> bool {
        self.deferred.iter().any(|(r, until)| now < *until && r.contains(momentum))
    }
}

impl Partitions {
    pub fn new(span: PartitionSpan) -> Self {
        Self { span, known: Mutex::default() }
    }

    /// The configured span of one partition.
    pub fn span(&self) -> PartitionSpan {
        self.span
    }

    /// Looks again before the next batch.
    pub fn forget(&self) {
        self.known().ranges.clear();
    }

    /// Makes partitions for the momenta that [`Self::missing`] found. A partition that cannot be made is no failure: the
    /// default partition takes its rows. Fails only if the server does not answer.
    pub async fn ensure(
        &self,
        conn: &mut PgConnection,
        limit: Duration,
        missing: BTreeSet<OffsetDateTime>,
    ) -> Result<(), Fault> {
        if missing.is_empty() {
            return Ok(());
        }
        let listed = list(conn, limit).await?;
        self.known().ranges = listed;
        for momentum in missing {
            let range = {
                let known = self.known();
                if known.covers(momentum) {
                    continue;
                } // made a moment ago
                range_to_make(momentum, self.span, &known.ranges)
            };
            if let Some(range) = range {
                self.make_or_defer(conn, limit, range).await?;
            }
        }
        Ok(())
    }

    /// Makes the default partition if it is gone.
    pub async fn restore_default(
        &self,
        conn: &mut PgConnection,
        limit: Duration,
    ) -> Result<(), Fault> {
        if has_default(conn, limit).await? {
            return Ok(());
        }
        run(conn, limit, MAKE_DEFAULT.into()).await?;
        tracing::warn!("item_event had no default partition; made it again");
        Ok(())
    }

    /// Momenta, one per missing range, that partitions are to be made for.
    pub fn missing(
        &self,
        momenta: impl Iterator<Item = OffsetDateTime>,
        now: OffsetDateTime,
    ) -> BTreeSet<OffsetDateTime> {
        let known = self.known();
        let mut last: Option<Range> = None;
        let mut missing = BTreeSet::new();
        for momentum in momenta {
            // Neighbours in a batch are neighbours in time.
            if last.is_some_and(|r| r.contains(momentum)) {
                continue;
            }
            last = known.ranges.iter().find(|r| r.contains(momentum)).copied();
            if last.is_none()
                && is_plausible(momentum, now)
                && !known.is_deferred(momentum, Instant::now())
            {
                last = Range::around(momentum, PartitionSpan::Day);
                missing.insert(momentum);
            }
        }
        missing
    }

    async fn make_or_defer(
        &self,
        conn: &mut PgConnection,
        limit: Duration,
        range: Range,
    ) -> Result<(), Fault> {
        match make(conn, limit, range).await {
            Ok(()) => {
                self.known().ranges.push(range);
                tracing::info!(partition = range.table(), "made a partition");
                Ok(())
            }
            Err(fault) if fault.is_refusal() => {
                tracing::warn!(
                    partition = range.table(),
                    reason = %fault,
                    "could not make a partition; its events go to the default partition"
                );
                let until = Instant::now() + DEFERRED_FOR;
                let mut known = self.known();
                known.deferred.retain(|(r, until)| *r != range && Instant::now() < *until);
                known.deferred.push((range, until));
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panic left behind is at worst incomplete, and is then looked up again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A partition that exists.
#[derive(Debug)]
pub(super) struct Named {
    /// As SQL names it.
    pub table: String,
    pub range: Range,
}

/// The partitions that exist, but for the default one.
pub(super) async fn list_named(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<Vec<Named>, Fault> {
    let rows = bounded(limit, sqlx::query(LIST).fetch_all(conn)).await?;
    let named = |row: &PgRow| -> Result<Named, Fault> {
        let range = Range { from: row.try_get("lower")?, to: row.try_get("upper")? };
        Ok(Named { table: row.try_get("name")?, range })
    };
    rows.iter().map(named).collect()
}

async fn list(conn: &mut PgConnection, limit: Duration) -> Result<Vec<Range>, Fault> {
    Ok(list_named(conn, limit).await?.into_iter().map(|named| named.range).collect())
}

/// Makes one partition and moves there what the default partition holds of its range, in one
/// transaction. Another process may have made it meanwhile.
async fn make(conn: &mut PgConnection, limit: Duration, range: Range) -> Result<(), Fault> {
    let prepare = format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}'; {LOCK}");
    let result = async {
        run(conn, limit, prepare).await?;
        if !list(conn, limit).await?.iter().any(|r| r.overlaps(&range)) {
            if !has_default(conn, limit).await? {
                run(conn, limit, MAKE_DEFAULT.into()).await?;
            }
            run(conn, limit, make_sql(range)).await?;
        }
        run(conn, limit, "commit".into()).await
    }
    .await;
    match result {
        Err(fault) if fault.is_refusal() => {
            run(conn, limit, "rollback".into()).await.map_err(|f| f.taken_as(Class::Retry))?;
            Err(fault)
        }
        other => other,
    }
}

/// The default partition is locked before its rows are moved, so that none arrives in between.
fn make_sql(range: Range) -> String {
    let table = range.table();
    let (from, to) = range.literals();
    format!(
        "create table centiloc.{table} (like centiloc.item_event including all);
         lock table centiloc.item_event_default in access exclusive mode;
         with moved as (
             delete from centiloc.item_event_default
              where momentum >= {from} and momentum < {to} returning *)
         insert into centiloc.{table} select * from moved;
         alter table centiloc.item_event attach partition centiloc.{table}
             for values from ({from}) to ({to})"
    )
}

async fn has_default(conn: &mut PgConnection, limit: Duration) -> Result<bool, Fault> {
    bounded(limit, sqlx::query_scalar(HAS_DEFAULT).fetch_one(conn)).await
}

/// Runs statements that take no parameters.
pub(super) async fn run(
    conn: &mut PgConnection,
    limit: Duration,
    sql: String,
) -> Result<(), Fault> {
    // Safe: made of constants, numbers and dates only.
    bounded(limit, sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn)).await.map(drop)
}
