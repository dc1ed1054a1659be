//! Detects that the database has gone back in time, because a backup was restored or a standby
//! without the newest commits was promoted. Messages acknowledged since are missing there, and the
//! broker will not deliver them again.
//!
//! `centiloc.journal_position` holds a number for each client id that only grows. The process
//! remembers the number it wrote last, in memory and in the state directory. A database that has a
//! smaller one is an earlier state of itself: that is a gap, written in the statement that finds it.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use crate::state_file::{FilePurpose, StateFile};
use crate::store::Store;
use crate::store::error::DbError;
use crate::store::query::Db;
use crate::stream::gap::GapCause;
use crate::telemetry::Metrics;

const PURPOSE: FilePurpose = FilePurpose {
    suffix: ".position.json",
    consequence: "a database that is restored from a backup while this process does not run is \
                  not noticed",
};

/// The number that was written last, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::store) struct JournalPosition {
    /// `journal_position.position`. 0 before the first.
    position: i64,
    /// Time of the write.
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
}

/// The position as known to this process.
#[derive(Debug, Default)]
pub(in crate::store) struct PositionTracker {
    known: Mutex<KnownPosition>,
    recalled: OnceCell<()>,
    outside: OnceLock<(StateFile<JournalPosition>, Arc<Metrics>)>,
}

#[derive(Debug, Default)]
struct KnownPosition {
    client_id: String,
    last: JournalPosition,
    /// The newest commit of this process.
    committed_at: Option<OffsetDateTime>,
    /// The connection to the database was lost. The next one may reach another server.
    suspect: bool,
}

impl PositionTracker {
    fn lock(&self) -> MutexGuard<'_, KnownPosition> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the end of a commit.
    pub fn committed(&self, done: bool) {
        let mut known = self.lock();
        if done {
            known.committed_at = Some(OffsetDateTime::now_utc());
        } else {
            known.suspect = true;
        }
    }

    /// Returns the client id if its position must be compared before the next commit.
    pub fn suspect(&self) -> Option<String> {
        let known = self.lock();
        (known.suspect && known.last.position > 0).then(|| known.client_id.clone())
    }

    /// Reads the file of an earlier process, once.
    async fn recall(&self, client_id: &str) {
        self.recalled
            .get_or_init(|| async {
                let read = match self.outside.get() {
                    Some((file, _)) => file.read().await,
                    None => JournalPosition::default(),
                };
                let mut known = self.lock();
                client_id.clone_into(&mut known.client_id);
                known.last = read;
            })
            .await;
    }
}

impl Store {
    /// Remembers the position beyond this process, and counts gaps that are found.
    pub fn remember_position(&self, folder: Option<&Path>, client_id: &str, metrics: Arc<Metrics>) {
        let file = StateFile::within(folder, client_id, PURPOSE);
        let _ = self.position.outside.set((file, metrics));
    }

    /// Compares the position of the database with the one that was written last, and writes the
    /// next. If the database has gone back, that is a gap from its own time to the last commit.
    pub(in crate::store) async fn advance_position(
        &self,
        db: &mut Db,
        client_id: &str,
    ) -> Result<(), DbError> {
        self.position.recall(client_id).await;
        let now = OffsetDateTime::now_utc();
        let (last, seen_at, ended_at) = {
            let known = self.position.lock();
            let seen_at = known.last.at.max(known.committed_at).unwrap_or(now);
            // An earlier process may have committed more after it wrote its file.
            (known.last, seen_at, known.committed_at.map_or(now, |_| seen_at))
        };
        let found = advance(db, client_id, last.position, [now, seen_at, ended_at]).await?;
        let next = JournalPosition { position: found.position, at: Some(now) };
        {
            let mut known = self.position.lock();
            (known.last, known.suspect) = (next, false);
        }
        let outside = self.position.outside.get();
        if let Some((file, _)) = outside {
            file.keep_soon(next);
        }
        if found.restored {
            if let Some((_, metrics)) = outside {
                metrics.gaps.count(GapCause::DatabaseRestored);
            }
            tracing::error!(
                cause = GapCause::DatabaseRestored.as_str(),
                "the database was restored to an earlier state; events acknowledged since are missing \
                 (see the view data_gap)"
            );
        }
        Ok(())
    }

    /// Returns once the file has the position, for the end of the process.
    pub(in crate::store) async fn keep_position(&self) {
        if let Some((file, _)) = self.position.outside.get() {
            let last = self.position.lock().last;
            file.keep(last).await;
        }
    }
}

struct AdvancedPosition {
    position: i64,
    restored: bool,
}

async fn advance(
    db: &mut Db,
    client_id: &str,
    known: i64,
    [now, seen_at, ended_at]: [OffsetDateTime; 3],
) -> Result<AdvancedPosition, DbError> {
    let query = sqlx::query(include_str!("../sql/journal_position.sql"))
        .bind(client_id)
        .bind(known)
        .bind(now)
        .bind(seen_at)
        .bind(ended_at)
        .bind(GapCause::DatabaseRestored.as_str());
    let row = db.query(|conn| query.fetch_one(conn)).await?;
    Ok(AdvancedPosition { position: row.try_get("position")?, restored: row.try_get("restored")? })
}
