//! Files that must not be overwritten, nor read by others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of a private key: its owner alone.
pub const PRIVATE: u32 = 0o600;
/// Mode of a request or certificate, before the umask.
pub const PUBLIC: u32 = 0o644;

/// A file that did not exist before, and vanishes again unless kept.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl NewFile {
    /// Creates it with `mode` from the first moment; an existing file is never touched.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    /// Writes the whole content down to the disk.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()
    }

    /// Lets it stay.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing better can be done about a file that cannot be removed either.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A sentence if others may read or change the private key, with the hint. `None` also where the
/// mode cannot be told: reading the file reports that better.
pub fn exposure(path: &Path) -> Option<String> {
    exposure_of("private key", path)
}

/// The same for a file that holds `what`.
pub fn exposure_of(what: &str, path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode();
    let who = exposed_to(mode, metadata.uid())?;
    Some(format!(
        "the {what} {path} is open to {who} (mode {mode:04o}); chmod 600 {path}",
        path = path.display(),
        mode = mode & 0o7777,
    ))
}

/// Who may read or write a file of this mode without being meant to. That the group may read what
/// root owns is meant: so an administrator lets a service read it, and so systemd passes credentials.
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
    fn a_new_file_has_its_mode_from_the_start_and_vanishes_unless_kept() {
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
    fn only_the_owner_may_touch_a_key_and_a_group_that_root_lets_read_it() {
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
