//! The folder of the spool, so that it outlasts a power cut: names are on disk only once the folder
//! that holds them is synced, and what a sync failed to write is lost although it can still be read.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::SpoolError;
use crate::files::sync_folder;

/// Only one process may have the spool.
const LOCK: &str = "spool.lock";

/// Bytes copied at once.
const CHUNK: usize = 1024 * 1024;

/// The right to have the spool, for as long as it lives.
#[derive(Debug)]
pub struct SpoolLock(#[expect(dead_code, reason = "closing it frees the lock")] File);

impl SpoolLock {
    /// Makes the folder if need be.
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

    /// Returns `None` if another process has it.
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

/// Makes a folder if need be, readable by nobody else, with the folders above it. Each is synced
/// before the next is made, and the last at every call: an earlier one may have failed there.
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
    match sync_folder(above.unwrap_or(Path::new("."))) {
        // Not ours: made for the service, and not by it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Writes changes of names in the folder of this file to disk.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), SpoolError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    sync_folder(dir).map_err(|e| SpoolError::io(dir, &e))
}

/// Writes the write-ahead log that an earlier process left once more, and syncs it. `SQLite` goes by
/// what it can read of it; a transaction whose sync failed can be read and is not on disk, and those
/// that follow it would be lost with it at a power cut.
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

/// The path of what `SQLite` keeps beside a file.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
