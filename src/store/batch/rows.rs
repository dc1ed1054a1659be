//! One batch, sorted into what each table gets.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::{Event, EventKind, Reject, RejectReason};
use crate::store::{kinds, text};
use crate::stream::message::Message;

/// A message with what it decoded to.
pub type DecodedMessage = (Message, Result<Event, Reject>);

/// An event and the message it came in, which becomes a dead letter if the database refuses the
/// event.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct EventRow<'a> {
    pub event: &'a Event,
    pub message: &'a Message,
}

/// A batch, sorted by table.
#[derive(Debug)]
pub(in crate::store) struct BatchRows<'a> {
    /// The events of each kind, in [`EventTables::order`](super::super::kinds::EventTables::order).
    events: Vec<(EventKind, Vec<EventRow<'a>>)>,
    pub letters: Vec<DeadLetter<'a>>,
    /// The latest momentum that may become state.
    pub latest: OffsetDateTime,
}

impl<'a> BatchRows<'a> {
    /// Sorts a batch. Several forms of one event all stay, in the order they came: the first is
    /// stored, and if that is refused, the next is tried.
    pub fn of(batch: &'a [DecodedMessage], latest: OffsetDateTime) -> Self {
        let mut events: Vec<_> = EventKind::ALL.map(|kind| (kind, Vec::new())).into();
        let mut letters = Vec::new();
        for (message, result) in batch {
            match result {
                Ok(event) => {
                    let of_kind = events.iter_mut().find(|(kind, _)| *kind == event.kind());
                    if let Some((_, rows)) = of_kind {
                        rows.push(EventRow { event, message });
                    }
                }
                Err(reject) => letters.push(DeadLetter::rejected(message, reject)),
            }
        }
        for (kind, rows) in &mut events {
            let tables = kinds::tables(*kind);
            rows.sort_by(|a, b| tables.order(a.event, b.event));
        }
        Self { events, letters, latest }
    }

    /// Returns the event rows of each kind that the batch holds.
    pub fn events(&self) -> impl Iterator<Item = EventRows<'_, 'a>> {
        let all = self.events.iter().map(|(kind, rows)| EventRows { kind: *kind, rows });
        all.filter(|rows| rows.len() > 0)
    }

    /// Returns the momenta of the events whose table has partitions.
    pub fn partitioned_momenta(&self) -> impl Iterator<Item = OffsetDateTime> {
        let partitioned = self.events().filter(|rows| kinds::tables(rows.kind).is_partitioned());
        partitioned.flat_map(|rows| rows.rows.iter().map(|row| row.event.momentum()))
    }

    /// Counts the event rows.
    pub fn event_count(&self) -> usize {
        self.events().map(|rows| rows.len()).sum()
    }

    /// Counts the statements that write this batch.
    pub fn statements(&self) -> usize {
        self.events().count() + usize::from(!self.letters.is_empty())
    }
}

/// Event rows of one kind, which one statement writes and which are bisected.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct EventRows<'r, 'a> {
    pub kind: EventKind,
    pub rows: &'r [EventRow<'a>],
}

impl<'a> EventRows<'_, 'a> {
    /// Counts the rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns both halves. The first is the smaller.
    pub fn halves(&self) -> [Self; 2] {
        let (first, second) = self.rows.split_at(self.rows.len() / 2);
        [Self { rows: first, ..*self }, Self { rows: second, ..*self }]
    }

    /// Returns the message and event id if there is one row.
    pub fn single(&self) -> Option<(&'a Message, Uuid)> {
        match self.rows {
            [row] => Some((row.message, row.event.event_id())),
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
    fn equal_letters_merge_with_count_and_times() {
        let batch = [reject("t", b"x", 9), reject("t", b"y", 1), reject("t", b"x", 4)];
        let rows = BatchRows::of(&batch, at(0));
        let folded = fold_letters(rows.letters.iter());
        assert_eq!(folded.len(), 2);
        let twin = folded.iter().find(|l| l.seen == 2).unwrap();
        assert_eq!(twin.received_at, batch[2].0.received_at);
        assert_eq!(twin.last_seen_at, batch[0].0.received_at);
    }

    #[test]
    fn forms_of_one_event_keep_their_order() {
        let mut other = item("U", "A", 5, true);
        other.product_reference = Some("second".into());
        let batch = [
            entry(Event::Item(item("U", "A", 5, true))),
            entry(Event::Item(item("U", "A", 4, true))),
            entry(Event::Item(other)),
            entry(Event::Board(board("A", 1, "CONNECTED"))),
        ];
        let rows = BatchRows::of(&batch, at(0));
        let items = rows.events().next().unwrap().rows;
        let products: Vec<_> = items
            .iter()
            .map(|row| {
                let Event::Item(item) = row.event else { panic!("expected an item: {row:?}") };
                item.product_reference.as_deref()
            })
            .collect();
        assert_eq!(products, [None, None, Some("second")]);
        assert_eq!((rows.event_count(), rows.statements()), (4, 2));
    }
}
