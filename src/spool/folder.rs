//! Makes the folder of the spool outlast a power cut. Names are on disk only once the folder that holds
//! them is synced, and data of a failed sync is lost although it can still be read.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::SpoolError;
use crate::files::sync_folder;

/// Name of the lock file: only one process may use the spool.
const LOCK: &str = "spool.lock";

/// Bytes copied at once by [`rewrite`].
const CHUNK: usize = 1024 * 1024;

/// The right to use the spool, until it is dropped.
#[derive(Debug)]
pub struct SpoolLock(#[expect(dead_code, reason = "closing it frees the lock")] File);

impl SpoolLock {
    /// Takes the lock, and makes the folder if necessary. Fails if another process uses the spool.
    pub fn take(dir: &Path) -> Result<Self, SpoolError> {
        make_folder(dir).map_err(|e| SpoolError::io(dir, &e))?;
        Self::try_take(dir)?.ok_or_else(|| {
            SpoolError::Unavailable(format!(
                "spool.dir: {} is in use by another process; give each its own folder, or wait for \
                 the other to end",
                dir.display()
            ))
        })
    }

    /// Takes the lock, or returns `None` if another process has it.
    pub fn try_take(dir: &Path) -> Result<Option<Self>, SpoolError> {
        let path = dir.join(LOCK);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|e| SpoolError::io(&path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(SpoolError::io(&path, &error)),
        }
    }
}

/// Makes a folder if necessary, with the folders above it, readable by its owner only. Each is synced
/// before the next is made. The last is synced at every call, since an earlier call may have failed
/// there.
fn make_folder(dir: &Path) -> io::Result<()> {
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above
        && !above.exists()
    {
        make_folder(above)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !dir.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    unless_denied(sync_folder(above.unwrap_or(Path::new("."))))
}

/// Accepts a denied sync: the folder above belongs to another user, who made this one for the service.
fn unless_denied(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Syncs the folder of this file, which makes changes of names in it durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), SpoolError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    sync_folder(dir).map_err(|e| SpoolError::io(dir, &e))
}

/// Rewrites and syncs the write-ahead log that an earlier process left. `SQLite` relies on what it can
/// read of the log. A transaction whose sync failed can be read but is not on disk, and a power cut
/// would lose it with all transactions that follow.
pub(super) async fn renew_log(path: &Path) -> Result<(), SpoolError> {
    let log = with_suffix(path, "-wal");
    let renewed = {
        let log = log.clone();
        tokio::task::spawn_blocking(move || rewrite(&log)).await
    };
    renewed.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| SpoolError::io(&log, &e))
}

fn rewrite(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut chunk = vec![0; CHUNK];
    let mut place = 0;
    loop {
        let read = file.read_at(&mut chunk, place)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all_at(&chunk[..read], place)?;
        place += read as u64;
    }
}

/// Returns the path of a file that `SQLite` keeps next to another.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_are_made_with_those_above() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        assert!(deep.is_dir());
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(make_folder(&file).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(make_folder(&file.join("below")).is_err());
    }

    #[test]
    fn only_a_denied_sync_is_accepted() {
        assert!(unless_denied(Ok(())).is_ok());
        assert!(unless_denied(Err(ErrorKind::PermissionDenied.into())).is_ok());
        let failed = unless_denied(Err(ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn logs_are_rewritten_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        rewrite(&log).unwrap();
        assert!(!log.exists());
        let bytes: Vec<u8> = (0..CHUNK * 2 + 3).map(|n| n.to_be_bytes()[7]).collect();
        fs::write(&log, &bytes).unwrap();
        rewrite(&log).unwrap();
        assert!(fs::read(&log).unwrap() == bytes);
        assert!(rewrite(dir.path()).is_err(), "a folder is no log");
    }
}
