//! The newest gaps, dead letters and connections, as the status page shows them. They are read on a
//! connection of its own, so that a page waits for nothing else and nothing else for a page.

use std::time::Duration;

use serde::Serialize;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Store;
use super::error::{DbError, StoreError};
use super::pg_timestamp::{optional_time_of, time_of};
use super::query::Db;
use crate::stream::connection_event::ConnectionName;
use crate::timestamp;

/// Bound on one statement, on the server.
pub(super) const STATEMENT_TIMEOUT: &str = "2s";

/// Bound on one exchange. A server that does not answer at all is left after it.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Age of the last heartbeat below which a connection of another process counts as open: three
/// intervals of its maintenance.
const FRESH: Duration = Duration::from_secs(30);

/// Rows of each table.
const ROWS: i64 = 8;

/// Dead letters are counted up to this number.
pub const MOST_COUNTED: i64 = 1_000;

/// The newest rows of operation, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Overview {
    /// The newest gaps of the client ID, newest first.
    pub gaps: Vec<GapLine>,
    /// Gaps of the client ID that no operator acknowledged.
    pub open_gaps: i64,
    /// The newest dead letters that were not replayed, newest first.
    pub dead_letters: Vec<DeadLetterLine>,
    /// Dead letters that were not replayed, at most [`MOST_COUNTED`].
    pub dead_letter_count: i64,
    /// The newest connections of the client ID, newest first.
    pub connections: Vec<ConnectionLine>,
}

/// A gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapLine {
    /// ID of the row.
    pub id: i64,
    /// Start of the period in which messages may be missing.
    #[serde(serialize_with = "timestamp::serialize")]
    pub started_at: OffsetDateTime,
    /// End of the period. `None` while the gap is open.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub ended_at: Option<OffsetDateTime>,
    /// Cause, as in the column.
    pub cause: String,
    /// Cause and extent in words.
    pub detail: String,
    /// True if an operator acknowledged it.
    pub acknowledged: bool,
}

/// A dead letter, without its payload and the explanation, which may quote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetterLine {
    /// ID of the row.
    pub id: i64,
    /// Time of the last receipt.
    #[serde(serialize_with = "timestamp::serialize")]
    pub last_seen_at: OffsetDateTime,
    /// MQTT topic.
    pub topic: String,
    /// Reason, as in the column.
    pub reason: String,
    /// Number of receipts.
    pub seen: i32,
}

/// A connection to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionLine {
    /// Time at which the broker accepted it.
    #[serde(serialize_with = "timestamp::serialize")]
    pub connected_at: OffsetDateTime,
    /// Time of its end. `None` while it lasts.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub disconnected_at: Option<OffsetDateTime>,
    /// Time at which it was last known to be open.
    #[serde(serialize_with = "timestamp::serialize")]
    pub last_seen_at: OffsetDateTime,
    /// Reason of its end.
    pub reason: Option<String>,
    /// True if the broker still knew the session.
    pub session_present: bool,
    /// True if it lasts: the present connection of this process, or one of another process that was
    /// seen less than [`FRESH`] before the read.
    pub is_open: bool,
}

/// The process that reads, and its connection.
#[derive(Debug, Clone, Copy)]
pub struct ReadingProcess<'p> {
    /// The process.
    pub instance: Uuid,
    /// Its present connection to the broker.
    pub connection: Option<&'p ConnectionName>,
}

impl Store {
    /// Reads the newest rows. A database without the schema is an error.
    pub async fn overview(
        &self,
        client_id: &str,
        reader: ReadingProcess<'_>,
    ) -> Result<Overview, StoreError> {
        let mut db = self.pages.acquire().await?.with_timeout(ANSWER_WITHIN);
        let present = PresentConnection {
            instance: reader.instance,
            row: reader.connection.and_then(|name| self.open.row_of(name)),
            now: OffsetDateTime::now_utc(),
        };
        let overview = read(&mut db, client_id, present).await;
        Ok(db.finish(overview)?)
    }
}

/// The row of the present connection of the process that reads.
#[derive(Debug, Clone, Copy)]
struct PresentConnection {
    instance: Uuid,
    row: Option<i64>,
    now: OffsetDateTime,
}

impl PresentConnection {
    /// Returns true if a row without an end is open. A process that was killed has not recorded its end.
    fn is_open(&self, (row, instance): (i64, Uuid), last_seen_at: OffsetDateTime) -> bool {
        if instance == self.instance {
            self.row == Some(row)
        } else {
            self.now - last_seen_at < FRESH
        }
    }
}

async fn read(
    db: &mut Db,
    client_id: &str,
    present: PresentConnection,
) -> Result<Overview, DbError> {
    Ok(Overview {
        gaps: gaps(db, client_id).await?,
        open_gaps: open_gaps(db, client_id).await?,
        dead_letters: dead_letters(db).await?,
        dead_letter_count: dead_letter_count(db).await?,
        connections: connections(db, client_id, present).await?,
    })
}

async fn gaps(db: &mut Db, client_id: &str) -> Result<Vec<GapLine>, DbError> {
    const SQL: &str = "
        select id, started_at, ended_at, cause, detail, acknowledged_at is not null as acknowledged
          from centiloc.gap
         where client_id = $1
         order by id desc
         limit $2";
    let select = sqlx::query(SQL).bind(client_id).bind(ROWS);
    let rows = db.query(|conn| select.fetch_all(conn)).await?;
    let line = |row: &PgRow| {
        Ok(GapLine {
            id: row.try_get("id")?,
            started_at: time_of(row, "started_at")?,
            ended_at: optional_time_of(row, "ended_at")?,
            cause: row.try_get("cause")?,
            detail: row.try_get("detail")?,
            acknowledged: row.try_get("acknowledged")?,
        })
    };
    rows.iter().map(line).collect()
}

async fn open_gaps(db: &mut Db, client_id: &str) -> Result<i64, DbError> {
    const SQL: &str =
        "select count(*) from centiloc.gap where client_id = $1 and acknowledged_at is null";
    let count = sqlx::query_scalar(SQL).bind(client_id);
    db.query(|conn| count.fetch_one(conn)).await
}

async fn dead_letters(db: &mut Db) -> Result<Vec<DeadLetterLine>, DbError> {
    const SQL: &str = "
        select id, last_seen_at, topic, reason, seen
          from centiloc.dead_letter
         where replayed_at is null
         order by last_seen_at desc, id desc
         limit $1";
    let select = sqlx::query(SQL).bind(ROWS);
    let rows = db.query(|conn| select.fetch_all(conn)).await?;
    let line = |row: &PgRow| {
        Ok(DeadLetterLine {
            id: row.try_get("id")?,
            last_seen_at: time_of(row, "last_seen_at")?,
            topic: row.try_get("topic")?,
            reason: row.try_get("reason")?,
            seen: row.try_get("seen")?,
        })
    };
    rows.iter().map(line).collect()
}

async fn dead_letter_count(db: &mut Db) -> Result<i64, DbError> {
    const SQL: &str = "
        select count(*)
          from (select from centiloc.dead_letter where replayed_at is null limit $1) counted";
    let count = sqlx::query_scalar(SQL).bind(MOST_COUNTED);
    db.query(|conn| count.fetch_one(conn)).await
}

async fn connections(
    db: &mut Db,
    client_id: &str,
    present: PresentConnection,
) -> Result<Vec<ConnectionLine>, DbError> {
    const SQL: &str = "
        select id, instance, connected_at, disconnected_at, last_seen_at, reason, session_present
          from centiloc.connection
         where client_id = $1
         order by id desc
         limit $2";
    let select = sqlx::query(SQL).bind(client_id).bind(ROWS);
    let rows = db.query(|conn| select.fetch_all(conn)).await?;
    let line = |row: &PgRow| {
        let disconnected_at = optional_time_of(row, "disconnected_at")?;
        let last_seen_at = time_of(row, "last_seen_at")?;
        let name = (row.try_get("id")?, row.try_get("instance")?);
        Ok(ConnectionLine {
            connected_at: time_of(row, "connected_at")?,
            disconnected_at,
            last_seen_at,
            reason: row.try_get("reason")?,
            session_present: row.try_get("session_present")?,
            is_open: disconnected_at.is_none() && present.is_open(name, last_seen_at),
        })
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::at;

    #[test]
    fn only_present_or_fresh_connections_are_open() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut present = PresentConnection { instance: own, row: Some(7), now: at(1000) };
        assert!(present.is_open((7, own), at(0)), "the heartbeat may be late");
        assert!(!present.is_open((6, own), at(1000)), "its end is not recorded yet");
        assert!(present.is_open((6, other), at(971)));
        assert!(!present.is_open((6, other), at(970)));
        present.row = None;
        assert!(!present.is_open((7, own), at(1000)));
    }
}
