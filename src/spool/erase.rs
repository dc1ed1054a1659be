//! Removes single messages from a spool that no process has, and looks into one that a process has.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use time::OffsetDateTime;

use super::error::SpoolError;
use super::file::{SpoolFile, path_in};
use super::folder::Lock;
use super::row::{Row, nanoseconds, time as at};
use super::salvage::{self, ASIDE};
use super::storage::StorageFile as _;

/// Rows read at once.
const ROWS: i64 = 1000;

/// Payload bytes read at once, about.
const READ_AHEAD: usize = 16 * 1024 * 1024;

/// Decides by topic, payload and time of receipt.
pub type Matches<'a> = dyn Fn(&str, &Bytes, OffsetDateTime) -> bool + Send + Sync + 'a;

/// Returns true if there is a spool in this folder.
pub fn exists(dir: &Path) -> bool {
    path_in(dir).exists()
}

/// Returns how many messages match, whether or not a process has the spool.
pub async fn count(dir: &Path, matches: &Matches<'_>) -> Result<u64, SpoolError> {
    let mut file = SpoolFile::look(&path_in(dir)).await?;
    let ids = matching(&mut file, matches).await?;
    file.close().await?;
    Ok(ids.len() as u64)
}

/// Removes the messages that match, and returns how many they were; `None` if a process has the spool.
/// What they held is overwritten.
pub async fn erase(dir: &Path, matches: &Matches<'_>) -> Result<Option<u64>, SpoolError> {
    let Some(_lock) = Lock::try_take(dir)? else { return Ok(None) };
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

/// Returns how many messages a spool that a process has still holds from before this time.
pub async fn received_before(dir: &Path, time: OffsetDateTime) -> Result<u64, SpoolError> {
    let mut file = SpoolFile::look(&path_in(dir)).await?;
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

async fn matching(file: &mut SpoolFile, matches: &Matches<'_>) -> Result<Vec<u64>, SpoolError> {
    let (mut ids, mut last) = (Vec::new(), 0);
    loop {
        let rows = file.read(last, ROWS, READ_AHEAD).await?;
        let Some((newest, _)) = rows.last() else { return Ok(ids) };
        last = *newest;
        ids.extend(rows.into_iter().filter_map(|(id, row)| is_match(row, matches).then_some(id)));
    }
}

/// A row without a topic is about a connection.
fn is_match(row: Row<'static>, matches: &Matches<'_>) -> bool {
    let Some(topic) = row.topic else { return false };
    matches(&topic, &Bytes::from(row.payload.into_owned()), at(row.received_at))
}
