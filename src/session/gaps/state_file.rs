//! State file of the gaps that are not in the database yet. If the process dies during a database
//! outage, the next process reads them here, because it could not detect them itself. Without a
//! state directory there is no file.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::state_file::{FilePurpose, StateFile};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::gap::Gap;

/// Detected gaps that are not in the database yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PendingGaps {
    /// True in the file of an earlier version if the broker reported a new session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost_session: bool,
    /// The last connection on which the broker reported a new session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_session: Option<ConnectionEvent>,
    /// Gap for a session that the broker lost before it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Gap>,
    /// Gap for acknowledgements that were held too long.
    pub gap: Option<Gap>,
    /// Gap for QoS-0 messages dropped at `mqtt.max_unacked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Gap>,
}

/// Storage of [`PendingGaps`] that outlives the process.
pub trait GapState: Debug + Send + Sync {
    /// Returns the gaps that an earlier process saved.
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>>;

    /// Replaces the saved gaps. Returns within a bounded time, once they are durable or writing
    /// failed.
    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

const PURPOSE: FilePurpose = FilePurpose {
    suffix: ".unsaid.json",
    consequence: "a gap detected during a database outage is lost if this process dies before the \
                  outage ends",
};

/// Saves pending gaps in a file.
#[derive(Debug)]
pub struct GapStateFile {
    file: StateFile<PendingGaps>,
    /// True while a pending gap is missing from the file.
    incomplete: AtomicBool,
}

impl GapStateFile {
    /// End of its name, after the client id. It stays as it is, so that the pending gaps of an earlier
    /// version are found.
    pub const SUFFIX: &str = PURPOSE.suffix;

    /// Returns the state file of a client id in a directory.
    pub fn within(folder: Option<&Path>, client_id: &str) -> Self {
        let file = StateFile::within(folder, client_id, PURPOSE);
        Self { file, incomplete: AtomicBool::new(false) }
    }

    /// Returns false if a pending gap would be lost with this process.
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

    use time::OffsetDateTime;

    use super::*;
    use crate::stream::gap::GapCause;

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
            new_session: Some(ConnectionEvent::Gap(gap.clone())),
            lost: Some(gap.clone()),
            gap: Some(gap.clone()),
            dropped: Some(gap),
        }
    }

    #[tokio::test]
    async fn next_process_reads_saved_gaps() {
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
    async fn pending_gap_without_a_file_is_incomplete() {
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
    async fn torn_file_reads_as_empty() {
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
    async fn nothing_is_saved_without_a_directory() {
        let file = GapStateFile::within(None, "a");
        file.keep(pending()).await;
        assert_eq!(file.read().await, PendingGaps::default());
    }
}
