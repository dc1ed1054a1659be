//! The items that travel between the stages: raw messages with their acknowledgement tokens, and
//! the connection events that must keep their place among them.

use bytes::Bytes;
use time::OffsetDateTime;

use crate::ack::{AckToken, Committed};
use crate::connection_event::ConnectionEvent;
use crate::event::{Event, Reject};
use crate::in_flight::InFlightPermit;

/// One MQTT PUBLISH as received.
#[derive(Debug)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Application message.
    pub payload: Bytes,
    /// When the bridge read it from the socket.
    pub received_at: OffsetDateTime,
    /// MQTT quality of service, 0 to 2.
    pub qos: u8,
    /// MQTT retain flag: not news, left out of lag figures.
    pub retain: bool,
    /// `None` where nobody waits for it (replay, tests).
    pub ack: Option<AckToken>,
    /// Memory accounting; `None` where nothing bounds the source (replay, tests).
    pub permit: Option<InFlightPermit>,
}

/// What the session tells the stages behind it, in order.
#[derive(Debug)]
pub enum StreamItem {
    /// A message.
    Message(Message),
    /// Something about the connection itself; with a token where it comes out of the spool.
    Connection(ConnectionEvent, Option<AckToken>),
}

/// What came out of decoding, in the order it went in.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "messages are the rule, news the rare exception")]
pub enum DecodedItem {
    /// A message with what it decoded to. The message stays: its bytes may yet become a dead
    /// letter, its token an acknowledgement.
    Message(Message, Result<Event, Reject>),
    /// Passed through.
    Connection(ConnectionEvent, Option<AckToken>),
}

impl DecodedItem {
    /// Returns the right to acknowledge the item, where it carries one.
    pub fn token(&self) -> Option<&AckToken> {
        match self {
            Self::Message(message, _) => message.ack.as_ref(),
            Self::Connection(_, token) => token.as_ref(),
        }
    }
}

/// What the stages behind the session tell it.
#[derive(Debug)]
pub enum Feedback {
    /// These may be acknowledged.
    Committed(Committed),
    /// This is durable.
    Persisted(ConnectionEvent),
    /// Filters of earlier connections that are no longer configured.
    Unsubscribe(Vec<String>),
}
