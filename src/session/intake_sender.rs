//! The sending side of the pipeline, which never blocks the session.

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::ledger::MAX_MESSAGES;
use super::transport::PublishPacket;
use crate::stream::ack::AckToken;
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::message::{Message, StreamItem};

/// Channel capacity reserved for [`ConnectionEvent`]: there are a few per connection, and
/// the reconnect backoff makes connections rare.
const EVENT_CAPACITY: usize = 1_024;

/// Creates the channel of a pipeline. Its bound follows from the ledger, which admits no more than
/// [`MAX_MESSAGES`]. Its memory grows with its content, not with its bound.
pub fn channel() -> (mpsc::Sender<StreamItem>, mpsc::Receiver<StreamItem>) {
    mpsc::channel(MAX_MESSAGES + EVENT_CAPACITY)
}

/// Sends messages and connection events to the next stage.
#[derive(Debug)]
pub struct IntakeSender(mpsc::Sender<StreamItem>);

/// Error: the next stage is gone, because the pipeline is being stopped.
#[derive(Debug, PartialEq, Eq)]
pub struct PipelineClosed;

impl IntakeSender {
    /// Wraps the sending side of [`channel`].
    pub fn new(sender: mpsc::Sender<StreamItem>) -> Self {
        Self(sender)
    }

    /// Sends one PUBLISH to the next stage.
    pub fn send_message(
        &self,
        publish: PublishPacket,
        ack: AckToken,
        received_at: OffsetDateTime,
    ) -> Result<(), PipelineClosed> {
        self.send(StreamItem::Message(Message {
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic,
            payload: publish.payload,
            received_at,
            ack: Some(ack),
            permit: None,
        }))
    }

    /// Sends a connection event to the next stage.
    pub fn send_event(&self, event: ConnectionEvent) -> Result<(), PipelineClosed> {
        self.send(StreamItem::Connection(event, None))
    }

    fn send(&self, intake: StreamItem) -> Result<(), PipelineClosed> {
        // A full channel is impossible while the ledger's bound is respected. Treating it like a lost
        // stage rebuilds the pipeline, and the broker redelivers.
        self.0.try_send(intake).map_err(|_| PipelineClosed)
    }
}
