//! Events for tests.

use bytes::Bytes;
use time::OffsetDateTime;

use super::DecodedMessage;
use crate::event::{
    BoardEvent, Event, ItemEvent, Reject, RejectReason, board_event_id, item_event_id,
};
use crate::message::Message;

/// 2026-11-01 plus seconds.
pub(super) fn at(seconds: i64) -> OffsetDateTime {
    time::macros::datetime!(2026-11-01 00:00 UTC) + time::Duration::seconds(seconds)
}

pub(super) fn item(uid: &str, board_sn: &str, seconds: i64, is_in: bool) -> ItemEvent {
    let momentum = at(seconds);
    ItemEvent {
        event_id: item_event_id("T", uid, momentum.unix_timestamp_nanos(), board_sn, is_in),
        momentum,
        received_at: momentum,
        tenant: "T".into(),
        uid: uid.into(),
        is_in,
        board_sn: (!board_sn.is_empty()).then(|| board_sn.into()),
        x_mm: None,
        y_mm: None,
        shelf_x_mm: None,
        shelf_y_mm: None,
        floor_x_mm: None,
        floor_y_mm: None,
        floor: None,
        nb_hits: None,
        hold_time_us: None,
        fill_ratio: None,
        product_reference: None,
        shelf_sn: None,
        furniture_sn: None,
        loc_reference: None,
        loc_labels: None,
        item_labels: None,
        is_interpolated: None,
        extra: None,
        payload: None,
    }
}

pub(super) fn board(board_sn: &str, seconds: i64, status: &str) -> BoardEvent {
    let momentum = at(seconds);
    BoardEvent {
        event_id: board_event_id("T", board_sn, momentum.unix_timestamp_nanos(), status),
        momentum,
        received_at: momentum,
        tenant: "T".into(),
        board_sn: board_sn.into(),
        status: Some(status.into()),
        fw_version: None,
        last_connection_at: None,
        last_disconnection_at: None,
        last_error_at: None,
        extra: None,
        payload: None,
    }
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
