//! The rows that must be stored, given the published messages. It restates the bridge's promises
//! from the list of events, without any of its code.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::source::SourceMessage;
use crate::support::event::ItemEvent;

/// Order of an event: momentum as stored, then event id. The newest has the greatest.
pub type EventOrder = (OffsetDateTime, Uuid);

/// A row of `item_event`, in the columns that the load varies. Also of `item_state` and
/// `item_location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRow {
    pub event_id: Uuid,
    /// Time of the event, cut to microseconds.
    pub momentum: OffsetDateTime,
    pub uid: String,
    /// Serial number of the board, empty for none.
    pub board_sn: String,
    /// True for an arrival, false for a leave.
    pub is_in: bool,
    /// Position on the board, mm.
    pub mm: (i32, i32),
}

/// A row of `board_event` or `board_state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardRow {
    pub event_id: Uuid,
    /// Time of the event, cut to microseconds.
    pub momentum: OffsetDateTime,
    pub board_sn: String,
    /// Status without the enum's prefix.
    pub status: String,
}

/// The row that a message becomes.
#[derive(Debug, Clone)]
pub enum ExpectedRow {
    Item(ItemRow),
    Board(BoardRow),
    /// A dead letter with this reason.
    Garbage(&'static str),
}

/// Identity of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// A row of `item_event` or `board_event`.
    Event(Uuid),
    /// A row of `dead_letter`: topic and payload.
    Letter(String, Vec<u8>),
}

/// A message that the broker has acknowledged.
#[derive(Debug, Clone)]
pub struct AckedPublication {
    /// The row that it becomes.
    pub key: RowKey,
    pub payload: Vec<u8>,
    /// Time before the first attempt.
    pub sent_at: Instant,
    /// Time of the broker's PUBACK.
    pub acked_at: Instant,
}

/// Everything that was published and acknowledged.
#[derive(Debug, Default)]
pub struct ExpectedState {
    /// Item events by event id.
    pub items: HashMap<Uuid, ItemRow>,
    /// Board events by event id.
    pub boards: HashMap<Uuid, BoardRow>,
    /// Reasons of dead letters by topic and payload.
    pub letters: HashMap<(String, Vec<u8>), &'static str>,
    /// Acknowledged messages in order.
    pub publications: Vec<AckedPublication>,
}

impl ItemRow {
    /// Computes the row of an event.
    pub fn of(event: &ItemEvent) -> Self {
        let momentum = event.momentum.unix_timestamp_nanos().to_be_bytes();
        let event_id = content_id(&[
            b"item",
            event.tenant.as_bytes(),
            event.uid.as_bytes(),
            &momentum,
            event.board_sn.as_bytes(),
            &[u8::from(event.is_in)],
        ]);
        Self {
            event_id,
            momentum: cut(event.momentum),
            uid: event.uid.clone(),
            board_sn: event.board_sn.clone(),
            is_in: event.is_in,
            mm: (event.pos_mm[0], event.pos_mm[1]),
        }
    }

    /// Returns the order of an event among others.
    pub fn moment(&self) -> EventOrder {
        (self.momentum, self.event_id)
    }
}

impl BoardRow {
    /// Computes the row of a status event.
    pub fn new(tenant: &str, board_sn: &str, momentum: OffsetDateTime, status: &str) -> Self {
        let nanoseconds = momentum.unix_timestamp_nanos().to_be_bytes();
        let parts: [&[u8]; 5] =
            [b"board", tenant.as_bytes(), board_sn.as_bytes(), &nanoseconds, status.as_bytes()];
        Self {
            event_id: content_id(&parts),
            momentum: cut(momentum),
            board_sn: board_sn.to_owned(),
            status: status.to_owned(),
        }
    }

    fn moment(&self) -> EventOrder {
        (self.momentum, self.event_id)
    }
}

impl ExpectedState {
    /// Records a message that the broker has acknowledged.
    pub fn took(&mut self, message: SourceMessage, sent_at: Instant, acked_at: Instant) {
        let SourceMessage { topic, payload, meaning } = message;
        let key = match meaning {
            ExpectedRow::Item(item) => {
                let key = RowKey::Event(item.event_id);
                self.items.insert(item.event_id, item);
                key
            }
            ExpectedRow::Board(board) => {
                let key = RowKey::Event(board.event_id);
                self.boards.insert(board.event_id, board);
                key
            }
            ExpectedRow::Garbage(reason) => {
                self.letters.insert((topic.clone(), payload.clone()), reason);
                RowKey::Letter(topic, payload.clone())
            }
        };
        self.publications.push(AckedPublication { key, payload, sent_at, acked_at });
    }

    /// Counts the expected rows: item events, board events and dead letters.
    pub fn rows(&self) -> [usize; 3] {
        [self.items.len(), self.boards.len(), self.letters.len()]
    }
}

/// Computes `item_state`: the newest event of each tag on each board, and the least momentum of the
/// pair.
pub fn item_states<'a>(
    items: impl IntoIterator<Item = &'a ItemRow>,
) -> BTreeMap<(String, String), (ItemRow, OffsetDateTime)> {
    let mut states: BTreeMap<(String, String), (ItemRow, OffsetDateTime)> = BTreeMap::new();
    for item in items {
        let key = (item.uid.clone(), item.board_sn.clone());
        let (newest, first_seen_at) =
            states.entry(key).or_insert_with(|| (item.clone(), item.momentum));
        *first_seen_at = item.momentum.min(*first_seen_at);
        if item.moment() > newest.moment() {
            *newest = item.clone();
        }
    }
    states
}

/// Computes `item_location`: the newest event of each tag on the board of its newest arrival, or its
/// newest event if none of its arrivals is known.
pub fn item_locations<'a>(
    items: impl IntoIterator<Item = &'a ItemRow>,
) -> BTreeMap<String, ItemRow> {
    let mut by_tag: BTreeMap<&str, Vec<&ItemRow>> = BTreeMap::new();
    for item in items {
        by_tag.entry(&item.uid).or_default().push(item);
    }
    let location = |(uid, items): (&str, Vec<&ItemRow>)| {
        let newest = *items.iter().max_by_key(|item| (item.is_in, item.moment())).unwrap();
        let there = items.iter().filter(|item| item.board_sn == newest.board_sn || !newest.is_in);
        (uid.to_owned(), (*there.max_by_key(|item| item.moment()).unwrap()).clone())
    };
    by_tag.into_iter().map(location).collect()
}

/// Computes `board_state`: the newest event of each board.
pub fn board_states<'a>(
    boards: impl IntoIterator<Item = &'a BoardRow>,
) -> BTreeMap<String, BoardRow> {
    let mut states: BTreeMap<String, BoardRow> = BTreeMap::new();
    for board in boards {
        let newest = states.entry(board.board_sn.clone()).or_insert_with(|| board.clone());
        if board.moment() > newest.moment() {
            *newest = board.clone();
        }
    }
    states
}

/// Returns the first half of SHA-256 over the parts, each after its length.
fn content_id(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap().to_be_bytes());
        hash.update(part);
    }
    Uuid::from_slice(&hash.finalize()[..16]).unwrap()
}

fn cut(momentum: OffsetDateTime) -> OffsetDateTime {
    let nanosecond = momentum.nanosecond() / 1_000 * 1_000;
    momentum.replace_nanosecond(nanosecond).unwrap()
}
