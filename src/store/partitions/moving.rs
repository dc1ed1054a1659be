//! Moves rows out of the default partition into one of their own, a few at a time. The partition
//! grows with them. After each step queries find every row exactly once.

use std::time::Duration;

use time::OffsetDateTime;

use super::PartitionManager;
use super::catalog::{
    self, ListedPartition, create_sql, default_holds, ensure_default, first_in_default, free_name,
};
use super::make::{attach_sql, become_maker, size};
use crate::store::error::{DbError, ErrorClass};
use crate::store::partitions::span::{PartitionRange, range_to_make};
use crate::store::pg_timestamp::PgTimestamp;
use crate::store::query::Db;

/// Rows moved in one step. Writers wait that long for the default partition: about 100 ms.
const ROWS: i64 = 4_000;

/// A partition is read whole when it is attached again: past this size the next one is begun.
const LARGEST: i64 = 256 << 20;

/// Statement timeout in a step. A default partition that takes longer to scan needs operator
/// action.
const STEP_TIMEOUT: &str = "60s";

/// Our time limit of one exchange in a step.
pub(in crate::store) const STEP_ANSWER: Duration = Duration::from_secs(65);

/// A partition that takes the rows of the default partition step by step.
#[derive(Debug, Clone)]
pub(super) struct GrowingPartition {
    /// Its name. `None` while there is nothing of it.
    table: Option<String>,
    /// The range that it covers so far.
    reached: PartitionRange,
    /// The planned end of its range.
    to: OffsetDateTime,
}

impl GrowingPartition {
    fn target(&self) -> PartitionRange {
        PartitionRange { from: self.reached.from, to: self.to }
    }
}

/// Progress after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum MoveProgress {
    /// The partition covers its whole range.
    Done,
    /// There is more to move.
    More,
    /// Another partition is in the way.
    Blocked,
}

impl PartitionManager {
    /// Makes the partition of `momentum`, or moves further rows into it.
    pub async fn move_step(
        &self,
        db: &mut Db,
        momentum: OffsetDateTime,
    ) -> Result<MoveProgress, DbError> {
        let before = self.known().growing.clone();
        let moved = db.transaction(async |db| self.step_within(db, before, momentum).await).await?;
        let Some(growing) = moved else {
            return Ok(MoveProgress::Blocked);
        };
        let done = growing.reached.to >= growing.to;
        let mut known = self.known();
        known.made(growing.reached, growing.table.as_deref());
        known.growing = (!done).then_some(growing);
        Ok(if done { MoveProgress::Done } else { MoveProgress::More })
    }

    async fn step_within(
        &self,
        db: &mut Db,
        before: Option<GrowingPartition>,
        momentum: OffsetDateTime,
    ) -> Result<Option<GrowingPartition>, DbError> {
        become_maker(db, STEP_TIMEOUT).await?;
        let listed = catalog::list(db).await?;
        let default = ensure_default(db).await?;
        let planned = self.plan(db, before, momentum, &listed).await?;
        let Some(growing) = planned else { return Ok(None) };
        let rest = PartitionRange { from: growing.reached.to, to: growing.to };
        let end = end_of_step(db, &default, rest).await?;
        let table = match &growing.table {
            Some(table) => table.clone(),
            None => free_name(db, &growing.target().table()).await?,
        };
        let columns = columns_of(db, "centiloc.item_event").await?;
        let reached = PartitionRange { from: growing.reached.from, to: end };
        let prepare = match &growing.table {
            Some(_) => format!("alter table centiloc.item_event detach partition {table}"),
            None => create_sql(&table),
        };
        let step = PartitionRange { from: rest.from, to: end };
        let (from, until) = step.literals();
        // A running query would still expect moved rows in the default partition.
        let readers = if default_holds(db, &default, step).await? {
            "lock table only centiloc.item_event in access exclusive mode;"
        } else {
            ""
        };
        let sql = format!(
            "{readers} {prepare};
             lock table {default} in access exclusive mode;
             with moved as (
                 delete from {default} where momentum >= {from} and momentum < {until}
                 returning {columns})
             insert into {table} ({columns}) select {columns} from moved;
             {}",
            attach_sql(&table, reached)
        );
        db.execute(sql).await?;
        Ok(Some(GrowingPartition { table: Some(table), reached, to: growing.to }))
    }

    /// The partition to grow: the one that was begun, or a new one. `None` if another is in the way.
    async fn plan(
        &self,
        db: &mut Db,
        before: Option<GrowingPartition>,
        momentum: OffsetDateTime,
        listed: &[ListedPartition],
    ) -> Result<Option<GrowingPartition>, DbError> {
        if let Some(growing) = before.filter(|growing| growing.target().contains(momentum))
            && let Some(growing) = go_on(db, growing, listed).await?
        {
            return Ok(Some(growing));
        }
        let existing: Vec<PartitionRange> = listed.iter().map(|named| named.range).collect();
        let range = range_to_make(momentum, self.span, &existing);
        Ok(range.map(|PartitionRange { from, to }| GrowingPartition {
            table: None,
            reached: PartitionRange { from, to: from },
            to,
        }))
    }

    /// The earliest momentum of a range that is in the default partition, by maintenance's own time
    /// limit.
    pub async fn first_misplaced(
        &self,
        db: &mut Db,
        range: PartitionRange,
    ) -> Result<Option<OffsetDateTime>, DbError> {
        db.transaction(async |db| {
            db.execute(format!("set local statement_timeout = '{STEP_TIMEOUT}'")).await?;
            match catalog::default_partition(db).await? {
                Some(default) => first_in_default(db, &default, range).await,
                None => Ok(None),
            }
        })
        .await
    }
}

/// Goes on with a partition if it is as we left it, and up to the next one that was made since.
async fn go_on(
    db: &mut Db,
    mut growing: GrowingPartition,
    listed: &[ListedPartition],
) -> Result<Option<GrowingPartition>, DbError> {
    let Some(table) = &growing.table else { return Ok(None) };
    if !listed.iter().any(|named| named.table == *table && named.range == growing.reached) {
        return Ok(None);
    }
    let after = listed.iter().map(|named| named.range.from).filter(|f| *f >= growing.reached.to);
    growing.to = after.min().map_or(growing.to, |next| next.min(growing.to));
    if growing.reached.to >= growing.to {
        return Ok(None);
    }
    if size(db, table).await? > LARGEST {
        let from = growing.reached.to;
        growing = GrowingPartition {
            table: None,
            reached: PartitionRange { from, to: from },
            to: growing.to,
        };
    }
    Ok(Some(growing))
}

/// Returns the end of the rows of one step. All rows of one moment move together.
async fn end_of_step(
    db: &mut Db,
    default: &str,
    rest: PartitionRange,
) -> Result<OffsetDateTime, DbError> {
    let nth = format!(
        "select momentum from {default} where momentum >= $1 and momentum < $2
          order by momentum offset $3 limit 1"
    );
    let query =
        sqlx::query_scalar(sqlx::AssertSqlSafe(nth)).bind(rest.from).bind(rest.to).bind(ROWS);
    let Some(PgTimestamp(end)) = db.query(|conn| query.fetch_optional(conn)).await? else {
        return Ok(rest.to);
    };
    let before = PartitionRange { from: rest.from, to: end };
    if first_in_default(db, default, before).await?.is_some() {
        return Ok(end);
    }
    let beyond = PartitionRange { from: end + time::Duration::microseconds(1), to: rest.to };
    Ok(first_in_default(db, default, beyond).await?.unwrap_or(rest.to))
}

/// Returns the columns of a table as SQL lists them, also those that a user added.
pub(in crate::store) async fn columns_of(db: &mut Db, table: &str) -> Result<String, DbError> {
    const SQL: &str = "
        select string_agg(format('%I', attname), ', ' order by attnum)
          from pg_attribute
         where attrelid = to_regclass($1)
           and attnum > 0 and not attisdropped and attgenerated = ''";
    let query = sqlx::query_scalar(SQL).bind(table);
    let columns: Option<String> = db.query(|conn| query.fetch_one(conn)).await?;
    columns.ok_or_else(|| DbError {
        class: ErrorClass::Stop,
        sqlstate: Some("42P01".to_owned()),
        text: format!("table {table} is missing; run `centiloc-bridge migrate`"),
    })
}
