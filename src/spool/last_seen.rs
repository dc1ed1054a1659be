//! Which connection stands, written down so that the next process can tell since when this one was
//! away, though the database was away too.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::SpoolError;
use super::row::{time as at, unreadable_event};
use super::storage::{LastSeen, LastSeenChange, StorageFile};
use crate::connection_event::{ConnectionEvent, WITHOUT_NOTICE};
use crate::message::StreamItem;

/// How exactly it is known when a process died while the database was away.
const REFRESH: Duration = Duration::from_secs(10);

/// The connection as the file knows it.
#[derive(Debug, Default)]
pub(super) struct ConnectionMarker {
    /// Its name, as JSON, and when that was last written.
    written: Option<(String, Instant)>,
    /// What became of it while news passed the disk by.
    bypassed: LastSeenChange,
}

impl ConnectionMarker {
    /// What is to be written with these, which `database_records` anyway while nothing changes.
    pub fn change<'i>(
        &self,
        appended: impl DoubleEndedIterator<Item = &'i StreamItem>,
        database_records: bool,
        (now, at): (Instant, OffsetDateTime),
    ) -> LastSeenChange {
        if let Some(change) = appended.rev().find_map(|intake| change_of(intake, at)) {
            return change;
        }
        if self.bypassed != LastSeenChange::None {
            return self.bypassed.clone();
        }
        let Some((connection, written)) = &self.written else { return LastSeenChange::None };
        let due = now.saturating_duration_since(*written) >= REFRESH && !database_records;
        if due { seen(connection.clone(), at) } else { LastSeenChange::None }
    }

    /// It was written.
    pub fn wrote(&mut self, change: LastSeenChange, now: Instant) {
        self.written = match change {
            LastSeenChange::None => return,
            LastSeenChange::Cleared => None,
            LastSeenChange::Set(seen) => Some((seen.connection, now)),
        };
        self.bypassed = LastSeenChange::None;
    }

    /// This went past the disk.
    pub fn bypassed(&mut self, intake: &StreamItem, at: OffsetDateTime) {
        if let Some(change) = change_of(intake, at) {
            self.bypassed = change;
        }
    }
}

fn change_of(intake: &StreamItem, at: OffsetDateTime) -> Option<LastSeenChange> {
    match intake {
        StreamItem::Connection(ConnectionEvent::Opened { connection, .. }, _) => {
            serde_json::to_string(connection).ok().map(|connection| seen(connection, at))
        }
        StreamItem::Connection(ConnectionEvent::Closed { .. }, _) => Some(LastSeenChange::Cleared),
        StreamItem::Connection(..) | StreamItem::Message(_) => None,
    }
}

fn seen(connection: String, at: OffsetDateTime) -> LastSeenChange {
    let seen_at = at.unix_timestamp_nanos();
    LastSeenChange::Set(LastSeen {
        connection,
        seen_at: i64::try_from(seen_at).unwrap_or(i64::MAX),
    })
}

/// Returns the end of the connection that an earlier process left open: when that was last known to
/// live. Where its name has an unknown form, a gap until `now` takes its place.
pub(super) async fn ended_without_notice(
    file: &mut impl StorageFile,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<Option<ConnectionEvent>, SpoolError> {
    let Some(seen) = file.last_seen().await? else { return Ok(None) };
    let seen_at = at(file.newest().await?.map_or(seen.seen_at, |row| row.max(seen.seen_at)));
    let Ok(connection) = serde_json::from_str(&seen.connection) else {
        let place = "table life of the spool";
        return Ok(Some(unreadable_event(client_id, place, (seen_at, now.max(seen_at)))));
    };
    let reason = WITHOUT_NOTICE.to_owned();
    Ok(Some(ConnectionEvent::Closed { connection, at: seen_at, reason }))
}
