//! A small file for what the process must not take with it when it dies while the database is away:
//! its successor could not find out. systemd names the folder (`STATE_DIRECTORY`), else it is that of
//! the spool; without either there is no record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::message::Gap;

/// What was noticed and is not durable elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unsaid {
    /// The broker had lost the session.
    pub lost_session: bool,
    /// Acknowledgements were held for too long.
    pub gap: Option<Gap>,
}

/// The file.
#[derive(Debug, Default)]
pub struct Record {
    path: Option<PathBuf>,
    written: Unsaid,
}

impl Record {
    /// The record of a client id in the folder that systemd gives to the service, or in `otherwise`.
    pub fn of(client_id: &str, otherwise: Option<&Path>) -> Self {
        let folders = std::env::var_os("STATE_DIRECTORY");
        let folder = folders.as_ref().and_then(|all| std::env::split_paths(all).next());
        Self::within(folder.as_deref().or(otherwise), client_id)
    }

    /// The record of a client id in a folder.
    pub fn within(folder: Option<&Path>, client_id: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name = format!("{}.unsaid.json", client_id.chars().map(plain).collect::<String>());
        Self { path: folder.map(|folder| folder.join(name)), written: Unsaid::default() }
    }

    /// What a process before this one left unsaid.
    pub fn read(&mut self) -> Unsaid {
        let Some(path) = &self.path else { return Unsaid::default() };
        let read = match fs::read(path) {
            Ok(content) => serde_json::from_slice(&content).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Unsaid::default(),
            Err(error) => Err(error),
        };
        match read {
            Ok(unsaid) => self.written = unsaid,
            Err(error) => complain(path, &error),
        }
        self.written.clone()
    }

    /// Has the file say this, and nothing if there is nothing to say.
    pub fn keep(&mut self, unsaid: Unsaid) {
        let Some(path) = self.path.as_deref().filter(|_| unsaid != self.written) else { return };
        let done = if unsaid == Unsaid::default() { remove(path) } else { write(path, &unsaid) };
        match done {
            Ok(()) => self.written = unsaid,
            Err(error) => complain(path, &error),
        }
    }
}

fn complain(path: &Path, error: &io::Error) {
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
        _ => Ok(()),
    }
}

/// Whole or not at all.
fn write(path: &Path, unsaid: &Unsaid) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(unsaid)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::message::GapCause;

    fn unsaid() -> Unsaid {
        let gap = Gap {
            client_id: "acme/bridge".into(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: None,
            cause: GapCause::Backpressure,
            detail: "held".into(),
        };
        Unsaid { lost_session: true, gap: Some(gap) }
    }

    #[test]
    fn what_is_kept_is_read_by_the_next_process_until_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let record = || Record::within(Some(folder.path()), "acme/bridge");
        assert_eq!(record().read(), Unsaid::default());
        record().keep(unsaid());
        let mut next = record();
        assert_eq!(next.read(), unsaid());
        next.keep(Unsaid::default());
        assert_eq!(record().read(), Unsaid::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
    }

    #[test]
    fn each_client_id_has_its_own_and_a_torn_one_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        Record::within(Some(folder.path()), "a").keep(unsaid());
        assert_eq!(Record::within(Some(folder.path()), "b").read(), Unsaid::default());
        fs::write(folder.path().join("a.unsaid.json"), b"{").unwrap();
        assert_eq!(Record::within(Some(folder.path()), "a").read(), Unsaid::default());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let mut record = Record::within(None, "a");
        record.keep(unsaid());
        assert_eq!(record.read(), Unsaid::default());
    }
}
