//! Brings the rows of a file back into their table. Retention leaves them until they are released.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{ArchiveRecord, LONG_ANSWER};
use crate::archive::csv::RecordGroups;
use crate::archive::{self, ArchiveDescription, ArchiveFileError};
use crate::event::EventKind;
use crate::files;
use crate::store::Store;
use crate::store::error::{DbError, StoreError};
use crate::store::kinds;
use crate::store::query::{Db, within};

/// Rows of one transaction.
const ROWS: u64 = 5_000;

/// Groups of rows that are read ahead: a few MiB.
const GROUPS: usize = 2;

/// Reason why a file was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file failed or is damaged.
    #[error(transparent)]
    File(#[from] ArchiveFileError),
    /// Neither a description nor the database knows the checksum.
    #[error(
        "{path}: its checksum is unknown, because {path}.json is missing and centiloc.archive_file has no \
         such file; take the .json from a backup",
        path = .0.display()
    )]
    Unknown(PathBuf),
    /// There is no such file.
    #[error("{path}: there is no such file; `archive list` shows the names", path = .0.display())]
    Missing(PathBuf),
    /// The description names a table that does not exist here.
    #[error("{path}: it holds rows of the table {table}, which this version does not restore", path = .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbError> for RestoreError {
    fn from(error: DbError) -> Self {
        Self::Store(error.into())
    }
}

/// Step of a restoration, in rows or in bytes of the compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreProgress {
    /// The checksum is being verified.
    Verifying {
        /// Bytes that were read.
        done: u64,
        /// Size of the file.
        total: u64,
    },
    /// Rows are being inserted.
    Inserting {
        /// Rows so far.
        done: u64,
        /// Rows of the file.
        total: u64,
    },
}

/// What a restoration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOutcome {
    /// The file.
    pub description: ArchiveDescription,
    /// Rows that were inserted. The others were there.
    pub inserted: u64,
}

impl Store {
    /// Verifies a file and inserts its rows, except those that are there. Stays and sums do not change.
    /// Retention keeps the rows from then on, until [`Store::release`].
    pub async fn restore(
        &self,
        path: &Path,
        report: &mut (dyn FnMut(RestoreProgress) + Send),
    ) -> Result<RestoreOutcome, RestoreError> {
        let description = self.describe(path).await?;
        let known = EventKind::ALL.map(|kind| kinds::tables(kind).event_table());
        let Some(table) = known.into_iter().find(|table| *table == description.table) else {
            return Err(RestoreError::Table { path: path.into(), table: description.table });
        };
        verify(path, &description, report).await?;
        self.hold(path, &description).await?;
        let inserted = self.insert_file(path, table, description.rows, report).await?;
        Ok(RestoreOutcome { description, inserted })
    }

    /// Lets retention delete the rows of a file again. Returns false if it was not restored.
    pub async fn release(&self, file: &str) -> Result<bool, StoreError> {
        const RELEASE: &str = "
            update centiloc.archive_file set restored_at = null
             where file = $1 and restored_at is not null";
        let release = sqlx::query(RELEASE).bind(file);
        let done = self.with_db(async |db| db.query(|conn| release.execute(conn)).await).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Returns the description next to a file, else that of the database.
    async fn describe(&self, path: &Path) -> Result<ArchiveDescription, RestoreError> {
        if !tokio::fs::try_exists(path).await.unwrap_or(true) {
            return Err(RestoreError::Missing(path.to_owned()));
        }
        let file = path.to_owned();
        let read = files::apart(move || archive::description(&file)).await;
        let read = read.map_err(|error| ArchiveFileError::of_thread(path, &error))??;
        if let Some(description) = read {
            return Ok(description);
        }
        let name = file_name(path);
        let files = self.archive_files().await?;
        let record = files.into_iter().find(|record| record.file.as_deref() == Some(&name));
        let description = record.and_then(described);
        description.ok_or_else(|| RestoreError::Unknown(path.to_owned()))
    }

    /// Records that retention must leave the rows of a file.
    async fn hold(&self, path: &Path, description: &ArchiveDescription) -> Result<(), DbError> {
        const HOLD: &str = "
            insert into centiloc.archive_file (table_name, from_at, until_at, file, rows, sha256,
                                               bytes, written_at, restored_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())
            on conflict (file) do update set restored_at = clock_timestamp()";
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let hold = sqlx::query(HOLD).bind(&description.table);
        let hold = hold.bind(description.from).bind(description.until).bind(file_name(path));
        let hold = hold.bind(number(description.rows)).bind(&description.sha256);
        let hold = hold.bind(number(bytes)).bind(description.written_at);
        self.with_db(async |db| db.query(|conn| hold.execute(conn)).await.map(drop)).await
    }

    async fn insert_file(
        &self,
        path: &Path,
        table: &str,
        total: u64,
        report: &mut (dyn FnMut(RestoreProgress) + Send),
    ) -> Result<u64, RestoreError> {
        let (groups, mut received) = mpsc::channel::<(Vec<String>, Vec<u8>)>(GROUPS);
        let file = path.to_owned();
        let reading = files::apart(move || {
            let mut records = RecordGroups::of(ROWS);
            archive::for_each_block(&file, &mut |block, _| {
                for group in records.push(block) {
                    let header = records.header().unwrap_or_default().to_vec();
                    groups.blocking_send((header, group)).map_err(std::io::Error::other)?;
                }
                Ok(())
            })?;
            let header = records.header().unwrap_or_default().to_vec();
            let rest = records.rest();
            if rest.is_empty() {
                return Ok(());
            }
            groups.blocking_send((header, rest)).map_err(std::io::Error::other)
        });
        let inserting = async {
            let (mut inserted, mut done) = (0, 0);
            let mut db = self.connector.open().await?;
            db.execute("set timezone = 'UTC'; set datestyle = 'ISO'").await?;
            while let Some((columns, group)) = received.recv().await {
                let (copied, new) = self.insert_group(&mut db, table, &columns, group).await?;
                done += copied;
                inserted += new;
                report(RestoreProgress::Inserting { done, total });
            }
            // Ends the reading thread where inserting failed.
            drop(received);
            Ok::<u64, DbError>(inserted)
        };
        let (inserted, read) = tokio::join!(inserting, reading);
        let inserted = inserted?;
        let thread = |error| ArchiveFileError::of_thread(path, &error);
        read.map_err(thread)?.map_err(|error: std::io::Error| thread(error))?;
        Ok(inserted)
    }

    /// Inserts some rows. Returns how many there were, and how many of them were new.
    async fn insert_group(
        &self,
        db: &mut Db,
        table: &str,
        columns: &[String],
        group: Vec<u8>,
    ) -> Result<(u64, u64), DbError> {
        let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let columns = columns.join(", ");
        db.execute(format!(
            "drop table if exists pg_temp.restored;
             create temporary table restored (like centiloc.{table} including defaults);"
        ))
        .await?;
        let sql = format!("copy pg_temp.restored ({columns}) from stdin (format csv)");
        let copying = async {
            let mut copy = db.conn().copy_in_raw(&sql).await?;
            copy.send(group).await?;
            copy.finish().await
        };
        let copied = within(LONG_ANSWER, copying).await?;
        if table == kinds::tables(EventKind::Item).event_table() {
            // One that cannot be made leaves its rows to the default partition.
            let days = "select min(momentum) from pg_temp.restored
                         group by date_trunc('day', momentum)";
            let days: Vec<OffsetDateTime> =
                db.query(|conn| sqlx::query_scalar(days).fetch_all(conn)).await?;
            let missing = self.partitions.missing(days.into_iter(), OffsetDateTime::now_utc());
            self.partitions.ensure(db, missing).await?;
        }
        let insert = format!(
            "insert into centiloc.{table} ({columns})
             select {columns} from pg_temp.restored
             on conflict (momentum, event_id) do nothing"
        );
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert));
        let inserted = db.query_within(LONG_ANSWER, |conn| insert.execute(conn)).await?;
        Ok((copied, inserted.rows_affected()))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the description that the database has of a file.
fn described(record: ArchiveRecord) -> Option<ArchiveDescription> {
    Some(ArchiveDescription {
        file: record.file?,
        table: record.table_name,
        from: record.from_at,
        until: record.until_at,
        rows: record.rows?.try_into().ok()?,
        sha256: record.sha256?,
        written_at: record.written_at?,
    })
}

async fn verify(
    path: &Path,
    description: &ArchiveDescription,
    report: &mut (dyn FnMut(RestoreProgress) + Send),
) -> Result<(), RestoreError> {
    let total = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let (steps, mut received) = mpsc::channel(GROUPS);
    let (file, description) = (path.to_owned(), description.clone());
    let verifying = files::apart(move || {
        archive::verify(&file, &description, &mut |done| {
            // A step that finds the channel full is not shown.
            let _ = steps.try_send(done);
        })
    });
    let showing = async {
        while let Some(done) = received.recv().await {
            report(RestoreProgress::Verifying { done, total });
        }
    };
    let (verified, ()) = tokio::join!(verifying, showing);
    Ok(verified.map_err(|error| ArchiveFileError::of_thread(path, &error))??)
}

/// Quotes the name of a column.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
