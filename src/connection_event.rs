//! Events in the life of a connection to the broker, as stored in tables `connection` and `gap`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ack::ConnectionId;
use crate::gap::Gap;

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
pub enum ConnectionEvent {
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
