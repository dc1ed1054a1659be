//! The decode stage, which turns messages into events or rejects, in unchanged order.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::memory_budget::MemoryBudget;
use super::{ClockTrust, Decoder};
use crate::event::{Event, Reject, RejectReason};
use crate::progress::idle;
use crate::stream::message::{DecodedItem, Message, StreamItem};
use crate::telemetry::Health;

/// Messages received at once: enough to save wake-ups, and few enough to let other tasks run (about
/// 0.1 ms of decoding).
const CHUNK: usize = 128;

/// Largest difference, in seconds, at which the clocks of host and database agree.
pub const CLOCK_TOLERANCE_SECONDS: f64 = 60.0;

/// Decodes the messages of the session or the spool.
pub struct DecodeStage {
    /// Decodes single messages.
    pub decoder: Arc<Decoder>,
    /// Largest message that is decoded, in bytes. The session raises its own limit to receive a larger
    /// one, which then becomes a dead letter.
    pub max_packet_size: usize,
    /// Knows the difference of the clocks.
    pub health: Arc<Health>,
}

impl DecodeStage {
    /// Reads the sources one after the other until each is closed and empty, or until the next stage has
    /// ended.
    pub async fn run<const N: usize>(
        self,
        sources: [mpsc::Receiver<StreamItem>; N],
        decoded: mpsc::Sender<DecodedItem>,
    ) {
        let budget = MemoryBudget::new();
        for source in sources {
            self.decode_all(source, &budget, &decoded).await;
        }
    }

    async fn decode_all(
        &self,
        mut items: mpsc::Receiver<StreamItem>,
        budget: &MemoryBudget,
        decoded: &mpsc::Sender<DecodedItem>,
    ) {
        let mut chunk = Vec::with_capacity(CHUNK);
        while idle(items.recv_many(&mut chunk, CHUNK)).await > 0 {
            let clock = self.clock_trust();
            tracing::debug!(items = chunk.len(), "decoding received items");
            for item in chunk.drain(..) {
                let next = match item {
                    StreamItem::Message(mut message) => {
                        let outcome = self.decode(&message, clock);
                        if let Ok(event) = &outcome {
                            idle(budget.take(&mut message, event)).await;
                        }
                        DecodedItem::Message(message, outcome)
                    }
                    StreamItem::Connection(news, token) => DecodedItem::Connection(news, token),
                };
                if idle(decoded.send(next)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn decode(&self, message: &Message, clock: ClockTrust) -> Result<Event, Reject> {
        let size = message.topic.len() + message.payload.len();
        if size > self.max_packet_size {
            return Err(Reject::new(
                RejectReason::OutOfRange,
                format!(
                    "the message has {size} bytes, mqtt.max_packet_size allows {}",
                    self.max_packet_size
                ),
            ));
        }
        self.decoder.decode(&message.topic, &message.payload, message.received_at, clock)
    }

    fn clock_trust(&self) -> ClockTrust {
        let (now, monotonic_now) = (OffsetDateTime::now_utc(), Instant::now());
        let skew = self.health.read(|s| s.database.clock.map(|c| c.skew_at(now, monotonic_now)));
        match skew {
            Some(skew) if skew.abs() <= CLOCK_TOLERANCE_SECONDS => ClockTrust::Agree(now),
            _ => ClockTrust::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::{DecodeConfig, KeepPayload};
    use crate::telemetry::health::ClockReading;

    fn stage(max_packet_size: usize) -> DecodeStage {
        let decoder = Decoder::new(&DecodeConfig::new(None, KeepPayload::Never), "acme").unwrap();
        DecodeStage { decoder: Arc::new(decoder), max_packet_size, health: Arc::default() }
    }

    #[test]
    fn only_larger_messages_are_refused_unread() {
        let message = Message {
            topic: "topic".into(),
            payload: Bytes::from_static(b"payload"),
            received_at: OffsetDateTime::UNIX_EPOCH,
            qos: 1,
            retain: false,
            ack: None,
            permit: None,
        };
        let reason = |max| stage(max).decode(&message, ClockTrust::Unknown).unwrap_err().reason;
        assert_eq!(reason(11), RejectReason::OutOfRange);
        assert_eq!(reason(12), RejectReason::UnknownTopic);
        assert_eq!(reason(13), RejectReason::UnknownTopic);
    }

    #[test]
    fn clocks_are_trusted_while_they_agree() {
        for (skew, trusted) in [
            (None, false),
            (Some(0.0), true),
            (Some(-50.0), true),
            (Some(-70.0), false),
            (Some(70.0), false),
        ] {
            let stage = stage(100);
            stage.health.update(|s| s.database.clock = skew.map(ClockReading::now));
            let trust = stage.clock_trust();
            assert_eq!(matches!(trust, ClockTrust::Agree(_)), trusted, "{skew:?}");
        }
    }
}
