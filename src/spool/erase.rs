//! Removes single messages from a spool that no process uses, and counts those in one that a process
//! uses.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use time::OffsetDateTime;

use super::close_mark::{self, CloseMark};
use super::error::SpoolError;
use super::file::{BUSY, SpoolFile, path_in};
use super::folder::SpoolLock;
use super::row::{SpoolRow, nanoseconds, time as at};
use super::salvage::{self, ASIDE};
use super::sqlite::{signed, unsigned};
use super::storage::StorageFile as _;

/// Rows read at once.
const ROWS: i64 = 1000;

/// Approximate payload bytes read at once.
const READ_AHEAD: usize = 16 * 1024 * 1024;

/// A predicate over topic, payload and time of receipt.
pub type MessageMatcher<'a> = dyn Fn(&str, &Bytes, OffsetDateTime) -> bool + Send + Sync + 'a;

/// Returns true if there is a spool in this folder.
pub fn exists(dir: &Path) -> bool {
    path_in(dir).exists()
}

/// Returns the number of messages that match, even if a process uses the spool.
pub async fn count(dir: &Path, matches: &MessageMatcher<'_>) -> Result<u64, SpoolError> {
    let mut file = SpoolFile::open_read_only(&path_in(dir)).await?;
    let ids = matching(&mut file, matches).await?;
    file.close().await?;
    Ok(ids.len() as u64)
}

/// Removes the messages that match, overwrites their content and returns their number. Returns `None`
/// if a process uses the spool.
pub async fn erase(dir: &Path, matches: &MessageMatcher<'_>) -> Result<Option<u64>, SpoolError> {
    let Some(_lock) = SpoolLock::try_take(dir)? else { return Ok(None) };
    salvage::finish(dir)?;
    let mut file = SpoolFile::open(&path_in(dir)).await?;
    let ids = matching(&mut file, matches).await?;
    if !ids.is_empty() {
        file.erase(&ids).await?;
        file.settle().await?;
    }
    file.close().await?;
    Ok(Some(ids.len() as u64))
}

/// Returns the number of messages received before this time in a spool that a process uses.
pub async fn received_before(dir: &Path, time: OffsetDateTime) -> Result<u64, SpoolError> {
    let mut file = SpoolFile::open_read_only(&path_in(dir)).await?;
    let messages = file.received_before(nanoseconds(time)).await?;
    file.close().await?;
    Ok(messages)
}

/// Returns the damaged files that were set aside in this folder.
pub fn damaged_copies(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let aside = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE));
    aside.map(|entry| entry.path()).collect()
}

impl SpoolFile {
    /// Opens the file for reading while a process uses it.
    async fn open_read_only(path: &Path) -> Result<Self, SpoolError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        Ok(Self { conn: options.connect().await?, mark: CloseMark::Absent, dense_from: None })
    }

    /// Deletes single rows in one transaction, and overwrites their content. Ids are missing afterwards,
    /// so the mark of a clean close is removed too.
    async fn erase(&mut self, ids: &[u64]) -> Result<(), SpoolError> {
        self.run("pragma secure_delete = on").await?;
        let mut transaction = self.conn.begin().await?;
        if self.mark != CloseMark::Absent {
            close_mark::clear(&mut transaction).await?;
        }
        for id in ids {
            let query = sqlx::query("delete from entry where id = ?").bind(signed(*id));
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        self.mark = CloseMark::Absent;
        Ok(())
    }

    /// Returns the number of messages received before this time, in nanoseconds of Unix time.
    async fn received_before(&mut self, at: i64) -> Result<u64, SpoolError> {
        const SQL: &str = "select count(topic) from entry where received_at < ?";
        unsigned(&sqlx::query(SQL).bind(at).fetch_one(&mut self.conn).await?, 0)
    }
}

async fn matching(
    file: &mut SpoolFile,
    matches: &MessageMatcher<'_>,
) -> Result<Vec<u64>, SpoolError> {
    let (mut ids, mut last) = (Vec::new(), 0);
    loop {
        let rows = file.read(last, ROWS, READ_AHEAD).await?;
        let Some((newest, _)) = rows.last() else { return Ok(ids) };
        last = *newest;
        ids.extend(rows.into_iter().filter_map(|(id, row)| is_match(row, matches).then_some(id)));
    }
}

/// Returns true for a message that matches. A row without a topic is a connection event.
fn is_match(row: SpoolRow<'static>, matches: &MessageMatcher<'_>) -> bool {
    let Some(topic) = row.topic else { return false };
    matches(&topic, &Bytes::from(row.payload.into_owned()), at(row.received_at))
}

#[cfg(test)]
mod tests {
    use super::super::storage::SpoolChanges;
    use super::*;

    #[tokio::test]
    async fn erased_rows_do_not_count_as_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
        let row = |topic: &'static str| SpoolRow {
            received_at: 1,
            topic: Some(topic.into()),
            payload: vec![0; 10].into(),
            qos: 1,
            retain: false,
        };
        let append = [(1, row("keep")), (2, row("erase")), (3, row("keep"))];
        file.write(&SpoolChanges { append: &append, ..SpoolChanges::default() }).await.unwrap();
        let (depth, _) = file.depth().await.unwrap();
        file.close_in_order(depth).await.unwrap();
        let erased = erase(dir.path(), &|topic, _, _| topic == "erase").await.unwrap();
        assert_eq!(erased, Some(1));
        assert!(exists(dir.path()) && !exists(&dir.path().join("elsewhere")));
        assert_eq!(count(dir.path(), &|topic, _, _| topic == "keep").await.unwrap(), 2);
        assert_eq!(count(dir.path(), &|topic, _, _| topic == "erase").await.unwrap(), 0);
        assert_eq!(received_before(dir.path(), at(2)).await.unwrap(), 2);
        assert_eq!(received_before(dir.path(), at(1)).await.unwrap(), 0);
        let aside = dir.path().join(format!("{ASIDE}1"));
        fs::write(&aside, b"").unwrap();
        assert_eq!(damaged_copies(dir.path()), [aside]);
        let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
        assert_eq!(file.depth().await.unwrap().0.rows, 2);
        let mut reader = file.reader(&path_in(dir.path())).await.unwrap();
        assert_eq!(reader.read(0, 10, 1000).await.unwrap().len(), 2);
    }
}
