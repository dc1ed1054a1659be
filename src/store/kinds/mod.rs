//! The kinds of events as the store writes them: one file for each, with its columns, the order of
//! its rows and its statement.

mod board;
mod columns;
mod item;
mod newest;

use std::cmp::Ordering;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use time::OffsetDateTime;
use uuid::Uuid;

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
    fn statement(&'static self, rows: &[EventRow<'_>], latest: OffsetDateTime) -> PgQuery;

    /// Returns the name of the table of events.
    fn event_table(&self) -> &'static str;

    /// Returns the name of the table of states.
    fn state_table(&self) -> &'static str;

    /// Returns the columns of the key of the state, in the order in which they are sent.
    fn key(&self) -> Vec<&'static str>;

    /// Returns true if the table of events has a column of this name.
    fn has_column(&self, name: &str) -> bool;

    /// Returns true if the table of events has partitions. [`crate::store::partitions`] makes them for
    /// one kind alone.
    fn is_partitioned(&self) -> bool;

    /// Returns the statement that makes states again from their events, given their keys.
    fn remake_states(&'static self) -> &'static str;

    /// Returns the correction of states that outlive some of their events, if they need one.
    fn shortening(&self) -> Option<StateShortening> {
        None
    }
}

/// The correction of states whose oldest events are deleted.
pub(super) struct StateShortening {
    /// The condition on a state that needs it, with the time before which events are deleted as `$1`.
    pub condition: &'static str,
    /// The statement. Its parameters are the keys of the states, then that time.
    pub sql: &'static str,
}

/// Returns the tables of a kind.
pub(super) fn tables(kind: EventKind) -> &'static dyn EventTables {
    match kind {
        EventKind::Item => &item::ItemTables,
        EventKind::Board => &board::TABLES,
    }
}

/// Returns the position of the newest event of a group in order. Where several forms of it came, it
/// is the first, which `on conflict do nothing` keeps too.
fn newest<R>(group: &[R], id: impl Fn(&R) -> Uuid) -> Option<usize> {
    let newest = id(group.last()?);
    group.iter().position(|event| id(event) == newest)
}
