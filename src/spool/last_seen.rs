//! Records the open connection in the file. After a crash, the next process learns from it when this
//! one was last connected, even if the database was away.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::SpoolError;
use super::row::{time as at, unreadable_event};
use super::storage::{LastSeen, LastSeenChange, StorageFile};
use crate::stream::connection_event::{ConnectionEvent, WITHOUT_NOTICE};
use crate::stream::message::StreamItem;

/// Interval at which the time is refreshed while the database is away: the precision of the recorded
/// time of a crash.
const REFRESH: Duration = Duration::from_secs(10);

/// The recorded connection, and its next change.
#[derive(Debug, Default)]
pub(super) struct ConnectionMarker {
    /// The recorded name, as JSON, and the time of the last write.
    written: Option<(String, Instant)>,
    /// The change by events that bypassed the disk, not written yet.
    bypassed: LastSeenChange,
}

impl ConnectionMarker {
    /// Returns the change to write together with the appended items. While the connection stays open,
    /// the time is not refreshed if the `database_records` it.
    pub fn next_change<'i>(
        &self,
        appended: impl DoubleEndedIterator<Item = &'i StreamItem>,
        database_records: bool,
        (now, at): (Instant, OffsetDateTime),
    ) -> LastSeenChange {
        if let Some(change) = appended.rev().find_map(|item| change_of(item, at)) {
            return change;
        }
        if self.bypassed != LastSeenChange::None {
            return self.bypassed.clone();
        }
        let Some((connection, written)) = &self.written else { return LastSeenChange::None };
        let due = now.saturating_duration_since(*written) >= REFRESH && !database_records;
        if due { set(connection.clone(), at) } else { LastSeenChange::None }
    }

    /// Records that a change was written.
    pub fn record_write(&mut self, change: LastSeenChange, now: Instant) {
        self.written = match change {
            LastSeenChange::None => return,
            LastSeenChange::Cleared => None,
            LastSeenChange::Set(seen) => Some((seen.connection, now)),
        };
        self.bypassed = LastSeenChange::None;
    }

    /// Records that an item bypassed the disk.
    pub fn record_bypass(&mut self, item: &StreamItem, at: OffsetDateTime) {
        if let Some(change) = change_of(item, at) {
            self.bypassed = change;
        }
    }
}

fn change_of(item: &StreamItem, at: OffsetDateTime) -> Option<LastSeenChange> {
    match item {
        StreamItem::Connection(ConnectionEvent::Opened { connection, .. }, _) => {
            serde_json::to_string(connection).ok().map(|connection| set(connection, at))
        }
        StreamItem::Connection(ConnectionEvent::Closed { .. }, _) => Some(LastSeenChange::Cleared),
        StreamItem::Connection(..) | StreamItem::Message(_) => None,
    }
}

fn set(connection: String, at: OffsetDateTime) -> LastSeenChange {
    let seen_at = at.unix_timestamp_nanos();
    LastSeenChange::Set(LastSeen {
        connection,
        seen_at: i64::try_from(seen_at).unwrap_or(i64::MAX),
    })
}

/// Returns the end of the connection that an earlier process left open, at the time when that process
/// was last known to run. If the name has an unknown form, returns a gap until `now` instead.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::ack::ConnectionId;
    use crate::stream::connection_event::ConnectionName;

    const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn name(client_id: &str) -> ConnectionName {
        let instance = uuid::Uuid::nil();
        ConnectionName { client_id: client_id.into(), instance, id: ConnectionId(1) }
    }

    fn opened(client_id: &str) -> StreamItem {
        let event = ConnectionEvent::Opened {
            connection: name(client_id),
            at: AT,
            session_present: true,
            filters: Vec::new(),
            spool_dir: None,
        };
        StreamItem::Connection(event, None)
    }

    fn closed() -> StreamItem {
        let reason = String::new();
        let event = ConnectionEvent::Closed { connection: name("a"), at: AT, reason };
        StreamItem::Connection(event, None)
    }

    fn seen(client_id: &str) -> LastSeenChange {
        set(serde_json::to_string(&name(client_id)).unwrap(), AT)
    }

    #[test]
    fn last_connection_event_decides() {
        let (marker, now) = (ConnectionMarker::default(), (Instant::now(), AT));
        let change = |items: &[StreamItem]| marker.next_change(items.iter(), false, now);
        assert_eq!(change(&[]), LastSeenChange::None);
        assert_eq!(change(&[closed(), opened("a")]), seen("a"));
        assert_eq!(change(&[opened("a"), closed()]), LastSeenChange::Cleared);
        assert!(matches!(seen("a"), LastSeenChange::Set(seen) if seen.seen_at == 0));
    }

    #[test]
    fn bypassed_events_are_written_later_once() {
        let (mut marker, now) = (ConnectionMarker::default(), Instant::now());
        marker.record_bypass(&opened("a"), AT);
        marker.record_write(LastSeenChange::None, now);
        assert_eq!(marker.next_change([].iter(), true, (now, AT)), seen("a"));
        assert_eq!(marker.next_change([closed()].iter(), true, (now, AT)), LastSeenChange::Cleared);
        marker.record_write(seen("a"), now);
        assert_eq!(marker.next_change([].iter(), true, (now, AT)), LastSeenChange::None);
    }

    #[test]
    fn open_connection_is_refreshed_unless_database_records() {
        let (mut marker, now) = (ConnectionMarker::default(), Instant::now());
        marker.record_write(seen("a"), now);
        let change = |marker: &ConnectionMarker, after, database_records| {
            marker.next_change([].iter(), database_records, (now + after, AT))
        };
        let early = Duration::from_secs(9);
        assert_eq!(change(&marker, early, false), LastSeenChange::None);
        assert_eq!(change(&marker, REFRESH, true), LastSeenChange::None);
        assert_eq!(change(&marker, REFRESH, false), seen("a"));
        marker.record_write(LastSeenChange::Cleared, now);
        assert_eq!(change(&marker, REFRESH, false), LastSeenChange::None);
    }
}
