//! The maxima, in each format and schema: at the maximum a message is an event, one above it is
//! refused with the field, the count and the limit.

use serde_json::{Value, json};

use super::vendor::{Folder, decoder as vendor_decoder};
use super::*;
use crate::decode::bounded::{
    MAX_ESCAPED_BYTES, MAX_EXTRA_BYTES, MAX_KEYS, MAX_LABEL_BYTES, MAX_LABELS, MAX_POSITIONS,
    MAX_TEXT_BYTES,
};
use crate::event::RejectReason;

/// Other numbers and other types than the shipped ones.
const VENDOR: &str = r#"
syntax = "proto3";
import "google/protobuf/timestamp.proto";
enum Zone { ZONE_NONE = 0; ZONE_COLD = 1; }
message Item {
  google.protobuf.Timestamp momentum = 1; string uid = 2; repeated sfixed32 pos_mm = 30;
  repeated sint64 pos_on_shelf_mm = 31; repeated Zone loc_labels = 32;
  repeated bytes item_labels = 33; bytes loc_reference = 34;
}
message Board {
  google.protobuf.Timestamp momentum = 1; string sn = 2; string status = 3; bytes fw_version = 40;
}
"#;

/// The name of a field, and a function that makes an item with it.
type Setter<T> = (&'static str, fn(T) -> pb::ItemEvent);

/// The name of a field, its maximum, and a function that encodes a given amount of it.
type Case<'a> = (&'static str, usize, &'a dyn Fn(usize) -> Vec<u8>);

/// Asserts that the message is refused, and that its refusal contains `expected`.
fn assert_beyond<T: std::fmt::Debug>(result: Result<T, Reject>, expected: &str) {
    let reject = result.unwrap_err();
    assert_eq!(reject.reason, RejectReason::OutOfRange, "{reject}");
    assert!(reject.detail.contains(expected), "{reject} lacks {expected}");
}

fn read(message: &pb::ItemEvent) -> Result<ItemEvent, Reject> {
    item_proto(&message.encode_to_vec())
}

/// A JSON item with more keys.
fn with(keys: &str) -> Result<ItemEvent, Reject> {
    item_json(&format!(r#"{{"momentum":"2025-10-09T08:53:20Z","uid":"E1"{keys}}}"#))
}

fn with_value(key: &str, value: &impl serde::Serialize) -> Result<ItemEvent, Reject> {
    with(&format!(r#","{key}":{}"#, serde_json::to_string(value).unwrap()))
}

/// A field of protobuf with a length.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend(content);
    bytes
}

#[test]
fn positions_have_a_maximum_in_both_formats() {
    let list = |count: usize| vec![-1; count];
    let set: [Setter<Vec<i32>>; 3] = [
        ("pos_mm", |list| pb::ItemEvent { pos_mm: list, ..least_item() }),
        ("pos_on_shelf_mm", |list| pb::ItemEvent { pos_on_shelf_mm: list, ..least_item() }),
        ("pos_on_floor_mm", |list| pb::ItemEvent { pos_on_floor_mm: list, ..least_item() }),
    ];
    for (name, message) in set {
        let whole = json!({ name: list(MAX_POSITIONS) });
        let row = read(&message(list(MAX_POSITIONS))).unwrap();
        assert_eq!(Value::from(row.extra.unwrap()), whole);
        let row = with_value(name, &list(MAX_POSITIONS)).unwrap();
        assert_eq!(Value::from(row.extra.unwrap()), whole);
        let expected = format!("{name} has 1001 elements, at most 1000 are accepted");
        assert_beyond(read(&message(list(MAX_POSITIONS + 1))), &expected);
        assert_beyond(with_value(name, &list(MAX_POSITIONS + 1)), &expected);
    }
}

#[test]
fn positions_are_counted_packed_or_not() {
    let single = |count| followed_by(&least_item(), &b"\x20\x01".repeat(count));
    assert!(item_proto(&single(MAX_POSITIONS)).is_ok());
    assert_beyond(item_proto(&single(5_000)), "pos_mm has 5000 elements, at most 1000");
    let packed = field(4, &[1; 600]).repeat(2);
    assert_beyond(item_proto(&followed_by(&least_item(), &packed)), "1200 elements");
}

#[test]
fn labels_have_a_maximum_in_both_formats() {
    let list = |count: usize| vec![String::new(); count];
    let set: [Setter<Vec<String>>; 2] = [
        ("loc_labels", |list| pb::ItemEvent { loc_labels: list, ..least_item() }),
        ("item_labels", |list| pb::ItemEvent { item_labels: list, ..least_item() }),
    ];
    for (name, message) in set {
        assert!(read(&message(list(MAX_LABELS))).is_ok());
        assert!(with_value(name, &list(MAX_LABELS)).is_ok());
        let expected = format!("{name} has 1001 elements, at most 1000 are accepted");
        assert_beyond(read(&message(list(MAX_LABELS + 1))), &expected);
        assert_beyond(with_value(name, &list(MAX_LABELS + 1)), &expected);
    }
}

#[test]
fn labels_have_a_maximum_of_text_in_all() {
    let list = |more: usize| vec!["x".repeat(MAX_LABEL_BYTES - 1), "y".repeat(1 + more)];
    let message = |list| pb::ItemEvent { item_labels: list, ..least_item() };
    assert_eq!(read(&message(list(0))).unwrap().item_labels, Some(list(0)));
    assert_eq!(with_value("item_labels", &list(0)).unwrap().item_labels, Some(list(0)));
    let expected = "item_labels has 65537 bytes of text, at most 65536 are accepted";
    assert_beyond(read(&message(list(1))), expected);
    assert_beyond(with_value("item_labels", &list(1)), expected);
}

#[test]
fn texts_have_a_maximum_in_both_formats() {
    let set: [Setter<String>; 7] = [
        ("uid", |text| pb::ItemEvent { uid: text, ..least_item() }),
        ("tenant", |text| pb::ItemEvent { tenant: text, ..least_item() }),
        ("board_sn", |text| pb::ItemEvent { board_sn: text, ..least_item() }),
        ("product_reference", |text| pb::ItemEvent { product_reference: text, ..least_item() }),
        ("shelf_sn", |text| pb::ItemEvent { shelf_sn: text, ..least_item() }),
        ("furniture_sn", |text| pb::ItemEvent { furniture_sn: text, ..least_item() }),
        ("loc_reference", |text| pb::ItemEvent { loc_reference: text, ..least_item() }),
    ];
    for (name, message) in set {
        let text = |more: usize| "x".repeat(MAX_TEXT_BYTES + more);
        assert!(read(&message(text(0))).is_ok());
        assert!(with_value(name, &text(0)).is_ok());
        let expected = format!("{name} has 65537 bytes, at most 65536 are accepted");
        assert_beyond(read(&message(text(1))), &expected);
        assert_beyond(with_value(name, &text(1)), &expected);
    }
}

#[test]
fn texts_of_board_events_have_a_maximum() {
    let board = |text: &str| {
        let message = pb::BoardStatusEvent { fw_version: text.into(), ..least_board() };
        let json = json!({"Momentum": "2025-10-09T08:53:20Z", "BoardSN": "B", "FwVersion": text});
        (board_proto(&message.encode_to_vec()), board_json(&json.to_string()))
    };
    let (proto, json) = board(&"x".repeat(MAX_TEXT_BYTES));
    assert!(proto.is_ok() && json.is_ok());
    let (proto, json) = board(&"x".repeat(MAX_TEXT_BYTES + 1));
    assert_beyond(proto, "fw_version has 65537 bytes");
    assert_beyond(json, "FwVersion has 65537 bytes");
}

#[test]
fn escaped_text_is_measured_unescaped() {
    let escaped = |count: usize| format!(r#","shelf_sn":"{}""#, r"\u0041".repeat(count));
    let row = with(&escaped(MAX_TEXT_BYTES)).unwrap();
    assert_eq!(row.shelf_sn.map(|text| text.len()), Some(MAX_TEXT_BYTES));
    let expected = format!("bytes of escaped text, at most {MAX_ESCAPED_BYTES} are accepted");
    assert_beyond(with(&escaped(MAX_TEXT_BYTES + 1)), &expected);
    // Short escapes pass that limit and are refused after they are unescaped.
    let newlines = format!(r#","shelf_sn":"{}""#, r"\n".repeat(MAX_TEXT_BYTES + 1));
    assert_beyond(with(&newlines), "shelf_sn has 65537 bytes");
    for place in ["momentum", "hold_time", "loc_labels"] {
        let text = format!(r#""{}""#, r"\u0041".repeat(MAX_TEXT_BYTES + 1));
        let value = if place == "loc_labels" { format!("[{text}]") } else { text };
        assert_beyond(with(&format!(r#","{place}":{value}"#)), place);
    }
    let key = format!(r#","{}":1"#, r"\u0041".repeat(MAX_TEXT_BYTES + 1));
    assert_beyond(with(&key), "bytes of escaped text");
}

#[test]
fn json_objects_have_a_maximum_of_keys() {
    let many = |key: &dyn Fn(usize) -> String, count| -> String {
        let keys: Vec<_> = (0..count).map(|place| format!(r#","{}":null"#, key(place))).collect();
        keys.concat()
    };
    // Unknown ones, repeated ones, known ones, escaped ones.
    let keys: [&dyn Fn(usize) -> String; 4] =
        [&|place| format!("k{place}"), &|_| "k".to_owned(), &|_| "floor".to_owned(), &|place| {
            format!("\\u0041{place}")
        }];
    for key in keys {
        assert!(with(&many(key, MAX_KEYS - 2)).is_ok());
        let expected = "the object has 1001 keys, at most 1000 are accepted";
        assert_beyond(with(&many(key, MAX_KEYS - 1)), expected);
    }
    let board = format!(
        r#"{{"Momentum":"2025-10-09T08:53:20Z","BoardSN":"B1"{}}}"#,
        many(keys[0], MAX_KEYS)
    );
    assert_beyond(board_json(&board), "the object has 1002 keys");
}

#[test]
fn unknown_json_has_a_maximum_of_bytes() {
    // The key has one byte, the quotes are two more.
    let text = |more: usize| "x".repeat(MAX_EXTRA_BYTES - 3 + more);
    assert_eq!(with_value("n", &text(0)).unwrap().extra.unwrap()["n"], json!(text(0)));
    let expected = "the set of unknown keys has 65537 bytes of JSON, at most 65536 are accepted";
    assert_beyond(with_value("n", &text(1)), expected);
    let list = format!(r#","n":[{}0]"#, "0,".repeat(MAX_EXTRA_BYTES));
    assert_beyond(with(&list), "the set of unknown keys has 131076 bytes");
    let key = format!(r#","{}":1"#, "k".repeat(MAX_EXTRA_BYTES));
    assert_beyond(with(&key), expected);
    let variants = format!(r#","UID":"{0}","Uid":"{0}""#, "x".repeat(MAX_EXTRA_BYTES / 2));
    assert_beyond(with(&variants), "the set of unknown keys has 65");
}

#[test]
fn the_vendors_schema_has_the_same_maxima() {
    let folder = Folder::with(&[("vendor.proto", VENDOR.as_bytes())]);
    let decoder = vendor_decoder(&folder.file("vendor.proto")).unwrap();
    let item = |more: &[u8]| {
        decode(
            &decoder,
            EventKind::Item,
            EventEncoding::Protobuf,
            &followed_by(&least_item(), more),
        )
    };
    let packed = |number, size| move |count: usize| field(number, &vec![1; count * size]);
    let single = |number, text: &'static [u8]| move |count| field(number, text).repeat(count);
    let cases: [Case; 5] = [
        ("pos_mm", MAX_POSITIONS, &packed(30, 4)),
        ("pos_on_shelf_mm", MAX_POSITIONS, &packed(31, 1)),
        ("loc_labels", MAX_LABELS, &packed(32, 1)),
        ("item_labels", MAX_LABELS, &single(33, b"")),
        ("loc_reference", MAX_TEXT_BYTES, &packed(34, 1)),
    ];
    for (name, most, bytes) in cases {
        assert!(item(&bytes(most)).is_ok(), "{name}");
        assert_beyond(item(&bytes(most + 1)), &format!("{name} has {} ", most + 1));
    }
    let board = |count| {
        let bytes = followed_by(&least_board(), &field(40, &vec![b'x'; count]));
        decode(&decoder, EventKind::Board, EventEncoding::Protobuf, &bytes)
    };
    assert!(board(MAX_TEXT_BYTES).is_ok());
    assert_beyond(board(MAX_TEXT_BYTES + 1), "fw_version has 65537 bytes");
}

#[test]
fn enum_labels_have_a_maximum_of_text() {
    let zone = "Z".repeat(1000);
    let schema = VENDOR.replace("ZONE_COLD", &zone);
    let folder = Folder::with(&[("vendor.proto", schema.as_bytes())]);
    let decoder = vendor_decoder(&folder.file("vendor.proto")).unwrap();
    let item = |count| {
        let bytes = followed_by(&least_item(), &field(32, &vec![1; count]));
        decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes)
    };
    assert!(item(65).is_ok());
    assert_beyond(item(66), "loc_labels has 66000 bytes of text");
}

#[test]
fn unknown_protobuf_fields_have_no_maximum() {
    let decoder = shipped(KeepPayload::Unknown);
    let bytes = followed_by(&least_item(), &b"\xf8\x0f\x01".repeat(100_000));
    let row = item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
    assert_eq!((row.extra, row.payload), (None, Some(Bytes::from(bytes))));
}
