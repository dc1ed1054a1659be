//! Gaps: periods in which messages may have been lost, with their causes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

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
