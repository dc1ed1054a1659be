//! Invariants of every accepted event, in whatever format it was written.

use bytes::Bytes;
use centiloc_bridge::event::{
    BoardEvent, Event, ItemEvent, Reject, RejectReason, board_event_id, item_event_id,
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

/// Far more than a field's name, a quote of 60 characters, escaped, and a hint need together.
const MAX_DETAIL: usize = 2000;

/// Go's zero time means that there is none, so a row can hold it only if nanoseconds were cut.
const ZERO_TIME: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);

/// True if a JSON message can express the time in UTC.
fn is_written(at: OffsetDateTime) -> bool {
    at != ZERO_TIME && at.year() >= 0
}

/// Asserts the conditions that the tables rely on.
pub fn assert_storable(event: &Event) {
    assert_time(event.momentum());
    if let Event::Item(item) = event {
        assert!(!item.uid.is_empty() && !item.tenant.is_empty());
        for text in [
            &item.board_sn,
            &item.product_reference,
            &item.shelf_sn,
            &item.furniture_sn,
            &item.loc_reference,
        ] {
            assert_ne!(text.as_deref(), Some(""), "an empty text is NULL");
        }
        for labels in [&item.loc_labels, &item.item_labels] {
            assert_ne!(labels.as_deref(), Some(&[][..]), "an empty list is NULL");
        }
        assert_extra(item.extra.as_ref(), item.payload.as_ref());
    }
    if let Event::Board(board) = event {
        assert!(!board.board_sn.is_empty() && !board.tenant.is_empty());
        assert_ne!(board.status.as_deref(), Some(""), "an empty text is NULL");
        assert_ne!(board.fw_version.as_deref(), Some(""), "an empty text is NULL");
        for at in [board.last_connection_at, board.last_disconnection_at, board.last_error_at] {
            at.into_iter().for_each(assert_time);
        }
        assert_extra(board.extra.as_ref(), board.payload.as_ref());
    }
}

/// Asserts that a rejection can be acted on and stored.
pub fn assert_explained(reject: &Reject) {
    let detail = &reject.detail;
    assert!(!detail.is_empty() && detail.len() < MAX_DETAIL, "{reject}");
    let of_the_database = [RejectReason::UnknownTopic, RejectReason::RefusedByDatabase];
    assert!(!of_the_database.contains(&reject.reason), "no reason of the decoder: {reject}");
}

fn assert_time(at: OffsetDateTime) {
    // An offset may reach into the year before the first that four digits can write.
    assert!(at.offset().is_utc() && (-1..=9999).contains(&at.year()), "{at}");
    assert_eq!(at.nanosecond() % 1000, 0, "PostgreSQL would round {at}");
}

fn assert_extra(extra: Option<&Map<String, Value>>, payload: Option<&Bytes>) {
    assert!(extra.is_none_or(|keys| !keys.is_empty()), "nothing more is NULL");
    assert!(payload.is_none_or(|bytes| !bytes.is_empty()), "an event has bytes");
}

/// Encodes an item or board event as a JSON message. `None` if JSON cannot express it.
pub fn as_json(event: &Event) -> Option<String> {
    let object = if let Event::Item(item) = event {
        item_json(item)
    } else if let Event::Board(board) = event {
        board_json(board)
    } else {
        None
    };
    Some(Value::Object(object?).to_string())
}

/// Every key is written, because `extra` may hold an absent one in another case. Most have the name of
/// their column.
fn item_json(item: &ItemEvent) -> Option<Map<String, Value>> {
    if !is_written(item.momentum) || !item.fill_ratio.is_none_or(f32::is_finite) {
        return None;
    }
    let Ok(Value::Object(mut columns)) = serde_json::to_value(item) else { return None };
    for name in ["event_id", "received_at", "extra", "payload"] {
        columns.remove(name);
    }
    let mut object = item.extra.clone().unwrap_or_default();
    for (name, x, y) in [
        ("pos_mm", "x_mm", "y_mm"),
        ("pos_on_shelf_mm", "shelf_x_mm", "shelf_y_mm"),
        ("pos_on_floor_mm", "floor_x_mm", "floor_y_mm"),
    ] {
        let pair = [columns.remove(x)?, columns.remove(y)?];
        let pair: Vec<_> = pair.into_iter().filter(|axis| !axis.is_null()).collect();
        object.entry(name).or_insert(pair.into());
    }
    // Protobuf's durations may exceed Go's, which are 64 bits of nanoseconds.
    let hold_time = match item.hold_time_us {
        Some(us) => json!(us.checked_mul(1000)?),
        None => json!(""),
    };
    columns.insert("hold_time".into(), hold_time);
    columns.insert("momentum".into(), rfc3339(item.momentum).into());
    object.extend(columns);
    Some(object)
}

fn board_json(board: &BoardEvent) -> Option<Map<String, Value>> {
    let last = [board.last_connection_at, board.last_disconnection_at, board.last_error_at];
    if !last.into_iter().flatten().chain([board.momentum]).all(is_written) {
        return None;
    }
    let [connection, disconnection, error] = last.map(|at| at.map_or(String::new(), rfc3339));
    // The rest of a status may look as if it had the prefix too.
    let status = board.status.as_ref().map(|status| format!("BOARDSTATUS_{status}"));
    let mut object = board.extra.clone().unwrap_or_default();
    let rest = json!({
        "Momentum": rfc3339(board.momentum), "BoardSN": board.board_sn,
        "Status": text(status.as_ref()), "FwVersion": text(board.fw_version.as_ref()),
        "LastConnectionDate": connection, "LastDisconnectionDate": disconnection,
        "LastErrorDate": error,
    });
    object.extend(rest.as_object()?.clone());
    Some(object)
}

fn text(column: Option<&String>) -> &str {
    column.map_or("", String::as_str)
}

fn rfc3339(at: OffsetDateTime) -> String {
    let (date, (hour, minute, second, micros)) = (at.date(), at.to_hms_micro());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Asserts that two rows are equal except for the values that JSON cannot carry over: a momentum's
/// nanoseconds, which are in the id, the bytes, and the last bits of numbers that no column takes.
pub fn assert_same_columns(found: &Event, expected: &Event) {
    if let Some(id) = id_of(found) {
        assert_eq!(found.event_id(), id, "no nanoseconds were lost");
    }
    assert_eq!(carried_over(found), carried_over(expected));
}

/// Returns the event with the values that JSON carries over.
fn carried_over(event: &Event) -> Event {
    let mut event = event.clone();
    let (id, extra, payload) = if let Event::Item(item) = &mut event {
        (&mut item.event_id, &mut item.extra, &mut item.payload)
    } else if let Event::Board(board) = &mut event {
        (&mut board.event_id, &mut board.extra, &mut board.payload)
    } else {
        return event;
    };
    *id = uuid::Uuid::nil();
    *payload = None;
    extra.iter_mut().flat_map(Map::values_mut).for_each(|value| *value = Value::Null);
    event
}

/// Returns the id of an item or board event whose momentum was sent in microseconds.
fn id_of(event: &Event) -> Option<uuid::Uuid> {
    let momentum_ns = event.momentum().unix_timestamp_nanos();
    if let Event::Item(item) = event {
        let board_sn = text(item.board_sn.as_ref());
        Some(item_event_id(&item.tenant, &item.uid, momentum_ns, board_sn, item.is_in))
    } else if let Event::Board(board) = event {
        let status = text(board.status.as_ref());
        Some(board_event_id(&board.tenant, &board.board_sn, momentum_ns, status))
    } else {
        None
    }
}
