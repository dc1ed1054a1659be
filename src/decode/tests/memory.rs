//! Bounds of the memory of a decoded message: every event is small or refused.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::decode::bounded::{MAX_EXTRA_BYTES, MAX_TEXT_BYTES};
use crate::event::RejectReason;

/// Most bytes that any accepted event takes, in addition to the payload that it shares with its message.
/// Unknown JSON makes up nearly all of it.
const MOST: usize = 9 * 1024 * 1024;

/// Most bytes of memory for one of payload. The worst is an object of one key, `{"":}`, for which
/// a map takes a node of 664 bytes.
const FACTOR: usize = 664 / 5 + 1;

/// Bytes that an event takes even for a short message: the allocations of its texts and lists, and the
/// first node of `extra`.
const LEAST: usize = 2 * 1024;

fn assert_small(result: Result<Event, Reject>, payload: usize) -> Result<(), TestCaseError> {
    match result {
        Ok(event) => {
            let bytes = event.heap_bytes();
            prop_assert!(bytes <= MOST, "{bytes} bytes for {payload}");
            prop_assert!(bytes <= LEAST + FACTOR * payload, "{bytes} bytes for {payload}");
        }
        Err(reject) => prop_assert_eq!(reject.reason, RejectReason::OutOfRange, "{}", reject),
    }
    Ok(())
}

fn decode_item(encoding: EventEncoding, payload: &[u8]) -> Result<Event, Reject> {
    decode(&shipped(KeepPayload::Never), EventKind::Item, encoding, payload)
}

/// Objects of one key in one another.
fn nested(depth: usize) -> String {
    format!("{}0{}", "{\"\":".repeat(depth), "}".repeat(depth))
}

/// JSON values, of which each takes many times its size in memory.
fn dense_value() -> impl Strategy<Value = String> {
    const PIECES: [&str; 11] = [
        "0",
        "1e15",
        r#""""#,
        r#""a""#,
        r#""\u0041""#,
        "[]",
        "[1]",
        "{}",
        r#"{"":0}"#,
        r#"{"a":{"":[[]]}}"#,
        "[[[[[[0]]]]]]",
    ];
    let piece = select(&PIECES[..]);
    let piece = prop_oneof![piece.prop_map(str::to_owned), (1usize..130).prop_map(nested)];
    let count = prop_oneof![0usize..50, 0usize..5_000];
    (piece, count).prop_map(|(piece, count)| format!("[{}0]", format!("{piece},").repeat(count)))
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,4}", Just("\\n\\u0041".to_owned()), Just("UID".to_owned())]
}

/// Lists of documented keys, around and far beyond their maxima.
fn list() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        (
            prop_oneof![Just("pos_mm"), Just("pos_on_floor_mm")],
            prop_oneof![Just("1"), Just("-1e3")]
        ),
        (
            prop_oneof![Just("loc_labels"), Just("item_labels")],
            prop_oneof![Just("\"\""), Just("\"é\""), Just("\"\\n\""), Just("\"0123456789012345\"")]
        ),
    ];
    let count = prop_oneof![0usize..50, 990usize..1_010, 0usize..50_000];
    (field, count).prop_map(|((name, element), count)| {
        let elements = vec![element; count].join(",");
        format!("\"{name}\":[{elements}]")
    })
}

fn json_pieces() -> impl Strategy<Value = Vec<String>> {
    let text = (0usize..100_000).prop_map(|size| format!("\"shelf_sn\":\"{}\"", "x".repeat(size)));
    let unknown = (key(), dense_value()).prop_map(|(key, value)| format!("\"{key}\":{value}"));
    vec(prop_oneof![unknown, list(), text], 0..8)
}

fn protobuf_pieces() -> impl Strategy<Value = Vec<u8>> {
    // Unpacked and packed positions, empty and short labels, a text, an unknown field.
    const PIECES: [&[u8]; 8] = [
        b"\x20\x01",
        b"\x22\x03\x01\x02\x03",
        b"\x7a\x00",
        b"\x7a\x01a",
        b"\x82\x01\x01a",
        b"\x62\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x52\x03abc",
        b"\xf8\x0f\x01",
    ];
    let piece = select(&PIECES[..]);
    let count = prop_oneof![0usize..50, 990usize..1_010, 0usize..100_000];
    vec((piece, count), 0..6)
        .prop_map(|pieces| pieces.iter().flat_map(|(piece, count)| piece.repeat(*count)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_json_event_is_small_or_refused(pieces in json_pieces()) {
        let required = [r#""momentum":"2025-10-09T08:53:20Z""#.to_owned(), r#""uid":"E1""#.to_owned()];
        let text = format!("{{{}}}", [&required[..], &pieces].concat().join(","));
        assert_small(decode_item(EventEncoding::Json, text.as_bytes()), text.len())?;
    }

    #[test]
    fn a_protobuf_event_is_small_or_refused(more in protobuf_pieces()) {
        let bytes = followed_by(&least_item(), &more);
        assert_small(decode_item(EventEncoding::Protobuf, &bytes), bytes.len())?;
    }
}

#[test]
fn the_worst_event_takes_less_than_9_mib() {
    let texts = ["tenant", "board_sn", "product_reference", "shelf_sn", "furniture_sn"]
        .map(|name| format!("\"{name}\":\"{}\"", "x".repeat(MAX_TEXT_BYTES)));
    let labels = ["loc_labels", "item_labels"].map(|name| {
        format!("\"{name}\":[{}]", vec![format!("\"{}\"", "x".repeat(65)); 1_000].join(","))
    });
    let positions = ["pos_mm", "pos_on_shelf_mm", "pos_on_floor_mm"]
        .map(|name| format!("\"{name}\":[{}]", vec!["1"; 1_000].join(",")));
    let deep = nested(120);
    let extra =
        format!("\"x\":[{}]", vec![deep.as_str(); MAX_EXTRA_BYTES / (deep.len() + 1)].join(","));
    let rest = [&texts[..], &labels, &positions, &[extra]].concat().join(",");
    let text = format!("{{\"momentum\":\"2025-10-09T08:53:20Z\",\"uid\":\"E1\",{rest}}}");
    let bytes = decode_item(EventEncoding::Json, text.as_bytes()).unwrap().heap_bytes();
    assert!((MOST / 2..MOST).contains(&bytes), "{bytes}");
}
