//! Types and defaults of single fields in schemas other than the shipped one.

use prost::encoding::encode_varint;

use super::vendor::{Folder, decoder};
use super::*;
use crate::config::{SubscribedFormats, testing};
use crate::event::RejectReason;

/// A schema of both kinds, whose item message has numbers as times.
const NUMBERS: &str = r#"
syntax = "proto3";
enum Colour { RED = 0; BLUE = 1; }
message Item { int64 momentum = 1; string uid = 2; int64 hold_time = 3; repeated Colour item_labels = 4; }
message Unrelated { int64 momentum = 1; string sn = 2; }
message Other { string uid = 1; }
message Bare { int64 momentum = 1; }
message Timeless { string sn = 1; string status = 2; }
message Nameless { int64 momentum = 1; string status = 2; }
"#;

fn schema(source: &str) -> Result<Decoder, String> {
    let folder = Folder::with(&[("vendor.proto", source.as_bytes())]);
    decoder(&folder.file("vendor.proto"))
}

/// Returns an item of [`NUMBERS`] with this momentum, followed by more fields.
fn numbered_item(momentum_ns: i64, more: &[u8]) -> Result<ItemEvent, Reject> {
    let mut bytes = vec![0x08];
    encode_varint(momentum_ns.cast_unsigned(), &mut bytes);
    bytes.extend_from_slice(b"\x12\x02E1");
    bytes.extend_from_slice(more);
    let decoder = schema(NUMBERS).unwrap();
    decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).map(item)
}

#[test]
fn zero_unsets_times_but_no_durations() {
    let ns = MOMENTUM * 1_000_000_000;
    for more in [&b""[..], b"\x18\x00"] {
        let item = numbered_item(ns, more).unwrap();
        assert_eq!((item.momentum.unix_timestamp(), item.hold_time_us), (MOMENTUM, Some(0)));
    }
    assert_eq!(numbered_item(ns, b"\x18\xc0\x84\x3d").unwrap().hold_time_us, Some(1000));
    let reject = numbered_item(0, b"").unwrap_err();
    assert_eq!(reject.reason, RejectReason::MissingField, "{reject}");
}

#[test]
fn enum_labels_are_read_packed_and_single() {
    let ns = MOMENTUM * 1_000_000_000;
    for labels in [&b"\x22\x02\x01\x00"[..], b"\x20\x01\x20\x00"] {
        let item = numbered_item(ns, labels).unwrap();
        assert_eq!(item.item_labels, Some(vec!["BLUE".to_owned(), "RED".to_owned()]));
    }
}

#[test]
fn messages_without_a_required_field_are_no_events() {
    let decoder = schema(NUMBERS).unwrap();
    assert!(decoder.covers(EventKind::Item) && !decoder.covers(EventKind::Board));
    let boards = "syntax = \"proto3\"; message Other { string uid = 1; }
                  message Bare { int64 momentum = 1; }
                  message Health { int64 momentum = 1; string sn = 2; string status = 3; }";
    let decoder = schema(boards).unwrap();
    assert!(!decoder.covers(EventKind::Item) && decoder.covers(EventKind::Board));
}

#[test]
fn other_messages_and_enums_are_refused_by_name() {
    let refused = |momentum: &str, flag: &str| {
        schema(&format!(
            "syntax = \"proto3\"; enum Colour {{ RED = 0; }} message Inner {{ int32 x = 1; }}
             message Item {{ {momentum} momentum = 1; string uid = 2; {flag} is_in = 3; }}"
        ))
        .err()
    };
    assert_eq!(refused("int64", "bool"), None);
    assert!(refused("Inner", "bool").is_some_and(|text| text.contains("is message Inner")));
    assert!(refused("int64", "Colour").is_some_and(|text| text.contains("is enum Colour")));
}

#[test]
fn schemas_must_cover_the_subscriptions() {
    let config = testing::config();
    let decoder = schema(NUMBERS).unwrap();
    let mut mqtt = config.mqtt.clone();
    mqtt.formats = testing::items_only();
    assert!(decoder.require(&config.decode, &mqtt).is_ok());
    mqtt.formats[EventKind::Board] = SubscribedFormats::Json;
    assert!(decoder.require(&config.decode, &mqtt).is_ok());
    mqtt.formats[EventKind::Board] = SubscribedFormats::Both;
    let problem = decoder.require(&config.decode, &mqtt).unwrap_err().to_string();
    assert!(problem.contains("mqtt.boards"), "{problem}");
}
