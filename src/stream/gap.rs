//! Gaps: periods in which messages may have been lost, with their causes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A period in which messages may have been lost: a row of table `gap`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// MQTT client identifier of the session.
    pub client_id: String,
    /// Beginning of the period. With client and cause it identifies the gap.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// End of the period. `None` while it lasts.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// The cause, as in the metrics label.
    pub cause: GapCause,
    /// An explanation for the operator.
    pub detail: String,
}

/// The `cause` column of `gap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The broker had lost the session.
    SessionLost,
    /// The process was away longer than the broker keeps the session.
    Absence,
    /// Acknowledgements were held for so long that the queue of the broker may have overflowed.
    Backpressure,
    /// The spool reached its limit, and acknowledgements were held.
    SpoolFull,
    /// The spool file was corrupt, and not every row could be salvaged.
    SpoolDamaged,
    /// Another member of the share group is gone, with the messages that the broker held for it.
    MemberVanished,
    /// The database is in an earlier state than this process knows: it was restored from a backup.
    DatabaseRestored,
}

impl GapCause {
    /// All causes, for tests and the metrics.
    pub const ALL: [Self; 7] = [
        Self::SessionLost,
        Self::Absence,
        Self::Backpressure,
        Self::SpoolFull,
        Self::SpoolDamaged,
        Self::MemberVanished,
        Self::DatabaseRestored,
    ];

    /// Returns the text of `gap.cause` and of the metrics label.
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
