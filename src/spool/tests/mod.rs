//! Tests of the file under damage by the disk and under power cuts.

mod salvaging;
mod writing;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use ::time::OffsetDateTime;

use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::file::{SpoolFile, path_in};
use super::folder::SpoolLock;
use super::last_seen::ended_without_notice;
use super::reader::SpoolReader;
use super::row::{SpoolRow, time};
use super::salvage;
use super::sqlite::SqliteStorage;
use super::storage::{
    LastSeen, LastSeenChange, SpoolChanges, SpoolDepth, SpoolStorage as _, StorageFile as _,
};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::gap::GapCause;
use crate::stream::message::StreamItem;

fn row(id: u64) -> (u64, SpoolRow<'static>) {
    let row = SpoolRow {
        received_at: i64::try_from(id).unwrap(),
        topic: Some("centiloc/acme".into()),
        payload: Cow::Owned(format!("payload {id} {}", "x".repeat(300)).into_bytes()),
        qos: 1,
        retain: false,
    };
    (id, row)
}

impl SpoolFile {
    /// Deletes one row unnoticed by the other connections, as damage would.
    async fn lose(mut self, id: i64) {
        let query = sqlx::query("delete from entry where id = ?").bind(id);
        query.execute(&mut self.conn).await.unwrap();
        self.close().await.unwrap();
    }
}

async fn append(file: &mut SpoolFile, ids: std::ops::RangeInclusive<u64>) {
    let append: Vec<_> = ids.map(row).collect();
    file.write(&SpoolChanges { append: &append, ..SpoolChanges::default() }).await.unwrap();
}

async fn ids(file: &mut SpoolFile) -> Vec<u64> {
    file.read(0, 1_000_000, usize::MAX).await.unwrap().into_iter().map(|(id, _)| id).collect()
}

fn wal(dir: &Path) -> std::path::PathBuf {
    dir.join("spool.db-wal")
}

#[tokio::test]
async fn reads_return_rows_after_the_cursor_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=1500).await;
    let (depth, last) = file.depth().await.unwrap();
    let bytes = (1..=1500).map(|id| row(id).1.cost()).sum();
    assert_eq!((depth, last), (SpoolDepth { rows: 1500, messages: 1500, bytes }, 1500));
    let delete_through = Some(700);
    file.write(&SpoolChanges { delete_through, ..SpoolChanges::default() }).await.unwrap();
    assert_eq!(file.read(700, 2, usize::MAX).await.unwrap(), [row(701), row(702)]);
    // Bounded in bytes, but at least one row.
    assert_eq!(file.read(700, 1000, 1).await.unwrap(), [row(701)]);
    assert_eq!(file.oldest().await.unwrap(), Some(701));
    assert_eq!(file.newest().await.unwrap(), Some(1500));
    file.close().await.unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(ids(&mut file).await, (701..=1500).collect::<Vec<_>>());
}

#[tokio::test]
async fn power_cuts_lose_only_whole_unsynced_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=20).await;
    append(&mut file, 21..=40).await;
    let synced = fs::metadata(wal(dir.path())).unwrap().len();
    append(&mut file, 41..=60).await;
    let written = fs::metadata(wal(dir.path())).unwrap().len();
    let (main, log) = (fs::read(path_in(dir.path())).unwrap(), fs::read(wal(dir.path())).unwrap());
    assert!(written > synced, "the third transaction is in the log");
    for cut in (synced..written).step_by(509) {
        let cut = usize::try_from(cut).unwrap();
        // The bytes after the cut may be missing or arbitrary.
        let garbage = [&log[..cut], &vec![0x5a; log.len() - cut][..]].concat();
        for left in [log[..cut].to_vec(), garbage] {
            let copy = tempfile::tempdir().unwrap();
            fs::write(path_in(copy.path()), &main).unwrap();
            fs::write(wal(copy.path()), left).unwrap();
            let mut after = SpoolFile::open(&path_in(copy.path())).await.unwrap();
            assert_eq!(ids(&mut after).await, (1..=40).collect::<Vec<_>>(), "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn logs_are_copied_whole_or_not_at_all() {
    const ROWS: u64 = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let path = path_in(dir.path());
    let length = || fs::metadata(&path).unwrap().len();
    let mut writer = SpoolFile::open(&path).await.unwrap();
    writer.keep_log().await.unwrap();
    let mut reader = SpoolFile::connect(&path, false).await.unwrap();
    let empty = length();
    append(&mut writer, 1..=100).await;
    writer.limit_log().await.unwrap();
    assert_eq!(length(), empty, "a short log is not copied");
    append(&mut writer, 101..=ROWS / 3).await;
    reader.run("begin").await.unwrap();
    assert_eq!(reader.last_id().await.unwrap(), ROWS / 3);
    let before = length();
    append(&mut writer, ROWS / 3 + 1..=ROWS / 3 * 2).await;
    append(&mut writer, ROWS / 3 * 2 + 1..=ROWS).await;
    assert_eq!(length(), before, "what the reader sees is not copied beside it");
    reader.run("end").await.unwrap();
    writer.limit_log().await.unwrap();
    assert!(length() > ROWS * 300, "{} bytes", length());
    let logged = fs::metadata(wal(dir.path())).unwrap().len();
    append(&mut writer, ROWS + 1..=ROWS + 1).await;
    assert_eq!(fs::metadata(wal(dir.path())).unwrap().len(), logged, "it begins at its start");
}

#[tokio::test]
async fn unknown_connection_events_become_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    let strange = SpoolRow { topic: None, payload: Cow::Borrowed(b"{\"later\": 1}"), ..row(1).1 };
    let seen = LastSeen { connection: "{\"later\": 1}".into(), seen_at: 5 };
    let last_seen = LastSeenChange::Set(seen);
    let changes =
        SpoolChanges { append: &[(1, strange), row(2)], last_seen, ..SpoolChanges::default() };
    file.write(&changes).await.unwrap();
    let cursors = SpoolCursors::new(2);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    let reader = SpoolReader::new(sender, "acme-bridge".into());
    reader.forward_remaining(&mut file, &cursors).await.unwrap();
    drop(reader);
    assert!(cursors.has_caught_up());
    let Some(StreamItem::Connection(ConnectionEvent::Gap(gap), token)) = receiver.recv().await
    else {
        panic!("no gap")
    };
    assert_eq!(token.map(|token| token.id().sequence), Some(1), "it is deleted once it is stored");
    assert_eq!((gap.client_id.as_str(), gap.cause), ("acme-bridge", GapCause::SpoolDamaged));
    assert!(gap.detail.contains("row 1 of the spool"), "{}", gap.detail);
    let Some(StreamItem::Message(message)) = receiver.recv().await else { panic!("a message") };
    assert_eq!(message.ack.map(|token| token.id().sequence), Some(2));
    assert!(receiver.recv().await.is_none());
    let now = OffsetDateTime::now_utc();
    let ended = ended_without_notice(&mut file, "acme-bridge", now).await.unwrap();
    let Some(ConnectionEvent::Gap(gap)) = ended else { panic!("{ended:?}") };
    assert_eq!((gap.started_at, gap.ended_at), (time(5), Some(now)));
}

/// Makes a file with this number of rows and closes it cleanly.
async fn closed_cleanly(dir: &Path, rows: u64) -> SpoolDepth {
    let mut file = SpoolFile::open(&path_in(dir)).await.unwrap();
    append(&mut file, 1..=rows).await;
    let (depth, _) = file.depth().await.unwrap();
    file.close_in_order(depth).await.unwrap();
    depth
}

#[tokio::test]
async fn cleanly_closed_files_open_without_a_scan() {
    const ROWS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let depth = closed_cleanly(dir.path(), ROWS).await;
    let mut bytes = fs::read(path_in(dir.path())).unwrap();
    let text = format!("payload {} ", ROWS / 2);
    let page = bytes.windows(text.len()).position(|b| b == text.as_bytes()).unwrap() / 4096 * 4096;
    bytes[page..page + 4096].fill(0xa5);
    fs::write(path_in(dir.path()), &bytes).unwrap();
    // A scan would have met the damage.
    let mut writer = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(writer.depth().await.unwrap(), (depth, ROWS));
    let mut reader = writer.reader(&path_in(dir.path())).await.unwrap();
    let read = reader.read(0, 1000, usize::MAX).await;
    assert!(matches!(read, Err(SpoolError::Damaged(_))), "{read:?}");
}

#[tokio::test]
async fn rows_missing_since_clean_close_are_damage() {
    for (lost, noticed) in [(7, "ids 7 to 7 are missing"), (150, "ids 150 to 150 are missing")] {
        let dir = tempfile::tempdir().unwrap();
        closed_cleanly(dir.path(), 200).await;
        let behind = SpoolFile::connect(&path_in(dir.path()), false).await.unwrap();
        behind.lose(lost).await;
        let writer = SpoolFile::open(&path_in(dir.path())).await.unwrap();
        let mut reader = writer.reader(&path_in(dir.path())).await.unwrap();
        match reader.read(0, 1000, usize::MAX).await {
            Err(SpoolError::Damaged(problem)) => assert_eq!(problem, noticed),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn first_change_removes_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    closed_cleanly(dir.path(), 20).await;
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 21..=40).await;
    // Closed without a mark, as after a kill.
    file.close().await.unwrap();
    let mut bytes = fs::read(path_in(dir.path())).unwrap();
    let page = bytes.windows(11).position(|b| b == b"payload 10 ").unwrap() / 4096 * 4096;
    bytes[page..page + 4096].fill(0xa5);
    fs::write(path_in(dir.path()), &bytes).unwrap();
    let opened = SpoolFile::open(&path_in(dir.path())).await;
    assert!(matches!(opened, Err(SpoolError::Damaged(_))), "{opened:?}");
}

#[tokio::test]
async fn changes_by_an_older_version_outdate_marks() {
    let dir = tempfile::tempdir().unwrap();
    closed_cleanly(dir.path(), 20).await;
    // An older version does not touch the mark.
    let behind = SpoolFile::connect(&path_in(dir.path()), false).await.unwrap();
    behind.lose(20).await;
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    let (depth, last) = file.depth().await.unwrap();
    assert_eq!((depth.rows, last), (19, 19), "it was counted anew");
    append(&mut file, 20..=20).await;
    file.close().await.unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(file.depth().await.unwrap().0.rows, 20);
    let mut reader = file.reader(&path_in(dir.path())).await.unwrap();
    assert!(reader.read(30, 1, 1).await.unwrap().is_empty(), "nothing vouches for its ids");
}

#[tokio::test]
async fn files_of_newer_versions_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    file.run("pragma user_version = 2").await.unwrap();
    file.close().await.unwrap();
    match SpoolFile::open(&path_in(dir.path())).await {
        Err(SpoolError::Unavailable(problem)) => assert!(problem.contains("newer version")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_one_process_uses_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let first = SpoolLock::take(&dir.path().join("spool")).unwrap();
    let second = SpoolLock::take(&dir.path().join("spool")).unwrap_err();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    drop(first);
    SpoolLock::take(&dir.path().join("spool")).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_readable_by_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let _lock = SpoolLock::take(&spool).unwrap();
    let mut file = SpoolFile::open(&path_in(&spool)).await.unwrap();
    append(&mut file, 1..=1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&spool), 0);
    for entry in fs::read_dir(&spool).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0, "{}", path.display());
    }
}

#[tokio::test]
async fn settled_files_are_complete_and_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = path_in(dir.path());
    let length = || fs::metadata(&path).unwrap().len();
    let mut file = SpoolFile::open(&path).await.unwrap();
    append(&mut file, 1..=1000).await;
    file.settle().await.unwrap();
    assert_eq!(fs::metadata(wal(dir.path())).unwrap().len(), 0);
    let full = length();
    assert!(full > 300_000, "{full} bytes");
    let delete_through = Some(1000);
    file.write(&SpoolChanges { delete_through, ..SpoolChanges::default() }).await.unwrap();
    file.shrink().await.unwrap();
    file.settle().await.unwrap();
    assert!(length() < full / 10, "{} of {full} bytes", length());
    file.touch().await.unwrap();
    assert!(fs::metadata(wal(dir.path())).unwrap().len() > 0, "a touch writes");
    file.close().await.unwrap();
    let mut file = SpoolFile::open(&path).await.unwrap();
    assert_eq!(fs::metadata(wal(dir.path())).unwrap().len(), 0, "opening writes nothing");
    assert_eq!(file.newest().await.unwrap(), None);
}

#[tokio::test]
async fn drained_files_are_read_without_holes() {
    let dir = tempfile::tempdir().unwrap();
    closed_cleanly(dir.path(), 20).await;
    SpoolFile::connect(&path_in(dir.path()), false).await.unwrap().lose(15).await;
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(ids(&mut file).await.len(), 19);
    file.expect_no_hole();
    assert_eq!(file.read(5, 9, usize::MAX).await.unwrap()[0], row(6));
    let holed = file.read(5, 20, usize::MAX).await;
    assert!(matches!(holed, Err(SpoolError::Damaged(_))), "{holed:?}");
}
