//! `board_event` and `board_state`.

use std::cmp::Ordering;
use std::sync::LazyLock;

use sqlx::postgres::PgBindIterExt as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::columns::{self, EventColumn, event_columns, json};
use super::{EventTables, PgQuery, newest};
use crate::event::{BoardEvent, Event};
use crate::store::batch::rows::EventRow;

/// The columns, in the order in which they are sent.
const COLUMNS: &[EventColumn<BoardEvent>] = event_columns! { BoardEvent;
    Key {
        tenant: "text" = |e| e.tenant.as_str(),
        board_sn: "text" = |e| e.board_sn.as_str(),
    }
    State {
        momentum: "timestamptz" = |e| e.momentum,
        event_id: "uuid" = |e| e.event_id,
        received_at: "timestamptz" = |e| e.received_at,
        status: "text" = |e| e.status.as_deref(),
        fw_version: "text" = |e| e.fw_version.as_deref(),
        last_connection_at: "timestamptz" = |e| e.last_connection_at,
        last_disconnection_at: "timestamptz" = |e| e.last_disconnection_at,
        last_error_at: "timestamptz" = |e| e.last_error_at,
        extra: "text" as "::jsonb" = |e| e.extra.as_ref().map(json),
    }
    Event {
        payload: "bytea" = |e| e.payload.as_deref(),
    }
};

/// True where an event replaces the state.
const NEWER: &str =
    "s.momentum > {+2} or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)";

static WRITE: LazyLock<String> =
    LazyLock::new(|| columns::fill(include_str!("../sql/boards.sql"), COLUMNS, NEWER));

static REMAKE: LazyLock<String> =
    LazyLock::new(|| columns::fill(include_str!("../sql/erased_board_states.sql"), COLUMNS, NEWER));

/// The tables of board events.
pub(super) struct BoardTables;

impl EventTables for BoardTables {
    fn order(&self, a: &Event, b: &Event) -> Ordering {
        board_of(a).map(key_and_age).cmp(&board_of(b).map(key_and_age))
    }

    fn statement(&self, rows: &[EventRow<'_>], latest: OffsetDateTime) -> PgQuery {
        let events: Vec<&BoardEvent> = rows.iter().filter_map(|row| board_of(row.event)).collect();
        let is_newest = fold(&events, latest);
        let sql = sqlx::AssertSqlSafe(WRITE.as_str());
        columns::bind(sqlx::query(sql), COLUMNS, &events).bind(is_newest).bind(latest)
    }

    fn event_table(&self) -> &'static str {
        "board_event"
    }

    fn state_table(&self) -> &'static str {
        "board_state"
    }

    fn is_partitioned(&self) -> bool {
        false
    }

    fn remake_states(&self) -> &'static str {
        &REMAKE
    }
}

fn board_of(event: &Event) -> Option<&BoardEvent> {
    if let Event::Board(board) = event { Some(board) } else { None }
}

fn key_and_age(e: &BoardEvent) -> (&str, &str, OffsetDateTime, Uuid) {
    (&e.tenant, &e.board_sn, e.momentum, e.event_id)
}

/// Returns for each event, in the order of rows, whether it is the newest of its board up to
/// `latest`.
fn fold(sorted: &[&BoardEvent], latest: OffsetDateTime) -> Vec<bool> {
    let mut is_newest = vec![false; sorted.len()];
    let mut start = 0;
    for group in sorted.chunk_by(|a, b| a.board_sn == b.board_sn && a.tenant == b.tenant) {
        let plausible = &group[..group.partition_point(|e| e.momentum <= latest)];
        if let Some(newest) = newest(plausible, |e| e.event_id) {
            is_newest[start + newest] = true;
        }
        start += group.len();
    }
    is_newest
}
