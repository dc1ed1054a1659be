//! Asks PostgreSQL which partitions `item_event` has. Users may make, detach and rename partitions,
//! with any bound that PostgreSQL takes.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::store::error::{DbError, ErrorClass};
use crate::store::partitions::span::PartitionRange;
use crate::store::pg_timestamp::{PgTimestamp, time_of};
use crate::store::query::Db;

/// Names tried for one table. More are taken only if partitions are detached again and again.
const NAMES: usize = 20;

// No backslash: they mean something else where standard_conforming_strings is off.
const LIST: &str = "
    select format('%I.%I', n.nspname, c.relname) as name,
           (case bounds[1] when 'MINVALUE' then '-infinity'
                           else trim(both '''' from bounds[1]) end)::timestamptz as lower,
           (case bounds[2] when 'MAXVALUE' then 'infinity'
                           else trim(both '''' from bounds[2]) end)::timestamptz as upper,
           not i.inhdetachpending as routable
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace n on n.oid = c.relnamespace
     cross join lateral regexp_match(
               pg_get_expr(c.relpartbound, c.oid),
               '^FOR VALUES FROM [(](.+)[)] TO [(](.+)[)]$') as bounds
     where i.inhparent = to_regclass('centiloc.item_event') and bounds is not null";

/// A partition that exists.
#[derive(Debug, Clone)]
pub(in crate::store) struct ListedPartition {
    /// Schema and name, as SQL quotes them.
    pub table: String,
    /// Its bounds. A bound beyond the calendar, or none, is the last point in time we know.
    pub range: PartitionRange,
    /// True if rows are routed to it: not while it is being detached.
    pub routable: bool,
}

/// Lists the existing partitions, without the default one.
pub(in crate::store) async fn list(db: &mut Db) -> Result<Vec<ListedPartition>, DbError> {
    let rows = db.query(|conn| sqlx::query(LIST).fetch_all(conn)).await?;
    let named = |row: &PgRow| -> Result<ListedPartition, DbError> {
        let range = PartitionRange { from: time_of(row, "lower")?, to: time_of(row, "upper")? };
        Ok(ListedPartition {
            table: row.try_get("name")?,
            range,
            routable: row.try_get("routable")?,
        })
    };
    rows.iter().map(named).collect()
}

/// Returns the default partition, as SQL quotes it, even if a user made it.
pub(in crate::store) async fn default_partition(db: &mut Db) -> Result<Option<String>, DbError> {
    const SQL: &str = "
        select format('%I.%I', n.nspname, c.relname)
          from pg_partitioned_table p
          join pg_class c on c.oid = p.partdefid
          join pg_namespace n on n.oid = c.relnamespace
         where p.partrelid = to_regclass('centiloc.item_event')";
    db.query(|conn| sqlx::query_scalar(SQL).fetch_optional(conn)).await
}

/// Returns the default partition. Makes it if it is missing, within the caller's transaction.
pub(super) async fn ensure_default(db: &mut Db) -> Result<String, DbError> {
    if let Some(table) = default_partition(db).await? {
        return Ok(table);
    }
    let table = free_name(db, "item_event_default").await?;
    let sql = format!(
        "{}; alter table centiloc.item_event attach partition {table} default",
        create_sql(&table)
    );
    db.execute(sql).await?;
    tracing::warn!(partition = table, "item_event had no default partition; made it again");
    Ok(table)
}

/// Returns the statement that makes a table like `item_event`, to be attached.
pub(super) fn create_sql(table: &str) -> String {
    format!("create table {table} (like centiloc.item_event including all)")
}

/// Returns a free name in schema centiloc. A detached partition keeps its name.
pub(in crate::store) async fn free_name(db: &mut Db, wanted: &str) -> Result<String, DbError> {
    const SQL: &str = "
        select format('centiloc.%I', name)
          from unnest($1::text[]) with ordinality as wanted (name, place)
         where to_regclass(format('centiloc.%I', name)) is null
         order by place limit 1";
    let numbered = (2..=NAMES).map(|n| format!("{wanted}_{n}"));
    let names: Vec<String> = std::iter::once(wanted.to_owned()).chain(numbered).collect();
    let query = sqlx::query_scalar(SQL).bind(names);
    db.query(|conn| query.fetch_optional(conn)).await?.ok_or_else(|| DbError {
        class: ErrorClass::Stop,
        sqlstate: Some("42P07".to_owned()),
        text: format!(
            "the names {wanted} to {wanted}_{NAMES} are all taken in schema centiloc; \
             drop or rename tables that are no longer needed"
        ),
    })
}

/// Returns true if the default partition holds rows of a range.
pub(super) async fn default_holds(
    db: &mut Db,
    default: &str,
    range: PartitionRange,
) -> Result<bool, DbError> {
    let sql =
        format!("select exists (select from {default} where momentum >= $1 and momentum < $2)");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(range.from).bind(range.to);
    db.query(|conn| query.fetch_one(conn)).await
}

/// Returns the earliest momentum of a range in the default partition.
pub(super) async fn first_in_default(
    db: &mut Db,
    default: &str,
    range: PartitionRange,
) -> Result<Option<OffsetDateTime>, DbError> {
    let sql = format!("select min(momentum) from {default} where momentum >= $1 and momentum < $2");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(range.from).bind(range.to);
    let first: Option<PgTimestamp> = db.query(|conn| query.fetch_one(conn)).await?;
    Ok(first.map(|timestamp| timestamp.0))
}
