//! Files with the rows that retention deletes: CSV with a header, compressed with gzip, each next to a
//! `.json` with its count and checksum. A file is written under a temporary name, synced, read back, and
//! only then gets its own name. No file is ever overwritten.

pub mod csv;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::mpsc::Receiver;

use self::csv::RecordCounter;
use crate::credentials::files::PRIVATE;
use crate::files;

/// End of the name of a file.
const SUFFIX: &str = ".csv.gz";

/// End of the name of the description next to a file.
const DESCRIPTION: &str = ".json";

/// End of a temporary name.
const PART: &str = ".part";

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;

/// Names tried for one range.
const NAMES: u32 = 1000;

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveContent {
    /// Number of rows, without the header.
    pub rows: u64,
    /// SHA-256 of the uncompressed file.
    pub sha256: [u8; 32],
    /// Size of the compressed file, bytes.
    pub bytes: u64,
}

impl ArchiveContent {
    /// Returns the checksum in hexadecimal digits.
    pub fn digits(&self) -> String {
        self.sha256.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// The description next to a file. It suffices to restore the file into another database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveDescription {
    /// Name of the file.
    pub file: String,
    /// Table of the rows: `item_event` or `board_event`.
    pub table: String,
    /// Start of the range of momenta.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// End of the range, which is not in it.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Number of rows.
    pub rows: u64,
    /// SHA-256 of the uncompressed file, in hexadecimal digits.
    pub sha256: String,
    /// Time of writing.
    #[serde(with = "time::serde::rfc3339")]
    pub written_at: OffsetDateTime,
}

/// Reason why a file could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFileError {
    /// The folder or a file in it failed.
    #[error("{path}: {reason}; {hint}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Reason given by the operating system.
        reason: String,
        /// Remedy.
        hint: &'static str,
    },
    /// A file differs from its description.
    #[error("{path}: {reason}; {hint}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The difference.
        reason: String,
        /// Remedy.
        hint: &'static str,
    },
}

impl ArchiveFileError {
    fn io(path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "make room there, or name another folder in retention.archive_dir"
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "make the user that the service runs as the owner of the folder"
            }
            ErrorKind::NotFound => "create the folder of retention.archive_dir, or mount its disk",
            _ => "check the disk, or name another folder in retention.archive_dir",
        };
        Self::Io { path: path.to_owned(), reason: error.to_string(), hint }
    }

    /// Returns the error of a thread that reads or writes files.
    pub fn of_thread(path: &Path, error: &io::Error) -> Self {
        Self::io(path, error)
    }

    /// Returns the error of a file that differs from its description.
    pub fn damaged(path: &Path, reason: String) -> Self {
        let hint = "nothing was restored; take the file from a backup";
        Self::Damaged { path: path.to_owned(), reason, hint }
    }
}

/// Checks that files can be created in a folder, without leaving one.
pub fn check_folder(folder: &Path) -> Result<(), ArchiveFileError> {
    let path = folder.join(format!(".check-{:016x}", rand::random::<u64>()));
    let check = || -> io::Result<()> {
        let mut file = create(&path)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        fs::remove_file(&path)
    };
    check().map_err(|error| {
        // It may not have been created.
        let _ = fs::remove_file(&path);
        ArchiveFileError::io(folder, &error)
    })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)
}

/// A file under its temporary name, complete and verified. Dropping it removes it.
#[derive(Debug)]
pub struct WrittenFile {
    path: PathBuf,
    /// What it was found to contain.
    pub content: ArchiveContent,
}

impl Drop for WrittenFile {
    fn drop(&mut self) {
        // Nothing is there any more after the file got its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes what comes through the channel to a temporary file, syncs it and reads it back. What an
/// earlier process left under the name is replaced.
pub fn write(
    folder: &Path,
    stem: &str,
    chunks: &mut Receiver<Bytes>,
) -> Result<WrittenFile, ArchiveFileError> {
    // A thread that is abandoned may still write to a name of its own.
    let path = folder.join(format!(".{stem}.{:016x}{PART}", rand::random::<u64>()));
    remove_parts(folder, stem);
    let written =
        write_to(&path, chunks).and_then(|sha256| Ok((sha256, read(&path, &mut |_| ())?)));
    match written {
        Ok((sha256, content)) if content.sha256 == sha256 => Ok(WrittenFile { path, content }),
        Ok(_) => {
            let error = io::Error::other("the disk returns other data than was written");
            // The error matters more.
            let _ = fs::remove_file(&path);
            Err(ArchiveFileError::io(&path, &error))
        }
        Err(error) => {
            // As above. Without room the rest must not stay.
            let _ = fs::remove_file(&path);
            Err(ArchiveFileError::io(folder, &error))
        }
    }
}

/// Removes what earlier processes left under temporary names.
fn remove_parts(folder: &Path, stem: &str) {
    let prefix = format!(".{stem}.");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(PART) {
            // What cannot be removed only takes room.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_to(path: &Path, chunks: &mut Receiver<Bytes>) -> io::Result<[u8; 32]> {
    let file = BufWriter::with_capacity(BLOCK, create(path)?);
    let mut compressed = GzEncoder::new(file, Compression::default());
    let mut hash = Sha256::new();
    while let Some(chunk) = chunks.blocking_recv() {
        hash.update(&chunk);
        compressed.write_all(&chunk)?;
    }
    let file = compressed.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(hash.finalize().into())
}

/// Reads a file to its end and returns what it contains. Calls `progress` with the compressed bytes
/// that were read.
pub fn read(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<ArchiveContent> {
    let (mut hash, mut records) = (Sha256::new(), RecordCounter::default());
    for_each_block(path, &mut |block, position| {
        hash.update(block);
        records.count(block);
        progress(position);
        Ok(())
    })?;
    let bytes = fs::metadata(path)?.len();
    let rows = records.records().saturating_sub(1);
    Ok(ArchiveContent { rows, sha256: hash.finalize().into(), bytes })
}

/// Decompresses a file, a block at a time, each with the position in the compressed file.
pub fn for_each_block(
    path: &Path,
    each: &mut dyn FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = GzDecoder::new(BufReader::with_capacity(BLOCK, File::open(path)?));
    let mut block = vec![0; BLOCK];
    let mut position = 0;
    loop {
        let length = file.read(&mut block)?;
        if length == 0 {
            return Ok(());
        }
        position = position.max(file.get_ref().get_ref().stream_position_hint());
        each(&block[..length], position)?;
    }
}

/// Returns the position of a file without moving it.
trait PositionHint {
    fn stream_position_hint(&self) -> u64;
}

impl PositionHint for File {
    fn stream_position_hint(&self) -> u64 {
        use std::io::Seek as _;
        let mut file = self;
        file.stream_position().unwrap_or(0)
    }
}

/// Gives a verified file its name and writes its description. A file with the same content that is there
/// already is used instead. Returns the description.
pub fn publish(
    folder: &Path,
    stem: &str,
    written: &WrittenFile,
    mut description: ArchiveDescription,
) -> Result<ArchiveDescription, ArchiveFileError> {
    let named = || -> io::Result<String> {
        let name = place(folder, stem, written)?;
        description.file.clone_from(&name);
        let text = serde_json::to_vec_pretty(&description).map_err(io::Error::other)?;
        let part = folder.join(format!(".{stem}.{:016x}{PART}", rand::random::<u64>()));
        let mut file = create(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&part, description_path(&folder.join(&name)))?;
        files::sync_folder(folder)?;
        Ok(name)
    };
    let mut named = named;
    named().map_err(|error| ArchiveFileError::io(folder, &error))?;
    Ok(description)
}

/// Moves a file to the first name that is free or has the same content.
fn place(folder: &Path, stem: &str, written: &WrittenFile) -> io::Result<String> {
    for number in 1..=NAMES {
        let name = match number {
            1 => format!("{stem}{SUFFIX}"),
            _ => format!("{stem}_{number}{SUFFIX}"),
        };
        let path = folder.join(&name);
        match create(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // An earlier process reserved the name and was killed.
                let is_reserved = fs::metadata(&path)?.len() == 0;
                if !is_reserved {
                    if read(&path, &mut |_| ()).is_ok_and(|there| is_same(&there, written)) {
                        return Ok(name);
                    }
                    continue;
                }
            }
            Err(error) => return Err(error),
        }
        fs::rename(&written.path, &path)?;
        files::sync_folder(folder)?;
        return Ok(name);
    }
    Err(io::Error::other(format!("the names {stem} to {stem}_{NAMES} are all taken")))
}

fn is_same(there: &ArchiveContent, written: &WrittenFile) -> bool {
    (there.rows, there.sha256) == (written.content.rows, written.content.sha256)
}

/// Returns the path of the description next to a file.
pub fn description_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(DESCRIPTION);
    path.into()
}

/// Reads the description next to a file. `None` if there is none.
pub fn description(file: &Path) -> Result<Option<ArchiveDescription>, ArchiveFileError> {
    let path = description_path(file);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| ArchiveFileError::damaged(&path, error.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveFileError::io(&path, &error)),
    }
}

/// Reads a file to its end and compares it with its description.
pub fn verify(
    path: &Path,
    description: &ArchiveDescription,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ArchiveFileError> {
    let content = read(path, progress).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => ArchiveFileError::io(path, &error),
        _ => ArchiveFileError::damaged(path, format!("it cannot be decompressed ({error})")),
    })?;
    if content.digits() != description.sha256 || content.rows != description.rows {
        let reason = format!(
            "it has {} rows and SHA-256 {}, expected {} rows and {}",
            content.rows,
            content.digits(),
            description.rows,
            description.sha256
        );
        return Err(ArchiveFileError::damaged(path, reason));
    }
    Ok(())
}

/// Returns the name of the files of a range, without number and suffix.
pub fn stem(table: &str, from: OffsetDateTime, until: OffsetDateTime) -> String {
    let date = |at: OffsetDateTime| at.to_offset(time::UtcOffset::UTC).date();
    format!("{table}_{}_{}", date(from), date(until))
}

#[cfg(test)]
mod tests;
