//! Decoded events, independent of the format they came in: one file for each kind.

mod board;
mod by_kind;
mod item;
mod json;
pub mod plausibility;
mod reject;
mod size;

use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::board::{BoardEvent, board_event_id};
pub use self::by_kind::ByKind;
pub use self::item::{ItemEvent, item_event_id};
pub use self::reject::{Reject, RejectReason};

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// An item event.
    Item,
    /// A board event.
    Board,
}

impl EventKind {
    /// All kinds of events.
    pub const ALL: [Self; 2] = [Self::Item, Self::Board];

    /// Returns the names of the kind outside of the program.
    pub fn names(self) -> &'static KindNames {
        match self {
            Self::Item => &item::NAMES,
            Self::Board => &board::NAMES,
        }
    }

    /// Returns the name in messages, which is also the value of the metrics label `kind`.
    pub fn as_str(self) -> &'static str {
        self.names().label
    }

    /// Returns the configuration key of the formats that are subscribed to.
    pub fn formats_key(self) -> &'static str {
        self.names().formats_key
    }

    /// Lists the configuration keys of the formats of all kinds, in words.
    pub fn all_formats_keys() -> String {
        let [first @ .., last] = Self::ALL.map(Self::formats_key);
        format!("{} and {last}", first.join(", "))
    }
}

/// The names of a kind of event in topics, configuration and metrics.
#[derive(Debug)]
pub struct KindNames {
    /// Name in messages and metrics.
    pub label: &'static str,
    /// Configuration key of the formats that are subscribed to.
    pub formats_key: &'static str,
    /// The part of the protobuf topic that follows `centiloc/<tenant>`.
    pub protobuf_topic: &'static str,
    /// The part of the JSON topic that follows `centiloc/<tenant>`.
    pub json_topic: &'static str,
}

/// One decoded event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "table")]
pub enum Event {
    /// A tagged item appeared on, moved on or left a board.
    #[serde(rename = "item_event")]
    Item(ItemEvent),
    /// A board changed status.
    #[serde(rename = "board_event")]
    Board(BoardEvent),
}

impl Event {
    /// Returns the kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Item(_) => EventKind::Item,
            Self::Board(_) => EventKind::Board,
        }
    }

    /// Returns the key by which a redelivery is a duplicate. See [`ItemEvent::event_id`].
    pub fn event_id(&self) -> Uuid {
        match self {
            Self::Item(item) => item.event_id,
            Self::Board(board) => board.event_id,
        }
    }

    /// Returns the time of the event, cut to the microsecond that PostgreSQL keeps.
    pub fn momentum(&self) -> OffsetDateTime {
        match self {
            Self::Item(item) => item.momentum,
            Self::Board(board) => board.momentum,
        }
    }

    /// Estimates the bytes on the heap that the event holds, in addition to the payload that it
    /// shares with its message. The estimate is rather too high than too low.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Item(item) => item.heap_bytes(),
            Self::Board(board) => board.heap_bytes(),
        }
    }
}

/// First 128 bits of SHA-256 over the length-prefixed parts. Each part is preceded by its length
/// in bytes as a big-endian `u64`.
fn content_id(parts: &[&[u8]]) -> Uuid {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut id = [0u8; 16];
    id.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type ItemKey = (String, String, i128, String, bool);
    type BoardKey = (String, String, i128, String);

    fn item_id((tenant, uid, momentum_ns, board_sn, is_in): &ItemKey) -> Uuid {
        item_event_id(tenant, uid, *momentum_ns, board_sn, *is_in)
    }

    fn board_id((tenant, board_sn, momentum_ns, status): &BoardKey) -> Uuid {
        board_event_id(tenant, board_sn, *momentum_ns, status)
    }

    /// So few values that two draws are often equal, or equal but for one of them.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]{0,2}", Just("\0".to_owned()), Just("item".to_owned())]
    }

    fn momentum_ns() -> impl Strategy<Value = i128> {
        prop_oneof![-1i128..2, Just(1_760_000_000_000_000_000), Just(1_760_000_000_000_000_001)]
    }

    fn item_key() -> impl Strategy<Value = ItemKey> {
        (text(), text(), momentum_ns(), text(), any::<bool>())
    }

    fn board_key() -> impl Strategy<Value = BoardKey> {
        (text(), text(), momentum_ns(), text())
    }

    /// The bytes cut at these places, which may be equal: parts may be empty.
    fn cut(bytes: &[u8], mut places: Vec<usize>) -> Vec<&[u8]> {
        places.sort_unstable();
        let ends = places.iter().copied().chain([bytes.len()]);
        let starts = [0].into_iter().chain(places.iter().copied());
        starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]
        #[test]
        fn equal_item_ids_imply_equal_fields(a in item_key(), b in item_key()) {
            prop_assert_eq!(item_id(&a) == item_id(&b), a == b);
        }

        #[test]
        fn changed_item_field_changes_the_id(
            a in item_key(), b in item_key(), field in 0usize..5
        ) {
            let mut c = a.clone();
            match field {
                0 => c.0 = b.0,
                1 => c.1 = b.1,
                2 => c.2 = b.2,
                3 => c.3 = b.3,
                _ => c.4 = b.4,
            }
            prop_assert_eq!(item_id(&a) == item_id(&c), a == c);
        }

        #[test]
        fn tenant_and_uid_cannot_be_shared_out_otherwise(
            text in "[ab]{0,4}", one in 0usize..5, other in 0usize..5, rest in item_key()
        ) {
            let key = |at: usize| {
                let (tenant, uid) = text.split_at(at.min(text.len()));
                (tenant.to_owned(), uid.to_owned(), rest.2, rest.3.clone(), rest.4)
            };
            let (one, other) = (key(one), key(other));
            prop_assert_eq!(item_id(&one) == item_id(&other), one == other);
        }

        #[test]
        fn equal_board_ids_imply_equal_fields(
            a in board_key(), b in board_key()
        ) {
            prop_assert_eq!(board_id(&a) == board_id(&b), a == b);
        }

        #[test]
        fn items_and_boards_share_no_id(item in item_key(), board in board_key()) {
            prop_assert_ne!(item_id(&item), board_id(&board));
        }

        #[test]
        fn bytes_cannot_move_between_parts(
            bytes in vec(0u8..3, 0..12),
            one in vec(0usize..13, 0..6),
            other in vec(0usize..13, 0..6),
        ) {
            let within = |places: Vec<usize>| places.into_iter().map(|at| at.min(bytes.len())).collect();
            let (one, other) = (cut(&bytes, within(one)), cut(&bytes, within(other)));
            prop_assert_eq!(content_id(&one) == content_id(&other), one == other);
        }
    }
}
