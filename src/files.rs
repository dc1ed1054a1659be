//! Reads files that may be on a file system that does not answer, such as a dead NFS mount, which
//! blocks the reading thread for as long as it is dead. A separate thread reads, and it is abandoned
//! after a time limit. The end of the process does not wait for it.

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

/// Time limit of a read.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The error text for a file that does not answer.
pub const NO_ANSWER: &str = "no answer from its file system within 5 s";

/// Most reads that may be abandoned and unfinished. Beyond that, new reads fail at once.
const MOST_UNANSWERED: usize = 16;

static UNANSWERED: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of abandoned reads that have not finished.
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

/// Syncs the folder of this file, so that a rename of the file survives a power loss. Blocks for as
/// long as the disk does.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Syncs a folder. Blocks for as long as the disk does.
pub fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Runs the work on a separate thread, which continues if the calling task is dropped.
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
    // Set by the side that is first: the reading thread when it finishes, or the caller at the limit.
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
    fn unanswered_reads_are_abandoned() {
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
            assert!(Instant::now() < deadline, "the finished read still counts");
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
