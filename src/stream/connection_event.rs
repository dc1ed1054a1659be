//! Events of the connections to the broker, as stored in tables `connection` and `gap`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::stream::ack::ConnectionId;
use crate::stream::gap::Gap;

/// Names one connection among those of all processes. A later process may store an event of it, out
/// of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionName {
    /// MQTT client identifier of the connection.
    pub client_id: String,
    /// The process, a fresh UUID for each start.
    pub instance: Uuid,
    /// The number of the connection in that process.
    pub id: ConnectionId,
}

/// A connection lifecycle event, stored in `connection` or `gap`. Events travel in line with the
/// messages, so that each is durable before the first acknowledgement that follows it. The names of
/// the variants and fields are also on disk, in the spool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEvent {
    /// The broker accepted the connection.
    Opened {
        /// The connection that was accepted.
        connection: ConnectionName,
        /// Time at which CONNACK arrived.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        /// MQTT Session Present flag of CONNACK.
        session_present: bool,
        /// Topic filters of the subscription.
        filters: Vec<String>,
        /// The spool directory of this process, if it has one. A later process with the spool off
        /// drains it.
        spool_dir: Option<String>,
    },
    /// Filters of earlier connections that the broker confirmed as unsubscribed.
    Unsubscribed {
        /// The connection that unsubscribed.
        connection: ConnectionName,
        /// The filters that were unsubscribed.
        filters: Vec<String>,
    },
    /// The connection has ended.
    Closed {
        /// The connection that ended.
        connection: ConnectionName,
        /// Time of the end.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        /// The reason in a few words, for the column `connection.reason`.
        reason: String,
    },
    /// Messages may have been lost.
    Gap(Gap),
}

/// Reason of an unobserved end: the process died. The connection was open at the recorded time, and
/// perhaps later.
pub const WITHOUT_NOTICE: &str = "ended without notice";

/// Reason of the last end of a connection: its session was retired.
pub const RETIRED: &str = "retired";
