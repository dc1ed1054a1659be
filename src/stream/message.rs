//! The items that travel between the stages: raw messages with their acknowledgement tokens, and
//! the connection events that must keep their place among them.

use bytes::Bytes;
use time::OffsetDateTime;

use crate::event::{Event, Reject};
use crate::stream::ack::{AckToken, Committed};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::in_flight::InFlightPermit;

/// One MQTT PUBLISH as received.
#[derive(Debug)]
pub struct Message {
    /// Topic name of the PUBLISH.
    pub topic: String,
    /// The application message, not decoded.
    pub payload: Bytes,
    /// Time at which the bridge read it from the socket.
    pub received_at: OffsetDateTime,
    /// MQTT quality of service, 0 to 2.
    pub qos: u8,
    /// MQTT RETAIN flag. A retained message repeats the past and is left out of lag figures.
    pub retain: bool,
    /// The right to acknowledge it. `None` if no acknowledgement is due (replay, tests).
    pub ack: Option<AckToken>,
    /// Memory accounting. `None` if nothing bounds the source (replay, tests).
    pub permit: Option<InFlightPermit>,
}

/// An item of the stream before decoding. The order of the stream is that of receipt.
#[derive(Debug)]
pub enum StreamItem {
    /// A message of the broker.
    Message(Message),
    /// A connection event, with a token if it comes out of the spool.
    Connection(ConnectionEvent, Option<AckToken>),
}

/// An item of the stream after decoding, in unchanged order.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "messages are the rule, events the rare exception")]
pub enum DecodedItem {
    /// A message with its event or the reason of its refusal. The message is kept: its bytes may
    /// become a dead letter, and its token an acknowledgement.
    Message(Message, Result<Event, Reject>),
    /// A connection event, passed through.
    Connection(ConnectionEvent, Option<AckToken>),
}

impl DecodedItem {
    /// Returns the right to acknowledge the item, if it carries one.
    pub fn token(&self) -> Option<&AckToken> {
        match self {
            Self::Message(message, _) => message.ack.as_ref(),
            Self::Connection(_, token) => token.as_ref(),
        }
    }
}

/// Feedback of the later stages to the session.
#[derive(Debug)]
pub enum Feedback {
    /// These deliveries may be acknowledged.
    Committed(Committed),
    /// This event is durable.
    Persisted(ConnectionEvent),
    /// Filters of earlier connections that are no longer configured.
    Unsubscribe(Vec<String>),
}
