//! The stage: opens the file, mends what can be mended, and keeps its parts at work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::acks;
use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::reader::SpoolReader;
use super::storage::{OpenSpool, SpoolStorage, StorageFile as _};
use super::writer::{SpoolWriter, WriterEnd, WriterOutputs, report_problem};
use crate::clock::WallClock;
use crate::message::{Feedback, StreamItem};
use crate::progress::{DISK_SCAN, during, part, tick};
use crate::telemetry::{Health, Metrics};

/// Between two tries to open the file.
const RETRY: Duration = Duration::from_secs(1);

/// Rows on their way to decoding. The store holds the larger part of what is read ahead.
const DECODE_CAPACITY: usize = 256;

/// The channel to decoding.
pub fn channel() -> (mpsc::Sender<StreamItem>, mpsc::Receiver<StreamItem>) {
    mpsc::channel(DECODE_CAPACITY)
}

/// What the stage needs.
#[derive(Debug)]
pub struct SpoolParts<S> {
    /// The file.
    pub storage: S,
    /// MQTT client identifier, for gaps.
    pub client_id: String,
    /// `spool.max_size`, bytes.
    pub max_size: u64,
    /// What the session passes on.
    pub intake: mpsc::Receiver<StreamItem>,
    /// To decoding.
    pub decode: mpsc::Sender<StreamItem>,
    /// From the store.
    pub store: mpsc::Receiver<Feedback>,
    /// To the session. It must keep receiving whatever it does with `intake`.
    pub session: mpsc::Sender<Feedback>,
    /// State.
    pub health: Arc<Health>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Tells the time of day.
    pub clock: WallClock,
    /// Ends everything at once: what is not on disk is dropped, and delivered again later.
    pub abandon: CancellationToken,
}

/// Runs until the intake is closed, everything from it is on disk and the store is gone. Once
/// `abandon` is cancelled, it waits for nothing but the store.
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
    let outlets = WriterOutputs { decode: decode.clone(), session: session.clone() };
    let telemetry = (Arc::clone(&health), metrics);
    let mut writer =
        SpoolWriter::new(client_id.clone(), intake, outlets, max_size, telemetry, clock);
    let finished = CancellationToken::new();
    let progress = SpoolCursors::new(0);
    let spooling = async {
        let reader = SpoolReader::new(decode, client_id);
        let file = tokio::select! {
            biased;
            () = abandon.cancelled() => None,
            file = spool(&storage, &mut writer, &reader, &progress, &health)
                => Some(file),
        };
        // Ends decoding and the store; what they do not take any more stays on disk.
        drop(reader);
        writer.close_outputs();
        finished.cancel();
        file
    };
    let (file, ()) = {
        let routing = acks::run(store, session, &progress, &finished);
        tokio::join!(spooling, part("spool route", routing))
    };
    let Some(mut file) = file else { return };
    let closed = async {
        let left = writer.finish(&mut file.writer, &progress).await?;
        file.reader.close().await?;
        file.writer.close_in_order(left).await
    };
    if let Err(error) = closed.await {
        tracing::warn!(
            problem = %error,
            "could not delete from the spool what is committed; it will be sent again, and makes \
             no second row"
        );
    }
}

/// Spools until nothing more comes.
async fn spool<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    reader: &SpoolReader,
    progress: &SpoolCursors,
    health: &Health,
) -> OpenSpool<S> {
    loop {
        tick();
        let mut file = open(storage, writer, progress, health).await;
        let interrupt = CancellationToken::new();
        let ended = {
            let appending = writer.run(&mut file.writer, progress, &interrupt);
            tokio::pin!(appending);
            tokio::select! {
                biased;
                ended = &mut appending => ended,
                unreadable = part("spool read", reader.run(&mut file.reader, progress)) => {
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
                report_problem(health, error.to_string());
                close_all(file).await;
                if let SpoolError::Damaged(problem) = error {
                    salvage_damaged(storage, &problem, progress, health).await;
                } else {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Opens the file, however long that takes.
async fn open<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    progress: &SpoolCursors,
    health: &Health,
) -> OpenSpool<S> {
    loop {
        match try_open(storage, writer, progress).await {
            Ok(file) => return file,
            Err(SpoolError::Damaged(problem)) => {
                salvage_damaged(storage, &problem, progress, health).await;
            }
            Err(error) => {
                report_problem(health, error.to_string());
                writer.run_without_disk(progress).await;
            }
        }
    }
}

async fn try_open<S: SpoolStorage>(
    storage: &S,
    writer: &mut SpoolWriter,
    progress: &SpoolCursors,
) -> Result<OpenSpool<S>, SpoolError> {
    let mut file = during(DISK_SCAN, storage.open()).await?;
    match writer.take_over(&mut file.writer).await {
        Ok(last) => {
            progress.appended.send_replace(last);
            Ok(file)
        }
        Err(error) => {
            close_all(file).await;
            Err(error)
        }
    }
}

/// Closes what is of no more use, in order: `SQLite` removes by name what lies beside a file.
async fn close_all<S: SpoolStorage>(file: OpenSpool<S>) {
    let _ = file.reader.close().await;
    let _ = file.writer.close().await;
}

/// Sets a damaged file aside, once that is possible.
async fn salvage_damaged(
    storage: &impl SpoolStorage,
    problem: &str,
    progress: &SpoolCursors,
    health: &Health,
) {
    let last_known = progress.forwarded().max(*progress.appended.borrow());
    if let Err(error) = during(DISK_SCAN, storage.salvage(problem, last_known)).await {
        report_problem(health, format!("could not set the damaged spool aside: {error}"));
        tokio::time::sleep(RETRY).await;
    }
}
