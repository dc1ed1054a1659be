//! The statements on `connection` and `gap`.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::JournalOutcome;
use super::reconnect::{EarlierConnection, OpenedConnection, assess_reconnect};
use crate::store::error::DbError;
use crate::store::pg_timestamp::{PgTimestamp, time_of};
use crate::store::query::Db;
use crate::store::text::clean;
use crate::stream::connection_event::{ConnectionName, RETIRED, WITHOUT_NOTICE};
use crate::stream::gap::{Gap, GapCause};

/// The newest row of the client id.
#[derive(Debug)]
pub(super) enum NewestRow {
    /// The connection itself, recorded by an earlier try, or before from the spool.
    This {
        row: i64,
        held: Vec<String>,
        /// True if it is the newest, and not known to have ended.
        stands: bool,
    },
    Earlier(EarlierConnection),
}

pub(super) async fn newest(
    db: &mut Db,
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
    let Some(row) = db.query(|conn| query.fetch_optional(conn)).await? else { return Ok(None) };
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

/// Records a connection that is read from the spool or the gap state file after another machine has
/// taken over. The connection is over, and that of the other machine is open. A loss before it must still be recorded.
pub(super) async fn late(
    db: &mut Db,
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
    let before: Option<(PgTimestamp, bool)> = db.query(|conn| query.fetch_optional(conn)).await?;
    let earlier = before.map(|(PgTimestamp(last_seen_at), retired)| EarlierConnection {
        last_seen_at,
        filters: Vec::new(),
        same_process: false,
        later: false,
        retired,
    });
    let mut gap = None;
    if let Some(found) = assess_reconnect(earlier.as_ref(), opened, session_expiry).gap {
        gap = insert_gap(db, &found).await?.then_some(found.cause);
    }
    Ok(JournalOutcome { stale_filters: Vec::new(), gap })
}

/// Ends the open gaps of a process that is gone: their true end is unknown. Its successor has found
/// the session, and detects its own gaps again.
pub(super) async fn end_abandoned_gaps(
    db: &mut Db,
    client_id: &str,
    at: OffsetDateTime,
) -> Result<(), DbError> {
    const SQL: &str = "
        update centiloc.gap set ended_at = greatest(started_at, $2)
         where client_id = $1 and ended_at is null";
    db.query(|conn| sqlx::query(SQL).bind(client_id).bind(at).execute(conn)).await.map(drop)
}

/// Waits for the statements of a killed process that may still run in the server: its successor must
/// see its row, and close it.
pub(super) async fn await_predecessor(db: &mut Db, client_id: &str) -> Result<(), DbError> {
    const SQL: &str =
        "select pg_advisory_xact_lock(hashtextextended('centiloc.connection ' || $1, 0))";
    db.query(|conn| sqlx::query(SQL).bind(client_id).execute(conn)).await.map(drop)
}

/// Closes the connection of a process that died before it could record the end.
pub(super) async fn close_abandoned(db: &mut Db, client_id: &str) -> Result<(), DbError> {
    const SQL: &str = "
        update centiloc.connection
           set disconnected_at = last_seen_at, reason = $2
         where client_id = $1 and disconnected_at is null";
    let query = sqlx::query(SQL).bind(client_id).bind(WITHOUT_NOTICE);
    db.query(|conn| query.execute(conn)).await.map(drop)
}

/// Stores a connection, and returns its row. `None` if it has one.
pub(super) async fn insert(
    db: &mut Db,
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
    db.query(|conn| query.fetch_optional(conn)).await
}

/// Inserts a gap, or notes the end of one that is open. True if it is new. A lost session is the same
/// one if it ended with the same CONNACK, though its start was known less precisely.
pub(in crate::store) async fn insert_gap(db: &mut Db, gap: &Gap) -> Result<bool, DbError> {
    const SQL: &str = "
        insert into centiloc.gap as g (client_id, started_at, ended_at, cause, detail)
        select $1, $2, $3, $4, $5
         where not exists (select from centiloc.gap
                            where client_id = $1 and cause = $4 and cause = $6 and ended_at = $3)
        on conflict (client_id, cause, started_at) do update
           set ended_at = coalesce(excluded.ended_at, g.ended_at), detail = excluded.detail
        returning xmax = 0 as new";
    let query = sqlx::query(SQL)
        .bind(&gap.client_id)
        .bind(gap.started_at)
        .bind(gap.ended_at)
        .bind(gap.cause.as_str())
        .bind(clean(&gap.detail))
        .bind(GapCause::SessionLost.as_str());
    let row: Option<PgRow> = db.query(|conn| query.fetch_optional(conn)).await?;
    row.map_or(Ok(false), |row| Ok(row.try_get("new")?))
}
