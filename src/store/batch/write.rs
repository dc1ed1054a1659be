//! The three statements of the hot path. Each writes a whole batch of its kind in one round trip:
//! columns travel as arrays, and state changes in the statement that inserts the events.

use std::future::Future;
use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgBindIterExt, PgConnection};
use sqlx::{Postgres, Row as _};
use time::OffsetDateTime;

use crate::event::{BoardEvent, ItemEvent};
use crate::progress::during;
use crate::store::batch::rows::{DeadLetter, EventRow, EventRows, fold_letters};
use crate::store::batch::state::{fold_boards, fold_items};
use crate::store::error::DbError;
use crate::store::text::array_literal;

const ITEMS: &str = include_str!("../sql/items.sql");
const BOARDS: &str = include_str!("../sql/boards.sql");
const LETTERS: &str = include_str!("../sql/dead_letters.sql");

type PgQuery<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

/// What one statement did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct RowCounts {
    /// Rows that were offered.
    pub rows: u64,
    /// Rows that are new.
    pub inserted: u64,
    /// Of these, how many no partition was found for.
    pub in_default: u64,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.inserted += other.inserted;
        self.in_default += other.in_default;
    }
}

/// Runs one exchange with the server under our own limit: a half-open connection would hang for
/// ever. The caller drops the connection when this fails without an answer.
pub(in crate::store) async fn bounded<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DbError> {
    match during(limit, tokio::time::timeout(limit, exchange)).await {
        Ok(result) => result.map_err(DbError::from),
        Err(_) => Err(DbError::timed_out(limit)),
    }
}

/// Writes event rows and the states they change; events after `latest` change none, and a state
/// after it gives way.
pub(in crate::store) async fn events(
    conn: &mut PgConnection,
    limit: Duration,
    latest: OffsetDateTime,
    chunk: EventRows<'_, '_>,
) -> Result<RowCounts, DbError> {
    let query = match chunk {
        EventRows::Items(rows) => bind_items(rows, latest),
        EventRows::Boards(rows) => bind_boards(rows, latest),
    };
    let row = bounded(limit, query.fetch_one(conn)).await?;
    let count = |name: &str| -> Result<u64, DbError> {
        Ok(row.try_get::<i64, _>(name)?.try_into().unwrap_or(0))
    };
    Ok(RowCounts {
        rows: chunk.len() as u64,
        inserted: count("inserted")?,
        in_default: count("in_default")?,
    })
}

/// Writes dead letters.
pub(in crate::store) async fn letters(
    conn: &mut PgConnection,
    limit: Duration,
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
    bounded(limit, query.execute(conn)).await.map(drop)
}

/// One parameter per column, in the order of `items.sql`.
fn bind_items<'q>(rows: &[EventRow<'_, ItemEvent>], latest: OffsetDateTime) -> PgQuery<'q> {
    let events: Vec<&ItemEvent> = rows.iter().map(|r| r.event).collect();
    let changes = fold_items(&events, latest);
    let e = || events.iter();
    sqlx::query(ITEMS)
        .bind(e().map(|e| e.momentum).bind_iter())
        .bind(e().map(|e| e.event_id).bind_iter())
        .bind(e().map(|e| e.received_at).bind_iter())
        .bind(e().map(|e| e.tenant.as_str()).bind_iter())
        .bind(e().map(|e| e.uid.as_str()).bind_iter())
        .bind(e().map(|e| e.is_in).bind_iter())
        .bind(e().map(|e| e.board_sn.as_deref()).bind_iter())
        .bind(e().map(|e| e.x_mm).bind_iter())
        .bind(e().map(|e| e.y_mm).bind_iter())
        .bind(e().map(|e| e.shelf_x_mm).bind_iter())
        .bind(e().map(|e| e.shelf_y_mm).bind_iter())
        .bind(e().map(|e| e.floor_x_mm).bind_iter())
        .bind(e().map(|e| e.floor_y_mm).bind_iter())
        .bind(e().map(|e| e.floor).bind_iter())
        .bind(e().map(|e| e.nb_hits).bind_iter())
        .bind(e().map(|e| e.hold_time_us.map(interval)).bind_iter())
        .bind(e().map(|e| e.fill_ratio).bind_iter())
        .bind(e().map(|e| e.product_reference.as_deref()).bind_iter())
        .bind(e().map(|e| e.shelf_sn.as_deref()).bind_iter())
        .bind(e().map(|e| e.furniture_sn.as_deref()).bind_iter())
        .bind(e().map(|e| e.loc_reference.as_deref()).bind_iter())
        .bind(e().map(|e| e.loc_labels.as_deref().map(array_literal)).bind_iter())
        .bind(e().map(|e| e.item_labels.as_deref().map(array_literal)).bind_iter())
        .bind(e().map(|e| e.is_interpolated).bind_iter())
        .bind(e().map(|e| e.extra.as_ref().map(json)).bind_iter())
        .bind(e().map(|e| e.payload.as_deref()).bind_iter())
        .bind(changes.iter().map(|c| c.map(|c| c.first_seen_at)).bind_iter())
        .bind(changes.iter().map(|c| c.and_then(|c| c.entered_at)).bind_iter())
        .bind(latest)
}

/// One parameter per column, in the order of `boards.sql`.
fn bind_boards<'q>(rows: &[EventRow<'_, BoardEvent>], latest: OffsetDateTime) -> PgQuery<'q> {
    let events: Vec<&BoardEvent> = rows.iter().map(|r| r.event).collect();
    let is_newest = fold_boards(&events, latest);
    let e = || events.iter();
    sqlx::query(BOARDS)
        .bind(e().map(|e| e.momentum).bind_iter())
        .bind(e().map(|e| e.event_id).bind_iter())
        .bind(e().map(|e| e.received_at).bind_iter())
        .bind(e().map(|e| e.tenant.as_str()).bind_iter())
        .bind(e().map(|e| e.board_sn.as_str()).bind_iter())
        .bind(e().map(|e| e.status.as_deref()).bind_iter())
        .bind(e().map(|e| e.fw_version.as_deref()).bind_iter())
        .bind(e().map(|e| e.last_connection_at).bind_iter())
        .bind(e().map(|e| e.last_disconnection_at).bind_iter())
        .bind(e().map(|e| e.last_error_at).bind_iter())
        .bind(e().map(|e| e.extra.as_ref().map(json)).bind_iter())
        .bind(e().map(|e| e.payload.as_deref()).bind_iter())
        .bind(is_newest)
        .bind(latest)
}

fn interval(microseconds: i64) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds }
}

fn json(extra: &Map<String, Value>) -> String {
    // Unwrap safety: a map with string keys always has a JSON form.
    serde_json::to_string(extra).expect("a JSON map serialises")
}
