//! Tests of encoded events against the vendor's documentation.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::event::{BoardDates, BoardStatus};
use super::super::world::{SimulatedWorld, WorldSettings};
use super::*;

const NOW: i64 = 1_760_000_000_000_000_000;

/// Returns a catalog of one board and one item, with the values of a documented sample.
fn catalog() -> SiteCatalog {
    let mut catalog = SiteCatalog::new("acme", 1, 1, 1);
    catalog.boards[0] = CatalogBoard {
        sn: "CB000146".into(),
        shelf_sn: "SH-005".into(),
        furniture_sn: "FU-13".into(),
        floor: 0,
        shelf_offset_mm: 249,
        floor_offset_mm: None,
        loc_reference: "LOC-69".into(),
        loc_labels: Vec::new(),
        fw_version: "5.1.2".into(),
    };
    catalog.items[0] = CatalogItem {
        uid: "E004015000001247".into(),
        product_reference: "REF-0236".into(),
        labels: vec!["fragile".into()],
    };
    catalog
}

fn item() -> ItemMove {
    ItemMove {
        item: 0,
        board: 0,
        momentum_ns: NOW + 41_005_043,
        is_in: true,
        pos_mm: [37, 336],
        nb_hits: 13,
        hold_ns: 195_368_996_265,
        fill_ratio: 0.935_126,
        is_interpolated: false,
        quirks: EncodingQuirks::default(),
    }
}

fn board() -> BoardChange {
    BoardChange {
        board: 0,
        momentum_ns: NOW,
        status: BoardStatus::OnError,
        dates: BoardDates { connection_ns: Some(NOW - 3_600 * NS), ..BoardDates::default() },
        quirks: EncodingQuirks::default(),
    }
}

fn json(event: &SimulatedEvent) -> String {
    let bytes = EventEncoder::default().encode(&catalog(), event, PayloadFormat::Json);
    String::from_utf8(bytes.to_vec()).expect("JSON is text")
}

#[test]
fn item_in_json_equals_documented_sample() {
    let sample = r#"{"momentum":"2025-10-09T08:53:20.041005043Z","uid":"E004015000001247","is_in":true,"pos_mm":[37,336],"board_sn":"CB000146","nb_hits":13,"hold_time":195368996265,"fill_ratio":0.935126,"product_reference":"REF-0236","shelf_sn":"SH-005","furniture_sn":"FU-13","pos_on_shelf_mm":[286,336],"tenant":"acme","loc_reference":"LOC-69","loc_labels":null,"item_labels":["fragile"],"pos_on_floor_mm":null,"floor":0,"is_interpolated":false}"#;
    assert_eq!(json(&SimulatedEvent::Item(item())), sample);
}

#[test]
fn board_in_json_equals_documented_sample() {
    let sample = r#"{"Momentum":"2025-10-09T08:53:20Z","BoardSN":"CB000146","Status":"ONERROR","FwVersion":"5.1.2","LastConnectionDate":"2025-10-09T07:53:20Z","LastDisconnectionDate":"0001-01-01T00:00:00Z","LastErrorDate":"0001-01-01T00:00:00Z"}"#;
    assert_eq!(json(&SimulatedEvent::Board(board())), sample);
    let mut prefixed = board();
    prefixed.quirks.prefixed_status = true;
    let text = json(&SimulatedEvent::Board(prefixed));
    assert!(text.contains(r#""Status":"BOARDSTATUS_ONERROR""#), "{text}");
}

#[test]
fn masked_fields_are_present_but_empty_or_zero() {
    let mut event = item();
    event.quirks.masked = FieldMask(u8::MAX);
    let masked: Value = serde_json::from_str(&json(&SimulatedEvent::Item(event))).expect("JSON");
    assert_eq!(masked.as_object().map(serde_json::Map::len), Some(19));
    assert_eq!(masked["uid"], "E004015000001247");
    assert_eq!(masked["board_sn"], "CB000146");
    assert_eq!(masked["product_reference"], "");
    assert_eq!(masked["tenant"], "");
    assert_eq!(masked["hold_time"], 0);
    assert_eq!(masked["pos_mm"], Value::Null);
    event.quirks.empty_lists = true;
    let masked: Value = serde_json::from_str(&json(&SimulatedEvent::Item(event))).expect("JSON");
    assert_eq!(masked["pos_mm"], Value::Array(Vec::new()));
    assert_eq!(masked["loc_labels"], Value::Array(Vec::new()));
}

#[test]
fn unset_protobuf_dates_are_absent_or_zero() {
    let mut encoder = EventEncoder::default();
    let mut encode = |event| {
        let bytes =
            encoder.encode(&catalog(), &SimulatedEvent::Board(event), PayloadFormat::Protobuf);
        wire::BoardMessage::decode(bytes).expect("protobuf")
    };
    assert_eq!(encode(board()).last_error_date, None);
    let mut zero = board();
    zero.quirks.zero_dates = true;
    let year_one = Timestamp { seconds: GO_ZERO_SECONDS, nanos: 0 };
    assert_eq!(encode(zero).last_error_date, Some(year_one));
}

#[test]
fn topics_are_the_vendors() {
    let topics = TenantTopics::new("acme");
    let (item, board) = (SimulatedEvent::Item(item()), SimulatedEvent::Board(board()));
    assert_eq!(&**topics.of(&item, PayloadFormat::Protobuf), "centiloc/acme");
    assert_eq!(&**topics.of(&item, PayloadFormat::Json), "centiloc/acme/json/item/v1/update");
    assert_eq!(
        &**topics.of(&board, PayloadFormat::Protobuf),
        "centiloc/acme/proto/board/v1/update"
    );
    assert_eq!(&**topics.of(&board, PayloadFormat::Json), "centiloc/acme/json/board/v1/update");
}

fn json_ns(value: &Value) -> i128 {
    let text = value.as_str().expect("a time is text");
    OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339").unix_timestamp_nanos()
}

fn protobuf_ns(timestamp: Timestamp) -> i128 {
    i128::from(timestamp.seconds) * i128::from(NS) + i128::from(timestamp.nanos)
}

fn same_list<T: Into<Value> + Clone>(list: &[T], json: &Value) -> bool {
    match json {
        Value::Null => list.is_empty(),
        json => *json == Value::from(list.to_vec()),
    }
}

fn same_item(protobuf: &wire::ItemMessage, json: &Value) -> bool {
    let hold = protobuf.hold_time.unwrap_or_default();
    let momentum = protobuf.momentum.map(protobuf_ns);
    momentum == Some(json_ns(&json["momentum"]))
        && json["uid"] == protobuf.uid
        && json["is_in"] == protobuf.is_in
        && same_list(&protobuf.pos_mm, &json["pos_mm"])
        && json["board_sn"] == protobuf.board_sn
        && json["nb_hits"] == protobuf.nb_hits
        && json["hold_time"] == hold.seconds * NS + i64::from(hold.nanos)
        && json["product_reference"] == protobuf.product_reference
        && json["shelf_sn"] == protobuf.shelf_sn
        && json["furniture_sn"] == protobuf.furniture_sn
        && same_list(&protobuf.pos_on_shelf_mm, &json["pos_on_shelf_mm"])
        && json["tenant"] == protobuf.tenant
        && json["loc_reference"] == protobuf.loc_reference
        && same_list(&protobuf.loc_labels, &json["loc_labels"])
        && same_list(&protobuf.item_labels, &json["item_labels"])
        && same_list(&protobuf.pos_on_floor_mm, &json["pos_on_floor_mm"])
        && json["floor"] == protobuf.floor
        && json["is_interpolated"] == protobuf.is_interpolated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn both_formats_of_an_event_agree(seed: u64) {
        let catalog = SiteCatalog::new("acme", 30, 100, seed);
        let settings = WorldSettings { boards: 30, items: 100, seed, board_events: true };
        let (mut world, mut encoder) = (SimulatedWorld::new(settings), EventEncoder::default());
        for index in 0..300 {
            let event = world.next(NOW + index * 1_234_567);
            let protobuf = encoder.encode(&catalog, &event, PayloadFormat::Protobuf);
            let json = encoder.encode(&catalog, &event, PayloadFormat::Json);
            let json: Value = serde_json::from_slice(&json).expect("JSON");
            match event {
                SimulatedEvent::Item(_) => {
                    let item = wire::ItemMessage::decode(protobuf).expect("protobuf");
                    prop_assert!(same_item(&item, &json), "{:?}\n{}", item, json);
                }
                SimulatedEvent::Board(_) => {
                    let board = wire::BoardMessage::decode(protobuf).expect("protobuf");
                    prop_assert_eq!(&json["BoardSN"], &board.sn);
                    prop_assert_eq!(board.momentum.map(protobuf_ns), Some(json_ns(&json["Momentum"])));
                }
            }
        }
    }
}
