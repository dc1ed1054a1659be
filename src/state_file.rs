//! Small files with state that outlives the process, in the folder that systemd names
//! (`STATE_DIRECTORY`), or else in that of the spool. Without either there is no file. A dedicated
//! thread does the disk operations, so that no runtime thread waits for them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::files::sync_folder_of;

/// Longest wait for the disk. A network file system that hangs must not stop the service.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Capacity of the queue of disk operations. They are rare, and a disk that is this far behind counts
/// as unresponsive.
const QUEUE: usize = 64;

/// Attempts to write a value before it counts as failed.
const TRIES: usize = 3;

/// Returns the folder for state: the one that systemd gives to the service, or `otherwise`.
pub fn folder(otherwise: Option<&Path>) -> Option<PathBuf> {
    let folders = std::env::var_os("STATE_DIRECTORY");
    let folder = folders.as_ref().and_then(|all| std::env::split_paths(all).next());
    folder.or(otherwise.map(Path::to_owned))
}

/// Name of a state file, and the consequence of not having it.
#[derive(Debug, Clone, Copy)]
pub struct FilePurpose {
    /// The part of the file name after the client ID.
    pub suffix: &'static str,
    /// The effect on the process while it cannot use the file, for the log.
    pub consequence: &'static str,
}

/// A value that is kept in a file. The file exists while the value differs from the default.
#[derive(Debug)]
pub struct StateFile<T> {
    jobs: Option<SyncSender<FileJob<T>>>,
    purpose: FilePurpose,
}

#[derive(Debug)]
enum FileJob<T> {
    Read(oneshot::Sender<T>),
    Keep(Box<T>, oneshot::Sender<bool>),
}

impl<T> StateFile<T>
where
    T: Default + PartialEq + Serialize + DeserializeOwned + Send + 'static,
{
    /// Opens the file of a client ID in a folder.
    pub fn within(folder: Option<&Path>, client_id: &str, purpose: FilePurpose) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name = client_id.chars().map(plain).collect::<String>() + purpose.suffix;
        let Some(path) = folder.map(|folder| folder.join(name)) else {
            return Self { jobs: None, purpose };
        };
        let (jobs, received) = sync_channel(QUEUE);
        let spawned = thread::Builder::new()
            .name("state-file".into())
            .spawn(move || serve(&path, &received, purpose));
        Self { jobs: spawned.ok().map(|_| jobs), purpose }
    }

    /// Returns the value that an earlier process left. Returns the default if there is none, or if the
    /// disk does not answer.
    pub async fn read(&self) -> T {
        self.ask(FileJob::Read).await
    }

    /// Replaces the value, and waits for that within a bounded time. Returns true if the value is
    /// durable.
    pub async fn keep(&self, value: T) -> bool {
        self.ask(|answer| FileJob::Keep(Box::new(value), answer)).await
    }

    /// Replaces the value without waiting for the disk.
    pub fn keep_soon(&self, value: T) {
        if let Some(jobs) = &self.jobs {
            // If the queue is full, a later value is written instead.
            let _ = jobs.try_send(FileJob::Keep(Box::new(value), oneshot::channel().0));
        }
    }

    async fn ask<A: Default>(&self, job: impl FnOnce(oneshot::Sender<A>) -> FileJob<T>) -> A {
        let Some(jobs) = &self.jobs else { return A::default() };
        let (answer, answered) = oneshot::channel();
        if jobs.try_send(job(answer)).is_ok()
            && let Ok(Ok(answer)) = timeout(ANSWER_WITHIN, answered).await
        {
            return answer;
        }
        let consequence = self.purpose.consequence;
        tracing::warn!(consequence, "the disk of the state directory does not answer");
        A::default()
    }
}

/// Runs the disk operations one after the other, until the sender is dropped.
fn serve<T>(path: &Path, jobs: &Receiver<FileJob<T>>, purpose: FilePurpose)
where
    T: Default + PartialEq + Serialize + DeserializeOwned,
{
    for job in jobs {
        match job {
            FileJob::Read(answer) => _ = answer.send(read(path, purpose)),
            FileJob::Keep(value, answer) => {
                let _ = answer.send(keep(path, &*value, purpose));
            }
        }
    }
}

fn read<T: Default + DeserializeOwned>(path: &Path, purpose: FilePurpose) -> T {
    let read = match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        warn_unusable(path, &error, purpose);
        T::default()
    })
}

fn keep<T: Default + PartialEq + Serialize>(path: &Path, value: &T, purpose: FilePurpose) -> bool {
    let nothing = *value == T::default();
    let once = || if nothing { remove(path) } else { write(path, value) };
    // After a failed sync the data has to be written again: another sync would not write it.
    let done = (1..TRIES).fold(once(), |done, _| done.or_else(|_| once()));
    if let Err(error) = &done {
        warn_unusable(path, error, purpose);
    }
    done.is_ok()
}

fn warn_unusable(path: &Path, error: &io::Error, purpose: FilePurpose) {
    tracing::warn!(
        path = %path.display(),
        %error,
        consequence = purpose.consequence,
        "cannot use a state file"
    );
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder_of(path),
    }
}

/// Replaces the file atomically.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURPOSE: FilePurpose = FilePurpose { suffix: ".state.json", consequence: "none" };

    #[tokio::test(start_paused = true)]
    async fn hanging_disks_are_not_waited_for() {
        let (jobs, _never_served) = sync_channel(QUEUE);
        let file = StateFile { jobs: Some(jobs), purpose: PURPOSE };
        assert!(!file.keep(7).await);
        assert_eq!(file.read().await, 0);
    }

    #[tokio::test]
    async fn values_kept_soon_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::within(Some(folder.path()), "a", PURPOSE);
        file.keep_soon(7);
        assert_eq!(file.read().await, 7);
    }
}
