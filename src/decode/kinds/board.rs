//! Board events: the status of a board.

use super::{EventTable, HasField};
use crate::decode::field::{EventDraft, EventField, FieldNames, TextField, TimeField, name_of};
use crate::decode::row::{EventReceipt, extra, required, required_ns, time};
use crate::decode::status;
use crate::event::{BoardEvent, Event, Reject, board_event_id};

pub(super) const TABLE: EventTable = EventTable {
    protobuf: PROTOBUF,
    json: JSON,
    required: "momentum, sn and status",
    is_message,
    row,
};

/// Fields of board events in protobuf. A schema may call `sn` `board_sn`. If both exist, the first
/// counts.
const PROTOBUF: &FieldNames = &[
    ("momentum", EventField::Time(TimeField::Momentum)),
    ("sn", EventField::Text(TextField::BoardSn)),
    ("board_sn", EventField::Text(TextField::BoardSn)),
    ("status", EventField::Text(TextField::Status)),
    ("fw_version", EventField::Text(TextField::FwVersion)),
    ("last_connection_date", EventField::Time(TimeField::LastConnection)),
    ("last_disconnection_date", EventField::Time(TimeField::LastDisconnection)),
    ("last_error_date", EventField::Time(TimeField::LastError)),
];

/// Fields of board events in JSON.
const JSON: &FieldNames = &[
    ("Momentum", EventField::Time(TimeField::Momentum)),
    ("BoardSN", EventField::Text(TextField::BoardSn)),
    ("Status", EventField::Text(TextField::Status)),
    ("FwVersion", EventField::Text(TextField::FwVersion)),
    ("LastConnectionDate", EventField::Time(TimeField::LastConnection)),
    ("LastDisconnectionDate", EventField::Time(TimeField::LastDisconnection)),
    ("LastErrorDate", EventField::Time(TimeField::LastError)),
];

fn is_message(has: HasField) -> bool {
    has("momentum") && (has("sn") || has("board_sn")) && has("status") && !has("uid")
}

/// Makes the row of a board event.
fn row(draft: &mut EventDraft, receipt: EventReceipt) -> Result<Event, Reject> {
    let names = receipt.names;
    let momentum_ns = required_ns(draft, names)?;
    let momentum_name = name_of(names, EventField::Time(TimeField::Momentum));
    let momentum = required(time(draft, names, TimeField::Momentum)?, momentum_name)?;
    let sn_name = name_of(names, EventField::Text(TextField::BoardSn));
    let board_sn = required(draft.take_text(TextField::BoardSn), sn_name)?;
    let status = Some(status::canonical(draft.text(TextField::Status)))
        .filter(|status| !status.is_empty())
        .map(str::to_owned);
    Ok(Event::Board(BoardEvent {
        event_id: board_event_id(
            receipt.tenant,
            &board_sn,
            momentum_ns,
            status.as_deref().unwrap_or_default(),
        ),
        momentum,
        received_at: receipt.received_at,
        tenant: receipt.tenant.to_owned(),
        board_sn,
        status,
        fw_version: draft.take_text(TextField::FwVersion),
        last_connection_at: time(draft, names, TimeField::LastConnection)?,
        last_disconnection_at: time(draft, names, TimeField::LastDisconnection)?,
        last_error_at: time(draft, names, TimeField::LastError)?,
        extra: extra(draft),
        payload: receipt.payload,
    }))
}
