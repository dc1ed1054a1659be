//! A small file with the possible losses that are not durable in the database yet. The process must
//! not take them with it when it dies while the database is away, because its successor could not find
//! out. systemd names the folder (`STATE_DIRECTORY`), else it is the spool's. Without either there is
//! no file.

use std::fmt::Debug;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::files::sync_folder_of;
use crate::message::Gap;

/// A disk that does not answer for this long is not waited for: the session must not stand still
/// because a network file system does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Changes on their way to the disk. They are rare (one a gap), and a disk that is this far behind is
/// not answering.
const QUEUE: usize = 64;

/// Tries to write a change to a disk that fails.
const TRIES: usize = 3;

/// Possible losses that were noticed and are not durable elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PendingGaps {
    /// The broker had made the session anew.
    pub lost_session: bool,
    /// When it first had.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub new_session_at: Option<OffsetDateTime>,
    /// The broker lost a session that was not stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Gap>,
    /// Acknowledgements were held for too long.
    pub gap: Option<Gap>,
    /// QoS-0 messages were dropped for want of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Gap>,
}

/// Keeps [`PendingGaps`] beyond the life of the process.
pub trait GapState: Debug + Send + Sync {
    /// Returns what an earlier process left.
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>>;

    /// Replaces the content. Returns once that is durable or has failed, within a bounded time.
    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Keeps the state in a file. A thread of its own touches the disk, so that no runtime thread waits
/// for it.
#[derive(Debug)]
pub struct GapStateFile {
    jobs: Option<SyncSender<Job>>,
    /// True while something is pending that the file does not have.
    incomplete: AtomicBool,
}

#[derive(Debug)]
enum Job {
    Read(oneshot::Sender<PendingGaps>),
    Keep(Box<PendingGaps>, oneshot::Sender<bool>),
}

impl GapStateFile {
    /// Opens the file of a client id in the folder that systemd gives to the service, or in
    /// `otherwise`.
    pub fn of(client_id: &str, otherwise: Option<&Path>) -> Self {
        let folders = std::env::var_os("STATE_DIRECTORY");
        let folder = folders.as_ref().and_then(|all| std::env::split_paths(all).next());
        Self::within(folder.as_deref().or(otherwise), client_id)
    }

    /// Opens the file of a client id in a folder.
    pub fn within(folder: Option<&Path>, client_id: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name = format!("{}.unsaid.json", client_id.chars().map(plain).collect::<String>());
        let Some(path) = folder.map(|folder| folder.join(name)) else { return Self::new(None) };
        let (jobs, received) = sync_channel(QUEUE);
        let spawned =
            thread::Builder::new().name("gap-state".into()).spawn(move || serve(&path, &received));
        Self::new(spawned.ok().map(|_| jobs))
    }

    fn new(jobs: Option<SyncSender<Job>>) -> Self {
        Self { jobs, incomplete: AtomicBool::new(false) }
    }

    /// Returns false if a possible loss would be forgotten with this process.
    pub fn is_complete(&self) -> bool {
        !self.incomplete.load(Ordering::Relaxed)
    }

    async fn ask<T: Default>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> T {
        let Some(jobs) = &self.jobs else { return T::default() };
        let (answer, answered) = oneshot::channel();
        if jobs.try_send(job(answer)).is_ok()
            && let Ok(Ok(answer)) = timeout(ANSWER_WITHIN, answered).await
        {
            return answer;
        }
        tracing::warn!(
            "the disk with the record of possible losses does not answer; continuing without it"
        );
        T::default()
    }
}

impl GapState for GapStateFile {
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>> {
        Box::pin(self.ask(Job::Read))
    }

    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let nothing = pending == PendingGaps::default();
            let kept = self.ask(|answer| Job::Keep(Box::new(pending), answer)).await;
            self.incomplete.store(!nothing && !kept, Ordering::Relaxed);
        })
    }
}

/// Does the jobs, one after the other, until the sender is gone.
fn serve(path: &Path, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Read(answer) => _ = answer.send(read(path)),
            Job::Keep(pending, answer) => {
                let _ = answer.send(keep(path, &pending));
            }
        }
    }
}

fn read(path: &Path) -> PendingGaps {
    let read = match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return PendingGaps::default(),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        warn_unusable(path, &error);
        PendingGaps::default()
    })
}

fn keep(path: &Path, pending: &PendingGaps) -> bool {
    let nothing = *pending == PendingGaps::default();
    let once = || if nothing { remove(path) } else { write(path, pending) };
    // A sync may fail once: what it was to write has to be written again.
    let done = (1..TRIES).fold(once(), |done, _| done.or_else(|_| once()));
    if let Err(error) = &done {
        warn_unusable(path, error);
    }
    done.is_ok()
}

fn warn_unusable(path: &Path, error: &io::Error) {
    tracing::warn!(
        path = %path.display(),
        %error,
        "cannot use the record of possible losses; one noticed while the database is away is \
         forgotten if this process dies before it is back"
    );
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder_of(path),
    }
}

/// Writes the file whole or not at all.
fn write(path: &Path, pending: &PendingGaps) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(pending)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::GapCause;

    fn pending() -> PendingGaps {
        let gap = Gap {
            client_id: "acme/bridge".into(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: None,
            cause: GapCause::Backpressure,
            detail: "held".into(),
        };
        PendingGaps {
            lost_session: true,
            new_session_at: Some(OffsetDateTime::UNIX_EPOCH),
            lost: Some(gap.clone()),
            gap: Some(gap.clone()),
            dropped: Some(gap),
        }
    }

    #[tokio::test]
    async fn kept_gaps_are_read_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || GapStateFile::within(Some(folder.path()), "acme/bridge");
        assert_eq!(open().read().await, PendingGaps::default());
        open().keep(pending()).await;
        let next = open();
        assert_eq!(next.read().await, pending());
        next.keep(PendingGaps::default()).await;
        assert_eq!(open().read().await, PendingGaps::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
    }

    #[tokio::test]
    async fn without_a_file_pending_gaps_are_not_kept() {
        let file = GapStateFile::within(None, "acme-bridge");
        assert!(file.is_complete());
        file.keep(pending()).await;
        assert!(!file.is_complete());
        file.keep(PendingGaps::default()).await;
        assert!(file.is_complete());

        let folder = tempfile::tempdir().unwrap();
        let file = GapStateFile::within(Some(folder.path()), "acme-bridge");
        file.keep(pending()).await;
        assert!(file.is_complete());
        drop(folder);
        file.keep(PendingGaps { gap: None, ..pending() }).await;
        assert!(!file.is_complete(), "the folder is gone");
    }

    #[tokio::test]
    async fn each_client_id_has_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        GapStateFile::within(Some(folder.path()), "a").keep(pending()).await;
        let other = GapStateFile::within(Some(folder.path()), "b");
        assert_eq!(other.read().await, PendingGaps::default());
    }

    #[tokio::test]
    async fn a_torn_file_reads_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.unsaid.json"), b"{").unwrap();
        let file = GapStateFile::within(Some(folder.path()), "a");
        assert_eq!(file.read().await, PendingGaps::default());
    }

    #[tokio::test]
    async fn files_of_earlier_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let old = br#"{"lost_session":true,"gap":null}"#;
        fs::write(folder.path().join("a.unsaid.json"), old).unwrap();
        let file = GapStateFile::within(Some(folder.path()), "a");
        assert_eq!(file.read().await, PendingGaps { lost_session: true, ..Default::default() });
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept() {
        let file = GapStateFile::within(None, "a");
        file.keep(pending()).await;
        assert_eq!(file.read().await, PendingGaps::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_not_waited_for() {
        let (jobs, _never_served) = sync_channel(QUEUE);
        let file = GapStateFile::new(Some(jobs));
        file.keep(pending()).await;
        assert_eq!(file.read().await, PendingGaps::default());
    }
}
