//! Events for tests.

use bytes::Bytes;
use time::OffsetDateTime;

use super::DecodedMessage;
use crate::event::{BoardEvent, Event, ItemEvent, Reject, RejectReason};
use crate::stream::message::Message;

/// 2026-11-01 plus seconds.
pub(super) fn at(seconds: i64) -> OffsetDateTime {
    time::macros::datetime!(2026-11-01 00:00 UTC) + time::Duration::seconds(seconds)
}

pub(super) fn item(uid: &str, board_sn: &str, seconds: i64, is_in: bool) -> ItemEvent {
    ItemEvent::bare("T", uid, at(seconds), board_sn, is_in)
}

pub(super) fn board(board_sn: &str, seconds: i64, status: &str) -> BoardEvent {
    BoardEvent::bare("T", board_sn, at(seconds), status)
}

fn message(topic: &str, payload: &[u8], received_at: OffsetDateTime) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        received_at,
        qos: 1,
        retain: false,
        ack: None,
        permit: None,
    }
}

pub(super) fn entry(event: Event) -> DecodedMessage {
    (message("t", event.event_id().as_bytes(), event.momentum()), Ok(event))
}

pub(super) fn reject(topic: &str, payload: &[u8], seconds: i64) -> DecodedMessage {
    let reject = Reject::new(RejectReason::Malformed, "not what was promised");
    (message(topic, payload, at(seconds)), Err(reject))
}
