//! Moves rows out of the default partition into one of their own, a few at a time. The partition
//! grows with them: after each step every row is where queries look for it, exactly once.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::catalog::{
    self, ListedPartition, create_sql, default_holds, ensure_default, first_in_default, free_name,
};
use super::make::{attach_sql, become_maker, size};
use super::{PartitionManager, run};
use crate::store::batch::write::bounded;
use crate::store::error::{DbError, ErrorClass};
use crate::store::partitions::span::{PartitionRange, range_to_make};
use crate::store::pg_timestamp::PgTimestamp;
use crate::store::query::{Db, Transaction};

/// Rows moved in one step. Writers wait that long for the default partition: about 100 ms.
const ROWS: i64 = 4_000;

/// A partition is read whole when it is attached again: past this size the next one is begun.
const LARGEST: i64 = 256 << 20;

/// Bounds one statement of a step. A default partition that takes longer to look through is one that
/// someone must empty.
const STEP_TIMEOUT: &str = "60s";

/// Our own bound on one exchange of a step.
pub(in crate::store) const STEP_ANSWER: Duration = Duration::from_secs(65);

/// A partition that takes the rows of the default partition step by step.
#[derive(Debug, Clone)]
pub(super) struct GrowingPartition {
    /// Its name; `None` while there is nothing of it.
    table: Option<String>,
    /// What it covers so far.
    reached: PartitionRange,
    /// Where it is to end.
    to: OffsetDateTime,
}

impl GrowingPartition {
    fn target(&self) -> PartitionRange {
        PartitionRange { from: self.reached.from, to: self.to }
    }
}

/// What a step led to.
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
        conn: &mut Db<'_>,
        momentum: OffsetDateTime,
    ) -> Result<MoveProgress, DbError> {
        let before = self.known().growing.clone();
        let mut transaction = Transaction::begin(conn, STEP_ANSWER).await?;
        let result = self.step_within(transaction.conn(), before, momentum).await;
        let Some(growing) = transaction.end(result).await? else {
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
        conn: &mut PgConnection,
        before: Option<GrowingPartition>,
        momentum: OffsetDateTime,
    ) -> Result<Option<GrowingPartition>, DbError> {
        become_maker(conn, STEP_ANSWER, STEP_TIMEOUT).await?;
        let listed = catalog::list(conn, STEP_ANSWER).await?;
        let default = ensure_default(conn, STEP_ANSWER).await?;
        let planned = self.plan(conn, before, momentum, &listed).await?;
        let Some(growing) = planned else { return Ok(None) };
        let rest = PartitionRange { from: growing.reached.to, to: growing.to };
        let end = end_of_step(conn, &default, rest).await?;
        let table = match &growing.table {
            Some(table) => table.clone(),
            None => free_name(conn, STEP_ANSWER, &growing.target().table()).await?,
        };
        let columns = columns(conn).await?;
        let reached = PartitionRange { from: growing.reached.from, to: end };
        let prepare = match &growing.table {
            Some(_) => format!("alter table centiloc.item_event detach partition {table}"),
            None => create_sql(&table),
        };
        let step = PartitionRange { from: rest.from, to: end };
        let (from, until) = step.literals();
        // A query that has begun would look for moved rows where they were.
        let readers = if default_holds(conn, STEP_ANSWER, &default, step).await? {
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
        run(conn, STEP_ANSWER, sql).await?;
        Ok(Some(GrowingPartition { table: Some(table), reached, to: growing.to }))
    }

    /// The partition to grow: the one that was begun, or a new one. `None` if another is in the way.
    async fn plan(
        &self,
        conn: &mut PgConnection,
        before: Option<GrowingPartition>,
        momentum: OffsetDateTime,
        listed: &[ListedPartition],
    ) -> Result<Option<GrowingPartition>, DbError> {
        if let Some(growing) = before.filter(|growing| growing.target().contains(momentum))
            && let Some(growing) = go_on(conn, growing, listed).await?
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
        conn: &mut Db<'_>,
        range: PartitionRange,
    ) -> Result<Option<OffsetDateTime>, DbError> {
        let mut transaction = Transaction::begin(conn, STEP_ANSWER).await?;
        let found = async {
            let conn = transaction.conn();
            run(conn, STEP_ANSWER, format!("set local statement_timeout = '{STEP_TIMEOUT}'"))
                .await?;
            match catalog::default_partition(conn, STEP_ANSWER).await? {
                Some(default) => first_in_default(conn, STEP_ANSWER, &default, range).await,
                None => Ok(None),
            }
        }
        .await;
        transaction.end(found).await
    }
}

/// Goes on with a partition if it is as we left it, and up to the next one that was made since.
async fn go_on(
    conn: &mut PgConnection,
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
    if size(conn, STEP_ANSWER, table).await? > LARGEST {
        let from = growing.reached.to;
        growing = GrowingPartition {
            table: None,
            reached: PartitionRange { from, to: from },
            to: growing.to,
        };
    }
    Ok(Some(growing))
}

/// Where the rows of one step end: all rows of one moment go together.
async fn end_of_step(
    conn: &mut PgConnection,
    default: &str,
    rest: PartitionRange,
) -> Result<OffsetDateTime, DbError> {
    let nth = format!(
        "select momentum from {default} where momentum >= $1 and momentum < $2
          order by momentum offset $3 limit 1"
    );
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(nth))
        .bind(rest.from)
        .bind(rest.to)
        .bind(ROWS)
        .fetch_optional(&mut *conn);
    let Some(PgTimestamp(end)) = bounded(STEP_ANSWER, query).await? else { return Ok(rest.to) };
    let before = PartitionRange { from: rest.from, to: end };
    if first_in_default(conn, STEP_ANSWER, default, before).await?.is_some() {
        return Ok(end);
    }
    let beyond = PartitionRange { from: end + time::Duration::microseconds(1), to: rest.to };
    Ok(first_in_default(conn, STEP_ANSWER, default, beyond).await?.unwrap_or(rest.to))
}

/// The columns of `item_event`, also those that a user added.
async fn columns(conn: &mut PgConnection) -> Result<String, DbError> {
    const SQL: &str = "
        select string_agg(format('%I', attname), ', ' order by attnum)
          from pg_attribute
         where attrelid = to_regclass('centiloc.item_event')
           and attnum > 0 and not attisdropped and attgenerated = ''";
    let columns: Option<String> =
        bounded(STEP_ANSWER, sqlx::query_scalar(SQL).fetch_one(conn)).await?;
    columns.ok_or_else(|| DbError {
        class: ErrorClass::Stop,
        sqlstate: Some("42P01".to_owned()),
        text: "table centiloc.item_event is missing; run `centiloc-bridge migrate`".to_owned(),
    })
}
