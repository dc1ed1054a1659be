//! Schemas other than the shipped one: other numbers, other types, other files, and those that
//! are refused.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use tempfile::TempDir;

use super::*;
use crate::decode::load;
use crate::event::RejectReason;

const SHUFFLED: &str = r#"
syntax = "proto3";
package vendor.v2;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "common.proto";
message Unrelated { string uid = 1; }
message Move {
  bool isInterpolated = 1; int32 floor = 2; repeated int32 pos_on_floor_mm = 3;
  repeated string item_labels = 4; repeated string loc_labels = 5; string loc_reference = 6;
  string tenant = 7; repeated int32 pos_on_shelf_mm = 8; string furniture_sn = 9;
  string ShelfSN = 10; string product_reference = 11; float fill_ratio = 12;
  google.protobuf.Duration hold_time = 13; int32 nb_hits = 14; string board_sn = 15;
  repeated int32 pos_mm = 16; bool is_in = 17; string uid = 70;
  google.protobuf.Timestamp momentum = 2000;
}
message Health {
  Status status = 1; string board_sn = 2; google.protobuf.Timestamp momentum = 3;
}
"#;

const COMMON: &str = r#"
syntax = "proto3";
package vendor.v2;
enum Status { STATUS_CONNECTED = 0; STATUS_DISCONNECTED = 5; STATUS_SLEEPING = 9; }
"#;

/// A folder that holds a schema.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        for (name, content) in files {
            std::fs::write(folder.file(name), content).unwrap();
        }
        folder
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub(super) fn decoder(file: &Path) -> Result<Decoder, String> {
    let config = DecodeConfig::new(Some(file.to_owned()), KeepPayload::Auto);
    Decoder::new(&config, "acme").map_err(|error| error.to_string())
}

pub(super) fn refusal(source: &str) -> String {
    let folder = Folder::with(&[("vendor.proto", source.as_bytes())]);
    decoder(&folder.file("vendor.proto")).unwrap_err()
}

/// A `.proto` whose item message has the given fields in addition to the required ones.
pub(super) fn item_schema(fields: &str) -> String {
    format!(
        "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\";
         message Inner {{ int32 x = 1; }}
         message Item {{ google.protobuf.Timestamp momentum = 1; string uid = 2; {fields} }}"
    )
}

/// A message of the vendor's schema.
fn message(pool: &DescriptorPool, name: &str) -> DynamicMessage {
    DynamicMessage::new(pool.get_message_by_name(name).unwrap())
}

/// Writes an item of the shipped schema with the numbers of another, field by field.
fn renumber(item: &pb::ItemEvent, shipped: &MessageDescriptor, other: &DescriptorPool) -> Vec<u8> {
    let source = DynamicMessage::decode(shipped.clone(), item.encode_to_vec().as_slice()).unwrap();
    let mut target = message(other, "vendor.v2.Move");
    for (field, value) in source.fields() {
        let name = match field.name() {
            "is_interpolated" => "isInterpolated",
            "shelf_sn" => "ShelfSN",
            name => name,
        };
        target.set_field_by_name(name, value.clone());
    }
    target.encode_to_vec()
}

fn shuffled() -> (Folder, DescriptorPool) {
    let folder =
        Folder::with(&[("move.proto", SHUFFLED.as_bytes()), ("common.proto", COMMON.as_bytes())]);
    let pool = load::vendor(&folder.file("move.proto")).unwrap();
    std::fs::write(folder.file("move.binpb"), pool.encode_to_vec()).unwrap();
    (folder, pool)
}

#[test]
fn shuffled_numbers_decode_to_the_same_row() {
    let (folder, pool) = shuffled();
    let original = pb::ItemEvent {
        is_in: true,
        pos_mm: vec![67, 218, 3],
        board_sn: "CB1".into(),
        nb_hits: 25,
        hold_time: Some(prost_types::Duration { seconds: 688, nanos: 909_075_924 }),
        fill_ratio: 0.5,
        shelf_sn: "SH".into(),
        tenant: "own".into(),
        loc_labels: vec!["cold".into(), "bay-1".into()],
        floor: -1,
        is_interpolated: true,
        ..least_item()
    };
    let builtin = load::shipped().unwrap().get_message_by_name("transtream.ItemEvent").unwrap();
    let bytes = renumber(&original, &builtin, &pool);
    let momentum = OffsetDateTime::from_unix_timestamp(MOMENTUM).unwrap();
    let extra = serde_json::json!({"pos_mm": [67, 218, 3]});
    let expected = ItemEvent {
        received_at: NOW,
        x_mm: Some(67),
        y_mm: Some(218),
        nb_hits: Some(25),
        hold_time_us: Some(688_909_075),
        fill_ratio: Some(0.5),
        shelf_sn: Some("SH".into()),
        loc_labels: Some(vec!["cold".into(), "bay-1".into()]),
        floor: Some(-1),
        is_interpolated: Some(true),
        extra: extra.as_object().cloned(),
        ..ItemEvent::bare("own", "E1", momentum, "CB1", true)
    };
    for file in ["move.proto", "move.binpb"] {
        let decoder = decoder(&folder.file(file)).unwrap();
        assert!(!decoder.schema_is_assumed() && decoder.covers(EventKind::Board));
        let row = item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
        assert_eq!(row, expected, "{file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_numbering_decodes_alike(order in Just((1u32..20).collect::<Vec<_>>()).prop_shuffle()) {
        let mut source = include_str!("../../../proto/transtream.proto").to_owned();
        let (_, fields) = source.split_once("message ItemEvent {").unwrap();
        let (fields, _) = fields.split_once('}').unwrap();
        let mut renumbered = fields.to_owned();
        for (old, new) in (1..20).zip(&order) {
            renumbered = renumbered.replace(&format!("= {old};"), &format!("= <{new}>;"));
        }
        source = source.replace(fields, &renumbered.replace(['<', '>'], ""));
        let folder = Folder::with(&[("vendor.proto", source.as_bytes())]);
        let vendor = decoder(&folder.file("vendor.proto")).unwrap();
        let pool = load::vendor(&folder.file("vendor.proto")).unwrap();
        let mut theirs = message(&pool, "transtream.ItemEvent");
        let builtin = load::shipped().unwrap().get_message_by_name("transtream.ItemEvent").unwrap();
        let sample: &[u8] = include_bytes!("../../../tests/samples/item-41.pb");
        for (field, value) in DynamicMessage::decode(builtin, sample).unwrap().fields() {
            theirs.set_field_by_name(field.name(), value.clone());
        }
        let row = decode(&vendor, EventKind::Item, EventEncoding::Protobuf, &theirs.encode_to_vec()).unwrap();
        prop_assert_eq!(item(row), item_proto(sample).unwrap());
    }
}

#[test]
fn descriptor_sets_need_no_google_imports() {
    let (folder, pool) = shuffled();
    let files = pool.file_descriptor_protos().filter(|file| !file.name().starts_with("google/"));
    let set = prost_types::FileDescriptorSet { file: files.cloned().collect() };
    std::fs::write(folder.file("lean.binpb"), set.encode_to_vec()).unwrap();
    decoder(&folder.file("lean.binpb")).unwrap();
}

#[test]
fn editions_are_refused_with_what_can_be_read() {
    let (folder, pool) = shuffled();
    let mut file: Vec<_> = pool.file_descriptor_protos().cloned().collect();
    for file in &mut file {
        file.syntax = Some("editions".into());
    }
    let set = prost_types::FileDescriptorSet { file };
    std::fs::write(folder.file("editions.binpb"), set.encode_to_vec()).unwrap();
    let of_descriptors = decoder(&folder.file("editions.binpb")).unwrap_err();
    assert!(of_descriptors.contains("is written in editions"), "{of_descriptors}");
    assert!(of_descriptors.contains("expected proto2 or proto3"), "{of_descriptors}");
    let of_source = refusal("edition = \"2023\"; message Item { int64 momentum = 1; }");
    assert!(of_source.contains("could not compile it: "), "{of_source}");
}

#[test]
fn a_vendor_enum_names_the_status() {
    let (folder, pool) = shuffled();
    let decoder = decoder(&folder.file("move.proto")).unwrap();
    let momentum = Timestamp { seconds: MOMENTUM, nanos: 0 };
    for (number, name) in [(0, "CONNECTED"), (5, "DISCONNECTED"), (9, "SLEEPING"), (2, "2")] {
        let mut health = message(&pool, "vendor.v2.Health");
        health.set_field_by_name("board_sn", Value::String("B1".into()));
        health.set_field_by_name("status", Value::EnumNumber(number));
        let mut time = message(&pool, "google.protobuf.Timestamp");
        time.transcode_from(&momentum).unwrap();
        health.set_field_by_name("momentum", Value::Message(time));
        let bytes = health.encode_to_vec();
        let row =
            board(decode(&decoder, EventKind::Board, EventEncoding::Protobuf, &bytes).unwrap());
        assert_eq!((row.board_sn.as_str(), row.status.as_deref()), ("B1", Some(name)));
        assert_eq!(row.payload, None, "no unknown fields, so nothing is kept");
    }
}

const OTHER_TYPES: &str = r#"
syntax = "proto3";
enum Zone { ZONE_NONE = 0; ZONE_COLD = 1; }
message Item {
  int64 momentum = 1; bytes uid = 2; repeated sint32 pos_mm = 4; sfixed64 nb_hits = 6;
  int64 hold_time = 7; double fill_ratio = 8; fixed32 floor = 18; repeated Zone loc_labels = 15;
  repeated fixed64 pos_on_shelf_mm = 12; sint64 unheard_of = 99; Zone loc_reference = 14;
}
message Board { string momentum = 1; string sn = 2; string status = 3; uint64 last_error_date = 7; }
"#;

#[test]
fn other_types_of_the_same_fields_are_read() {
    let folder = Folder::with(&[("other.proto", OTHER_TYPES.as_bytes())]);
    let decoder = decoder(&folder.file("other.proto")).unwrap();
    let pool = load::vendor(&folder.file("other.proto")).unwrap();
    let mut theirs = message(&pool, "Item");
    let numbers = |values: &[i32]| Value::List(values.iter().map(|v| Value::I32(*v)).collect());
    theirs.set_field_by_name("momentum", Value::I64(MOMENTUM * 1_000_000_000 + 5_999));
    theirs.set_field_by_name("uid", Value::Bytes("É1".as_bytes().into()));
    theirs.set_field_by_name("pos_mm", numbers(&[-5, 7]));
    theirs.set_field_by_name("nb_hits", Value::I64(-3));
    theirs.set_field_by_name("hold_time", Value::I64(-1_999));
    theirs.set_field_by_name("fill_ratio", Value::F64(0.1));
    theirs.set_field_by_name("floor", Value::U32(4));
    let zones = vec![Value::EnumNumber(1), Value::EnumNumber(8)];
    theirs.set_field_by_name("loc_labels", Value::List(zones));
    theirs.set_field_by_name("pos_on_shelf_mm", Value::List(vec![Value::U64(1), Value::U64(2)]));
    theirs.set_field_by_name("unheard_of", Value::I64(1));
    let bytes = theirs.encode_to_vec();
    let row = item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
    assert_eq!(row.momentum, datetime!(2025-10-09 08:53:20.000005 UTC));
    assert_eq!((row.uid.as_str(), row.x_mm, row.y_mm), ("É1", Some(-5), Some(7)));
    assert_eq!((row.nb_hits, row.floor, row.hold_time_us), (Some(-3), Some(4), Some(-1)));
    assert_eq!((row.fill_ratio, row.shelf_x_mm, row.shelf_y_mm), (Some(0.1), Some(1), Some(2)));
    assert_eq!(row.loc_labels, Some(vec!["COLD".into(), "8".into()]));
    assert_eq!(row.loc_reference.as_deref(), Some("NONE"));
    assert_eq!(row.is_interpolated, None, "the schema has no such field");
    assert_eq!(row.payload, Some(Bytes::from(bytes)), "a field without a column is kept");
}

#[test]
fn every_kind_of_whole_number_is_read() {
    type Wrap = fn(i32) -> Value;
    let signed: Wrap = Value::I32;
    let long: Wrap = |value| Value::I64(value.into());
    let unsigned: Wrap = |value| Value::U32(value.unsigned_abs());
    let unsigned_long: Wrap = |value| Value::U64(value.unsigned_abs().into());
    for (kind, wrap) in [
        ("int32", signed),
        ("sint32", signed),
        ("sfixed32", signed),
        ("int64", long),
        ("sint64", long),
        ("sfixed64", long),
        ("uint32", unsigned),
        ("fixed32", unsigned),
        ("uint64", unsigned_long),
        ("fixed64", unsigned_long),
    ] {
        let source = item_schema(&format!("{kind} floor = 3; repeated {kind} pos_mm = 4;"));
        let folder = Folder::with(&[("vendor.proto", source.as_bytes())]);
        let decoder = decoder(&folder.file("vendor.proto")).unwrap();
        let pool = load::vendor(&folder.file("vendor.proto")).unwrap();
        for value in [0, 1, 127, 128, i32::MAX, -1, -300, i32::MIN + 1] {
            let is_signed = !kind.starts_with('u') && !kind.starts_with("fixed");
            let value = if is_signed { value } else { value.abs() };
            let mut theirs = message(&pool, "Item");
            theirs.set_field_by_name("floor", wrap(value));
            theirs.set_field_by_name("pos_mm", Value::List(vec![wrap(value), wrap(7)]));
            let bytes = followed_by(&least_item(), &theirs.encode_to_vec());
            let row =
                item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
            let expected = (Some(value), Some(value), Some(7));
            assert_eq!((row.floor, row.x_mm, row.y_mm), expected, "{kind}");
        }
    }
}

#[test]
fn times_as_numbers_and_texts_are_read() {
    let folder = Folder::with(&[("other.proto", OTHER_TYPES.as_bytes())]);
    let decoder = decoder(&folder.file("other.proto")).unwrap();
    let read = |bytes: &[u8]| {
        decode(&decoder, EventKind::Board, EventEncoding::Protobuf, bytes).map(board)
    };
    let row = read(b"\x0a\x142025-10-09T08:53:20Z\x12\x02B1\x1a\x13BOARDSTATUS_onerror").unwrap();
    assert_eq!(row.status.as_deref(), Some("ONERROR"));
    assert_eq!((row.momentum.unix_timestamp(), row.last_error_at), (MOMENTUM, None));
    let reject = read(b"\x0a\x05today\x12\x02B1").unwrap_err();
    assert_eq!(reject.reason, RejectReason::Malformed);
    assert!(reject.detail.contains("momentum") && !reject.detail.contains("proto_file"));
}

#[test]
fn numbers_beyond_their_column_are_out_of_range() {
    let folder = Folder::with(&[("other.proto", OTHER_TYPES.as_bytes())]);
    let decoder = decoder(&folder.file("other.proto")).unwrap();
    for (bytes, field) in [
        (&b"\x95\x01\xff\xff\xff\xff"[..], "floor"),
        (b"\x31\xff\xff\xff\xff\xff\xff\xff\x7f", "nb_hits"),
        (b"\x62\x08\xff\xff\xff\xff\xff\xff\xff\xff", "pos_on_shelf_mm"),
        (b"\x41\xff\xff\xff\xff\xff\xff\xef\x7f", "fill_ratio"),
    ] {
        let reject = decode(&decoder, EventKind::Item, EventEncoding::Protobuf, bytes).unwrap_err();
        assert_eq!(reject.reason, RejectReason::OutOfRange, "{reject}");
        assert!(reject.detail.contains(field), "{reject}");
    }
}

#[test]
fn vendor_schemas_skip_plausibility_checks() {
    let (folder, pool) = shuffled();
    let decoder = decoder(&folder.file("move.proto")).unwrap();
    let builtin = load::shipped().unwrap().get_message_by_name("transtream.ItemEvent").unwrap();
    let odd = pb::ItemEvent { momentum: Some(at(1)), uid: "E\n".into(), ..least_item() };
    let bytes = renumber(&odd, &builtin, &pool);
    let row = item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
    assert_eq!((row.uid.as_str(), row.momentum.unix_timestamp()), ("E\n", 1));
    let reject =
        decode(&decoder, EventKind::Item, EventEncoding::Protobuf, b"\x0d\0\0\0\0").unwrap_err();
    assert_eq!(reject.reason, RejectReason::Malformed, "a wire type that does not fit: {reject}");
}

#[test]
fn a_file_with_one_kind_decodes_that_kind() {
    let folder = Folder::with(&[("vendor.proto", item_schema("").as_bytes())]);
    let decoder = decoder(&folder.file("vendor.proto")).unwrap();
    assert!(decoder.covers(EventKind::Item) && !decoder.covers(EventKind::Board));
    let bytes = least_item().encode_to_vec();
    let row = item(decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).unwrap());
    assert_eq!((row.uid.as_str(), row.floor), ("E1", None));
    let reject = decode(&decoder, EventKind::Board, EventEncoding::Protobuf, &bytes).unwrap_err();
    assert_eq!(reject.reason, RejectReason::UnknownTopic);
    assert!(reject.detail.contains("no board message"), "{reject}");
}

#[test]
fn only_the_shipped_numbers_are_assumed() {
    assert!(shipped(KeepPayload::Auto).schema_is_assumed());
    let folder = Folder::with(&[("vendor.proto", item_schema("").as_bytes())]);
    assert!(!decoder(&folder.file("vendor.proto")).unwrap().schema_is_assumed());
}
