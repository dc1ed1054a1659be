//! The door to the stages behind the session: bounded in messages and in bytes, and never a
//! reason to stop polling.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::message::{AckToken, ConnectionNews, InFlight, Intake, Message};

/// MQTT has 65,535 packet ids, so a broker cannot have more QoS-1 deliveries outstanding.
pub const MAX_MESSAGES: usize = 65_535;

/// Places in the channel kept for [`ConnectionNews`]: three a connection, and the reconnect
/// backoff makes connections rare.
const NEWS_PLACES: usize = 1_024;

/// The channel a pipeline is built with. Its memory grows with what is in it, not with its bound.
pub fn channel() -> (mpsc::Sender<Intake>, mpsc::Receiver<Intake>) {
    mpsc::channel(MAX_MESSAGES + NEWS_PLACES)
}

/// Hands messages and news to the next stage.
#[derive(Debug)]
pub struct Door {
    sender: mpsc::Sender<Intake>,
    in_flight: Arc<InFlight>,
    /// Bound on bytes in memory, `mqtt.max_unacked`.
    max_bytes: usize,
}

/// The next stage is gone; the pipeline is being taken down.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

impl Door {
    /// A door with `max_bytes` of room behind it.
    pub fn new(sender: mpsc::Sender<Intake>, in_flight: Arc<InFlight>, max_bytes: usize) -> Self {
        Self { sender, in_flight, max_bytes }
    }

    /// Whether a message of `size` bytes may enter. A single one larger than the whole room is
    /// admitted when nothing else is inside, or it could never be delivered.
    pub fn has_room_for(&self, size: usize) -> bool {
        let held = self.in_flight.bytes();
        self.in_flight.messages() < MAX_MESSAGES
            && (held == 0 || held.saturating_add(size) <= self.max_bytes)
    }

    /// Whether so much has left that it is worth reconnecting for a message of `size` bytes.
    pub fn has_recovered_for(&self, size: usize) -> bool {
        self.has_room_for(size)
            && self.in_flight.bytes() <= self.max_bytes / 2
            && self.in_flight.messages() <= MAX_MESSAGES / 2
    }

    /// Passes one PUBLISH on. To be called after [`Self::has_room_for`].
    pub fn admit(
        &self,
        publish: rumqttc::Publish,
        ack: Option<AckToken>,
        received_at: OffsetDateTime,
    ) -> Result<(), Gone> {
        let hold = self.in_flight.hold(size_of(&publish));
        self.send(Intake::Message(Message {
            qos: publish.qos as u8,
            retain: publish.retain,
            topic: publish.topic,
            payload: publish.payload,
            received_at,
            ack,
            hold: Some(hold),
        }))
    }

    /// Passes news on.
    pub fn announce(&self, news: ConnectionNews) -> Result<(), Gone> {
        self.send(Intake::Connection(news, None))
    }

    fn send(&self, intake: Intake) -> Result<(), Gone> {
        // A full channel is impossible while MAX_MESSAGES is respected; treating it like a lost
        // stage rebuilds the pipeline, and the broker redelivers.
        self.sender.try_send(intake).map_err(|_| Gone)
    }
}

/// What a message counts for in memory.
pub fn size_of(publish: &rumqttc::Publish) -> usize {
    publish.topic.len() + publish.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(max_bytes: usize) -> (Door, Arc<InFlight>, mpsc::Receiver<Intake>) {
        let (sender, receiver) = channel();
        let in_flight = Arc::new(InFlight::default());
        (Door::new(sender, Arc::clone(&in_flight), max_bytes), in_flight, receiver)
    }

    fn publish(size: usize) -> rumqttc::Publish {
        rumqttc::Publish::new("t", rumqttc::QoS::AtLeastOnce, vec![0; size - 1])
    }

    #[test]
    fn a_message_larger_than_the_room_enters_alone() {
        let (door, in_flight, _receiver) = door(100);
        assert!(door.has_room_for(1_000));
        let _hold = in_flight.hold(1);
        assert!(!door.has_room_for(1_000));
    }

    #[test]
    fn room_is_freed_when_the_last_stage_drops_the_message() {
        let (door, in_flight, mut receiver) = door(100);
        door.admit(publish(80), None, OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(in_flight.bytes(), 80);
        assert!(!door.has_room_for(30));
        drop(receiver.try_recv().unwrap());
        assert!(door.has_recovered_for(30));
    }
}
