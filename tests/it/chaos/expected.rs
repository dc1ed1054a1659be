//! What must be stored, given what was published: the bridge's promises once more, from the list of
//! events and without any of its code.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::source::Message;
use crate::support::event::ItemEvent;

/// When something happened: momentum as stored, and event id. Newest is by both.
pub type Moment = (OffsetDateTime, Uuid);

/// A row of `item_event`, as far as the load varies it; also of `item_state` and `item_location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub event_id: Uuid,
    /// Cut to microseconds.
    pub momentum: OffsetDateTime,
    /// The tag.
    pub uid: String,
    /// Empty for none.
    pub board_sn: String,
    /// On the board or gone.
    pub is_in: bool,
    /// Position.
    pub mm: (i32, i32),
}

/// A row of `board_event`, and of `board_state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardEvent {
    /// The key.
    pub event_id: Uuid,
    /// Cut to microseconds.
    pub momentum: OffsetDateTime,
    /// Which.
    pub board_sn: String,
    /// Without the prefix.
    pub status: String,
}

/// The row that a message becomes.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// An item event.
    Item(Item),
    /// A board event.
    Board(BoardEvent),
    /// A dead letter, for this reason.
    Garbage(&'static str),
}

/// What tells a row from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Of `item_event` or `board_event`.
    Event(Uuid),
    /// Of `dead_letter`: topic and payload.
    Letter(String, Vec<u8>),
}

/// One message that the broker took over.
#[derive(Debug, Clone)]
pub struct Publication {
    /// What becomes of it.
    pub key: Key,
    /// As sent.
    pub payload: Vec<u8>,
    /// Before the first attempt.
    pub sent_at: Instant,
    /// After the broker's PUBACK.
    pub acked_at: Instant,
}

/// Everything that was published and acknowledged.
#[derive(Debug, Default)]
pub struct ExpectedState {
    /// By event id.
    pub items: HashMap<Uuid, Item>,
    /// By event id.
    pub boards: HashMap<Uuid, BoardEvent>,
    /// Reasons by topic and payload.
    pub letters: HashMap<(String, Vec<u8>), &'static str>,
    /// In order.
    pub publications: Vec<Publication>,
}

impl Item {
    /// What an event becomes.
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

    /// By which it is older or newer than another.
    pub fn moment(&self) -> Moment {
        (self.momentum, self.event_id)
    }
}

impl BoardEvent {
    /// What a status event becomes.
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

    fn moment(&self) -> Moment {
        (self.momentum, self.event_id)
    }
}

impl ExpectedState {
    /// Notes a message that the broker has acknowledged.
    pub fn took(&mut self, message: Message, sent_at: Instant, acked_at: Instant) {
        let Message { topic, payload, meaning } = message;
        let key = match meaning {
            Meaning::Item(item) => {
                let key = Key::Event(item.event_id);
                self.items.insert(item.event_id, item);
                key
            }
            Meaning::Board(board) => {
                let key = Key::Event(board.event_id);
                self.boards.insert(board.event_id, board);
                key
            }
            Meaning::Garbage(reason) => {
                self.letters.insert((topic.clone(), payload.clone()), reason);
                Key::Letter(topic, payload.clone())
            }
        };
        self.publications.push(Publication { key, payload, sent_at, acked_at });
    }

    /// Rows that all of it becomes: item events, board events and dead letters.
    pub fn rows(&self) -> [usize; 3] {
        [self.items.len(), self.boards.len(), self.letters.len()]
    }
}

/// `item_state`: the newest event of each tag on each board, and the least momentum of the two.
pub fn item_states<'a>(
    items: impl IntoIterator<Item = &'a Item>,
) -> BTreeMap<(String, String), (Item, OffsetDateTime)> {
    let mut states: BTreeMap<(String, String), (Item, OffsetDateTime)> = BTreeMap::new();
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

/// `item_location`: of the states of each tag the newest that is in, else the newest.
pub fn item_locations<'a>(states: impl IntoIterator<Item = &'a Item>) -> BTreeMap<String, Item> {
    let mut locations: BTreeMap<String, Item> = BTreeMap::new();
    for state in states {
        let counts = |item: &Item| (item.is_in, item.moment());
        match locations.get_mut(&state.uid) {
            Some(location) if counts(location) > counts(state) => {}
            Some(location) => *location = state.clone(),
            None => {
                locations.insert(state.uid.clone(), state.clone());
            }
        }
    }
    locations
}

/// `board_state`: the newest event of each board.
pub fn board_states<'a>(
    boards: impl IntoIterator<Item = &'a BoardEvent>,
) -> BTreeMap<String, BoardEvent> {
    let mut states: BTreeMap<String, BoardEvent> = BTreeMap::new();
    for board in boards {
        let newest = states.entry(board.board_sn.clone()).or_insert_with(|| board.clone());
        if board.moment() > newest.moment() {
            *newest = board.clone();
        }
    }
    states
}

/// The first half of SHA-256 over the parts, each after its length.
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
