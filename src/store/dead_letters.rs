//! What was set aside, for a person to look at and to try again.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::Store;
use super::batch::rows::{BatchRows, DecodedMessage, EventRows};
use super::batch::write::{self, bounded};
use super::error::{DbError, ErrorClass, StoreError};
use super::pg_timestamp::{optional_time_of, time_of};
use super::query::{Db, Transaction};
use crate::event::{Event, Reject};
use crate::message::Message;
use crate::timestamp;

/// A row of `dead_letter`, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetterSummary {
    /// Number to name it by.
    pub id: i64,
    /// When it was first received.
    #[serde(serialize_with = "timestamp::serialize")]
    pub received_at: OffsetDateTime,
    /// When it was last received.
    #[serde(serialize_with = "timestamp::serialize")]
    pub last_seen_at: OffsetDateTime,
    /// MQTT topic.
    pub topic: String,
    /// Size of the payload, bytes.
    pub size: i64,
    /// Why, in a word.
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// PostgreSQL's code, if it refused the row.
    pub sqlstate: Option<String>,
    /// How often it was received; the largest value means that often or more.
    pub seen: i32,
    /// When a replay brought it in.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub replayed_at: Option<OffsetDateTime>,
}

/// Which dead letters are meant. The default is all that no replay has brought in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Also those that a replay has brought in.
    pub replayed: bool,
    /// Only those set aside for this reason.
    pub reason: Option<String>,
    /// Only those of this topic.
    pub topic: Option<String>,
    /// Only those received at this time or later.
    pub since: Option<OffsetDateTime>,
}

/// What a replay led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It is an event now.
    Stored,
    /// Its event was there already.
    Duplicate,
    /// Still no event, for this reason.
    Rejected(Reject),
    /// PostgreSQL still refuses it.
    Refused(String),
    /// There is no such dead letter.
    Unknown,
}

const COLUMNS: &str = "
    select id, received_at, last_seen_at, topic, octet_length(payload)::bigint as size, reason,
           detail, sqlstate, seen, replayed_at
      from centiloc.dead_letter";

/// [`DeadLetterFilter`], with its fields as the first parameters.
const FILTER: &str = "
     where ($1 or replayed_at is null)
       and ($2::text is null or reason = $2)
       and ($3::text is null or topic = $3)
       and ($4::timestamptz is null or last_seen_at >= $4)";

/// Dead letters deleted in one transaction.
const PURGE_STEP: usize = 1000;

impl Store {
    /// The newest `limit` dead letters of those meant, newest first.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: i64,
    ) -> Result<Vec<DeadLetterSummary>, StoreError> {
        let sql = format!("{COLUMNS} {FILTER} order by id desc limit $5");
        let mut conn = self.acquire().await?;
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.replayed)
            .bind(&filter.reason)
            .bind(&filter.topic)
            .bind(filter.since)
            .bind(limit);
        let rows = bounded(self.link.answer_within, query.fetch_all(&mut *conn)).await;
        Ok(conn.finish(rows)?.iter().map(summary).collect::<Result<_, DbError>>()?)
    }

    /// One dead letter and its payload.
    pub async fn dead_letter(
        &self,
        id: i64,
    ) -> Result<Option<(DeadLetterSummary, Bytes)>, StoreError> {
        let mut conn = self.acquire().await?;
        let letter = self.read_letter(&mut conn, id).await;
        Ok(conn.finish(letter)?)
    }

    /// The ids of those meant, oldest first.
    pub async fn dead_letter_ids(&self, filter: &DeadLetterFilter) -> Result<Vec<i64>, StoreError> {
        let sql = format!("select id from centiloc.dead_letter {FILTER} order by id");
        let mut conn = self.acquire().await?;
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(filter.replayed)
            .bind(&filter.reason)
            .bind(&filter.topic)
            .bind(filter.since)
            .fetch_all(&mut *conn);
        let ids = bounded(self.link.answer_within, query).await;
        Ok(conn.finish(ids)?)
    }

    /// Deletes these dead letters for good, in small transactions; how many there were.
    pub async fn purge_dead_letters(&self, ids: &[i64]) -> Result<u64, StoreError> {
        const SQL: &str = "delete from centiloc.dead_letter where id = any($1)";
        let mut deleted = 0;
        for step in ids.chunks(PURGE_STEP) {
            let mut conn = self.acquire().await?;
            let query = sqlx::query(SQL).bind(step).execute(&mut *conn);
            let done = bounded(self.link.answer_within, query).await;
            deleted += conn.finish(done)?.rows_affected();
        }
        Ok(deleted)
    }

    /// Tries one dead letter again. The event and the mark on the dead letter are one transaction.
    pub async fn replay(
        &self,
        id: i64,
        decode: impl FnOnce(&str, &Bytes, OffsetDateTime) -> Result<Event, Reject>,
    ) -> Result<ReplayOutcome, StoreError> {
        let mut conn = self.acquire().await?;
        let result = self.replay_on(&mut conn, id, decode).await;
        Ok(conn.finish(result)?)
    }

    async fn replay_on(
        &self,
        conn: &mut Db<'_>,
        id: i64,
        decode: impl FnOnce(&str, &Bytes, OffsetDateTime) -> Result<Event, Reject>,
    ) -> Result<ReplayOutcome, DbError> {
        let Some((letter, payload)) = self.read_letter(conn, id).await? else {
            return Ok(ReplayOutcome::Unknown);
        };
        let event = match decode(&letter.topic, &payload, letter.received_at) {
            Ok(event) => event,
            Err(reject) => return Ok(ReplayOutcome::Rejected(reject)),
        };
        let entry: DecodedMessage = (message(letter, payload), Ok(event));
        match self.bring_in(conn, id, &entry).await {
            Ok(true) => Ok(ReplayOutcome::Stored),
            Ok(false) => Ok(ReplayOutcome::Duplicate),
            Err(error) if error.class == ErrorClass::SetAside => {
                Ok(ReplayOutcome::Refused(error.text))
            }
            Err(error) => Err(error),
        }
    }

    /// True if the event is new.
    async fn bring_in(
        &self,
        conn: &mut Db<'_>,
        id: i64,
        entry: &DecodedMessage,
    ) -> Result<bool, DbError> {
        const MARK: &str = "update centiloc.dead_letter set replayed_at = now() where id = $1";
        let limit = self.link.answer_within;
        let latest = self.latest_plausible(conn).await?;
        let rows = BatchRows::of(std::slice::from_ref(entry), latest);
        self.make_partitions(conn, &rows).await?;
        let chunk = if rows.items.is_empty() {
            EventRows::Boards(&rows.boards)
        } else {
            EventRows::Items(&rows.items)
        };
        let mut transaction = Transaction::begin(conn, limit).await?;
        let written = async {
            let conn = transaction.conn();
            let written = write::events(conn, limit, latest, chunk).await?;
            bounded(limit, sqlx::query(MARK).bind(id).execute(conn)).await?;
            Ok(written.inserted > 0)
        }
        .await;
        transaction.end(written).await
    }

    async fn read_letter(
        &self,
        conn: &mut PgConnection,
        id: i64,
    ) -> Result<Option<(DeadLetterSummary, Bytes)>, DbError> {
        const PAYLOAD: &str = "select payload from centiloc.dead_letter where id = $1";
        let limit = self.link.answer_within;
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} where id = $1"));
        let query = sqlx::query(sql).bind(id).fetch_optional(&mut *conn);
        let Some(row) = bounded(limit, query).await? else { return Ok(None) };
        let query = sqlx::query_scalar(PAYLOAD).bind(id).fetch_one(conn);
        let payload: Vec<u8> = bounded(limit, query).await?;
        Ok(Some((summary(&row)?, payload.into())))
    }
}

fn message(letter: DeadLetterSummary, payload: Bytes) -> Message {
    Message {
        topic: letter.topic,
        payload,
        received_at: letter.received_at,
        qos: 1,
        retain: false,
        ack: None,
        permit: None,
    }
}

fn summary(row: &PgRow) -> Result<DeadLetterSummary, DbError> {
    Ok(DeadLetterSummary {
        id: row.try_get("id")?,
        received_at: time_of(row, "received_at")?,
        last_seen_at: time_of(row, "last_seen_at")?,
        topic: row.try_get("topic")?,
        size: row.try_get("size")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        sqlstate: row.try_get("sqlstate")?,
        seen: row.try_get("seen")?,
        replayed_at: optional_time_of(row, "replayed_at")?,
    })
}
