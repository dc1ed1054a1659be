//! The stage: opens the file, mends what can be mended, and keeps its parts at work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::append::{Appender, Ended, Outlets, say};
use super::error::SpoolError;
use super::file::{Lock, SpoolFile, path_in};
use super::forward::Forwarder;
use super::progress::Progress;
use super::{route, salvage};
use crate::config;
use crate::message::{Feedback, Intake};
use crate::progress::{DISK_SCAN, during, part, tick};
use crate::telemetry::{Health, Metrics};

/// Between two tries to open the file.
const RETRY: Duration = Duration::from_secs(1);

/// Rows on their way to decoding. The store holds the larger part of what is read ahead.
const DECODE_CAPACITY: usize = 256;

/// The channel to decoding.
pub fn channel() -> (mpsc::Sender<Intake>, mpsc::Receiver<Intake>) {
    mpsc::channel(DECODE_CAPACITY)
}

/// What the stage needs.
#[derive(Debug)]
pub struct SpoolParts {
    /// Section `spool`.
    pub config: config::Spool,
    /// For the gap of a damaged file.
    pub client_id: String,
    /// What the session passes on.
    pub intake: mpsc::Receiver<Intake>,
    /// To decoding.
    pub decode: mpsc::Sender<Intake>,
    /// From the store.
    pub store: mpsc::Receiver<Feedback>,
    /// To the session. It must keep receiving whatever it does with `intake`.
    pub session: mpsc::Sender<Feedback>,
    /// State.
    pub health: Arc<Health>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Ends everything at once: what is not on disk is dropped, and delivered again later.
    pub abandon: CancellationToken,
}

/// The file, open for writing and for reading.
struct Open {
    writer: SpoolFile,
    reader: SpoolFile,
    _lock: Lock,
}

impl Open {
    /// Closes what is of no more use, in order: `SQLite` removes by name what lies beside a file.
    async fn leave(self) {
        let _ = self.reader.close().await;
        let _ = self.writer.close().await;
    }
}

/// Runs until the intake is closed, everything from it is on disk and the store is gone. Once
/// `abandon` is cancelled, it waits for nothing but the store.
pub async fn run(parts: SpoolParts) {
    let SpoolParts { config, client_id, intake, decode, store, session, health, metrics, abandon } =
        parts;
    health.update(|snapshot| _ = snapshot.spool.get_or_insert_default());
    let outlets = Outlets { decode: decode.clone(), session: session.clone() };
    let telemetry = (Arc::clone(&health), metrics);
    let mut appender = Appender::new(intake, outlets, config.max_size, telemetry);
    let finished = CancellationToken::new();
    let progress = Progress::new(0);
    let spooling = async {
        let forwarder = Forwarder::new(decode);
        let file = tokio::select! {
            biased;
            () = abandon.cancelled() => None,
            file = spool(&config.dir, &client_id, &mut appender, &forwarder, &progress, &health)
                => Some(file),
        };
        // Ends decoding and the store; what they do not take any more stays on disk.
        drop(forwarder);
        appender.let_go();
        finished.cancel();
        file
    };
    let (file, ()) = {
        let routing = route::run(store, session, &progress, &finished);
        tokio::join!(spooling, part("spool route", routing))
    };
    let Some(mut file) = file else { return };
    let closed = async {
        appender.finish(&mut file.writer, &progress).await?;
        file.reader.close().await?;
        file.writer.close().await
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
async fn spool(
    dir: &Path,
    client_id: &str,
    appender: &mut Appender,
    forwarder: &Forwarder,
    progress: &Progress,
    health: &Health,
) -> Open {
    loop {
        tick();
        let mut file = open(dir, client_id, appender, progress, health).await;
        let interrupt = CancellationToken::new();
        let ended = {
            let appending = appender.run(&mut file.writer, progress, &interrupt);
            tokio::pin!(appending);
            tokio::select! {
                ended = &mut appending => ended,
                unreadable = part("spool read", forwarder.run(&mut file.reader, progress)) => {
                    interrupt.cancel();
                    let ended = appending.await;
                    match (ended, unreadable) {
                        (Ok(Ended::Interrupted), Err(error)) => Err(error),
                        (ended, _) => ended,
                    }
                }
            }
        };
        match ended {
            Ok(Ended::Finished) => return file,
            Ok(Ended::Interrupted) => {}
            Err(error) => {
                say(health, error.to_string());
                file.leave().await;
                if let SpoolError::Damaged(problem) = error {
                    mend(dir, client_id, &problem, progress, health).await;
                } else {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Opens the file, however long that takes.
async fn open(
    dir: &Path,
    client_id: &str,
    appender: &mut Appender,
    progress: &Progress,
    health: &Health,
) -> Open {
    loop {
        match try_open(dir, appender, progress).await {
            Ok(file) => return file,
            Err(SpoolError::Damaged(problem)) => {
                mend(dir, client_id, &problem, progress, health).await;
            }
            Err(error) => {
                say(health, error.to_string());
                appender.do_without(progress).await;
            }
        }
    }
}

async fn try_open(
    dir: &Path,
    appender: &mut Appender,
    progress: &Progress,
) -> Result<Open, SpoolError> {
    let lock = Lock::take(dir)?;
    salvage::finish(dir)?;
    let mut writer = during(DISK_SCAN, SpoolFile::open(&path_in(dir))).await?;
    let reader = SpoolFile::connect(&path_in(dir), false).await?;
    let last = match appender.take_over(&mut writer).await {
        Ok(last) => last,
        Err(error) => {
            let _ = (reader.close().await, writer.close().await);
            return Err(error);
        }
    };
    progress.appended.send_replace(last);
    Ok(Open { writer, reader, _lock: lock })
}

/// Sets a damaged file aside, once that is possible.
async fn mend(dir: &Path, client_id: &str, problem: &str, progress: &Progress, health: &Health) {
    let last_known = progress.forwarded().max(*progress.appended.borrow());
    let lock = Lock::take(dir);
    let result = match &lock {
        Ok(_) => during(DISK_SCAN, salvage::salvage(dir, client_id, problem, last_known)).await,
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = result {
        say(health, format!("could not set the damaged spool aside: {error}"));
        tokio::time::sleep(RETRY).await;
    }
}
