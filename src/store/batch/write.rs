//! The statements of the hot path. Each writes a whole batch of its kind in one round trip: columns
//! are sent as arrays, and state changes in the statement that inserts the events.

use sqlx::Row as _;
use sqlx::postgres::PgBindIterExt as _;
use time::OffsetDateTime;

use super::rows::{DeadLetter, EventRows, fold_letters};
use crate::store::error::DbError;
use crate::store::kinds;
use crate::store::query::Db;

const LETTERS: &str = include_str!("../sql/dead_letters.sql");

/// The rows of one statement, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct RowCounts {
    /// Rows that were sent.
    pub rows: u64,
    /// Rows that are new.
    pub inserted: u64,
    /// New rows for which there was no partition.
    pub in_default: u64,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.inserted += other.inserted;
        self.in_default += other.in_default;
    }
}

/// Writes event rows and the states they change. Events after `latest` change none, and a state
/// after it is replaced.
pub(in crate::store) async fn events(
    db: &mut Db,
    latest: OffsetDateTime,
    rows: EventRows<'_, '_>,
) -> Result<RowCounts, DbError> {
    let query = kinds::tables(rows.kind).statement(rows.rows, latest);
    let row = db.query(|conn| query.fetch_one(conn)).await?;
    let count = |name: &str| -> Result<u64, DbError> {
        Ok(row.try_get::<i64, _>(name)?.try_into().unwrap_or(0))
    };
    Ok(RowCounts {
        rows: rows.len() as u64,
        inserted: count("inserted")?,
        in_default: count("in_default")?,
    })
}

/// Writes dead letters.
pub(in crate::store) async fn letters(
    db: &mut Db,
    letters: &[&DeadLetter<'_>],
) -> Result<(), DbError> {
    let rows = fold_letters(letters.iter().copied());
    let query = sqlx::query(LETTERS)
        .bind(rows.iter().map(|r| r.received_at).bind_iter())
        .bind(rows.iter().map(|r| r.last_seen_at).bind_iter())
        .bind(rows.iter().map(|r| r.topic.as_str()).bind_iter())
        .bind(rows.iter().map(|r| &r.letter.message.payload[..]).bind_iter())
        .bind(rows.iter().map(|r| &r.digest[..]).bind_iter())
        .bind(rows.iter().map(|r| r.letter.reason.as_str()).bind_iter())
        .bind(rows.iter().map(|r| r.detail.as_str()).bind_iter())
        .bind(rows.iter().map(|r| r.letter.sqlstate.as_deref()).bind_iter())
        .bind(rows.iter().map(|r| r.seen).bind_iter());
    db.query(|conn| query.execute(conn)).await.map(drop)
}
