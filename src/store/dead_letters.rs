//! Dead letters, for an operator to read and to replay.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::Store;
use super::batch::rows::{BatchRows, DecodedMessage};
use super::batch::write;
use super::error::{DbError, ErrorClass, StoreError};
use super::pg_timestamp::{optional_time_of, time_of};
use super::query::Db;
use crate::event::{Event, Reject};
use crate::stream::message::Message;
use crate::timestamp;

/// A row of `dead_letter`, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetterSummary {
    /// ID of the row.
    pub id: i64,
    /// Time of the first receipt.
    #[serde(serialize_with = "timestamp::serialize")]
    pub received_at: OffsetDateTime,
    /// Time of the last receipt.
    #[serde(serialize_with = "timestamp::serialize")]
    pub last_seen_at: OffsetDateTime,
    /// MQTT topic.
    pub topic: String,
    /// Size of the payload, bytes.
    pub size: i64,
    /// Reason, as in the column.
    pub reason: String,
    /// Explanation of the reason.
    pub detail: String,
    /// PostgreSQL's code, if it refused the row.
    pub sqlstate: Option<String>,
    /// Number of receipts. The largest value means that many or more.
    pub seen: i32,
    /// Time of the successful replay.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub replayed_at: Option<OffsetDateTime>,
}

/// Selects dead letters. The default is all that were not replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Includes those that were replayed.
    pub replayed: bool,
    /// Only those set aside for this reason.
    pub reason: Option<String>,
    /// Only those of this topic.
    pub topic: Option<String>,
    /// Only those received at this time or later.
    pub since: Option<OffsetDateTime>,
}

/// Outcome of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The event was stored.
    Stored,
    /// The event existed already.
    Duplicate,
    /// It still does not decode, for this reason.
    Rejected(Reject),
    /// PostgreSQL still refuses it.
    Refused(String),
    /// The dead letter does not exist.
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
    /// Returns the newest `limit` dead letters that match, newest first.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: i64,
    ) -> Result<Vec<DeadLetterSummary>, StoreError> {
        let sql = format!("{COLUMNS} {FILTER} order by id desc limit $5");
        let mut db = self.acquire().await?;
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.replayed)
            .bind(&filter.reason)
            .bind(&filter.topic)
            .bind(filter.since)
            .bind(limit);
        let rows = db.query(|conn| query.fetch_all(conn)).await;
        Ok(db.finish(rows)?.iter().map(summary).collect::<Result<_, DbError>>()?)
    }

    /// Returns one dead letter and its payload.
    pub async fn dead_letter(
        &self,
        id: i64,
    ) -> Result<Option<(DeadLetterSummary, Bytes)>, StoreError> {
        let mut db = self.acquire().await?;
        let letter = self.read_letter(&mut db, id).await;
        Ok(db.finish(letter)?)
    }

    /// Returns the IDs of those that match, oldest first.
    pub async fn dead_letter_ids(&self, filter: &DeadLetterFilter) -> Result<Vec<i64>, StoreError> {
        let sql = format!("select id from centiloc.dead_letter {FILTER} order by id");
        let mut db = self.acquire().await?;
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(filter.replayed)
            .bind(&filter.reason)
            .bind(&filter.topic)
            .bind(filter.since);
        let ids = db.query(|conn| query.fetch_all(conn)).await;
        Ok(db.finish(ids)?)
    }

    /// Deletes these dead letters permanently, in small transactions. Returns how many there were.
    pub async fn purge_dead_letters(&self, ids: &[i64]) -> Result<u64, StoreError> {
        const SQL: &str = "delete from centiloc.dead_letter where id = any($1)";
        let mut deleted = 0;
        for step in ids.chunks(PURGE_STEP) {
            let mut db = self.acquire().await?;
            let query = sqlx::query(SQL).bind(step);
            let done = db.query(|conn| query.execute(conn)).await;
            deleted += db.finish(done)?.rows_affected();
        }
        Ok(deleted)
    }

    /// Replays one dead letter. The event and the mark on the dead letter are one transaction.
    pub async fn replay(
        &self,
        id: i64,
        decode: impl FnOnce(&str, &Bytes, OffsetDateTime) -> Result<Event, Reject>,
    ) -> Result<ReplayOutcome, StoreError> {
        let mut db = self.acquire().await?;
        let result = self.replay_on(&mut db, id, decode).await;
        Ok(db.finish(result)?)
    }

    async fn replay_on(
        &self,
        db: &mut Db,
        id: i64,
        decode: impl FnOnce(&str, &Bytes, OffsetDateTime) -> Result<Event, Reject>,
    ) -> Result<ReplayOutcome, DbError> {
        let Some((letter, payload)) = self.read_letter(db, id).await? else {
            return Ok(ReplayOutcome::Unknown);
        };
        let event = match decode(&letter.topic, &payload, letter.received_at) {
            Ok(event) => event,
            Err(reject) => return Ok(ReplayOutcome::Rejected(reject)),
        };
        let entry: DecodedMessage = (message(letter, payload), Ok(event));
        match self.bring_in(db, id, &entry).await {
            Ok(true) => Ok(ReplayOutcome::Stored),
            Ok(false) => Ok(ReplayOutcome::Duplicate),
            Err(error) if error.class == ErrorClass::SetAside => {
                Ok(ReplayOutcome::Refused(error.text))
            }
            Err(error) => Err(error),
        }
    }

    /// Stores the event of a dead letter. Returns true if it is new.
    async fn bring_in(
        &self,
        db: &mut Db,
        id: i64,
        entry: &DecodedMessage,
    ) -> Result<bool, DbError> {
        const MARK: &str = "update centiloc.dead_letter set replayed_at = now() where id = $1";
        let latest = self.latest_plausible(db).await?;
        let rows = BatchRows::of(std::slice::from_ref(entry), latest);
        self.make_partitions(db, &rows).await?;
        db.transaction(async |db| {
            let mut inserted = 0;
            for of_kind in rows.events() {
                inserted += write::events(db, latest, of_kind).await?.inserted;
            }
            db.query(|conn| sqlx::query(MARK).bind(id).execute(conn)).await?;
            Ok(inserted > 0)
        })
        .await
    }

    async fn read_letter(
        &self,
        db: &mut Db,
        id: i64,
    ) -> Result<Option<(DeadLetterSummary, Bytes)>, DbError> {
        const PAYLOAD: &str = "select payload from centiloc.dead_letter where id = $1";
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} where id = $1"));
        let query = sqlx::query(sql).bind(id);
        let Some(row) = db.query(|conn| query.fetch_optional(conn)).await? else { return Ok(None) };
        let query = sqlx::query_scalar(PAYLOAD).bind(id);
        let payload: Vec<u8> = db.query(|conn| query.fetch_one(conn)).await?;
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
