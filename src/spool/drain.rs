//! Drains the spool of an earlier run while the spool is off. Its rows are forwarded before new
//! messages, so that the order is kept.

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
use crate::progress::{DISK, DISK_SCAN, during, idle, part};
use crate::stream::message::{Feedback, StreamItem};

/// Inputs and outputs of the stage.
#[derive(Debug)]
pub struct DrainParts {
    /// The client ID, for the gap of a damaged file.
    pub client_id: String,
    /// Channel to decoding, which reads it before the channel of the session. Closed when no row is
    /// left.
    pub decode: mpsc::Sender<StreamItem>,
    /// Feedback of the store.
    pub store: mpsc::Receiver<Feedback>,
    /// Feedback to the session.
    pub session: mpsc::Sender<Feedback>,
    /// Ends the forwarding of rows.
    pub stop: CancellationToken,
}

/// Runs until the store has ended. `find` returns the folder of the last run with a spool, and may take
/// any length of time.
pub async fn run(parts: DrainParts, find: impl Future<Output = Option<PathBuf>>) {
    let DrainParts { client_id, decode, store, session, stop } = parts;
    let cursors = SpoolCursors::new(0);
    let finished = CancellationToken::new();
    let draining = async {
        let drained = tokio::select! {
            biased;
            drained = drain(&client_id, decode, &cursors, find) => drained,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(error) = drained {
            tracing::error!(
                %error,
                hint = "set spool.dir to its folder again, or repair that file",
                "could not drain the spool of an earlier run"
            );
        }
        idle(std::future::pending::<()>()).await;
    };
    tokio::select! {
        biased;
        () = draining => {}
        () = part("spool route", acks::run(store, session, &cursors, &finished)) => {}
    }
}

async fn drain(
    client_id: &str,
    decode: mpsc::Sender<StreamItem>,
    cursors: &SpoolCursors,
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
    cursors.appended.send_replace(last);
    while let Err(error) = reader.forward_remaining(&mut file, cursors).await {
        let SpoolError::Damaged(problem) = error else { return Err(error) };
        let _ = file.close().await;
        let last_known = cursors.forwarded().max(last);
        during(DISK_SCAN, salvage::salvage(&dir, client_id, &problem, last_known)).await?;
        file = during(DISK_SCAN, open(&dir, client_id)).await?;
        cursors.appended.send_replace(file.last_id().await?);
    }
    if let Some(closed) =
        ended_without_notice(&mut file, client_id, OffsetDateTime::now_utc()).await?
    {
        reader.send_event(closed).await;
    }
    drop(reader);
    // A stop drops this future here. The rows that are left are sent again, which is idempotent.
    let mut done = cursors.done.subscribe();
    while !cursors.is_drained() {
        let _ = idle(done.changed()).await;
        let delete_through = Some(*done.borrow_and_update());
        during(DISK, file.write(&SpoolChanges { delete_through, ..SpoolChanges::default() }))
            .await?;
    }
    file.close().await?;
    remove(&path)?;
    sync_folder_of(&path)?;
    tracing::info!("drained and removed the spool of an earlier run");
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::row::SpoolRow;
    use super::*;

    #[tokio::test]
    async fn a_file_is_removed_once_its_rows_are_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        let row = || SpoolRow {
            received_at: 1,
            topic: Some("topic".into()),
            payload: b"payload".into(),
            qos: 1,
            retain: false,
        };
        let append = [(1, row()), (2, row()), (3, row())];
        let mut file = SpoolFile::open(&path).await.unwrap();
        file.write(&SpoolChanges { append: &append, ..SpoolChanges::default() }).await.unwrap();
        file.close().await.unwrap();
        let (decode, mut decoded) = mpsc::channel(8);
        let cursors = SpoolCursors::new(0);
        let find = std::future::ready(Some(dir.path().to_owned()));
        let committing = async {
            for _ in 0..3 {
                assert!(matches!(decoded.recv().await, Some(StreamItem::Message(_))));
            }
            assert!(decoded.recv().await.is_none());
            let mut reader = SpoolFile::connect(&path, false).await.unwrap();
            cursors.done_through(2);
            while reader.read(0, 10, usize::MAX).await.unwrap().len() > 1 {
                tokio::task::yield_now().await;
            }
            assert!(path.exists(), "row 3 is not committed");
            reader.close().await.unwrap();
            cursors.done_through(3);
        };
        let both = async { tokio::join!(drain("acme", decode, &cursors, find), committing).0 };
        let drained = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert_eq!((drained, path.exists()), (Ok(()), false));
    }
}
