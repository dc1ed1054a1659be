//! The decode stage: messages in, events or rejects out, in the same order.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::memory_budget::MemoryBudget;
use super::{ClockTrust, Decoder};
use crate::event::{Event, Reject, RejectReason};
use crate::message::{DecodedItem, Message, StreamItem};
use crate::progress::idle;
use crate::telemetry::Health;

/// Messages taken from the intake at once: enough to spare wake-ups, few enough to let other
/// tasks run (about 0.1 ms of decoding).
const CHUNK: usize = 128;

/// Host and database clocks agree when they differ by no more than this.
pub const CLOCK_TOLERANCE_SECONDS: f64 = 60.0;

/// Decodes what the session passes on.
pub struct DecodeStage {
    /// The decoder.
    pub decoder: Arc<Decoder>,
    /// Larger messages are set aside undecoded: they only got in because the session raised its
    /// limit to get past them.
    pub max_packet_size: usize,
    /// Tells whether the clocks agree.
    pub health: Arc<Health>,
}

impl DecodeStage {
    /// Runs until every source is closed and empty, one after the other, or the next stage is gone.
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
        mut intake: mpsc::Receiver<StreamItem>,
        budget: &MemoryBudget,
        decoded: &mpsc::Sender<DecodedItem>,
    ) {
        let mut chunk = Vec::with_capacity(CHUNK);
        while idle(intake.recv_many(&mut chunk, CHUNK)).await > 0 {
            let clock = self.clock_trust();
            for intake in chunk.drain(..) {
                let next = match intake {
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
