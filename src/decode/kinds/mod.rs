//! The kinds of events, each in a file with its documented fields and its row. To add a column to a kind,
//! change only its file, and [`super::field`] for a new field.

mod board;
mod item;

use super::field::{EventDraft, FieldNames};
use super::row::EventReceipt;
use crate::event::{Event, Reject};
use crate::topic::EventKind;

/// A kind of event, as decoding treats it.
pub(super) struct EventTable {
    /// The fields by their names in protobuf.
    pub(super) protobuf: &'static FieldNames,
    /// The fields by their names in JSON.
    pub(super) json: &'static FieldNames,
    /// Returns true if a protobuf message is one of this kind, by the documented names that it has.
    pub(super) is_message: fn(has: &dyn Fn(&str) -> bool) -> bool,
    /// Makes the row of a draft.
    pub(super) row: fn(&mut EventDraft, EventReceipt) -> Result<Event, Reject>,
}

/// Returns the table of a kind.
pub(super) fn table(kind: EventKind) -> &'static EventTable {
    match kind {
        EventKind::Item => &item::TABLE,
        EventKind::Board => &board::TABLE,
    }
}
