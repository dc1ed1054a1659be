//! `board_event` and `board_state`.

use super::columns::{EventColumn, event_columns, json};
use super::newest::{NewestEvent, NewestTables};
use crate::event::{BoardEvent, Event};

/// The tables of board events.
pub(super) static TABLES: NewestTables<BoardEvent> = NewestTables::new();

impl NewestEvent for BoardEvent {
    const EVENT_TABLE: &'static str = "board_event";
    const STATE_TABLE: &'static str = "board_state";
    const COLUMNS: &'static [EventColumn<Self>] = event_columns! { BoardEvent;
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

    fn of(event: &Event) -> Option<&Self> {
        if let Event::Board(board) = event { Some(board) } else { None }
    }

    fn key(&self) -> impl Ord {
        (&self.tenant, &self.board_sn)
    }
}
