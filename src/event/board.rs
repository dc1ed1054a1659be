//! Board events: a board changed status.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::serde::rfc3339;
use uuid::Uuid;

use super::size::{map, text};
use super::{KindNames, content_id, json};

pub(super) const NAMES: KindNames = KindNames {
    label: "board",
    formats_key: "mqtt.boards",
    protobuf_topic: "/proto/board/v1/update",
    json_topic: "/json/board/v1/update",
};

/// A row of `board_event`. `None` is NULL: unset, empty or masked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoardEvent {
    /// [`board_event_id`] over the content at full resolution.
    pub event_id: Uuid,
    /// Time of the event, UTC, cut to microseconds.
    #[serde(with = "rfc3339")]
    pub momentum: OffsetDateTime,
    /// Time of receipt by the bridge.
    #[serde(with = "rfc3339")]
    pub received_at: OffsetDateTime,
    /// The configured tenant. Board events carry none.
    pub tenant: String,
    /// Serial number of the board.
    pub board_sn: String,
    /// Canonical status: without the enum's prefix.
    pub status: Option<String>,
    /// Firmware version.
    pub fw_version: Option<String>,
    /// Time of the last connection of the board.
    #[serde(with = "rfc3339::option")]
    pub last_connection_at: Option<OffsetDateTime>,
    /// Time of the last disconnection of the board.
    #[serde(with = "rfc3339::option")]
    pub last_disconnection_at: Option<OffsetDateTime>,
    /// Time of the last error that the board reported.
    #[serde(with = "rfc3339::option")]
    pub last_error_at: Option<OffsetDateTime>,
    /// Values that no column can hold.
    pub extra: Option<Map<String, Value>>,
    /// The message as received, where `decode.keep_payload` asks for it.
    #[serde(serialize_with = "json::payload_size")]
    pub payload: Option<Bytes>,
}

impl BoardEvent {
    /// Returns an event whose nullable columns are all NULL except the status, received when it
    /// happened. An empty `status` is an absent one.
    pub fn bare(tenant: &str, board_sn: &str, momentum: OffsetDateTime, status: &str) -> Self {
        Self {
            event_id: board_event_id(tenant, board_sn, momentum.unix_timestamp_nanos(), status),
            momentum,
            received_at: momentum,
            tenant: tenant.to_owned(),
            board_sn: board_sn.to_owned(),
            status: (!status.is_empty()).then(|| status.to_owned()),
            fw_version: None,
            last_connection_at: None,
            last_disconnection_at: None,
            last_error_at: None,
            extra: None,
            payload: None,
        }
    }

    /// Estimates the bytes on the heap. See [`super::Event::heap_bytes`].
    pub(super) fn heap_bytes(&self) -> usize {
        let texts = [&self.status, &self.fw_version];
        text(&self.tenant)
            + text(&self.board_sn)
            + texts.into_iter().flatten().map(text).sum::<usize>()
            + self.extra.as_ref().map_or(0, map)
    }
}

/// The id of a board event. `status` is the canonical status, empty if none.
pub fn board_event_id(tenant: &str, board_sn: &str, momentum_ns: i128, status: &str) -> Uuid {
    content_id(&[
        b"board",
        tenant.as_bytes(),
        board_sn.as_bytes(),
        &momentum_ns.to_be_bytes(),
        status.as_bytes(),
    ])
}
