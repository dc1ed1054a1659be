//! Files that must not be overwritten, and file modes that let others read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of a private key: access for its owner only.
pub const PRIVATE: u32 = 0o600;
/// Mode of a request or certificate, before the umask.
pub const PUBLIC: u32 = 0o644;

/// A file created by this process. Dropping it removes the file, unless [`Self::keep`] was called.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl NewFile {
    /// Creates the file with `mode` from the start. An existing file is an error and stays untouched.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    /// Writes the whole content and syncs it to disk.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()
    }

    /// Keeps the file on disk.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // A file that cannot be removed stays: there is no caller to report it to.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns a warning with a hint if others may read or change the private key. It returns `None` also
/// where the mode cannot be read, because reading the file reports that better.
pub fn exposure(path: &Path) -> Option<String> {
    exposure_of("private key", path)
}

/// Returns the warning of [`exposure`] for a file with this content.
pub fn exposure_of(content: &str, path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode();
    let who = exposed_to(mode, metadata.uid())?;
    Some(format!(
        "the {content} {path} is open to {who} (mode {mode:04o}); chmod 600 {path}",
        path = path.display(),
        mode = mode & 0o7777,
    ))
}

/// Returns who else may read or write a file of this mode. Reading by the group of a file that root
/// owns is intended: administrators let a service read it so, and systemd passes credentials so.
pub fn exposed_to(mode: u32, owner: u32) -> Option<&'static str> {
    const ROOT: u32 = 0;
    let group = if owner == ROOT { 0o020 } else { 0o060 };
    match (mode & group != 0, mode & 0o006 != 0) {
        (_, true) => Some("every user of this machine"),
        (true, false) => Some("its group"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_are_removed_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let mut file = NewFile::create(&path, PRIVATE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.write(b"half").unwrap();
        drop(file);
        assert!(!path.exists());
        let mut file = NewFile::create(&path, PRIVATE).unwrap();
        file.write(b"whole").unwrap();
        file.keep();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn an_existing_file_is_neither_overwritten_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "precious").unwrap();
        let error = NewFile::create(&path, PRIVATE).expect_err("exists");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn modes_that_expose_a_key_are_found() {
        for (mode, owner, who) in [
            (0o600, 1000, None),
            (0o400, 1000, None),
            (0o640, 1000, Some("its group")),
            (0o640, 0, None),
            (0o440, 0, None),
            (0o660, 0, Some("its group")),
            (0o604, 0, Some("every user of this machine")),
            (0o604, 1000, Some("every user of this machine")),
        ] {
            assert_eq!(exposed_to(mode, owner), who, "{mode:o} of {owner}");
        }
    }
}
