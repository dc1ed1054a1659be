//! The rows stored at the end of a run.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::expected::{BoardRow, ItemRow};
use crate::support::database::Database;

/// The contents of the tables and of the location view.
#[derive(Debug)]
pub struct ActualState {
    /// Rows of `item_event`.
    pub items: Vec<ItemRow>,
    /// Rows of `board_event`.
    pub boards: Vec<BoardRow>,
    /// Rows of `dead_letter`: topic, payload, reason.
    pub letters: Vec<(String, Vec<u8>, String)>,
    /// Rows of `item_state` with `first_seen_at`, by tag and board.
    pub item_states: BTreeMap<(String, String), (ItemRow, OffsetDateTime)>,
    /// Rows of `item_location`, by tag.
    pub item_locations: BTreeMap<String, ItemRow>,
    /// Rows of `board_state`, by board.
    pub board_states: BTreeMap<String, BoardRow>,
    /// Rows of `gap`.
    pub gaps: Vec<StoredGap>,
}

/// A row of `gap`.
#[derive(Debug, Clone)]
pub struct StoredGap {
    pub cause: String,
    pub started_at: OffsetDateTime,
    /// End, `None` while it is open.
    pub ended_at: Option<OffsetDateTime>,
    /// Explanation of the gap.
    #[expect(dead_code, reason = "a complaint shows it")]
    pub detail: String,
}

impl ActualState {
    /// Reads all tables.
    pub async fn read(database: &Database) -> Self {
        Self {
            items: items(database, "item_event").await,
            boards: boards(database, "board_event").await,
            letters: letters(database).await,
            item_states: item_states(database).await,
            item_locations: by(items(database, "item_location").await, |item| item.uid.clone()),
            board_states: by(boards(database, "board_state").await, |board| board.board_sn.clone()),
            gaps: gaps(database).await,
        }
    }
}

/// Indexes rows by a key. A duplicate key is a mistake of the test, because each is unique in the
/// schema.
fn by<T, K: Ord>(rows: Vec<T>, key: impl Fn(&T) -> K) -> BTreeMap<K, T> {
    let count = rows.len();
    let map: BTreeMap<K, T> = rows.into_iter().map(|row| (key(&row), row)).collect();
    assert_eq!(map.len(), count, "a key occurs twice");
    map
}

async fn rows(database: &Database, sql: &str) -> Vec<PgRow> {
    database.rows(sql).await.unwrap_or_else(|e| panic!("{sql:?} failed: {e}"))
}

const ITEM: &str = "event_id, momentum, uid, coalesce(board_sn, '') as board_sn, is_in, x_mm, y_mm";

async fn items(database: &Database, relation: &str) -> Vec<ItemRow> {
    let sql = format!("select {ITEM} from centiloc.{relation}");
    rows(database, &sql).await.iter().map(item).collect()
}

fn item(row: &PgRow) -> ItemRow {
    ItemRow {
        event_id: row.get("event_id"),
        momentum: row.get("momentum"),
        uid: row.get("uid"),
        board_sn: row.get("board_sn"),
        is_in: row.get("is_in"),
        mm: (row.get("x_mm"), row.get("y_mm")),
    }
}

async fn item_states(database: &Database) -> BTreeMap<(String, String), (ItemRow, OffsetDateTime)> {
    let sql = format!("select {ITEM}, first_seen_at from centiloc.item_state");
    let states = rows(database, &sql).await;
    let states = states.iter().map(|row| (item(row), row.get("first_seen_at"))).collect();
    by(states, |(item, _)| (item.uid.clone(), item.board_sn.clone()))
}

async fn boards(database: &Database, table: &str) -> Vec<BoardRow> {
    let sql = format!("select event_id, momentum, board_sn, status from centiloc.{table}");
    let board = |row: &PgRow| BoardRow {
        event_id: row.get("event_id"),
        momentum: row.get("momentum"),
        board_sn: row.get("board_sn"),
        status: row.get("status"),
    };
    rows(database, &sql).await.iter().map(board).collect()
}

async fn letters(database: &Database) -> Vec<(String, Vec<u8>, String)> {
    let sql = "select topic, payload, reason from centiloc.dead_letter";
    rows(database, sql).await.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn gaps(database: &Database) -> Vec<StoredGap> {
    let sql = "select cause, started_at, ended_at, detail from centiloc.gap order by id";
    let gap = |row: &PgRow| StoredGap {
        cause: row.get("cause"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
        detail: row.get("detail"),
    };
    rows(database, sql).await.iter().map(gap).collect()
}
