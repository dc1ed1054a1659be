//! The storage of the service: a `SQLite` file in `spool.dir`, and the numbers in it.

use std::path::PathBuf;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::error::SpoolError;
use super::file::{BUSY, SpoolFile, path_in};
use super::folder::SpoolLock;
use super::salvage;
use super::storage::{OpenSpool, SpoolStorage, StorageFile as _};

/// Opens the `SQLite` database in a folder.
#[derive(Debug)]
pub struct SqliteStorage {
    /// The folder of `spool.dir`.
    pub dir: PathBuf,
    /// The client of the gap that reports a damaged file.
    pub client_id: String,
}

impl SpoolStorage for SqliteStorage {
    type File = SpoolFile;
    type Lock = SpoolLock;

    async fn open(&self) -> Result<OpenSpool<Self>, SpoolError> {
        let lock = SpoolLock::take(&self.dir)?;
        salvage::finish(&self.dir)?;
        let path = path_in(&self.dir);
        let mut writer = SpoolFile::open(&path).await?;
        writer.keep_log().await?;
        match writer.reader(&path).await {
            Ok(reader) => Ok(OpenSpool { writer, reader, lock }),
            Err(error) => {
                let _ = writer.close().await;
                Err(error)
            }
        }
    }

    async fn salvage(&self, problem: &str, last_known: u64) -> Result<(), SpoolError> {
        let _lock = SpoolLock::take(&self.dir)?;
        salvage::salvage(&self.dir, &self.client_id, problem, last_known).await
    }
}

/// Returns a number of a row, none of which is negative.
pub(super) fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, SpoolError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| SpoolError::Damaged(format!("{value} where none is negative")))
}

/// Converts an id for `SQLite`. Ids count rows and never reach the sign bit.
pub(super) fn signed(id: u64) -> i64 {
    id.cast_signed()
}

/// Fails if a checkpoint left pages in the write-ahead log.
pub(super) fn all_copied(pages: u64, copied: u64) -> Result<(), SpoolError> {
    if copied >= pages {
        return Ok(());
    }
    Err(SpoolError::Unavailable(format!(
        "spool.dir is slow: only {copied} of {pages} pages were copied from the write-ahead log \
         within {} s; reopening the file",
        BUSY.as_secs()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_left_in_the_log_are_an_error() {
        assert_eq!(all_copied(10, 10), Ok(()));
        let slow = all_copied(10, 9).unwrap_err().to_string();
        assert!(slow.contains("only 9 of 10 pages"), "{slow}");
    }
}
