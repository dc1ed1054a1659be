//! The part of a trace that is on its way: messages in a spool on disk.
//!
//! A spool belongs to the process that runs, so nothing is deleted behind its back. It passes everything
//! on to the database within moments while that answers: it is waited for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::EraseError;
use super::raw::RawMatcher;
use crate::config::Config;
use crate::spool::{self, SpoolError};
use crate::store::Store;

/// Interval of checks of a spool that a process owns.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A spool that passed nothing on for so long waits for more than the database.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reason why a spool could not be cleared.
#[derive(Debug, thiserror::Error)]
pub enum SpoolEraseError {
    /// The file.
    #[error(
        "could not look into the spool in {dir}: {source}; run this as the user of the service; a \
         damaged spool is repaired by the next start of the service"
    )]
    File {
        /// Folder of the spool.
        dir: String,
        /// The error of the spool.
        source: SpoolError,
    },
    /// A process has it, and does not empty it.
    #[error(
        "the spool in {dir} belongs to a running service and still holds {messages} messages from \
         before this command began, which it does not pass on to the database: see \
         `centiloc-bridge status`; or stop the service and run this command again, which then \
         removes them from the file"
    )]
    Stuck {
        /// Folder of the spool.
        dir: String,
        /// Messages in it.
        messages: u64,
    },
}

/// Spools that may hold a part of the trace.
#[derive(Debug, Default)]
pub(super) struct KnownSpools {
    /// Folders on this machine.
    pub here: Vec<PathBuf>,
    /// Those of other machines, in words.
    pub elsewhere: Vec<String>,
}

/// Finds the spool of this configuration, and those that the database knows of.
pub(super) async fn find(config: &Config, store: &Store) -> Result<KnownSpools, EraseError> {
    let configured = config.spool.as_ref().map(|spool| spool.dir.clone());
    let mut here: BTreeSet<PathBuf> = configured.into_iter().collect();
    let mut elsewhere = Vec::new();
    for (client_id, dir) in store.spools_in_use().await? {
        let path = PathBuf::from(&dir);
        if here.contains(&path) || spool::erase::exists(&path) {
            here.insert(path);
        } else if client_id != config.mqtt.client_id {
            elsewhere.push(format!(
                "the spool of {client_id} in {dir} is not on this machine: run this command there too, \
                 or again once that spool is empty"
            ));
        }
    }
    let here = here.into_iter().filter(|dir| spool::erase::exists(dir)).collect();
    Ok(KnownSpools { here, elsewhere })
}

/// Removes the matching messages from a spool, or waits until the process that has it has passed on
/// what was received before `now`. Returns how many were removed, or with `dry_run` were found.
pub(super) async fn clear(
    dir: &Path,
    matcher: &RawMatcher<'_>,
    dry_run: bool,
    now: OffsetDateTime,
) -> Result<u64, EraseError> {
    let file = |source| SpoolEraseError::File { dir: dir.display().to_string(), source };
    let belongs =
        |topic: &str, payload: &Bytes, received_at| matcher.matches(topic, payload, received_at);
    if dry_run {
        return Ok(spool::erase::count(dir, &belongs).await.map_err(file)?);
    }
    if let Some(removed) = spool::erase::erase(dir, &belongs).await.map_err(file)? {
        return Ok(removed);
    }
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        // A service without a spool removes what an earlier run left, once it is empty.
        if !spool::erase::exists(dir) {
            return Ok(0);
        }
        let messages = spool::erase::received_before(dir, now).await.map_err(file)?;
        if messages == 0 {
            return Ok(0);
        }
        if messages < least {
            (least, since) = (messages, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return Err(SpoolEraseError::Stuck { dir: dir.display().to_string(), messages }.into());
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Damaged files that were set aside, in words.
pub(super) fn damaged_copies(dir: &Path) -> Vec<String> {
    let copies = spool::erase::damaged_copies(dir);
    let words = copies
        .iter()
        .map(|path| format!("{} holds raw messages of a damaged spool: delete it", path.display()));
    words.collect()
}
