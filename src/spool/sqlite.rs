//! The storage of the service: a `SQLite` file in `spool.dir`.

use std::path::PathBuf;

use super::error::SpoolError;
use super::file::{SpoolFile, path_in};
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
