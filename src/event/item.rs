//! Item events: a tagged item appeared on, moved on or left a board.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::serde::rfc3339;
use uuid::Uuid;

use super::size::{list, map, text};
use super::{KindNames, content_id, json};

pub(super) const NAMES: KindNames = KindNames {
    label: "item",
    formats_key: "mqtt.items",
    protobuf_topic: "",
    json_topic: "/json/item/v1/update",
};

/// A row of `item_event`. `None` is NULL: unset, empty or masked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemEvent {
    /// [`item_event_id`] over the content at full resolution.
    pub event_id: Uuid,
    /// Time of the event, UTC, cut to microseconds.
    #[serde(with = "rfc3339")]
    pub momentum: OffsetDateTime,
    /// Time of receipt by the bridge.
    #[serde(with = "rfc3339")]
    pub received_at: OffsetDateTime,
    /// The event's own tenant, else the configured one.
    pub tenant: String,
    /// Identifier of the tag.
    pub uid: String,
    /// True: on the board. False: it left.
    pub is_in: bool,
    /// Serial number of the board.
    pub board_sn: Option<String>,
    /// Position on the board, millimetres.
    pub x_mm: Option<i32>,
    /// Position on the board, millimetres.
    pub y_mm: Option<i32>,
    /// Position on the shelf, millimetres.
    pub shelf_x_mm: Option<i32>,
    /// Position on the shelf, millimetres.
    pub shelf_y_mm: Option<i32>,
    /// Position on the floor, millimetres.
    pub floor_x_mm: Option<i32>,
    /// Position on the floor, millimetres.
    pub floor_y_mm: Option<i32>,
    /// Level in the furniture.
    pub floor: Option<i32>,
    /// Detections behind the event.
    pub nb_hits: Option<i32>,
    /// Time for which the item has been held, microseconds.
    #[serde(rename = "hold_time", serialize_with = "json::interval")]
    pub hold_time_us: Option<i64>,
    /// Fill ratio, unchanged from the message.
    pub fill_ratio: Option<f32>,
    /// Reference of the enrolled product.
    pub product_reference: Option<String>,
    /// Shelf that bears the board.
    pub shelf_sn: Option<String>,
    /// Furniture that bears the shelf.
    pub furniture_sn: Option<String>,
    /// Reference of the named location.
    pub loc_reference: Option<String>,
    /// Labels of the location. Never an empty list.
    pub loc_labels: Option<Vec<String>>,
    /// Labels of the item. Never an empty list.
    pub item_labels: Option<Vec<String>>,
    /// Computed rather than measured.
    pub is_interpolated: Option<bool>,
    /// Values that no column can hold: unknown JSON keys, positions of more than two numbers.
    pub extra: Option<Map<String, Value>>,
    /// The message as received, where `decode.keep_payload` asks for it.
    #[serde(serialize_with = "json::payload_size")]
    pub payload: Option<Bytes>,
}

impl ItemEvent {
    /// Returns an event whose nullable columns are all NULL, received when it happened. An empty
    /// `board_sn` is an absent one.
    pub fn bare(
        tenant: &str,
        uid: &str,
        momentum: OffsetDateTime,
        board_sn: &str,
        is_in: bool,
    ) -> Self {
        Self {
            event_id: item_event_id(tenant, uid, momentum.unix_timestamp_nanos(), board_sn, is_in),
            momentum,
            received_at: momentum,
            tenant: tenant.to_owned(),
            uid: uid.to_owned(),
            is_in,
            board_sn: (!board_sn.is_empty()).then(|| board_sn.to_owned()),
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

    /// Estimates the bytes on the heap. See [`super::Event::heap_bytes`].
    pub(super) fn heap_bytes(&self) -> usize {
        let texts = [
            &self.board_sn,
            &self.product_reference,
            &self.shelf_sn,
            &self.furniture_sn,
            &self.loc_reference,
        ];
        text(&self.tenant)
            + text(&self.uid)
            + texts.into_iter().flatten().map(text).sum::<usize>()
            + [&self.loc_labels, &self.item_labels].into_iter().flatten().map(list).sum::<usize>()
            + self.extra.as_ref().map_or(0, map)
    }
}

/// The id of an item event. `momentum_ns` is nanoseconds since the Unix epoch (hashed as a
/// big-endian `i128`). An absent board is the empty string. `is_in` is hashed as one byte.
pub fn item_event_id(
    tenant: &str,
    uid: &str,
    momentum_ns: i128,
    board_sn: &str,
    is_in: bool,
) -> Uuid {
    content_id(&[
        b"item",
        tenant.as_bytes(),
        uid.as_bytes(),
        &momentum_ns.to_be_bytes(),
        board_sn.as_bytes(),
        &[u8::from(is_in)],
    ])
}
