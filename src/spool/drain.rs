//! While the spool is off: drains what an earlier run with a spool left behind, before anything new,
//! so that everything keeps its order.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::acks;
use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::file::{SpoolFile, path_in};
use super::folder::{SpoolLock, sync_folder_of};
use super::last_seen::ended_without_notice;
use super::reader::SpoolReader;
use super::salvage::{self, remove};
use super::storage::{SpoolChanges, StorageFile as _};
use crate::message::{Feedback, StreamItem};
use crate::progress::{DISK, DISK_SCAN, during, idle, part};

/// What the stage needs.
#[derive(Debug)]
pub struct DrainParts {
    /// For the gap of a damaged file.
    pub client_id: String,
    /// To decoding, ahead of what the session passes on. Closed when nothing is left to forward.
    pub decode: mpsc::Sender<StreamItem>,
    /// From the store.
    pub store: mpsc::Receiver<Feedback>,
    /// To the session.
    pub session: mpsc::Sender<Feedback>,
    /// Forward nothing more.
    pub stop: CancellationToken,
}

/// Runs until the store is gone. `find` tells, however long that takes, where the last run with a
/// spool had it.
pub async fn run(parts: DrainParts, find: impl Future<Output = Option<PathBuf>>) {
    let DrainParts { client_id, decode, store, session, stop } = parts;
    let progress = SpoolCursors::new(0);
    let finished = CancellationToken::new();
    let draining = async {
        let drained = tokio::select! {
            biased;
            drained = drain(&client_id, decode, &progress, find) => drained,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(error) = drained {
            tracing::error!(
                problem = %error,
                "could not drain the spool of an earlier run; set spool.dir to its folder again, or \
                 mend that"
            );
        }
        idle(std::future::pending::<()>()).await;
    };
    tokio::select! {
        biased;
        () = draining => {}
        () = part("spool route", acks::run(store, session, &progress, &finished)) => {}
    }
}

async fn drain(
    client_id: &str,
    decode: mpsc::Sender<StreamItem>,
    progress: &SpoolCursors,
    find: impl Future<Output = Option<PathBuf>>,
) -> Result<(), SpoolError> {
    let Some(dir) = find.await else { return Ok(()) };
    let path = path_in(&dir);
    if !path.exists() {
        return Ok(());
    }
    let _lock = SpoolLock::take(&dir)?;
    salvage::finish(&dir)?;
    let reader = SpoolReader::new(decode, client_id.to_owned());
    let mut file = during(DISK_SCAN, open(&dir, client_id)).await?;
    let (depth, last) = file.depth().await?;
    tracing::info!(
        messages = depth.messages,
        dir = %dir.display(),
        "draining the spool of an earlier run"
    );
    progress.appended.send_replace(last);
    while let Err(error) = reader.forward_remaining(&mut file, progress).await {
        let SpoolError::Damaged(problem) = error else { return Err(error) };
        let _ = file.close().await;
        let last_known = progress.forwarded().max(last);
        during(DISK_SCAN, salvage::salvage(&dir, client_id, &problem, last_known)).await?;
        file = during(DISK_SCAN, open(&dir, client_id)).await?;
        progress.appended.send_replace(file.last_id().await?);
    }
    if let Some(closed) =
        ended_without_notice(&mut file, client_id, OffsetDateTime::now_utc()).await?
    {
        reader.send_event(closed).await;
    }
    drop(reader);
    // Dropped here at a stop: what was not deleted is sent again, and makes no second row.
    let mut done = progress.done.subscribe();
    while !progress.is_drained() {
        let _ = idle(done.changed()).await;
        let delete_through = Some(*done.borrow_and_update());
        during(DISK, file.write(&SpoolChanges { delete_through, ..SpoolChanges::default() }))
            .await?;
    }
    file.close().await?;
    remove(&path)?;
    sync_folder_of(&path)?;
    tracing::info!("the spool of the earlier run is drained and removed");
    Ok(())
}

async fn open(dir: &Path, client_id: &str) -> Result<SpoolFile, SpoolError> {
    let mut file = match SpoolFile::open(&path_in(dir)).await {
        Err(SpoolError::Damaged(problem)) => {
            salvage::salvage(dir, client_id, &problem, 0).await?;
            SpoolFile::open(&path_in(dir)).await?
        }
        opened => opened?,
    };
    file.expect_no_hole();
    Ok(file)
}
