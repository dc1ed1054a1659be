//! What travels between the stages: raw messages with their acknowledgement tokens, and the
//! markers that must keep their place in the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::ack::{AckToken, Committed, ConnectionId};
use crate::event::{Event, Reject};

/// Counts the bytes of messages between the spool and the database.
#[derive(Debug, Default)]
pub struct InFlight {
    bytes: AtomicUsize,
    freed: Notify,
}

impl InFlight {
    /// Payload and topic bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Waits until another `size` bytes are within `most`, or nothing is held. For one waiter.
    pub async fn until_room_for(&self, size: usize, most: usize) {
        loop {
            let held = self.bytes();
            if held == 0 || held.saturating_add(size) <= most {
                return;
            }
            self.freed.notified().await;
        }
    }

    /// Counts a message of `bytes` in; the hold counts it out when dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Hold {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Hold { owner: Arc::clone(self), bytes }
    }
}

/// Keeps one message counted in [`InFlight`] for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    owner: Arc<InFlight>,
    bytes: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.owner.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.owner.freed.notify_one();
    }
}

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
    pub hold: Option<Hold>,
}

/// What the session tells the stages behind it, in order.
#[derive(Debug)]
pub enum Intake {
    /// A message.
    Message(Message),
    /// Something about the connection itself; with a token where it comes out of the spool.
    Connection(ConnectionNews, Option<AckToken>),
}

/// What came out of decoding, in the order it went in.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "messages are the rule, news the rare exception")]
pub enum Decoded {
    /// A message with what it decoded to. The message stays: its bytes may yet become a dead
    /// letter, its token an acknowledgement.
    Message(Message, Result<Event, Reject>),
    /// Passed through.
    Connection(ConnectionNews, Option<AckToken>),
}

/// Names one connection among those of all processes: what is told of it may be written down by a
/// later process, out of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionName {
    /// MQTT client identifier.
    pub client_id: String,
    /// The process: a fresh UUID per start.
    pub instance: Uuid,
    /// Which of its connections.
    pub id: ConnectionId,
}

/// Facts about connections that are stored in `connection` and `gap`. They travel in line with
/// the messages: whatever they say is durable before the first acknowledgement that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionNews {
    /// CONNACK was received.
    Opened {
        /// Which connection.
        connection: ConnectionName,
        /// When CONNACK came.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        /// MQTT Session Present.
        session_present: bool,
        /// Topic filters subscribed to now.
        filters: Vec<String>,
        /// Where this process spools, if it does: a later one may have to look there.
        spool_dir: Option<String>,
    },
    /// Filters of earlier connections that the broker confirmed as unsubscribed.
    Unsubscribed {
        /// Which connection.
        connection: ConnectionName,
        /// The filters.
        filters: Vec<String>,
    },
    /// The connection ended.
    Closed {
        /// Which connection.
        connection: ConnectionName,
        /// When.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        /// In a few words.
        reason: String,
    },
    /// Messages may have been lost.
    Gap(Gap),
}

/// Reason of the end of a connection that nobody saw end. It stood at the time that is told, and
/// perhaps later.
pub const WITHOUT_NOTICE: &str = "ended without notice";

/// Reason of the end of a connection whose session was ended for good.
pub const RETIRED: &str = "retired";

/// A row of `gap`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// MQTT client identifier.
    pub client_id: String,
    /// Since when messages may be missing. Names the gap, with client and cause.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Until when; `None` while it lasts.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// Why.
    pub cause: GapCause,
    /// In words, for a person.
    pub detail: String,
}

/// The `cause` column of `gap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The broker no longer knew the session.
    SessionLost,
    /// Away longer than the broker keeps the session.
    Absence,
    /// Acknowledgements were held for so long that the broker's queue may have overflowed.
    Backpressure,
    /// The spool reached its limit; acknowledgements were held.
    SpoolFull,
    /// The spool file was corrupt; not every row could be salvaged.
    SpoolDamaged,
    /// Another member of the share group is gone, and with it what the broker held for it.
    MemberVanished,
    /// The database was found in an earlier state: restored from a backup.
    DatabaseRestored,
}

impl GapCause {
    /// One of each.
    pub const ALL: [Self; 7] = [
        Self::SessionLost,
        Self::Absence,
        Self::Backpressure,
        Self::SpoolFull,
        Self::SpoolDamaged,
        Self::MemberVanished,
        Self::DatabaseRestored,
    ];

    /// As stored in `gap.cause` and in the metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionLost => "session_lost",
            Self::Absence => "absence",
            Self::Backpressure => "backpressure",
            Self::SpoolFull => "spool_full",
            Self::SpoolDamaged => "spool_damaged",
            Self::MemberVanished => "member_vanished",
            Self::DatabaseRestored => "database_restored",
        }
    }
}

/// What the stages behind the session tell it.
#[derive(Debug)]
pub enum Feedback {
    /// These may be acknowledged.
    Committed(Committed),
    /// This is durable.
    Noted(ConnectionNews),
    /// Filters of earlier connections that are no longer configured.
    Unsubscribe(Vec<String>),
}
