//! Makes one partition for the writer, which must not wait: only where the default partition holds
//! nothing of the range, and without waiting for readers.

use super::catalog::{self, ListedPartition, create_sql, default_holds, ensure_default, free_name};
use crate::store::error::DbError;
use crate::store::partitions::span::PartitionRange;
use crate::store::query::Db;

/// Serialises the makers of partitions, in any process: "centpart" as bytes.
pub(in crate::store) const LOCK: &str = "select pg_advisory_xact_lock(7161677110969590388)";

/// Lock timeout of a statement that changes partitions. Later statements queue behind it for as
/// long, so it is short, and the statement is tried again.
const LOCK_TIMEOUT: &str = "100ms";

/// Lock timeout while another process makes partitions. No other statement queues behind this wait.
const MAKER_TIMEOUT: &str = "300ms";

/// Statement timeout of the work itself, while a batch waits.
const WRITER_TIMEOUT: &str = "1s";

/// A default partition is read whole when another one is attached. A larger one takes longer than a
/// batch should wait.
const SMALL: i64 = 64 << 20;

/// Outcome of an attempt to make a partition.
#[derive(Debug)]
pub(super) enum MakeAttempt {
    Made,
    /// Another process was faster. These partitions exist.
    Exists(Vec<ListedPartition>),
    /// It was not made, for this reason.
    Left(&'static str),
}

/// Makes a member of the role that owns `item_event` act as that role, so that it owns new tables too,
/// and no default privileges of the member apply to them.
const AS_OWNER: &str = "
    select set_config('role', rolname, true)
      from pg_catalog.pg_class c
      join pg_catalog.pg_roles r on r.oid = c.relowner
     where c.oid = 'centiloc.item_event'::regclass
       and rolname <> current_user
       and pg_has_role(current_user, r.oid, 'member')
       and has_schema_privilege(r.oid, c.relnamespace, 'create')";

/// Limits the waits of the open transaction and makes it the only maker of partitions.
pub(in crate::store) async fn become_maker(
    db: &mut Db,
    statement_timeout: &str,
) -> Result<(), DbError> {
    let sql = format!(
        "set local statement_timeout = '{statement_timeout}';
         set local lock_timeout = '{MAKER_TIMEOUT}'; {LOCK};
         set local lock_timeout = '{LOCK_TIMEOUT}'; {AS_OWNER}"
    );
    db.execute(sql).await
}

/// Makes a partition, in a transaction of its own.
pub(super) async fn make(db: &mut Db, range: PartitionRange) -> Result<MakeAttempt, DbError> {
    db.transaction(async |db| make_within(db, range).await).await
}

async fn make_within(db: &mut Db, range: PartitionRange) -> Result<MakeAttempt, DbError> {
    become_maker(db, WRITER_TIMEOUT).await?;
    let listed = catalog::list(db).await?;
    if listed.iter().any(|named| named.range.overlaps(&range)) {
        return Ok(MakeAttempt::Exists(listed));
    }
    let default = ensure_default(db).await?;
    if default_holds(db, &default, range).await? {
        return Ok(MakeAttempt::Left(
            "the default partition holds events of its range to move first",
        ));
    }
    if size(db, &default).await? > SMALL {
        return Ok(MakeAttempt::Left(
            "the default partition is large and takes long to look through",
        ));
    }
    let table = free_name(db, &range.table()).await?;
    let sql = format!("{}; {}", create_sql(&table), attach_sql(&table, range));
    db.execute(sql).await?;
    Ok(MakeAttempt::Made)
}

/// Waits for readers and writers of the default partition, not of the others.
pub(super) fn attach_sql(table: &str, range: PartitionRange) -> String {
    let (from, to) = range.literals();
    format!(
        "alter table centiloc.item_event attach partition {table} for values from ({from}) to ({to})"
    )
}

/// Returns the bytes of a table on disk.
pub(super) async fn size(db: &mut Db, table: &str) -> Result<i64, DbError> {
    const SQL: &str = "select pg_relation_size(to_regclass($1))";
    let query = sqlx::query_scalar::<_, Option<i64>>(SQL).bind(table);
    Ok(db.query(|conn| query.fetch_one(conn)).await?.unwrap_or(0))
}
