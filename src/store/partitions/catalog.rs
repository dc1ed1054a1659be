//! Asks PostgreSQL which partitions `item_event` has. Users may make, detach and rename partitions,
//! with any bound that PostgreSQL takes.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::run;
use crate::store::batch::write::bounded;
use crate::store::error::{DbError, ErrorClass};
use crate::store::partitions::span::PartitionRange;
use crate::store::pg_timestamp::{PgTimestamp, time_of};

/// Names tried for one table: more would mean that someone detaches it again and again.
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
    /// Whether rows go there: not while it is being detached.
    pub routable: bool,
}

/// The partitions that exist, but for the default one.
pub(in crate::store) async fn list(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<Vec<ListedPartition>, DbError> {
    let rows = bounded(limit, sqlx::query(LIST).fetch_all(conn)).await?;
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

/// The default partition, as SQL quotes it, whoever made it.
pub(in crate::store) async fn default_partition(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<Option<String>, DbError> {
    const SQL: &str = "
        select format('%I.%I', n.nspname, c.relname)
          from pg_partitioned_table p
          join pg_class c on c.oid = p.partdefid
          join pg_namespace n on n.oid = c.relnamespace
         where p.partrelid = to_regclass('centiloc.item_event')";
    bounded(limit, sqlx::query_scalar(SQL).fetch_optional(conn)).await
}

/// The default partition. Makes it if it is gone, within the caller's transaction.
pub(super) async fn ensure_default(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<String, DbError> {
    if let Some(table) = default_partition(conn, limit).await? {
        return Ok(table);
    }
    let table = free_name(conn, limit, "item_event_default").await?;
    let sql = format!(
        "{}; alter table centiloc.item_event attach partition {table} default",
        create_sql(&table)
    );
    run(conn, limit, sql).await?;
    tracing::warn!(partition = table, "item_event had no default partition; made it again");
    Ok(table)
}

/// A table like `item_event`, to be attached.
pub(super) fn create_sql(table: &str) -> String {
    format!("create table {table} (like centiloc.item_event including all)")
}

/// A name in schema centiloc that nothing has: a detached partition keeps its own.
pub(super) async fn free_name(
    conn: &mut PgConnection,
    limit: Duration,
    wanted: &str,
) -> Result<String, DbError> {
    const SQL: &str = "
        select format('centiloc.%I', name)
          from unnest($1::text[]) with ordinality as wanted (name, place)
         where to_regclass(format('centiloc.%I', name)) is null
         order by place limit 1";
    let numbered = (2..=NAMES).map(|n| format!("{wanted}_{n}"));
    let names: Vec<String> = std::iter::once(wanted.to_owned()).chain(numbered).collect();
    let query = sqlx::query_scalar(SQL).bind(names).fetch_optional(conn);
    bounded(limit, query).await?.ok_or_else(|| DbError {
        class: ErrorClass::Stop,
        sqlstate: Some("42P07".to_owned()),
        text: format!(
            "the names {wanted} to {wanted}_{NAMES} are all taken in schema centiloc; \
             drop or rename tables that are no longer needed"
        ),
    })
}

/// Whether the default partition holds rows of a range.
pub(super) async fn default_holds(
    conn: &mut PgConnection,
    limit: Duration,
    default: &str,
    range: PartitionRange,
) -> Result<bool, DbError> {
    let sql =
        format!("select exists (select from {default} where momentum >= $1 and momentum < $2)");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(range.from).bind(range.to);
    bounded(limit, query.fetch_one(conn)).await
}

/// The earliest momentum of a range that the default partition holds.
pub(super) async fn first_in_default(
    conn: &mut PgConnection,
    limit: Duration,
    default: &str,
    range: PartitionRange,
) -> Result<Option<OffsetDateTime>, DbError> {
    let sql = format!("select min(momentum) from {default} where momentum >= $1 and momentum < $2");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(range.from).bind(range.to);
    let first: Option<PgTimestamp> = bounded(limit, query.fetch_one(conn)).await?;
    Ok(first.map(|timestamp| timestamp.0))
}
