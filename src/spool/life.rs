//! Which connection stands, written down so that the next process can tell since when this one was
//! away, though the database was away too.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::SpoolError;
use super::row::{time as at, unreadable_event};
use super::storage::{Life, LifeChange, StorageFile};
use crate::message::{ConnectionNews, Intake, WITHOUT_NOTICE};

/// How exactly it is known when a process died while the database was away.
const REFRESH: Duration = Duration::from_secs(10);

/// The connection as the file knows it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Its name, as JSON, and when that was last written.
    written: Option<(String, Instant)>,
    /// What became of it while news passed the disk by.
    passed_by: LifeChange,
}

impl Standing {
    /// What is to be written with these, which `database_tells` anyway while nothing changes.
    pub fn change<'i>(
        &self,
        appended: impl DoubleEndedIterator<Item = &'i Intake>,
        database_tells: bool,
        (now, at): (Instant, OffsetDateTime),
    ) -> LifeChange {
        if let Some(change) = appended.rev().find_map(|intake| told(intake, at)) {
            return change;
        }
        if self.passed_by != LifeChange::None {
            return self.passed_by.clone();
        }
        let Some((connection, written)) = &self.written else { return LifeChange::None };
        let due = now.saturating_duration_since(*written) >= REFRESH && !database_tells;
        if due { stands(connection.clone(), at) } else { LifeChange::None }
    }

    /// It was written.
    pub fn wrote(&mut self, change: LifeChange, now: Instant) {
        self.written = match change {
            LifeChange::None => return,
            LifeChange::Ended => None,
            LifeChange::Stands(life) => Some((life.connection, now)),
        };
        self.passed_by = LifeChange::None;
    }

    /// This went past the disk.
    pub fn passed_by(&mut self, intake: &Intake, at: OffsetDateTime) {
        if let Some(change) = told(intake, at) {
            self.passed_by = change;
        }
    }
}

fn told(intake: &Intake, at: OffsetDateTime) -> Option<LifeChange> {
    match intake {
        Intake::Connection(ConnectionNews::Opened { connection, .. }, _) => {
            serde_json::to_string(connection).ok().map(|connection| stands(connection, at))
        }
        Intake::Connection(ConnectionNews::Closed { .. }, _) => Some(LifeChange::Ended),
        Intake::Connection(..) | Intake::Message(_) => None,
    }
}

fn stands(connection: String, at: OffsetDateTime) -> LifeChange {
    let seen_at = at.unix_timestamp_nanos();
    LifeChange::Stands(Life { connection, seen_at: i64::try_from(seen_at).unwrap_or(i64::MAX) })
}

/// Returns the end of the connection that an earlier process left open: when that was last known to
/// live. Where its name has an unknown form, a gap until `now` takes its place.
pub(super) async fn ended_without_notice(
    file: &mut impl StorageFile,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<Option<ConnectionNews>, SpoolError> {
    let Some(life) = file.life().await? else { return Ok(None) };
    let seen_at = at(file.newest().await?.map_or(life.seen_at, |row| row.max(life.seen_at)));
    let Ok(connection) = serde_json::from_str(&life.connection) else {
        let place = "table life of the spool";
        return Ok(Some(unreadable_event(client_id, place, (seen_at, now.max(seen_at)))));
    };
    let reason = WITHOUT_NOTICE.to_owned();
    Ok(Some(ConnectionNews::Closed { connection, at: seen_at, reason }))
}
