//! Small files with state that outlives the process, in the folder that systemd names
//! (`STATE_DIRECTORY`), else in the spool's. Without either there is no file. A thread of its own
//! touches the disk, so that no runtime thread waits for it.

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

/// A disk that does not answer for this long is not waited for: nothing may stand still because a
/// network file system does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Changes on their way to the disk. They are rare, and a disk that is this far behind is not
/// answering.
const QUEUE: usize = 64;

/// Tries to write a change to a disk that fails.
const TRIES: usize = 3;

/// Returns the folder for state: the one that systemd gives to the service, or `otherwise`.
pub fn folder(otherwise: Option<&Path>) -> Option<PathBuf> {
    let folders = std::env::var_os("STATE_DIRECTORY");
    let folder = folders.as_ref().and_then(|all| std::env::split_paths(all).next());
    folder.or(otherwise.map(Path::to_owned))
}

/// Names a file and says what is lost without it.
#[derive(Debug, Clone, Copy)]
pub struct FilePurpose {
    /// The file's name after the client id.
    pub suffix: &'static str,
    /// What the process does worse while it cannot use the file.
    pub consequence: &'static str,
}

/// A value that is kept in a file while it differs from the default.
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
    /// Opens the file of a client id in a folder.
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

    /// Returns the value that an earlier process left; the default if there is none, or the disk does
    /// not answer.
    pub async fn read(&self) -> T {
        self.ask(FileJob::Read).await
    }

    /// Replaces the value. Returns once that is durable or has failed, within a bounded time; false if
    /// it has failed.
    pub async fn keep(&self, value: T) -> bool {
        self.ask(|answer| FileJob::Keep(Box::new(value), answer)).await
    }

    /// Replaces the value without waiting for the disk.
    pub fn keep_soon(&self, value: T) {
        if let Some(jobs) = &self.jobs {
            // A disk that is far behind gets a later value.
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

/// Does the jobs, one after the other, until the sender is gone.
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
    // A sync may fail once: what it was to write has to be written again.
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
        "cannot use a file of the state directory"
    );
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder_of(path),
    }
}

/// Writes the file whole or not at all.
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
    async fn a_disk_that_hangs_is_not_waited_for() {
        let (jobs, _never_served) = sync_channel(QUEUE);
        let file = StateFile { jobs: Some(jobs), purpose: PURPOSE };
        assert!(!file.keep(7).await);
        assert_eq!(file.read().await, 0);
    }

    #[tokio::test]
    async fn a_value_kept_soon_is_read_after() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::within(Some(folder.path()), "a", PURPOSE);
        file.keep_soon(7);
        assert_eq!(file.read().await, 7);
    }
}
