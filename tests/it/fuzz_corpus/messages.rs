//! Fuzzes messages: JSON, protobuf by the shipped schema, and protobuf by a vendor's.

use std::sync::LazyLock;

use bytes::Bytes;
use centiloc_bridge::config::{DecodeConfig, KeepPayload};
use centiloc_bridge::decode::{ClockTrust, Decoder, pb};
use centiloc_bridge::event::{
    Event, EventKind, Reject, RejectReason, board_event_id, item_event_id,
};
use centiloc_bridge::topic::EventEncoding;
use prost::Message;
use time::OffsetDateTime;
use time::macros::datetime;

use super::event::{as_json, assert_explained, assert_same_columns, assert_storable};
use super::in_file;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const TENANT: &str = "acme";

/// Reads a message with a generated decoder, and returns the id of its event.
type GeneratedDecoder = fn(&[u8]) -> Result<Option<uuid::Uuid>, prost::DecodeError>;

const GENERATED: [(EventKind, GeneratedDecoder); 2] = [
    (EventKind::Item, |bytes| pb::ItemEvent::decode(bytes).map(|message| item_id(&message))),
    (EventKind::Board, |bytes| {
        pb::BoardStatusEvent::decode(bytes).map(|message| board_id(&message))
    }),
];

/// The names of [`pb::BoardStatus`], by number.
const STATUS: [&str; 5] = ["CONNECTED", "DISCONNECTED", "ONERROR", "MAINTENANCE", "DEGRADED"];

/// A schema with other numbers and other types of the documented fields: every encoding that the
/// shipped schema does not use.
const OTHER_TYPES: &str = r#"
syntax = "proto3";
enum Zone { ZONE_NONE = 0; ZONE_COLD = 1; ZONE_WARM = -1; }
message Item {
  string momentum = 1; bytes uid = 2; repeated sint32 pos_mm = 4; bool is_in = 5;
  sfixed64 nb_hits = 6; string hold_time = 7; double fill_ratio = 8; Zone loc_reference = 14;
  repeated fixed64 pos_on_shelf_mm = 12; repeated Zone loc_labels = 15; fixed32 floor = 18;
  repeated bytes item_labels = 16; string tenant = 100; repeated sfixed32 pos_on_floor_mm = 2000;
  sint64 unheard_of = 99;
}
message Board {
  int64 momentum = 1; string sn = 2; bytes status = 3; uint64 last_error_date = 7;
  sint64 last_connection_date = 8; fixed64 last_disconnection_date = 536870911;
}
"#;

static SHIPPED: LazyLock<Decoder> = LazyLock::new(|| shipped(KeepPayload::Always));
/// The shipped schema, given as the vendor's.
static SAME: LazyLock<Decoder> =
    LazyLock::new(|| vendor(include_str!("../../../proto/transtream.proto"), KeepPayload::Always));
static OTHER: LazyLock<Decoder> = LazyLock::new(|| vendor(OTHER_TYPES, KeepPayload::Unknown));

fn shipped(keep_payload: KeepPayload) -> Decoder {
    let config = DecodeConfig::new(None, keep_payload);
    Decoder::new(&config, TENANT).expect("the shipped schema loads")
}

fn vendor(source: &str, keep_payload: KeepPayload) -> Decoder {
    in_file("vendor.proto", source.as_bytes(), |file| {
        let config = DecodeConfig::new(Some(file.to_owned()), keep_payload);
        Decoder::new(&config, TENANT).expect("the vendor's schema loads")
    })
}

/// Decodes and asserts the invariants of every outcome.
pub fn decoded(
    decoder: &Decoder,
    kind: EventKind,
    encoding: EventEncoding,
    bytes: &[u8],
) -> Result<Event, Reject> {
    let payload = Bytes::copy_from_slice(bytes);
    let decode = || decoder.decode_as(kind, encoding, &payload, NOW, ClockTrust::Agree(NOW));
    let result = decode();
    match (&result, &decode()) {
        (Ok(event), Ok(again)) => {
            assert_eq!(event.event_id(), again.event_id());
            assert_storable(event);
            assert_survives_json(event);
        }
        (Err(reject), Err(again)) => {
            assert_eq!(reject, again);
            assert_explained(reject);
        }
        (once, twice) => panic!("one message is {once:?} and {twice:?}"),
    }
    result
}

/// Asserts that the event, written as JSON, becomes the same row.
fn assert_survives_json(event: &Event) {
    let kind = event.kind();
    let Some(text) = as_json(event) else { return };
    let payload = Bytes::from(text);
    let again = SHIPPED.decode_as(kind, EventEncoding::Json, &payload, NOW, ClockTrust::Agree(NOW));
    let again = again.unwrap_or_else(|reject| panic!("{event:?} as JSON: {reject}"));
    assert_same_columns(&again, event);
}

/// Decodes JSON as an event of each kind.
pub fn json(bytes: &[u8]) -> bool {
    EventKind::ALL.map(|kind| json_of(kind, bytes)).contains(&true)
}

fn json_of(kind: EventKind, bytes: &[u8]) -> bool {
    match decoded(&SHIPPED, kind, EventEncoding::Json, bytes) {
        Ok(event) => {
            if let Event::Item(item) = &event {
                assert!(item.fill_ratio.is_none_or(f32::is_finite), "JSON has no other number");
            }
            true
        }
        Err(reject) => {
            assert_ne!(reject.reason, RejectReason::Implausible, "JSON assumes no numbers");
            false
        }
    }
}

/// Decodes protobuf with the assumed numbers as an item event and as a board event, and compares
/// with the generated decoders.
pub fn protobuf(bytes: &[u8]) -> bool {
    GENERATED.map(|(kind, id)| protobuf_of(kind, id(bytes), bytes)).contains(&true)
}

fn protobuf_of(
    kind: EventKind,
    generated: Result<Option<uuid::Uuid>, prost::DecodeError>,
    bytes: &[u8],
) -> bool {
    let result = decoded(&SHIPPED, kind, EventEncoding::Protobuf, bytes);
    match (&result, generated) {
        (Ok(event), Ok(id)) => {
            assert_eq!(Some(event.event_id()), id);
            let year = event.momentum().year();
            assert!((2015..=NOW.year()).contains(&year), "not plausible: {event:?}");
        }
        (Ok(event), Err(error)) => panic!("not protobuf ({error}), but read as {event:?}"),
        (Err(reject), Ok(_)) => assert_ne!(reject.reason, RejectReason::Malformed, "{reject}"),
        (Err(reject), Err(_)) => assert!(
            matches!(reject.reason, RejectReason::Malformed | RejectReason::Implausible),
            "{reject}"
        ),
    }
    result.is_ok()
}

fn total_ns(at: prost_types::Timestamp) -> i128 {
    i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)
}

fn item_id(message: &pb::ItemEvent) -> Option<uuid::Uuid> {
    let pb::ItemEvent { uid, board_sn, is_in, .. } = message;
    let tenant = if message.tenant.is_empty() { TENANT } else { &message.tenant };
    Some(item_event_id(tenant, uid, total_ns(message.momentum?), board_sn, *is_in))
}

fn board_id(message: &pb::BoardStatusEvent) -> Option<uuid::Uuid> {
    let known = usize::try_from(message.status).ok().and_then(|number| STATUS.get(number));
    let status = known.map_or_else(|| message.status.to_string(), |name| (*name).to_owned());
    Some(board_event_id(TENANT, &message.sn, total_ns(message.momentum?), &status))
}

/// Decodes protobuf by a vendor's schema. The shipped one given as a file must agree with itself,
/// and one with other types yields storable events.
pub fn vendor_message(bytes: &[u8]) -> bool {
    let agreed = EventKind::ALL.map(|kind| {
        let ours = decoded(&SHIPPED, kind, EventEncoding::Protobuf, bytes);
        let theirs = decoded(&SAME, kind, EventEncoding::Protobuf, bytes);
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours.event_id(), theirs.event_id()),
            // Plausibility is checked for assumed numbers only.
            (Err(reject), _) if reject.reason == RejectReason::Implausible => {}
            (Err(ours), Err(theirs)) => assert_eq!(ours.reason, theirs.reason),
            (ours, theirs) => panic!("{ours:?} by our schema, {theirs:?} by the same as a file"),
        }
        theirs.is_ok()
    });
    let covered = EventKind::ALL.into_iter().filter(|kind| OTHER.covers(*kind));
    let other = covered.map(|kind| decoded(&OTHER, kind, EventEncoding::Protobuf, bytes).is_ok());
    let other: Vec<bool> = other.collect();
    agreed.contains(&true) || other.contains(&true)
}
