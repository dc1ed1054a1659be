//! A small file with the possible losses that are not durable in the database yet. The process must
//! not take them with it when it dies while the database is away, because its successor could not find
//! out. Without a folder for state there is no file.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::gap::Gap;
use crate::state_file::{FilePurpose, StateFile};

/// Possible losses that were noticed and are not durable elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PendingGaps {
    /// The broker had made the session anew.
    pub lost_session: bool,
    /// When it first had.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub new_session_at: Option<OffsetDateTime>,
    /// The broker lost a session that was not stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Gap>,
    /// Acknowledgements were held for too long.
    pub gap: Option<Gap>,
    /// QoS-0 messages were dropped for want of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Gap>,
}

/// Keeps [`PendingGaps`] beyond the life of the process.
pub trait GapState: Debug + Send + Sync {
    /// Returns what an earlier process left.
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>>;

    /// Replaces the content. Returns once that is durable or has failed, within a bounded time.
    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

const PURPOSE: FilePurpose = FilePurpose {
    suffix: ".unsaid.json",
    consequence: "a possible loss noticed while the database is away is forgotten if this process \
                  dies before it is back",
};

/// Keeps the state in a file.
#[derive(Debug)]
pub struct GapStateFile {
    file: StateFile<PendingGaps>,
    /// True while something is pending that the file does not have.
    incomplete: AtomicBool,
}

impl GapStateFile {
    /// Opens the file of a client id in a folder.
    pub fn within(folder: Option<&Path>, client_id: &str) -> Self {
        let file = StateFile::within(folder, client_id, PURPOSE);
        Self { file, incomplete: AtomicBool::new(false) }
    }

    /// Returns false if a possible loss would be forgotten with this process.
    pub fn is_complete(&self) -> bool {
        !self.incomplete.load(Ordering::Relaxed)
    }
}

impl GapState for GapStateFile {
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>> {
        Box::pin(self.file.read())
    }

    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let nothing = pending == PendingGaps::default();
            let kept = self.file.keep(pending).await;
            self.incomplete.store(!nothing && !kept, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::gap::GapCause;

    fn pending() -> PendingGaps {
        let gap = Gap {
            client_id: "acme/bridge".into(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: None,
            cause: GapCause::Backpressure,
            detail: "held".into(),
        };
        PendingGaps {
            lost_session: true,
            new_session_at: Some(OffsetDateTime::UNIX_EPOCH),
            lost: Some(gap.clone()),
            gap: Some(gap.clone()),
            dropped: Some(gap),
        }
    }

    #[tokio::test]
    async fn kept_gaps_are_read_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || GapStateFile::within(Some(folder.path()), "acme/bridge");
        assert_eq!(open().read().await, PendingGaps::default());
        open().keep(pending()).await;
        let next = open();
        assert_eq!(next.read().await, pending());
        next.keep(PendingGaps::default()).await;
        assert_eq!(open().read().await, PendingGaps::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
    }

    #[tokio::test]
    async fn without_a_file_pending_gaps_are_not_kept() {
        let file = GapStateFile::within(None, "acme-bridge");
        assert!(file.is_complete());
        file.keep(pending()).await;
        assert!(!file.is_complete());
        file.keep(PendingGaps::default()).await;
        assert!(file.is_complete());

        let folder = tempfile::tempdir().unwrap();
        let file = GapStateFile::within(Some(folder.path()), "acme-bridge");
        file.keep(pending()).await;
        assert!(file.is_complete());
        drop(folder);
        file.keep(PendingGaps { gap: None, ..pending() }).await;
        assert!(!file.is_complete(), "the folder is gone");
    }

    #[tokio::test]
    async fn each_client_id_has_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        GapStateFile::within(Some(folder.path()), "a").keep(pending()).await;
        let other = GapStateFile::within(Some(folder.path()), "b");
        assert_eq!(other.read().await, PendingGaps::default());
    }

    #[tokio::test]
    async fn a_torn_file_reads_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.unsaid.json"), b"{").unwrap();
        let file = GapStateFile::within(Some(folder.path()), "a");
        assert_eq!(file.read().await, PendingGaps::default());
    }

    #[tokio::test]
    async fn files_of_earlier_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let old = br#"{"lost_session":true,"gap":null}"#;
        fs::write(folder.path().join("a.unsaid.json"), old).unwrap();
        let file = GapStateFile::within(Some(folder.path()), "a");
        assert_eq!(file.read().await, PendingGaps { lost_session: true, ..Default::default() });
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept() {
        let file = GapStateFile::within(None, "a");
        file.keep(pending()).await;
        assert_eq!(file.read().await, PendingGaps::default());
    }
}
