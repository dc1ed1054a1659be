//! The vendor's protobuf messages with the assumed field numbers. They are defined here a second
//! time, so that the simulator and the decoder cannot share an error.

use prost_types::{Duration, Timestamp};

/// The message of an item event.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ItemMessage {
    /// Time of the event.
    #[prost(message, optional, tag = "1")]
    pub momentum: Option<Timestamp>,
    /// Identifier of the tag.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// True if the item is on the board, false after it has left.
    #[prost(bool, tag = "3")]
    pub is_in: bool,
    /// Position on the board, millimetres.
    #[prost(int32, repeated, tag = "4")]
    pub pos_mm: Vec<i32>,
    /// Serial number of the board.
    #[prost(string, tag = "5")]
    pub board_sn: String,
    /// Number of detections behind the event.
    #[prost(int32, tag = "6")]
    pub nb_hits: i32,
    /// Time since the item arrived at the board.
    #[prost(message, optional, tag = "7")]
    pub hold_time: Option<Duration>,
    /// Covered share of the board's surface, as the platform computes it.
    #[prost(float, tag = "8")]
    pub fill_ratio: f32,
    /// Product that the tag is enrolled to.
    #[prost(string, tag = "9")]
    pub product_reference: String,
    /// Serial number of the shelf.
    #[prost(string, tag = "10")]
    pub shelf_sn: String,
    /// Serial number of the furniture.
    #[prost(string, tag = "11")]
    pub furniture_sn: String,
    /// Position on the shelf, millimetres.
    #[prost(int32, repeated, tag = "12")]
    pub pos_on_shelf_mm: Vec<i32>,
    /// Tenant of the board.
    #[prost(string, tag = "13")]
    pub tenant: String,
    /// Named location of the board.
    #[prost(string, tag = "14")]
    pub loc_reference: String,
    /// Labels of the location.
    #[prost(string, repeated, tag = "15")]
    pub loc_labels: Vec<String>,
    /// Labels of the item.
    #[prost(string, repeated, tag = "16")]
    pub item_labels: Vec<String>,
    /// Position on the floor, millimetres.
    #[prost(int32, repeated, tag = "17")]
    pub pos_on_floor_mm: Vec<i32>,
    /// Level of the shelf in the furniture.
    #[prost(int32, tag = "18")]
    pub floor: i32,
    /// True if the position is computed rather than measured.
    #[prost(bool, tag = "19")]
    pub is_interpolated: bool,
}

/// The message of a board status event.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BoardMessage {
    /// Time of the event.
    #[prost(message, optional, tag = "1")]
    pub momentum: Option<Timestamp>,
    /// Serial number of the board.
    #[prost(string, tag = "2")]
    pub sn: String,
    /// Number of the status, see [`super::event::BoardStatus`].
    #[prost(int32, tag = "3")]
    pub status: i32,
    /// Firmware version of the board.
    #[prost(string, tag = "4")]
    pub fw_version: String,
    /// Time of the board's last connection.
    #[prost(message, optional, tag = "5")]
    pub last_connection_date: Option<Timestamp>,
    /// Time of the board's last disconnection.
    #[prost(message, optional, tag = "6")]
    pub last_disconnection_date: Option<Timestamp>,
    /// Time of the board's last error.
    #[prost(message, optional, tag = "7")]
    pub last_error_date: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn at(seconds: i64, nanos: i32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    /// Bytes of another encoder for the same values.
    const ITEM: &str = "\
        0a0b0880f09dc70610f3dfc6131210453030343031353030303030313234371801220325d0022a08434230\
        3030313436300d3a0908c30110a9dff9af01456d646f3f4a085245462d30323336520653482d3030355a05\
        46552d313362049e02a8016a0461636d6572064c4f432d36397a04636f6c647a056261792d318201076672\
        6167696c65";
    const BOARD: &str = "0a060880f09dc7061208434230303030303718022205352e312e323a0608c4ef9dc706";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| {
                let text = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(text, 16).expect("two hex digits")
            })
            .collect()
    }

    #[test]
    fn item_equals_bytes_of_independent_encoder() {
        let item = ItemMessage {
            momentum: Some(at(1_760_000_000, 41_005_043)),
            uid: "E004015000001247".into(),
            is_in: true,
            pos_mm: vec![37, 336],
            board_sn: "CB000146".into(),
            nb_hits: 13,
            hold_time: Some(Duration { seconds: 195, nanos: 368_996_265 }),
            fill_ratio: 0.935_126_1,
            product_reference: "REF-0236".into(),
            shelf_sn: "SH-005".into(),
            furniture_sn: "FU-13".into(),
            pos_on_shelf_mm: vec![286, 168],
            tenant: "acme".into(),
            loc_reference: "LOC-69".into(),
            loc_labels: vec!["cold".into(), "bay-1".into()],
            item_labels: vec!["fragile".into()],
            ..ItemMessage::default()
        };
        assert_eq!(item.encode_to_vec(), bytes(ITEM));
    }

    #[test]
    fn board_equals_bytes_of_independent_encoder() {
        let board = BoardMessage {
            momentum: Some(at(1_760_000_000, 0)),
            sn: "CB000007".into(),
            status: 2,
            fw_version: "5.1.2".into(),
            last_error_date: Some(at(1_759_999_940, 0)),
            ..BoardMessage::default()
        };
        assert_eq!(board.encode_to_vec(), bytes(BOARD));
    }
}
