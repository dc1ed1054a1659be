//! The kinds of events as the store writes them: one file for each, with its columns, the order of
//! its rows and its statement.

mod board;
mod columns;
mod item;

use std::cmp::Ordering;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use time::OffsetDateTime;

use super::batch::rows::EventRow;
use crate::event::{Event, EventKind};

/// A statement with its parameters.
pub(super) type PgQuery = sqlx::query::Query<'static, Postgres, PgArguments>;

/// The tables of one kind of event.
pub(super) trait EventTables: Sync {
    /// Compares two events of the kind in the order in which rows are sent: by key of the state,
    /// then oldest first. Every writer locks rows in this order, so that two of them do not
    /// deadlock.
    fn order(&self, a: &Event, b: &Event) -> Ordering;

    /// Returns the statement that writes these rows, which are in [`EventTables::order`], and the
    /// states that they change. It returns one row: `inserted` and `in_default`. Events after
    /// `latest`, the latest plausible momentum, change no state, and any event before it replaces a
    /// state after it.
    fn statement(&self, rows: &[EventRow<'_>], latest: OffsetDateTime) -> PgQuery;

    /// Returns the name of the table of events.
    fn event_table(&self) -> &'static str;

    /// Returns the name of the table of states.
    fn state_table(&self) -> &'static str;

    /// Returns true if the table of events has partitions.
    fn is_partitioned(&self) -> bool;

    /// Returns the statement that makes states again from their events, given their keys.
    fn remake_states(&self) -> &'static str;
}

/// Returns the tables of a kind.
pub(super) fn tables(kind: EventKind) -> &'static dyn EventTables {
    match kind {
        EventKind::Item => &item::ItemTables,
        EventKind::Board => &board::BoardTables,
    }
}

/// Returns the position of the newest event of a group in order. Where several forms of it came, it
/// is the first, which `on conflict do nothing` keeps too.
fn newest<E>(group: &[&E], id: impl Fn(&E) -> uuid::Uuid) -> Option<usize> {
    let newest = id(group.last()?);
    group.iter().position(|event| id(event) == newest)
}
