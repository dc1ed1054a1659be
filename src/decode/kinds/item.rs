//! Item events: a tag that appeared on a board, moved or disappeared.

use super::{EventTable, HasField};
use crate::decode::field::{
    EventDraft, EventField, FieldNames, FlagField, IntField, LabelsField, PositionField, TextField,
    TimeField, name_of,
};
use crate::decode::row::{EventReceipt, extra, hold_time, required, required_ns, time};
use crate::event::{Event, ItemEvent, Reject, item_event_id};

pub(super) const TABLE: EventTable =
    EventTable { protobuf: FIELDS, json: FIELDS, required: "momentum and uid", is_message, row };

/// Fields of item events, in protobuf and in JSON.
const FIELDS: &FieldNames = &[
    ("momentum", EventField::Time(TimeField::Momentum)),
    ("uid", EventField::Text(TextField::Uid)),
    ("is_in", EventField::Flag(FlagField::IsIn)),
    ("pos_mm", EventField::Position(PositionField::Board)),
    ("board_sn", EventField::Text(TextField::BoardSn)),
    ("nb_hits", EventField::Int(IntField::NbHits)),
    ("hold_time", EventField::HoldTime),
    ("fill_ratio", EventField::FillRatio),
    ("product_reference", EventField::Text(TextField::ProductReference)),
    ("shelf_sn", EventField::Text(TextField::ShelfSn)),
    ("furniture_sn", EventField::Text(TextField::FurnitureSn)),
    ("pos_on_shelf_mm", EventField::Position(PositionField::Shelf)),
    ("tenant", EventField::Text(TextField::Tenant)),
    ("loc_reference", EventField::Text(TextField::LocReference)),
    ("loc_labels", EventField::Labels(LabelsField::Location)),
    ("item_labels", EventField::Labels(LabelsField::Item)),
    ("pos_on_floor_mm", EventField::Position(PositionField::Floor)),
    ("floor", EventField::Int(IntField::Floor)),
    ("is_interpolated", EventField::Flag(FlagField::IsInterpolated)),
];

fn is_message(has: HasField) -> bool {
    has("momentum") && has("uid")
}

/// Makes the row of an item event.
#[expect(clippy::similar_names, reason = "the names of the columns")]
fn row(draft: &mut EventDraft, receipt: EventReceipt) -> Result<Event, Reject> {
    let names = receipt.names;
    let momentum_ns = required_ns(draft, names)?;
    let momentum = required(time(draft, names, TimeField::Momentum)?, "momentum")?;
    let uid = required(
        draft.take_text(TextField::Uid),
        name_of(names, EventField::Text(TextField::Uid)),
    )?;
    let tenant = draft.take_text(TextField::Tenant).unwrap_or_else(|| receipt.tenant.to_owned());
    let board_sn = draft.take_text(TextField::BoardSn);
    let is_in = draft.flags[FlagField::IsIn as usize].unwrap_or(false);
    let position = |position| {
        let coordinates = draft.position(position);
        (coordinates.x, coordinates.y)
    };
    let (x_mm, y_mm) = position(PositionField::Board);
    let (shelf_x_mm, shelf_y_mm) = position(PositionField::Shelf);
    let (floor_x_mm, floor_y_mm) = position(PositionField::Floor);
    Ok(Event::Item(ItemEvent {
        event_id: item_event_id(
            &tenant,
            &uid,
            momentum_ns,
            board_sn.as_deref().unwrap_or_default(),
            is_in,
        ),
        momentum,
        received_at: receipt.received_at,
        tenant,
        uid,
        is_in,
        board_sn,
        x_mm,
        y_mm,
        shelf_x_mm,
        shelf_y_mm,
        floor_x_mm,
        floor_y_mm,
        floor: draft.ints[IntField::Floor as usize],
        nb_hits: draft.ints[IntField::NbHits as usize],
        hold_time_us: hold_time(draft)?,
        fill_ratio: draft.fill_ratio,
        product_reference: draft.take_text(TextField::ProductReference),
        shelf_sn: draft.take_text(TextField::ShelfSn),
        furniture_sn: draft.take_text(TextField::FurnitureSn),
        loc_reference: draft.take_text(TextField::LocReference),
        loc_labels: draft.labels[LabelsField::Location as usize].take(),
        item_labels: draft.labels[LabelsField::Item as usize].take(),
        is_interpolated: draft.flags[FlagField::IsInterpolated as usize],
        extra: extra(draft),
        payload: receipt.payload,
    }))
}
