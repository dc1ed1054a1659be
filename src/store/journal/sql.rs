//! The statements on `connection` and `gap`.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::JournalOutcome;
use super::reconnect::{EarlierConnection, OpenedConnection, opening};
use crate::connection_event::{ConnectionName, RETIRED, WITHOUT_NOTICE};
use crate::gap::Gap;
use crate::store::batch::write::bounded;
use crate::store::error::DbError;
use crate::store::pg_timestamp::{PgTimestamp, time_of};
use crate::store::text::clean;

/// The newest row of the client id.
#[derive(Debug)]
pub(super) enum NewestRow {
    /// The connection itself, written down by an earlier try, or told before out of the spool.
    This {
        row: i64,
        held: Vec<String>,
        /// It is the newest, and not known to have ended.
        stands: bool,
    },
    Earlier(EarlierConnection),
}

pub(super) async fn newest(
    conn: &mut PgConnection,
    limit: Duration,
    opened: OpenedConnection<'_>,
) -> Result<Option<NewestRow>, DbError> {
    const SQL: &str = "
        select id, last_seen_at, filters, instance = $2 as same_process, connected_at > $3 as later,
               instance = $2 and connected_at = $3 as this,
               disconnected_at is null and id = max(id) over () as stands,
               coalesce(reason = $4, false) as retired
          from centiloc.connection
         where client_id = $1
         order by (instance = $2 and connected_at = $3) desc, id desc
         limit 1";
    let ConnectionName { client_id, instance, .. } = opened.connection;
    let query = sqlx::query(SQL).bind(client_id).bind(instance).bind(opened.at).bind(RETIRED);
    let Some(row) = bounded(limit, query.fetch_optional(conn)).await? else { return Ok(None) };
    let filters = row.try_get("filters")?;
    Ok(Some(if row.try_get("this")? {
        NewestRow::This { row: row.try_get("id")?, held: filters, stands: row.try_get("stands")? }
    } else {
        NewestRow::Earlier(EarlierConnection {
            last_seen_at: time_of(&row, "last_seen_at")?,
            filters,
            same_process: row.try_get("same_process")?,
            later: row.try_get("later")?,
            retired: row.try_get("retired")?,
        })
    }))
}

/// Told out of the spool after another machine has taken over: the connection is over, and the other
/// one's stands. What was lost before it is still to be written down.
pub(super) async fn late(
    conn: &mut PgConnection,
    limit: Duration,
    session_expiry: Duration,
    opened: OpenedConnection<'_>,
) -> Result<JournalOutcome, DbError> {
    const SQL: &str = "
        select last_seen_at, coalesce(reason = $3, false) from centiloc.connection
         where client_id = $1 and connected_at < $2
         order by connected_at desc
         limit 1";
    let client_id = &opened.connection.client_id;
    let query = sqlx::query_as(SQL).bind(client_id).bind(opened.at).bind(RETIRED);
    let before: Option<(PgTimestamp, bool)> =
        bounded(limit, query.fetch_optional(&mut *conn)).await?;
    let earlier = before.map(|(PgTimestamp(last_seen_at), retired)| EarlierConnection {
        last_seen_at,
        filters: Vec::new(),
        same_process: false,
        later: false,
        retired,
    });
    let mut gap = None;
    if let Some(found) = opening(earlier.as_ref(), opened, session_expiry).gap {
        gap = insert_gap(conn, limit, &found).await?.then_some(found.cause);
    }
    Ok(JournalOutcome { stale_filters: Vec::new(), gap })
}

/// A process that is gone cannot tell how long what it noticed lasted. Its successor finds the
/// session, and what it holds back itself it will notice anew.
pub(super) async fn end_abandoned_gaps(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
    at: OffsetDateTime,
) -> Result<(), DbError> {
    const SQL: &str = "
        update centiloc.gap set ended_at = greatest(started_at, $2)
         where client_id = $1 and ended_at is null";
    bounded(limit, sqlx::query(SQL).bind(client_id).bind(at).execute(conn)).await.map(drop)
}

/// What a process that was killed had sent may still be running in the server: its row must be
/// seen, and closed, by its successor.
pub(super) async fn await_predecessor(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
) -> Result<(), DbError> {
    const SQL: &str =
        "select pg_advisory_xact_lock(hashtextextended('centiloc.connection ' || $1, 0))";
    bounded(limit, sqlx::query(SQL).bind(client_id).execute(conn)).await.map(drop)
}

/// A process that died could not write down the end of its connection.
pub(super) async fn close_abandoned(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
) -> Result<(), DbError> {
    const SQL: &str = "
        update centiloc.connection
           set disconnected_at = last_seen_at, reason = $2
         where client_id = $1 and disconnected_at is null";
    let query = sqlx::query(SQL).bind(client_id).bind(WITHOUT_NOTICE);
    bounded(limit, query.execute(conn)).await.map(drop)
}

/// Stores a connection, and returns its row; `None` if it has one.
pub(super) async fn insert(
    conn: &mut PgConnection,
    limit: Duration,
    opened: OpenedConnection<'_>,
    filters: &[String],
) -> Result<Option<i64>, DbError> {
    const SQL: &str = "
        insert into centiloc.connection
               (client_id, instance, connected_at, session_present, filters, last_seen_at, spool_dir)
        values ($1, $2, $3, $4, $5, $3, $6)
        on conflict (client_id, instance, connected_at) do nothing
        returning id";
    let query = sqlx::query_scalar(SQL)
        .bind(&opened.connection.client_id)
        .bind(opened.connection.instance)
        .bind(opened.at)
        .bind(opened.session_present)
        .bind(filters)
        .bind(opened.spool_dir.map(clean));
    bounded(limit, query.fetch_optional(conn)).await
}

/// Inserts a gap, or notes the end of one that is open. True if it is new.
pub(in crate::store) async fn insert_gap(
    conn: &mut PgConnection,
    limit: Duration,
    gap: &Gap,
) -> Result<bool, DbError> {
    const SQL: &str = "
        insert into centiloc.gap as g (client_id, started_at, ended_at, cause, detail)
        values ($1, $2, $3, $4, $5)
        on conflict (client_id, cause, started_at) do update
           set ended_at = coalesce(excluded.ended_at, g.ended_at), detail = excluded.detail
        returning xmax = 0 as new";
    let query = sqlx::query(SQL)
        .bind(&gap.client_id)
        .bind(gap.started_at)
        .bind(gap.ended_at)
        .bind(gap.cause.as_str())
        .bind(clean(&gap.detail));
    let row: PgRow = bounded(limit, query.fetch_one(conn)).await?;
    Ok(row.try_get("new")?)
}
