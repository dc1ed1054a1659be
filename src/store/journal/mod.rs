//! Records connections to the broker and possible losses, in order with the messages: the start of a
//! connection is durable before any of its deliveries is acknowledged.

pub(super) mod position;
mod reconnect;
mod sql;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use self::reconnect::{OpenedConnection, assess_reconnect};
pub(super) use self::sql::insert_gap;
use self::sql::{
    NewestRow, await_predecessor, close_abandoned, end_abandoned_gaps, insert, late, newest,
};
use super::Store;
use super::error::{DbError, ErrorClass, StoreError};
use super::pg_timestamp::PgTimestamp;
use super::query::Db;
use super::text::clean;
use crate::progress::idle;
use crate::stream::connection_event::{ConnectionEvent, ConnectionName, RETIRED, WITHOUT_NOTICE};
use crate::stream::gap::GapCause;
use crate::telemetry::NewestGap;

/// Wait before a query is repeated that the database did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Consequences of a recorded connection event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalOutcome {
    /// Filters that the session may still hold though they are no longer configured.
    pub stale_filters: Vec<String>,
    /// A loss that was recorded just now.
    pub gap: Option<GapCause>,
}

/// The connection that was stored last, shared with maintenance, which refreshes its row while it is
/// open.
#[derive(Debug, Default)]
pub(super) struct OpenConnection(Mutex<Option<OpenRow>>);

/// A row of `connection`, complete enough to be stored again.
#[derive(Debug, Clone)]
pub(super) struct OpenRow {
    connection: ConnectionName,
    row: i64,
    at: OffsetDateTime,
    session_present: bool,
    held: Vec<String>,
    spool_dir: Option<String>,
}

impl OpenConnection {
    /// Returns the row id of this connection.
    pub fn row_of(&self, connection: &ConnectionName) -> Option<i64> {
        self.get(connection).map(|open| open.row)
    }

    /// Returns the row of this connection.
    pub fn get(&self, connection: &ConnectionName) -> Option<OpenRow> {
        self.lock().as_ref().filter(|open| open.connection == *connection).cloned()
    }

    fn set(&self, open: Option<OpenRow>) {
        *self.lock() = open;
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenRow {
    /// Returns the name of the connection.
    pub fn name(&self) -> &ConnectionName {
        &self.connection
    }

    /// Returns its row id.
    pub fn row(&self) -> i64 {
        self.row
    }

    fn opened(&self) -> OpenedConnection<'_> {
        OpenedConnection {
            connection: &self.connection,
            at: self.at,
            session_present: self.session_present,
            filters: &self.held,
            spool_dir: self.spool_dir.as_deref(),
            late: false,
        }
    }

    fn of(row: i64, opened: OpenedConnection<'_>, held: Vec<String>) -> Self {
        Self {
            connection: opened.connection.clone(),
            row,
            at: opened.at,
            session_present: opened.session_present,
            held,
            spool_dir: opened.spool_dir.map(str::to_owned),
        }
    }
}

impl Store {
    /// Records a connection event. May be repeated. `session_expiry` is how long the broker keeps the
    /// session of an absent client. `standing` is the connection that this process has now, which is
    /// never recorded late. Others may be: they come out of the spool or the gap state file.
    pub async fn note(
        &self,
        session_expiry: Duration,
        standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> Result<JournalOutcome, StoreError> {
        let mut writer = self.writer.take().await?;
        let db = writer.db();
        let result = match news {
            ConnectionEvent::Opened { connection, at, session_present, filters, spool_dir } => {
                let opened = OpenedConnection {
                    connection,
                    at: *at,
                    session_present: *session_present,
                    filters,
                    spool_dir: spool_dir.as_deref(),
                    late: standing != Some(connection),
                };
                self.opened(db, session_expiry, opened).await
            }
            ConnectionEvent::Unsubscribed { connection, filters } => {
                self.unsubscribed(db, connection, filters).await
            }
            ConnectionEvent::Closed { connection, at, reason } => {
                self.closed(db, connection, *at, reason).await
            }
            ConnectionEvent::Gap(gap) => insert_gap(db, gap).await.map(|new| JournalOutcome {
                gap: new.then_some(gap.cause),
                ..JournalOutcome::default()
            }),
        };
        writer.finish(result)
    }

    /// Records that the session of a client id is retired: its next start is a first one.
    pub async fn retire(&self, client_id: &str) -> Result<(), StoreError> {
        const SQL: &str = "
            update centiloc.connection
               set reason = $2, disconnected_at = coalesce(disconnected_at, last_seen_at)
             where id = (select max(id) from centiloc.connection where client_id = $1)";
        let query = sqlx::query(SQL).bind(client_id).bind(RETIRED);
        self.with_db(async |db| db.query(|conn| query.execute(conn)).await).await?;
        Ok(())
    }

    /// Returns the spool directory of the last process of this client id that had one. Waits until the
    /// database answers.
    pub async fn find_spool(&self, client_id: &str) -> Option<PathBuf> {
        idle(self.until_prepared()).await;
        loop {
            match self.spool_dir(client_id).await {
                Ok(dir) => return dir.map(PathBuf::from),
                Err(error) => {
                    tracing::debug!(%error, "could not query the last spool directory; retrying");
                    idle(tokio::time::sleep(ASK_AGAIN)).await;
                }
            }
        }
    }

    /// Returns the newest unacknowledged gap of this client id: an open one, else the one that ended
    /// last.
    pub async fn newest_gap(&self, client_id: &str) -> Result<Option<NewestGap>, StoreError> {
        const SQL: &str = "
            select ended_at from centiloc.gap
             where client_id = $1 and acknowledged_at is null
             order by ended_at desc nulls first
             limit 1";
        let query = sqlx::query_scalar(SQL).bind(client_id);
        let newest: Option<Option<PgTimestamp>> =
            self.with_db(async |db| db.query(|conn| query.fetch_optional(conn)).await).await?;
        Ok(newest.map(|ended_at| ended_at.map_or(NewestGap::Ongoing, |at| NewestGap::Ended(at.0))))
    }

    pub(crate) async fn spool_dir(&self, client_id: &str) -> Result<Option<String>, StoreError> {
        const SQL: &str = "
            select spool_dir from centiloc.connection
             where client_id = $1 and spool_dir is not null
             order by id desc
             limit 1";
        let query = sqlx::query_scalar(SQL).bind(client_id);
        Ok(self.with_db(async |db| db.query(|conn| query.fetch_optional(conn)).await).await?)
    }

    async fn opened(
        &self,
        db: &mut Db,
        session_expiry: Duration,
        opened: OpenedConnection<'_>,
    ) -> Result<JournalOutcome, DbError> {
        let client_id = &opened.connection.client_id;
        self.advance_position(db, client_id).await?;
        let written = async |db: &mut Db| {
            await_predecessor(db, client_id).await?;
            let newest = newest(db, opened).await?;
            if let Some(NewestRow::This { row, held, stands }) = newest {
                if !stands {
                    return Ok((None, JournalOutcome::default()));
                }
                // The reply to an earlier try was lost.
                let stale = |f: &String| !opened.filters.contains(f);
                let stale_filters = held.iter().filter(|f| stale(f)).cloned().collect();
                let open = OpenRow::of(row, opened, held);
                return Ok((Some(open), JournalOutcome { stale_filters, gap: None }));
            }
            let earlier = match &newest {
                Some(NewestRow::Earlier(earlier)) => Some(earlier),
                _ => None,
            };
            if earlier.is_some_and(|newest| newest.later && !newest.same_process) && opened.late {
                let noted = late(db, session_expiry, opened).await?;
                return Ok((None, noted));
            }
            let opening = assess_reconnect(earlier, opened, session_expiry);
            let cause = opening.gap.as_ref().map(|gap| gap.cause.as_str());
            tracing::debug!(cause, stale = opening.stale_filters.len(), "assessed a connection");
            let mut gap = None;
            if let Some(found) = &opening.gap {
                gap = insert_gap(db, found).await?.then_some(found.cause);
            }
            if earlier.is_some_and(|earlier| !earlier.same_process) {
                end_abandoned_gaps(db, client_id, opened.at).await?;
            }
            close_abandoned(db, client_id).await?;
            let held: Vec<String> =
                opened.filters.iter().chain(&opening.stale_filters).cloned().collect();
            let row = insert(db, opened, &held).await?;
            Ok((
                row.map(|row| OpenRow::of(row, opened, held)),
                JournalOutcome { stale_filters: opening.stale_filters, gap },
            ))
        };
        match db.transaction(written).await {
            Ok((row, noted)) => {
                self.open.set(row);
                Ok(noted)
            }
            Err(error) if error.leaves_connection_usable() => {
                Err(error.with_class(ErrorClass::Retry))
            }
            Err(error) => Err(error),
        }
    }

    async fn unsubscribed(
        &self,
        db: &mut Db,
        connection: &ConnectionName,
        filters: &[String],
    ) -> Result<JournalOutcome, DbError> {
        const SQL: &str = "
            update centiloc.connection
               set filters = array(select f from unnest(filters) f where f <> all ($2))
             where id = $1";
        if let Some(row) = self.open.row_of(connection) {
            let query = sqlx::query(SQL).bind(row).bind(filters);
            db.query(|conn| query.execute(conn)).await?;
        }
        Ok(JournalOutcome::default())
    }

    /// Records the end of a connection. One that an earlier process recorded, and whose end is read
    /// from the spool, is the client's newest row: events keep their order.
    async fn closed(
        &self,
        db: &mut Db,
        connection: &ConnectionName,
        at: OffsetDateTime,
        reason: &str,
    ) -> Result<JournalOutcome, DbError> {
        const SQL: &str = "
            update centiloc.connection
               set disconnected_at = case when $6 then greatest(last_seen_at, $3) else $3 end,
                   last_seen_at = case when $6 then greatest(last_seen_at, $3) else $3 end,
                   reason = $4
             where id = coalesce($1, (select id from centiloc.connection
                                       where client_id = $2 and connected_at <= $3
                                       order by id desc limit 1))
               and instance = $5 and disconnected_at is null";
        let row = self.open.row_of(connection);
        let query = sqlx::query(SQL)
            .bind(row)
            .bind(&connection.client_id)
            .bind(at)
            .bind(clean(reason))
            .bind(connection.instance)
            .bind(reason == WITHOUT_NOTICE);
        db.query(|conn| query.execute(conn)).await?;
        if row.is_some() {
            self.open.set(None);
            self.advance_position(db, &connection.client_id).await?;
            self.keep_position().await;
        }
        Ok(JournalOutcome::default())
    }

    /// Stores the open connection again if its row is missing, because the database was restored from
    /// an earlier backup.
    pub(super) async fn reopen(&self, db: &mut Db, mut open: OpenRow) -> Result<(), DbError> {
        let inserted = insert(db, open.opened(), &open.held).await?;
        if let Some(row) = inserted {
            open.row = row;
            self.open.set(Some(open));
        }
        Ok(())
    }
}
