//! Events as the platform sends them, encoded by hand. The bridge's decoding is checked against an
//! encoder that shares no code with it.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An item event. The fields here vary between tests. The rest is as in [`ItemEvent::new`].
#[derive(Debug, Clone)]
pub struct ItemEvent {
    /// Time of the event.
    pub momentum: OffsetDateTime,
    pub uid: String,
    /// True for an arrival, false for a leave.
    pub is_in: bool,
    /// Position on the board, mm.
    pub pos_mm: Vec<i32>,
    pub board_sn: String,
    /// Number of detections behind the event.
    pub nb_hits: i32,
    pub tenant: String,
}

impl ItemEvent {
    /// Creates an arrival.
    pub fn new(tenant: &str, uid: &str, board_sn: &str, momentum: OffsetDateTime) -> Self {
        Self {
            momentum,
            uid: uid.to_owned(),
            is_in: true,
            pos_mm: vec![120, 45],
            board_sn: board_sn.to_owned(),
            nb_hits: 3,
            tenant: tenant.to_owned(),
        }
    }

    /// Creates `count` arrivals of different tags, a millisecond apart, the last of them now.
    pub fn series(tenant: &str, count: usize) -> Vec<Self> {
        let now = OffsetDateTime::now_utc();
        (0..count)
            .map(|index| {
                let age = time::Duration::milliseconds(i64::try_from(count - 1 - index).unwrap());
                Self::new(tenant, &format!("E004{index:012X}"), "B-0001", now - age)
            })
            .collect()
    }

    /// Returns the legacy topic, which carries protobuf.
    pub fn protobuf_topic(&self) -> String {
        format!("centiloc/{}", self.tenant)
    }

    /// Returns the topic of the JSON form.
    pub fn json_topic(&self) -> String {
        format!("centiloc/{}/json/item/v1/update", self.tenant)
    }

    /// Encodes the JSON form as the vendor's documentation shows it.
    pub fn json(&self) -> Value {
        json!({
            "momentum": self.momentum.format(&Rfc3339).unwrap(),
            "uid": self.uid,
            "is_in": self.is_in,
            "pos_mm": self.pos_mm,
            "board_sn": self.board_sn,
            "nb_hits": self.nb_hits,
            "hold_time": 0,
            "fill_ratio": 0.5,
            "product_reference": "",
            "shelf_sn": "",
            "furniture_sn": "",
            "pos_on_shelf_mm": null,
            "tenant": self.tenant,
            "loc_reference": "",
            "loc_labels": [],
            "item_labels": null,
            "pos_on_floor_mm": [],
            "floor": 0,
            "is_interpolated": false,
        })
    }

    /// Returns the JSON form after that much white space: large, and quickly decoded.
    pub fn padded_json(&self, padding: usize) -> Vec<u8> {
        [vec![b' '; padding], self.json().to_string().into_bytes()].concat()
    }

    /// Encodes the assumed numbers of `proto/transtream.proto`. Fields at their default are left
    /// out.
    pub fn protobuf(&self) -> Vec<u8> {
        let positions: Vec<u8> = self.pos_mm.iter().flat_map(|mm| varint(signed(*mm))).collect();
        [
            bytes(1, &timestamp(self.momentum)),
            bytes(2, self.uid.as_bytes()),
            if self.is_in { number(3, 1) } else { Vec::new() },
            bytes(4, &positions),
            bytes(5, self.board_sn.as_bytes()),
            number(6, signed(self.nb_hits)),
            [varint(8 << 3 | 5), 0.5f32.to_le_bytes().to_vec()].concat(),
            bytes(13, self.tenant.as_bytes()),
        ]
        .concat()
    }
}

/// Encodes a board status event as protobuf. `status` is as in the enum.
pub fn board_protobuf(board_sn: &str, momentum: OffsetDateTime, status: u64) -> Vec<u8> {
    [bytes(1, &timestamp(momentum)), bytes(2, board_sn.as_bytes()), number(3, status)].concat()
}

/// Returns the topic of [`board_protobuf`].
pub fn board_topic(tenant: &str) -> String {
    format!("centiloc/{tenant}/proto/board/v1/update")
}

fn timestamp(at: OffsetDateTime) -> Vec<u8> {
    let seconds = u64::try_from(at.unix_timestamp()).expect("tests use momenta after 1970");
    [number(1, seconds), number(2, u64::from(at.nanosecond()))].concat()
}

fn number(tag: u64, value: u64) -> Vec<u8> {
    [varint(tag << 3), varint(value)].concat()
}

/// Encodes a length-delimited field.
pub fn bytes(tag: u64, value: &[u8]) -> Vec<u8> {
    [varint(tag << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// Encodes a varint. Negative numbers are sign-extended to 64 bits on the wire.
fn signed(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value >= 0x80 {
        encoded.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    encoded.push(u8::try_from(value).unwrap());
    encoded
}
