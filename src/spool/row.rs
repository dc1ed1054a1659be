//! One row of the spool: a message as received, or a connection event. It has a checksum, because a
//! disk may return other bytes than those written.

use std::borrow::Cow;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::stream::ack::{AckToken, ConnectionId};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::gap::{Gap, GapCause};
use crate::stream::in_flight::InFlightPermit;
use crate::stream::message::{Message, StreamItem};

/// A row of table `entry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolRow<'a> {
    /// Time of receipt, in nanoseconds of Unix time.
    pub received_at: i64,
    /// MQTT topic. `None` for a connection event, whose JSON form is the payload.
    pub topic: Option<Cow<'a, str>>,
    /// MQTT payload, or the JSON form of a connection event.
    pub payload: Cow<'a, [u8]>,
    /// MQTT quality of service.
    pub qos: i64,
    /// RETAIN flag of the message.
    pub retain: bool,
}

/// Approximate bytes that a row takes in the file in addition to its topic and payload.
const ROW_OVERHEAD: u64 = 64;

/// Bytes of a page of the file. A row larger than a page takes whole pages.
pub(super) const PAGE: u64 = 4096;

impl<'a> SpoolRow<'a> {
    /// Makes the row of an item. A connection event gets the time `at`.
    pub fn from_item(item: &'a StreamItem, at: OffsetDateTime) -> Self {
        match item {
            StreamItem::Message(message) => Self {
                received_at: nanoseconds(message.received_at),
                topic: Some(Cow::Borrowed(&message.topic)),
                payload: Cow::Borrowed(&message.payload),
                qos: message.qos.into(),
                retain: message.retain,
            },
            StreamItem::Connection(event, _) => Self::from_event(event, at),
        }
    }

    /// Makes the row of a connection event.
    pub fn from_event(event: &ConnectionEvent, at: OffsetDateTime) -> SpoolRow<'static> {
        // Unwrap safety: texts, numbers and times of this millennium always have a JSON form.
        let json = serde_json::to_vec(event).expect("events have a JSON form");
        SpoolRow {
            received_at: nanoseconds(at),
            topic: None,
            payload: Cow::Owned(json),
            qos: 0,
            retain: false,
        }
    }

    /// Returns the item of the row. Its token deletes the row once the item is committed.
    pub fn into_item(self, id: u64, permit: Option<InFlightPermit>, client_id: &str) -> StreamItem {
        let ack = Some(AckToken::new(ConnectionId::SPOOL, id));
        let received_at = time(self.received_at);
        let Some(topic) = self.topic else {
            let event = serde_json::from_slice(&self.payload).unwrap_or_else(|_| {
                let place = format!("row {id} of the spool");
                unreadable_event(client_id, &place, (received_at, received_at))
            });
            return StreamItem::Connection(event, ack);
        };
        StreamItem::Message(Message {
            topic: topic.into_owned(),
            payload: Bytes::from(self.payload.into_owned()),
            received_at,
            qos: u8::try_from(self.qos).unwrap_or(1),
            retain: self.retain,
            ack,
            permit,
        })
    }

    /// Returns the bytes of topic and payload.
    pub fn size(&self) -> usize {
        self.topic.as_ref().map_or(0, |topic| topic.len()) + self.payload.len()
    }

    /// Returns the bytes that the row counts against `spool.max_size`.
    pub fn cost(&self) -> u64 {
        let bytes = self.size() as u64 + ROW_OVERHEAD;
        if bytes > PAGE { bytes.next_multiple_of(PAGE) } else { bytes }
    }

    /// Returns the first 64 bits of SHA-256 over the length-prefixed parts.
    pub fn checksum(&self) -> i64 {
        let topic = self.topic.as_ref().map_or(&[][..], |topic| topic.as_bytes());
        let mut hasher = Sha256::new();
        hasher.update(self.received_at.to_be_bytes());
        hasher.update(self.qos.to_be_bytes());
        hasher.update([u8::from(self.retain), u8::from(self.topic.is_some())]);
        hasher.update((topic.len() as u64).to_be_bytes());
        hasher.update(topic);
        hasher.update(&self.payload);
        let digest = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        i64::from_be_bytes(first)
    }
}

/// Returns the gap that replaces an event in an unknown format, written by another version of this
/// program: the event may have reported a lost session.
pub(super) fn unreadable_event(
    client_id: &str,
    place: &str,
    (started_at, ended_at): (OffsetDateTime, OffsetDateTime),
) -> ConnectionEvent {
    tracing::error!(
        place,
        "a connection event in the spool has an unknown format (written by another version); \
         recording a possible loss"
    );
    ConnectionEvent::Gap(Gap {
        client_id: client_id.to_owned(),
        started_at,
        ended_at: Some(ended_at),
        cause: GapCause::SpoolDamaged,
        detail: format!(
            "{place} holds a connection event in an unknown format, written by another version of this \
             program: it may have reported a lost session; let that version empty the spool before \
             you change the version"
        ),
    })
}

pub(super) fn nanoseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn time(nanoseconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::stream::connection_event::ConnectionName;

    fn row() -> impl Strategy<Value = SpoolRow<'static>> {
        let topic = prop::option::of("\\PC{0,8}");
        (any::<i64>(), topic, prop::collection::vec(any::<u8>(), 0..16), 0i64..3, any::<bool>())
            .prop_map(|(received_at, topic, payload, qos, retain)| SpoolRow {
                received_at,
                topic: topic.map(Cow::Owned),
                payload: Cow::Owned(payload),
                qos,
                retain,
            })
    }

    proptest! {
        #[test]
        fn different_rows_have_different_checksums(one in row(), other in row()) {
            prop_assert_eq!(one == other, one.checksum() == other.checksum());
        }

        #[test]
        fn flipped_bits_are_detected(row in row(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
            prop_assume!(!row.payload.is_empty());
            let mut payload = row.payload.to_vec();
            let place = place.index(payload.len());
            payload[place] ^= 1u8 << bit;
            let flipped = SpoolRow { payload: Cow::Owned(payload), ..row.clone() };
            prop_assert_ne!(flipped.checksum(), row.checksum());
        }
    }

    #[test]
    fn messages_survive_the_round_trip() {
        let at = time(1_770_000_000_123_456_789);
        let message = |ack| Message {
            topic: "centiloc/acme".into(),
            payload: Bytes::from_static(b"\0\xff"),
            received_at: at,
            qos: 1,
            retain: true,
            ack,
            permit: None,
        };
        let item = StreamItem::Message(message(None));
        let out = SpoolRow::from_item(&item, OffsetDateTime::UNIX_EPOCH).into_item(
            7,
            None,
            "acme-bridge",
        );
        let token = AckToken::new(ConnectionId::SPOOL, 7);
        assert_eq!(format!("{out:?}"), format!("{:?}", StreamItem::Message(message(Some(token)))));
    }

    #[test]
    fn connection_events_survive_the_round_trip() {
        let at = time(1_770_000_000_123_456_789);
        let connection = ConnectionName {
            client_id: "acme-bridge".into(),
            instance: Uuid::from_u128(7),
            id: ConnectionId(3),
        };
        let gap = Gap {
            client_id: "acme-bridge".into(),
            started_at: at,
            ended_at: None,
            cause: GapCause::SpoolFull,
            detail: "\u{e9}\0\"".into(),
        };
        let opened = ConnectionEvent::Opened {
            connection: connection.clone(),
            at,
            session_present: false,
            filters: vec!["centiloc/acme".into()],
            spool_dir: Some("/spool".into()),
        };
        let closed = ConnectionEvent::Closed {
            connection: connection.clone(),
            at,
            reason: "closed_by_broker".into(),
        };
        let unsubscribed =
            ConnectionEvent::Unsubscribed { connection, filters: vec!["old".into()] };
        for event in [opened, closed, unsubscribed, ConnectionEvent::Gap(gap)] {
            match SpoolRow::from_event(&event, at).into_item(1, None, "acme-bridge") {
                StreamItem::Connection(out, Some(token)) => {
                    assert_eq!(out, event);
                    assert!(token.id().is_spooled());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn rows_larger_than_a_page_count_whole_pages() {
        let row = |size| SpoolRow {
            received_at: 0,
            topic: Some("t".into()),
            payload: Cow::Owned(vec![0; size]),
            qos: 1,
            retain: false,
        };
        assert_eq!(row(100).cost(), 165);
        assert_eq!(row(5000).cost(), 2 * PAGE);
    }
}
