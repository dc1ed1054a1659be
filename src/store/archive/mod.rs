//! Archives rows before retention deletes them: `retention.archive_dir`.
//!
//! The rows of a span are taken out of their table at first, a partition by detaching it and others by
//! moving them into a table of their own, and `archive_file` records where they are. Late events of the
//! span go to a new partition from then on. The table is written to a file, which is read back, and is
//! dropped in the transaction that records the file. A kill at any point leaves a recorded table, which
//! the next run writes again.

mod expire;
mod restore;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::restore::{RestoreError, RestoreOutcome, RestoreProgress};
use super::error::{DbError, StoreError};
use super::pg_timestamp::{optional_time_of, time_of};
use super::{Store, clocks};
use crate::archive::ArchiveFileError;
use crate::progress::idle;
use crate::telemetry::{Health, Metrics};

/// Interval of runs while nothing is left. Retention is counted in days.
const EVERY: Duration = Duration::from_secs(3600);

/// Wait before rows that are overdue are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Bounds a wait that may take as long as a disk or a large table does.
const LONG_ANSWER: Duration = Duration::from_secs(60 * 60);

/// A row of `archive_file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveRecord {
    /// Identifier.
    pub id: i64,
    /// Table of the rows.
    pub table_name: String,
    /// Start of the range of momenta.
    #[serde(with = "time::serde::rfc3339")]
    pub from_at: OffsetDateTime,
    /// End of the range, which is not in it.
    #[serde(with = "time::serde::rfc3339")]
    pub until_at: OffsetDateTime,
    /// Table that waits to be written. `None` once it is dropped.
    pub held_in: Option<String>,
    /// Name of the file. `None` until it is written.
    pub file: Option<String>,
    /// Number of its rows.
    pub rows: Option<i64>,
    /// SHA-256 of the uncompressed file.
    pub sha256: Option<String>,
    /// Size of the compressed file.
    pub bytes: Option<i64>,
    /// Time of writing.
    #[serde(with = "time::serde::rfc3339::option")]
    pub written_at: Option<OffsetDateTime>,
    /// Time of the restoration. `None` if retention may delete the rows.
    #[serde(with = "time::serde::rfc3339::option")]
    pub restored_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for ArchiveRecord {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let time = |column| time_of(row, column).map_err(|e| sqlx::Error::Protocol(e.to_string()));
        let optional = |column| {
            optional_time_of(row, column).map_err(|e| sqlx::Error::Protocol(e.to_string()))
        };
        Ok(Self {
            id: row.try_get("id")?,
            table_name: row.try_get("table_name")?,
            from_at: time("from_at")?,
            until_at: time("until_at")?,
            held_in: row.try_get("held_in")?,
            file: row.try_get("file")?,
            rows: row.try_get("rows")?,
            sha256: row.try_get("sha256")?,
            bytes: row.try_get("bytes")?,
            written_at: optional("written_at")?,
            restored_at: optional("restored_at")?,
        })
    }
}

/// Files and failed steps of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveOutcome {
    /// Files that were written.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Age of the oldest rows that are left beyond their retention.
    pub overdue: Duration,
    /// Steps that failed, each with its reason.
    pub problems: Vec<String>,
}

/// Reason why a table was not archived.
#[derive(Debug)]
enum ArchiveError {
    Database(DbError),
    File(ArchiveFileError),
}

impl From<DbError> for ArchiveError {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl From<ArchiveFileError> for ArchiveError {
    fn from(error: ArchiveFileError) -> Self {
        Self::File(error)
    }
}

/// Inputs and outputs of the task.
#[derive(Debug)]
pub struct ArchiveParts {
    /// The database.
    pub store: Arc<Store>,
    /// `retention.archive_dir`. Without it there is nothing to do.
    pub folder: Option<PathBuf>,
    /// `retention.events`, as it is at the moment.
    pub keep_events: watch::Receiver<Option<Duration>>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// State.
    pub health: Arc<Health>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Runs until `stop`.
pub async fn run(parts: ArchiveParts) {
    let stop = parts.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = archive_runs(parts) => {}
    }
}

async fn archive_runs(mut parts: ArchiveParts) {
    let Some(folder) = parts.folder.take() else {
        return idle(std::future::pending()).await;
    };
    idle(parts.store.until_prepared()).await;
    let mut problem = None;
    loop {
        let kept = *parts.keep_events.borrow_and_update();
        let mut wait = EVERY;
        if let Some(kept) = kept {
            let outcome = match parts.store.archive_now(kept, &folder).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    ArchiveOutcome { problems: vec![error.to_string()], ..Default::default() }
                }
            };
            if outcome.files > 0 {
                let (files, rows) = (outcome.files, outcome.rows);
                tracing::info!(files, rows, "archived events past their retention");
            }
            let overdue = outcome.overdue.as_secs_f64();
            parts.metrics.retention_overdue_seconds.set(overdue);
            parts.health.update(|s| s.database.retention_overdue_seconds = overdue);
            let text = outcome.problems.join("; ");
            if !text.is_empty() {
                wait = RETRY;
                if problem.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "could not archive all events past their retention; they are kept, retrying"
                    );
                }
            }
            problem = Some(text);
        }
        // A sender that is gone changes nothing.
        let _ = idle(tokio::time::timeout(wait, parts.keep_events.changed())).await;
    }
}

impl Store {
    /// Archives what is past its time by the clock that is behind: a wrong one must not delete before
    /// its time.
    async fn archive_now(
        &self,
        kept: Duration,
        folder: &std::path::Path,
    ) -> Result<ArchiveOutcome, StoreError> {
        let skew = self.with_db(async |db| clocks::skew(db).await).await?;
        let now = OffsetDateTime::now_utc() - time::Duration::seconds_f64(skew.max(0.0));
        self.archive_expired(kept, folder, now).await
    }

    /// Returns the files and the tables that wait, oldest range first.
    pub async fn archive_files(&self) -> Result<Vec<ArchiveRecord>, StoreError> {
        const LIST: &str = "select * from centiloc.archive_file order by from_at, id";
        let list = sqlx::query_as(LIST);
        Ok(self.with_db(async |db| db.query(|conn| list.fetch_all(conn)).await).await?)
    }
}
