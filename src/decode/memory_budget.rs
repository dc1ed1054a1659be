//! Memory budget of events that are decoded and not yet stored. Their messages are counted where they are
//! received, by the bytes of payload; a decoded event may take many times as much.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::Event;
use crate::message::Message;

/// Most memory of decoded events between the decode stage and the store, those below [`LIGHT`]
/// apart: what one batch may hold. A larger event is admitted alone.
const MAX_BYTES: u32 = 16 * 1024 * 1024;

/// Events that take less are bounded by their number, with the places in the channel: about ten
/// times what a documented event takes.
const LIGHT: usize = 4 * 1024;

/// The room that is left.
#[derive(Debug)]
pub(super) struct MemoryBudget(Arc<Semaphore>);

impl MemoryBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES as usize)))
    }

    /// Waits until there is room for an event, and takes it for as long as its message keeps its
    /// bytes.
    pub(super) async fn take(&self, message: &mut Message, event: &Event) {
        let size = event.heap_bytes();
        if size < LIGHT {
            return;
        }
        let size = u32::try_from(size).map_or(MAX_BYTES, |size| size.min(MAX_BYTES));
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.0).acquire_many_owned(size).await {
            let bytes = std::mem::take(&mut message.payload);
            message.payload = Bytes::from_owner(PermittedBytes { bytes, _permit: permit });
        }
    }
}

/// The bytes of a message, which give the room back when they are dropped.
struct PermittedBytes {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::config::{DecodeConfig, KeepPayload};
    use crate::decode::{ClockTrust, Decoder};
    use crate::topic::{EventEncoding, EventKind};

    fn message() -> Message {
        Message {
            topic: "t".to_owned(),
            payload: Bytes::from_static(br#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1"}"#),
            received_at: datetime!(2026-03-01 12:00 UTC),
            qos: 1,
            retain: false,
            ack: None,
            permit: None,
        }
    }

    /// An event that takes so many bytes, a few more or less.
    fn event(bytes: usize) -> Event {
        let config = DecodeConfig::new(None, KeepPayload::Never);
        let Message { payload, received_at, .. } = message();
        let event = Decoder::new(&config, "acme").unwrap().decode_as(
            EventKind::Item,
            EventEncoding::Json,
            &payload,
            received_at,
            ClockTrust::Unknown,
        );
        let Ok(Event::Item(mut item)) = event else { panic!("expected an item: {event:?}") };
        item.board_sn = Some("x".repeat(bytes));
        Event::Item(item)
    }

    fn left(room: &MemoryBudget) -> usize {
        room.0.available_permits()
    }

    async fn is_taken_at_once(room: &MemoryBudget, message: &mut Message, event: &Event) -> bool {
        // Polled once before the time is looked at.
        tokio::time::timeout(Duration::ZERO, room.take(message, event)).await.is_ok()
    }

    #[tokio::test]
    async fn an_ordinary_event_takes_no_room() {
        let (room, mut message) = (MemoryBudget::new(), message());
        assert!(is_taken_at_once(&room, &mut message, &event(20)).await);
        assert_eq!(left(&room), MAX_BYTES as usize);
    }

    #[tokio::test]
    async fn room_is_given_back_with_the_last_bytes() {
        let (room, mut message) = (MemoryBudget::new(), message());
        let before = message.payload.clone();
        let event = event(100_000);
        room.take(&mut message, &event).await;
        assert_eq!(
            (left(&room), &message.payload),
            (MAX_BYTES as usize - event.heap_bytes(), &before)
        );
        let copy = message.payload.clone();
        drop(message);
        assert!(left(&room) < MAX_BYTES as usize);
        drop(copy);
        assert_eq!(left(&room), MAX_BYTES as usize);
    }

    #[tokio::test]
    async fn a_huge_event_waits_to_be_alone() {
        let (room, mut first, mut second) = (MemoryBudget::new(), message(), message());
        let (large, huge) = (event(10_000_000), event(20_000_000));
        room.take(&mut first, &large).await;
        assert!(!is_taken_at_once(&room, &mut second, &large).await);
        assert!(!is_taken_at_once(&room, &mut second, &huge).await);
        drop(first);
        assert!(is_taken_at_once(&room, &mut second, &huge).await);
        assert_eq!(left(&room), 0);
    }
}
