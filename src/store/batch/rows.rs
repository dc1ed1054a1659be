//! One batch, sorted into what each table gets.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::{BoardEvent, Event, ItemEvent, Reject, RejectReason};
use crate::message::Message;
use crate::store::batch::state;
use crate::store::text;

/// A message with what it decoded to.
pub type DecodedMessage = (Message, Result<Event, Reject>);

/// An event and the message it came in, which becomes a dead letter if the database refuses the
/// event.
#[derive(Debug)]
pub(in crate::store) struct EventRow<'a, E> {
    pub event: &'a E,
    pub message: &'a Message,
}

// Derived impls would ask for E: Copy.
impl<E> Clone for EventRow<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for EventRow<'_, E> {}

/// A batch by table. Event rows are in the order of their state's key; see
/// [`state::item_order`].
#[derive(Debug)]
pub(in crate::store) struct BatchRows<'a> {
    pub items: Vec<EventRow<'a, ItemEvent>>,
    pub boards: Vec<EventRow<'a, BoardEvent>>,
    pub letters: Vec<DeadLetter<'a>>,
    /// The latest momentum that may become state.
    pub latest: OffsetDateTime,
}

impl<'a> BatchRows<'a> {
    /// Sorts a batch. Several forms of one event all stay, in the order they came: the first is
    /// stored, and were it refused, the next would have its try.
    pub fn of(batch: &'a [DecodedMessage], latest: OffsetDateTime) -> Self {
        let mut rows = Self { items: Vec::new(), boards: Vec::new(), letters: Vec::new(), latest };
        for (message, result) in batch {
            match result {
                Ok(Event::Item(event)) => rows.items.push(EventRow { event, message }),
                Ok(Event::Board(event)) => rows.boards.push(EventRow { event, message }),
                Err(reject) => rows.letters.push(DeadLetter::rejected(message, reject)),
            }
        }
        rows.items.sort_by(|a, b| state::item_order(a.event).cmp(&state::item_order(b.event)));
        rows.boards.sort_by(|a, b| state::board_order(a.event).cmp(&state::board_order(b.event)));
        rows
    }

    /// Number of event rows.
    pub fn events(&self) -> usize {
        self.items.len() + self.boards.len()
    }

    /// The tables this batch touches, counted.
    pub fn kinds(&self) -> usize {
        [self.items.is_empty(), self.boards.is_empty(), self.letters.is_empty()]
            .iter()
            .filter(|empty| !**empty)
            .count()
    }
}

/// Event rows of one kind: what one statement writes, and what is bisected.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum EventRows<'r, 'a> {
    Items(&'r [EventRow<'a, ItemEvent>]),
    Boards(&'r [EventRow<'a, BoardEvent>]),
}

impl<'a> EventRows<'_, 'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Items(rows) => rows.len(),
            Self::Boards(rows) => rows.len(),
        }
    }

    /// Both halves; the first is the smaller.
    pub fn halves(&self) -> [Self; 2] {
        match self {
            Self::Items(rows) => {
                let (a, b) = rows.split_at(rows.len() / 2);
                [Self::Items(a), Self::Items(b)]
            }
            Self::Boards(rows) => {
                let (a, b) = rows.split_at(rows.len() / 2);
                [Self::Boards(a), Self::Boards(b)]
            }
        }
    }

    /// The message and event id of a chunk of one.
    pub fn single(&self) -> Option<(&'a Message, Uuid)> {
        match self {
            Self::Items([row]) => Some((row.message, row.event.event_id)),
            Self::Boards([row]) => Some((row.message, row.event.event_id)),
            _ => None,
        }
    }
}

/// A row of `dead_letter` to be.
#[derive(Debug)]
pub(in crate::store) struct DeadLetter<'a> {
    pub message: &'a Message,
    pub reason: RejectReason,
    pub detail: Cow<'a, str>,
    pub sqlstate: Option<String>,
}

impl<'a> DeadLetter<'a> {
    fn rejected(message: &'a Message, reject: &'a Reject) -> Self {
        Self {
            message,
            reason: reject.reason,
            detail: Cow::Borrowed(&reject.detail),
            sqlstate: None,
        }
    }

    /// A message whose event the database refused.
    pub fn refused(message: &'a Message, detail: String, sqlstate: Option<String>) -> Self {
        let reason = RejectReason::RefusedByDatabase;
        Self { message, reason, detail: Cow::Owned(detail), sqlstate }
    }
}

/// Letters of the same topic and payload, folded into one: a second row of one key in an upsert is
/// an error (21000).
#[derive(Debug)]
pub(in crate::store) struct MergedDeadLetter<'l> {
    pub letter: &'l DeadLetter<'l>,
    pub digest: [u8; 32],
    pub topic: String,
    pub detail: String,
    pub received_at: OffsetDateTime,
    pub last_seen_at: OffsetDateTime,
    pub seen: i32,
}

/// Folds twins, sorted by digest so that two writers lock in the same order.
pub(in crate::store) fn fold_letters<'l>(
    letters: impl Iterator<Item = &'l DeadLetter<'l>>,
) -> Vec<MergedDeadLetter<'l>> {
    let mut folded: Vec<MergedDeadLetter<'l>> = letters
        .map(|letter| MergedDeadLetter {
            letter,
            digest: digest(&letter.message.topic, &letter.message.payload),
            topic: text::clean(&letter.message.topic),
            detail: text::clean(&letter.detail),
            received_at: letter.message.received_at,
            last_seen_at: letter.message.received_at,
            seen: 1,
        })
        .collect();
    folded.sort_by_key(|letter| letter.digest);
    folded.dedup_by(|later, first| {
        let twin = later.digest == first.digest;
        if twin {
            first.seen = first.seen.saturating_add(later.seen);
            first.received_at = first.received_at.min(later.received_at);
            first.last_seen_at = first.last_seen_at.max(later.last_seen_at);
        }
        twin
    });
    folded
}

/// SHA-256 of topic and payload, each preceded by its length as a big-endian `u64`.
pub(in crate::store) fn digest(topic: &str, payload: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [topic.as_bytes(), payload] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{at, board, entry, item, reject};

    #[test]
    fn the_digest_tells_apart_where_the_topic_ends() {
        assert_ne!(digest("ab", b"c"), digest("a", b"bc"));
        assert_eq!(digest("a", b"b"), digest("a", b"b"));
    }

    #[test]
    fn twins_are_one_letter_with_their_number_and_times() {
        let batch = [reject("t", b"x", 9), reject("t", b"y", 1), reject("t", b"x", 4)];
        let rows = BatchRows::of(&batch, at(0));
        let folded = fold_letters(rows.letters.iter());
        assert_eq!(folded.len(), 2);
        let twin = folded.iter().find(|l| l.seen == 2).unwrap();
        assert_eq!(twin.received_at, batch[2].0.received_at);
        assert_eq!(twin.last_seen_at, batch[0].0.received_at);
    }

    #[test]
    fn forms_of_one_event_stay_in_the_order_they_came() {
        let mut other = item("U", "A", 5, true);
        other.product_reference = Some("second".into());
        let batch = [
            entry(Event::Item(item("U", "A", 5, true))),
            entry(Event::Item(item("U", "A", 4, true))),
            entry(Event::Item(other)),
            entry(Event::Board(board("A", 1, "CONNECTED"))),
        ];
        let rows = BatchRows::of(&batch, at(0));
        let products: Vec<_> =
            rows.items.iter().map(|r| r.event.product_reference.as_deref()).collect();
        assert_eq!(products, [None, None, Some("second")]);
        assert_eq!((rows.events(), rows.kinds()), (4, 2));
    }
}
