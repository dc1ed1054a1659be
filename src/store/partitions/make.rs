//! Makes one partition for the writer, which must not wait: only where the default partition holds
//! nothing of the range, and without waiting for readers.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::catalog::{self, ListedPartition, create_sql, default_holds, ensure_default, free_name};
use super::run;
use crate::store::batch::write::bounded;
use crate::store::error::DbError;
use crate::store::partitions::span::PartitionRange;
use crate::store::query::{Db, Transaction};

/// Serialises the makers of partitions, in any process: "centpart" as bytes.
pub(in crate::store) const LOCK: &str = "select pg_advisory_xact_lock(7161677110969590388)";

/// How long a statement that changes partitions waits for others. Whoever comes after it waits as
/// long, so it is short, and tried again.
const LOCK_TIMEOUT: &str = "100ms";

/// How long to wait for another maker of partitions, for which nobody else waits.
const MAKER_TIMEOUT: &str = "300ms";

/// Bounds the work itself, while a batch waits.
const WRITER_TIMEOUT: &str = "1s";

/// A default partition is read whole when another one is attached. A larger one takes longer than a
/// batch should wait.
const SMALL: i64 = 64 << 20;

/// What became of an attempt to make a partition.
#[derive(Debug)]
pub(super) enum MakeAttempt {
    Made,
    /// Another process was faster. These exist.
    Exists(Vec<ListedPartition>),
    /// Not now, for this reason.
    Left(&'static str),
}

/// Limits the waits of the open transaction and makes it the only maker of partitions.
pub(in crate::store) async fn become_maker(
    conn: &mut PgConnection,
    limit: Duration,
    statement_timeout: &str,
) -> Result<(), DbError> {
    let sql = format!(
        "set local statement_timeout = '{statement_timeout}';
         set local lock_timeout = '{MAKER_TIMEOUT}'; {LOCK};
         set local lock_timeout = '{LOCK_TIMEOUT}'"
    );
    run(conn, limit, sql).await
}

/// Makes a partition, in a transaction of its own.
pub(super) async fn make(
    conn: &mut Db<'_>,
    limit: Duration,
    range: PartitionRange,
) -> Result<MakeAttempt, DbError> {
    let mut transaction = Transaction::begin(conn, limit).await?;
    let result = make_within(transaction.conn(), limit, range).await;
    transaction.end(result).await
}

async fn make_within(
    conn: &mut PgConnection,
    limit: Duration,
    range: PartitionRange,
) -> Result<MakeAttempt, DbError> {
    become_maker(conn, limit, WRITER_TIMEOUT).await?;
    let listed = catalog::list(conn, limit).await?;
    if listed.iter().any(|named| named.range.overlaps(&range)) {
        return Ok(MakeAttempt::Exists(listed));
    }
    let default = ensure_default(conn, limit).await?;
    if default_holds(conn, limit, &default, range).await? {
        return Ok(MakeAttempt::Left(
            "the default partition holds events of its range to move first",
        ));
    }
    if size(conn, limit, &default).await? > SMALL {
        return Ok(MakeAttempt::Left(
            "the default partition is large and takes long to look through",
        ));
    }
    let table = free_name(conn, limit, &range.table()).await?;
    let sql = format!("{}; {}", create_sql(&table), attach_sql(&table, range));
    run(conn, limit, sql).await?;
    Ok(MakeAttempt::Made)
}

/// Waits for readers and writers of the default partition, not of the others.
pub(super) fn attach_sql(table: &str, range: PartitionRange) -> String {
    let (from, to) = range.literals();
    format!(
        "alter table centiloc.item_event attach partition {table} for values from ({from}) to ({to})"
    )
}

/// Bytes on disk.
pub(super) async fn size(
    conn: &mut PgConnection,
    limit: Duration,
    table: &str,
) -> Result<i64, DbError> {
    const SQL: &str = "select pg_relation_size(to_regclass($1))";
    let query = sqlx::query_scalar(SQL).bind(table).fetch_one(conn);
    Ok(bounded::<Option<i64>>(limit, query).await?.unwrap_or(0))
}
