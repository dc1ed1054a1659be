//! The memory budget of events that are decoded and not yet stored. The session or the spool counts
//! their messages by the bytes of payload, but a decoded event may take many times as much.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::Event;
use crate::stream::message::Message;

/// Most memory, in bytes, of the decoded events between the decode stage and the store, apart from those
/// below [`LIGHT`]. It equals the limit of one batch. A larger event is admitted alone.
const MAX_BYTES: u32 = 16 * 1024 * 1024;

/// Size, in bytes, below which events are bounded only by the capacity of the channel. It is about ten
/// times the size of a documented event.
const LIGHT: usize = 4 * 1024;

/// The budget, with the bytes that are left.
#[derive(Debug)]
pub(super) struct MemoryBudget(Arc<Semaphore>);

impl MemoryBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES as usize)))
    }

    /// Waits until the budget has room for an event, and takes it until the bytes of its message are
    /// dropped.
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

/// The bytes of a message. Dropping them returns their part of the budget.
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
    use crate::event::EventKind;
    use crate::topic::EventEncoding;

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

    /// Makes an event of about this many bytes.
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
        // The future is polled once before the timer.
        tokio::time::timeout(Duration::ZERO, room.take(message, event)).await.is_ok()
    }

    #[tokio::test]
    async fn ordinary_events_take_no_budget() {
        let (room, mut message) = (MemoryBudget::new(), message());
        assert!(is_taken_at_once(&room, &mut message, &event(20)).await);
        assert_eq!(left(&room), MAX_BYTES as usize);
    }

    #[tokio::test]
    async fn dropping_the_last_bytes_returns_the_budget() {
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
    async fn huge_events_wait_to_be_alone() {
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
