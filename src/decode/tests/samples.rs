//! Payloads of an independent encoder become the rows that it expects.

use std::path::Path;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::*;

fn time(value: Option<OffsetDateTime>) -> Value {
    value.map_or(Value::Null, |time| json!(time.format(&Rfc3339).unwrap()))
}

fn item_columns(item: &ItemEvent) -> Value {
    json!({
        "kind": "item", "tenant": item.tenant, "uid": item.uid, "momentum": time(Some(item.momentum)),
        "is_in": item.is_in, "board_sn": item.board_sn, "x_mm": item.x_mm, "y_mm": item.y_mm,
        "shelf_x_mm": item.shelf_x_mm, "shelf_y_mm": item.shelf_y_mm,
        "floor_x_mm": item.floor_x_mm, "floor_y_mm": item.floor_y_mm, "floor": item.floor,
        "nb_hits": item.nb_hits, "hold_time_us": item.hold_time_us, "fill_ratio": item.fill_ratio,
        "product_reference": item.product_reference, "shelf_sn": item.shelf_sn,
        "furniture_sn": item.furniture_sn, "loc_reference": item.loc_reference,
        "loc_labels": item.loc_labels, "item_labels": item.item_labels,
        "is_interpolated": item.is_interpolated, "extra": item.extra,
        "payload_kept": item.payload.is_some(),
    })
}

fn board_columns(board: &BoardEvent) -> Value {
    json!({
        "kind": "board", "tenant": board.tenant, "momentum": time(Some(board.momentum)),
        "board_sn": board.board_sn, "status": board.status, "fw_version": board.fw_version,
        "last_connection_at": time(board.last_connection_at),
        "last_disconnection_at": time(board.last_disconnection_at),
        "last_error_at": time(board.last_error_at), "extra": board.extra,
        "payload_kept": board.payload.is_some(),
    })
}

/// The times of the samples, cut from their full resolution to that of the tables.
fn as_column(name: &str, value: &Value) -> (String, Value) {
    match (name, value) {
        ("hold_time_ns", ns) => {
            ("hold_time_us".into(), ns.as_i64().map_or(Value::Null, |ns| json!(ns / 1000)))
        }
        ("momentum", Value::String(text)) => {
            let full = OffsetDateTime::parse(text, &Rfc3339).unwrap();
            let cut = full.replace_microsecond(full.microsecond()).unwrap();
            (name.into(), time(Some(cut)))
        }
        _ => (name.into(), value.clone()),
    }
}

#[test]
fn every_sample_becomes_its_expected_row() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let decoder = shipped(KeepPayload::Unknown);
    let samples = expected.as_object().unwrap();
    for (file, sample) in samples {
        let payload = Bytes::from(std::fs::read(folder.join(file)).unwrap());
        let topic = sample["topic"].as_str().unwrap();
        let event = decoder.decode(topic, &payload, NOW, ClockTrust::Agree(NOW)).unwrap();
        let columns = if let Event::Item(item) = event {
            item_columns(&item)
        } else {
            board_columns(&board(event))
        };
        for (name, value) in sample["columns"].as_object().unwrap() {
            let (name, value) = as_column(name, value);
            assert_eq!(columns.get(&name), Some(&value), "{file}: {name}");
        }
    }
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(samples.len(), files - 1, "every file beside expected.json is described in it");
}

#[test]
fn both_forms_of_a_sample_have_one_id() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for name in ["item-0", "item-41", "item-977"] {
        let bytes = |end: &str| std::fs::read(folder.join(format!("{name}.{end}"))).unwrap();
        let decoder = shipped(KeepPayload::Never);
        let proto =
            decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes("pb")).unwrap();
        let json = decode(&decoder, EventKind::Item, EventEncoding::Json, &bytes("json")).unwrap();
        assert_eq!(proto.event_id(), json.event_id(), "{name}");
        assert_eq!(proto.momentum(), json.momentum(), "{name}");
    }
}

/// These ids were computed from the definition by other means. They never change, since databases hold
/// them.
#[test]
fn ids_are_pinned_for_ever() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let decoder = shipped(KeepPayload::Never);
    for (file, kind, encoding, id) in [
        (
            "item-0.pb",
            EventKind::Item,
            EventEncoding::Protobuf,
            "f635f28c-20d8-e0ff-8f45-de490b093fc7",
        ),
        (
            "item-0.json",
            EventKind::Item,
            EventEncoding::Json,
            "f635f28c-20d8-e0ff-8f45-de490b093fc7",
        ),
        (
            "item-41.pb",
            EventKind::Item,
            EventEncoding::Protobuf,
            "1f7d676f-4f71-bb5b-0f4d-a3c1c77f720f",
        ),
        (
            "item-41.json",
            EventKind::Item,
            EventEncoding::Json,
            "1f7d676f-4f71-bb5b-0f4d-a3c1c77f720f",
        ),
        (
            "item-977.pb",
            EventKind::Item,
            EventEncoding::Protobuf,
            "89680466-e2b5-7c13-6411-fc65b82b92de",
        ),
        (
            "item-977.json",
            EventKind::Item,
            EventEncoding::Json,
            "89680466-e2b5-7c13-6411-fc65b82b92de",
        ),
        (
            "item-masked.pb",
            EventKind::Item,
            EventEncoding::Protobuf,
            "42157ecd-52d0-4fde-b34d-8951ac819e93",
        ),
        (
            "item-unknown-field.pb",
            EventKind::Item,
            EventEncoding::Protobuf,
            "4d4cb627-9294-4962-1ff4-7ee1fda0a330",
        ),
        (
            "item-unknown-field.json",
            EventKind::Item,
            EventEncoding::Json,
            "daf8007f-a308-537c-96b2-b860124fe04c",
        ),
        (
            "board.pb",
            EventKind::Board,
            EventEncoding::Protobuf,
            "a997b94b-c1ae-b9a6-e7e0-8b545d51572d",
        ),
        (
            "board.json",
            EventKind::Board,
            EventEncoding::Json,
            "63961c71-af74-c014-4867-c760e52cc562",
        ),
    ] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let event = decode(&decoder, kind, encoding, &bytes).unwrap();
        assert_eq!(event.event_id().to_string(), id, "{file}");
    }
}
