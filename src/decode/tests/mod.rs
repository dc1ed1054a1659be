//! The rules as a whole: samples of an independent encoder, the rules one by one, the vendor's
//! schema, maxima, and properties.

mod bounds;
mod field_types;
mod memory;
mod properties;
mod refused_schemas;
mod rules_json;
mod rules_protobuf;
mod samples;
mod vendor;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::macros::datetime;

use super::{ClockTrust, Decoder, pb};
use crate::config::{DecodeConfig, KeepPayload};
use crate::event::{BoardEvent, Event, EventKind, ItemEvent, Reject};
use crate::topic::{self, EventEncoding};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
/// The momentum 2025-10-09T08:53:20Z, in Unix seconds.
const MOMENTUM: i64 = 1_760_000_000;

fn shipped(keep_payload: KeepPayload) -> Decoder {
    Decoder::new(&DecodeConfig::new(None, keep_payload), "acme").unwrap()
}

fn decode(
    decoder: &Decoder,
    kind: EventKind,
    encoding: EventEncoding,
    payload: &[u8],
) -> Result<Event, Reject> {
    let topic = topic::name("acme", kind, encoding);
    decoder.decode(&topic, &Bytes::copy_from_slice(payload), NOW, ClockTrust::Agree(NOW))
}

fn item(event: Event) -> ItemEvent {
    let Event::Item(item) = event else { panic!("expected an item, found {event:?}") };
    item
}

fn board(event: Event) -> BoardEvent {
    let Event::Board(board) = event else { panic!("expected a board, found {event:?}") };
    board
}

fn item_json(text: &str) -> Result<ItemEvent, Reject> {
    let decoder = shipped(KeepPayload::Never);
    decode(&decoder, EventKind::Item, EventEncoding::Json, text.as_bytes()).map(item)
}

fn board_json(text: &str) -> Result<BoardEvent, Reject> {
    let decoder = shipped(KeepPayload::Never);
    decode(&decoder, EventKind::Board, EventEncoding::Json, text.as_bytes()).map(board)
}

fn item_proto(bytes: &[u8]) -> Result<ItemEvent, Reject> {
    let decoder = shipped(KeepPayload::Never);
    decode(&decoder, EventKind::Item, EventEncoding::Protobuf, bytes).map(item)
}

fn board_proto(bytes: &[u8]) -> Result<BoardEvent, Reject> {
    let decoder = shipped(KeepPayload::Never);
    decode(&decoder, EventKind::Board, EventEncoding::Protobuf, bytes).map(board)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

/// Returns the smallest item that is accepted.
fn least_item() -> pb::ItemEvent {
    pb::ItemEvent { momentum: Some(at(MOMENTUM)), uid: "E1".into(), ..Default::default() }
}

/// Returns the smallest board event that is accepted.
fn least_board() -> pb::BoardStatusEvent {
    pb::BoardStatusEvent { momentum: Some(at(MOMENTUM)), sn: "B1".into(), ..Default::default() }
}

/// Returns a message followed by more bytes.
fn followed_by(message: &impl Message, more: &[u8]) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.extend_from_slice(more);
    bytes
}
