//! Recorded gaps, for an operator to read and to acknowledge.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::Store;
use super::error::{DbError, StoreError};
use super::pg_timestamp::{optional_time_of, time_of};
use super::text::clean;
use crate::timestamp;

/// A row of `gap`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RecordedGap {
    /// ID of the row.
    pub id: i64,
    /// MQTT client identifier.
    pub client_id: String,
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
    /// Time at which an operator acknowledged it.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub acknowledged_at: Option<OffsetDateTime>,
    /// The operator's note.
    pub note: Option<String>,
}

impl Store {
    /// Returns the newest `limit` gaps, newest first. With `acknowledged`, those are included.
    pub async fn gaps(
        &self,
        acknowledged: bool,
        limit: i64,
    ) -> Result<Vec<RecordedGap>, StoreError> {
        const SQL: &str = "
            select id, client_id, started_at, ended_at, cause, detail, acknowledged_at, note
              from centiloc.gap
             where $1 or acknowledged_at is null
             order by started_at desc, id desc
             limit $2";
        let mut db = self.acquire().await?;
        let query = sqlx::query(SQL).bind(acknowledged).bind(limit);
        let rows = db.query(|conn| query.fetch_all(conn)).await;
        Ok(db.finish(rows)?.iter().map(recorded).collect::<Result<_, DbError>>()?)
    }

    /// Records that an operator acknowledged these gaps. A second time replaces the note. Returns the
    /// IDs that exist.
    pub async fn acknowledge_gaps(&self, ids: &[i64], note: &str) -> Result<Vec<i64>, StoreError> {
        const SQL: &str = "
            update centiloc.gap
               set acknowledged_at = now(), note = $2
             where id = any($1)
            returning id";
        let mut db = self.acquire().await?;
        let query = sqlx::query_scalar(SQL).bind(ids).bind(clean(note));
        let known = db.query(|conn| query.fetch_all(conn)).await;
        Ok(db.finish(known)?)
    }
}

fn recorded(row: &PgRow) -> Result<RecordedGap, DbError> {
    Ok(RecordedGap {
        id: row.try_get("id")?,
        client_id: row.try_get("client_id")?,
        started_at: time_of(row, "started_at")?,
        ended_at: optional_time_of(row, "ended_at")?,
        cause: row.try_get("cause")?,
        detail: row.try_get("detail")?,
        acknowledged_at: optional_time_of(row, "acknowledged_at")?,
        note: row.try_get("note")?,
    })
}
