//! The sending side of the pipeline: never a reason for the session to wait.

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::ledger::MAX_MESSAGES;
use super::transport::PublishPacket;
use crate::ack::AckToken;
use crate::connection_event::ConnectionEvent;
use crate::message::{Message, StreamItem};

/// Places in the channel kept for [`ConnectionEvent`]: a few a connection, and the reconnect backoff
/// makes connections rare.
const EVENT_CAPACITY: usize = 1_024;

/// Makes the channel of a pipeline. Its bound follows from the ledger, which lets in no more than
/// [`MAX_MESSAGES`]. Its memory grows with its content, not with its bound.
pub fn channel() -> (mpsc::Sender<StreamItem>, mpsc::Receiver<StreamItem>) {
    mpsc::channel(MAX_MESSAGES + EVENT_CAPACITY)
}

/// Hands messages and connection events to the next stage.
#[derive(Debug)]
pub struct IntakeSender(mpsc::Sender<StreamItem>);

/// The next stage is gone: the pipeline is being taken down.
#[derive(Debug, PartialEq, Eq)]
pub struct PipelineClosed;

impl IntakeSender {
    /// Wraps the sending side of [`channel`].
    pub fn new(sender: mpsc::Sender<StreamItem>) -> Self {
        Self(sender)
    }

    /// Passes one PUBLISH on.
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

    /// Passes an event of the connection on.
    pub fn send_event(&self, event: ConnectionEvent) -> Result<(), PipelineClosed> {
        self.send(StreamItem::Connection(event, None))
    }

    fn send(&self, intake: StreamItem) -> Result<(), PipelineClosed> {
        // A full channel is impossible while the ledger's bound is respected. Treating it like a lost
        // stage rebuilds the pipeline, and the broker redelivers.
        self.0.try_send(intake).map_err(|_| PipelineClosed)
    }
}
