//! Runs the stage: opens the file, recovers from errors of the disk, and keeps the parts running.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::acks;
use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::problem;
use super::reader::SpoolReader;
use super::storage::{OpenSpool, SpoolStorage, StorageFile as _};
use super::writer::{SpoolWriter, WriterEnd, WriterOutputs};
use crate::clock::WallClock;
use crate::progress::{DISK_SCAN, during, part, tick};
use crate::stream::message::{Feedback, StreamItem};
use crate::telemetry::{Health, Metrics};

/// Wait between two attempts to open the file.
const RETRY: Duration = Duration::from_secs(1);

/// Capacity of the channel to decoding, in rows. The store holds most of the rows that are read ahead.
const DECODE_CAPACITY: usize = 256;

/// Makes the channel to decoding.
pub fn channel() -> (mpsc::Sender<StreamItem>, mpsc::Receiver<StreamItem>) {
    mpsc::channel(DECODE_CAPACITY)
}

/// Inputs and outputs of the stage.
#[derive(Debug)]
pub struct SpoolParts<S> {
    /// Opens the file of the spool.
    pub storage: S,
    /// MQTT client identifier, for gaps.
    pub client_id: String,
    /// The limit `spool.max_size`, in bytes.
    pub max_size: u64,
    /// Items from the session.
    pub intake: mpsc::Receiver<StreamItem>,
    /// Items for the decode stage.
    pub decode: mpsc::Sender<StreamItem>,
    /// Feedback of the store.
    pub store: mpsc::Receiver<Feedback>,
    /// Feedback to the session, which must keep receiving it even while `intake` is full.
    pub session: mpsc::Sender<Feedback>,
    /// Receives the state of the spool.
    pub health: Arc<Health>,
    /// Receives the size of the spool.
    pub metrics: Arc<Metrics>,
    /// The source of the present time.
    pub clock: WallClock,
    /// Ends the stage without waiting for the disk. Messages that are not on disk are dropped, and the
    /// broker redelivers them.
    pub abandon: CancellationToken,
}

/// Runs until the intake is closed, all its items are on disk and the store has ended. Once `abandon`
/// is cancelled, it waits only for the store.
pub async fn run<S: SpoolStorage>(parts: SpoolParts<S>) {
    let SpoolParts {
        storage,
        client_id,
        max_size,
        intake,
        decode,
        store,
        session,
        health,
        metrics,
        clock,
        abandon,
    } = parts;
    health.update(|snapshot| _ = snapshot.spool.get_or_insert_default());
    metrics.spool_max_bytes.set(i64::try_from(max_size).unwrap_or(i64::MAX));
    let outputs = WriterOutputs { decode: decode.clone(), session: session.clone() };
    let telemetry = (Arc::clone(&health), metrics);
    let mut writer =
        SpoolWriter::new(client_id.clone(), intake, outputs, max_size, telemetry, clock);
    let finished = CancellationToken::new();
    let cursors = SpoolCursors::new(0);
    let spooling = async {
        let reader = SpoolReader::new(decode, client_id);
        let file = tokio::select! {
            biased;
            () = abandon.cancelled() => None,
            file = spool(&storage, &mut writer, &reader, &cursors, &health)
                => Some(file),
        };
        // Ends decoding and the store. The rows that they no longer receive stay on disk.
        drop(reader);
        writer.close_outputs();
        finished.cancel();
        file
    };
    let (file, ()) = {
        let routing = acks::run(store, session, &cursors, &finished);
        tokio::join!(spooling, part("spool route", routing))
    };
    let Some(mut file) = file else { return };
    let closed = async {
        let left = writer.finish(&mut file.writer, &cursors).await?;
        file.reader.close().await?;
        file.writer.close_in_order(left).await
    };
    if let Err(error) = closed.await {
        tracing::warn!(
            %error,
            "failed to delete committed messages from the spool; they will be stored again \
             (idempotent)"
        );
    }
}

/// Spools until the intake is closed and all its items are on disk. Returns the open file.
async fn spool<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    reader: &SpoolReader,
    cursors: &SpoolCursors,
    health: &Health,
) -> OpenSpool<S> {
    loop {
        tick();
        let mut file = open(storage, writer, cursors, health).await;
        let interrupt = CancellationToken::new();
        let ended = {
            let appending = writer.run(&mut file.writer, cursors, &interrupt);
            tokio::pin!(appending);
            tokio::select! {
                biased;
                ended = &mut appending => ended,
                unreadable = part("spool read", reader.run(&mut file.reader, cursors)) => {
                    interrupt.cancel();
                    let ended = appending.await;
                    match (ended, unreadable) {
                        (Ok(WriterEnd::Interrupted), Err(error)) => Err(error),
                        (ended, _) => ended,
                    }
                }
            }
        };
        match ended {
            Ok(WriterEnd::Finished) => return file,
            Ok(WriterEnd::Interrupted) => {}
            Err(error) => {
                problem::report(health, error.to_string());
                close_all(file).await;
                if let SpoolError::Damaged(problem) = error {
                    salvage_damaged(storage, &problem, cursors, health).await;
                } else {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Opens the file, and retries until that succeeds.
async fn open<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    cursors: &SpoolCursors,
    health: &Health,
) -> OpenSpool<S> {
    loop {
        match try_open(storage, writer, cursors).await {
            Ok(file) => return file,
            Err(SpoolError::Damaged(problem)) => {
                salvage_damaged(storage, &problem, cursors, health).await;
            }
            Err(error) => {
                problem::report(health, error.to_string());
                writer.run_without_disk(cursors).await;
            }
        }
    }
}

async fn try_open<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    cursors: &SpoolCursors,
) -> Result<OpenSpool<S>, SpoolError> {
    let mut file = during(DISK_SCAN, storage.open()).await?;
    match writer.adopt(&mut file.writer).await {
        Ok(last) => {
            cursors.appended.send_replace(last);
            Ok(file)
        }
        Err(error) => {
            close_all(file).await;
            Err(error)
        }
    }
}

/// Closes both connections and waits for that: on closing, `SQLite` removes the files next to it by
/// name.
async fn close_all<S: SpoolStorage>(file: OpenSpool<S>) {
    let _ = file.reader.close().await;
    let _ = file.writer.close().await;
}

/// Sets a damaged file aside. If that fails, it reports the problem and waits for [`RETRY`].
async fn salvage_damaged(
    storage: &impl SpoolStorage,
    problem: &str,
    cursors: &SpoolCursors,
    health: &Health,
) {
    let last_known = cursors.forwarded().max(*cursors.appended.borrow());
    if let Err(error) = during(DISK_SCAN, storage.salvage(problem, last_known)).await {
        problem::report(health, format!("could not set the damaged spool aside: {error}"));
        tokio::time::sleep(RETRY).await;
    }
}
