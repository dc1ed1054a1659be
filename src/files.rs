//! Reads files that may lie on a file system that does not answer: a dead NFS mount holds the thread
//! that reads for as long as it is dead. So a thread of its own reads, and it is left behind when its
//! time is up. The end of the process does not wait for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use p256::elliptic_curve::zeroize::Zeroizing;
use tokio::sync::oneshot;

/// How long a read may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What is said about a file that does not answer.
pub const NO_ANSWER: &str = "no answer from its file system within 5 s";

/// Reads that may be left behind. Beyond that none is begun until one of them ends.
const MOST_UNANSWERED: usize = 16;

static UNANSWERED: AtomicUsize = AtomicUsize::new(0);

/// Returns how many reads were left behind and have not ended.
pub fn unanswered() -> usize {
    UNANSWERED.load(Ordering::Acquire)
}

/// Returns true if an error of [`read`] means that the file did not answer in time.
pub fn is_no_answer(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// Reads at most `limit` bytes of a file. Blocks for [`ANSWER_WITHIN`] at most.
pub fn read(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let path = path.to_owned();
    within(ANSWER_WITHIN, move || {
        let mut bytes = Zeroizing::new(Vec::new());
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    })
}

/// Syncs the folder of this file, so that a change of the file's name outlasts a power cut. Blocks for as
/// long as the disk does.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Syncs a folder. Blocks for as long as the disk does.
pub fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Does the work on a thread of its own. A task that is dropped leaves it behind.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    thread::Builder::new().name("files".into()).spawn(move || _ = answer.send(work()))?;
    answered.await.map_err(io::Error::other)
}

fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if unanswered() >= MOST_UNANSWERED {
        return Err(no_answer());
    }
    let (answer, answered) = sync_channel(1);
    // Set by whichever side is first: the thread that has the answer, or the one that gives up.
    let decided = Arc::new(AtomicBool::new(false));
    let given_up = Arc::clone(&decided);
    thread::Builder::new().name("file-read".into()).spawn(move || {
        let _ = answer.send(work());
        if given_up.swap(true, Ordering::AcqRel) {
            UNANSWERED.fetch_sub(1, Ordering::AcqRel);
        }
    })?;
    match answered.recv_timeout(limit) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the read panicked")),
        Err(RecvTimeoutError::Timeout) => {
            UNANSWERED.fetch_add(1, Ordering::AcqRel);
            if decided.swap(true, Ordering::AcqRel) {
                UNANSWERED.fetch_sub(1, Ordering::AcqRel);
            }
            Err(no_answer())
        }
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, NO_ANSWER)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_read_without_an_answer_is_left_behind() {
        let (release, released) = channel::<()>();
        let error = within(Duration::from_millis(20), move || {
            let _ = released.recv();
            Ok(())
        })
        .unwrap_err();
        assert!(is_no_answer(&error), "{error}");
        assert_eq!(unanswered(), 1);
        release.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while unanswered() > 0 {
            assert!(Instant::now() < deadline, "the read that ended still counts");
            thread::yield_now();
        }
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(**read(&path, 3).unwrap(), *b"123");
        assert_eq!(
            read(&folder.path().join("none"), 3).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
