//! Writes a table that was taken out to a file, and drops it.

use std::future::poll_fn;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{ArchiveError, ArchiveOutcome, ArchiveRecord, LONG_ANSWER};
use crate::archive::{self, ArchiveDescription, ArchiveFileError, WrittenFile};
use crate::files;
use crate::progress::during;
use crate::store::Store;
use crate::store::error::DbError;
use crate::store::partitions;
use crate::store::query::{Db, within};

/// Bytes passed to the writing thread at once.
const CHUNK: usize = 256 * 1024;

/// Chunks that wait for the disk: a few MiB.
const CHUNKS: usize = 16;

/// Settings of the transaction. Nobody else uses the table, so that its lock waits for readers of the
/// table alone. Values are written as another server reads them.
const SETTINGS: &str = "
    set local statement_timeout = 0;
    set local idle_in_transaction_session_timeout = 0;
    set local lock_timeout = '100ms';
    set local timezone = 'UTC';
    set local datestyle = 'ISO';
    set local intervalstyle = 'postgres';
    set local bytea_output = 'hex';
    set local extra_float_digits = 1";

impl Store {
    /// Writes the file of a table, verifies it, and records it in the transaction that drops the table.
    pub(super) async fn write_and_drop(
        &self,
        folder: &Path,
        record: &ArchiveRecord,
        outcome: &mut ArchiveOutcome,
    ) -> Result<(), ArchiveError> {
        let mut db = self.acquire().await?;
        let mut failed = None;
        let rows = db
            .transaction(async |db| match write_within(db, folder, record).await {
                Ok(rows) => Ok(rows),
                Err(ArchiveError::Database(error)) => Err(error),
                Err(ArchiveError::File(error)) => {
                    failed = Some(error);
                    // The connection may be in the middle of a copy.
                    Err(DbError::retry("the file could not be written"))
                }
            })
            .await;
        let rows = db.finish(rows);
        if let Some(error) = failed {
            let held = record.held_in.as_deref().unwrap_or_default();
            tracing::debug!(table = held, %error, "could not write a file of the archive");
            return Err(error.into());
        }
        if let Some(rows) = rows? {
            outcome.files += 1;
            outcome.rows += rows;
        }
        Ok(())
    }
}

/// Returns the number of rows of the file. `None` if there was none to write.
async fn write_within(
    db: &mut Db,
    folder: &Path,
    record: &ArchiveRecord,
) -> Result<Option<u64>, ArchiveError> {
    const STILL: &str = "
        select to_regclass(held_in) is not null
          from centiloc.archive_file
         where id = $1 and held_in is not null
           for update";
    let Some(held) = record.held_in.as_deref() else { return Ok(None) };
    db.execute(SETTINGS).await?;
    // Another process may be faster, and then wait for our lock or have dropped the table.
    let still = sqlx::query_scalar(STILL).bind(record.id);
    match db.query(|conn| still.fetch_optional(conn)).await? {
        Some(true) => {}
        Some(false) => return Err(missing(held).into()),
        None => return Ok(None),
    }
    db.execute(format!("lock table {held} in access exclusive mode")).await?;
    let sql = sqlx::AssertSqlSafe(format!("select count(*) from {held}"));
    let count = sqlx::query_scalar(sql);
    let rows: i64 = db.query_within(LONG_ANSWER, |conn| count.fetch_one(conn)).await?;
    if rows == 0 {
        let forget = sqlx::query("delete from centiloc.archive_file where id = $1").bind(record.id);
        db.query(|conn| forget.execute(conn)).await?;
        db.execute(format!("drop table {held}")).await?;
        return Ok(None);
    }
    let stem = archive::stem(&record.table_name, record.from_at, record.until_at);
    let written = copy(db, folder, &stem, held).await?;
    let rows = u64::try_from(rows).unwrap_or(0);
    if written.content.rows != rows {
        let reason =
            format!("{} rows were read from {held} and {rows} counted", written.content.rows);
        return Err(ArchiveFileError::damaged(folder, reason).into());
    }
    let description = ArchiveDescription {
        file: String::new(),
        table: record.table_name.clone(),
        from: record.from_at,
        until: record.until_at,
        rows,
        sha256: written.content.digits(),
        written_at: OffsetDateTime::now_utc(),
    };
    let bytes = written.content.bytes;
    let description = publish(folder, stem, written, description).await?;
    note(db, record, &description, bytes).await?;
    db.execute(format!("drop table {held}")).await?;
    tracing::info!(file = description.file, rows, bytes, "archived a table past its retention");
    Ok(Some(rows))
}

/// Copies the table to a file under a temporary name.
async fn copy(
    db: &mut Db,
    folder: &Path,
    stem: &str,
    held: &str,
) -> Result<WrittenFile, ArchiveError> {
    let columns = partitions::columns_of(db, held).await?;
    let sql = format!(
        "copy (select {columns} from {held} order by momentum, event_id)
           to stdout (format csv, header)"
    );
    let (chunks, mut received) = mpsc::channel(CHUNKS);
    let (path, stem): (PathBuf, String) = (folder.to_owned(), stem.to_owned());
    let writing = files::apart(move || archive::write(&path, &stem, &mut received));
    let (copied, written) = tokio::join!(copy_to(db, &sql, chunks), during(LONG_ANSWER, writing));
    // The reason why nobody receives any more is that of the writer.
    let written = written.map_err(|error| ArchiveFileError::of_thread(folder, &error))??;
    copied?;
    Ok(written)
}

/// Sends what the server copies, until nobody receives it any more.
async fn copy_to(db: &mut Db, sql: &str, chunks: mpsc::Sender<Bytes>) -> Result<(), DbError> {
    let mut rows = within(LONG_ANSWER, db.conn().copy_out_raw(sql)).await?;
    let mut chunk = BytesMut::new();
    loop {
        let next = async { poll_fn(|context| rows.as_mut().poll_next(context)).await.transpose() };
        let Some(row) = within(LONG_ANSWER, next).await? else { break };
        chunk.extend_from_slice(&row);
        if chunk.len() >= CHUNK
            && during(LONG_ANSWER, chunks.send(chunk.split().freeze())).await.is_err()
        {
            return Ok(());
        }
    }
    // As above.
    let _ = during(LONG_ANSWER, chunks.send(chunk.freeze())).await;
    Ok(())
}

async fn publish(
    folder: &Path,
    stem: String,
    written: WrittenFile,
    description: ArchiveDescription,
) -> Result<ArchiveDescription, ArchiveError> {
    let path = folder.to_owned();
    let work = move || archive::publish(&path, &stem, &written, description);
    let published = during(LONG_ANSWER, files::apart(work)).await;
    published.map_err(|error| ArchiveFileError::of_thread(folder, &error))?.map_err(Into::into)
}

/// Records the file. One with the same content that was restored and released is recorded once.
async fn note(
    db: &mut Db,
    record: &ArchiveRecord,
    description: &ArchiveDescription,
    bytes: u64,
) -> Result<(), DbError> {
    const OLDER: &str = "delete from centiloc.archive_file where file = $1 and id <> $2";
    const NOTE: &str = "
        update centiloc.archive_file
           set file = $2, rows = $3, sha256 = $4, bytes = $5, written_at = clock_timestamp(),
               dropped_at = clock_timestamp(), held_in = null
         where id = $1";
    let older = sqlx::query(OLDER).bind(&description.file).bind(record.id);
    db.query(|conn| older.execute(conn)).await?;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let note = sqlx::query(NOTE).bind(record.id).bind(&description.file);
    let note = note.bind(number(description.rows)).bind(&description.sha256).bind(number(bytes));
    db.query(|conn| note.execute(conn)).await.map(drop)
}

fn missing(held: &str) -> DbError {
    DbError::stop(format!(
        "the table {held} waits for the archive and is missing; \
         delete its row of centiloc.archive_file if you dropped it"
    ))
}
