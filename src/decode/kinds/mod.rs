//! The kinds of events, each in a file with its documented fields and its row. To add a column to a kind,
//! change only its file, and [`super::field`] for a new field.

mod board;
mod item;

use super::field::{EventDraft, FieldNames};
use super::row::EventReceipt;
use crate::event::{Event, EventKind, Reject};

/// Returns true if a protobuf message has the field with this documented name.
pub(super) type HasField<'a> = &'a dyn Fn(&str) -> bool;

/// A kind of event, as decoding treats it.
pub(super) struct EventTable {
    /// The fields by their names in protobuf.
    pub(super) protobuf: &'static FieldNames,
    /// The fields by their names in JSON.
    pub(super) json: &'static FieldNames,
    /// The fields by which [`EventTable::is_message`] recognises a message, in words.
    pub(super) required: &'static str,
    /// Returns true if a protobuf message is one of this kind.
    pub(super) is_message: fn(has: HasField) -> bool,
    /// Makes the row of a draft.
    pub(super) row: fn(&mut EventDraft, EventReceipt) -> Result<Event, Reject>,
}

/// Lists the fields by which the messages of each kind are recognised, in words.
pub(super) fn required_fields() -> String {
    let words = EventKind::ALL.map(|kind| format!("{} ({})", table(kind).required, kind.as_str()));
    words.join(" or ")
}

/// Returns the table of a kind.
pub(super) fn table(kind: EventKind) -> &'static EventTable {
    match kind {
        EventKind::Item => &item::TABLE,
        EventKind::Board => &board::TABLE,
    }
}
