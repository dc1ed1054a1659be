//! Tests of salvaging a damaged file.

use super::*;

/// Returns the numbers of the pages that hold rows.
fn leaf_pages(file: &[u8]) -> Vec<usize> {
    let leaves = file.chunks(4096).enumerate().filter(|(_, page)| page[0] == 0x0d);
    leaves.map(|(page, _)| page).filter(|page| *page > 0).collect()
}

#[tokio::test]
async fn lost_pages_cost_only_their_own_rows() {
    const ROWS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=ROWS).await;
    file.close().await.unwrap();
    let whole = fs::read(path_in(dir.path())).unwrap();
    let leaves = leaf_pages(&whole);
    assert!(leaves.len() > 15, "{leaves:?}");
    for page in leaves {
        let mut damaged = whole.clone();
        damaged[page * 4096..][..4096].fill(0xa5);
        let copy = tempfile::tempdir().unwrap();
        fs::write(path_in(copy.path()), &damaged).unwrap();
        let opened = SpoolFile::open(&path_in(copy.path())).await;
        let Err(SpoolError::Damaged(problem)) = opened else {
            panic!("page {page} was not missed")
        };
        salvage::salvage(copy.path(), "acme-bridge", &problem, 0).await.unwrap();
        let mut after = SpoolFile::open(&path_in(copy.path())).await.unwrap();
        let rows = after.read(0, 1000, usize::MAX).await.unwrap();
        let (gap, kept) = rows.split_last().unwrap();
        let lost = whole[page * 4096..][..4096].windows(8).filter(|b| *b == b"payload ").count();
        assert_eq!(kept.len() + lost, usize::try_from(ROWS).unwrap(), "page {page}");
        assert!(kept.iter().all(|(id, kept)| *kept == row(*id).1));
        let text = String::from_utf8_lossy(&gap.1.payload).into_owned();
        assert!(text.contains("spool_damaged"), "{text}");
        assert!(text.contains(&format!("{} rows of it could be read", kept.len())), "{text}");
        // The number of rows at the ends is unknown.
        let (before, after) = (kept[0].0 - 1, ROWS - kept[kept.len() - 1].0);
        let more = if before + after == 0 { "" } else { " or more" };
        let missing = ROWS - kept.len() as u64 - before - after;
        assert!(lost == 0 || text.contains(&format!("{missing}{more} not")), "{text}");
        let aside = fs::read_dir(copy.path()).unwrap().map(|e| e.unwrap().file_name());
        assert!(aside.into_iter().any(|n| n.to_str().unwrap().starts_with("spool.db.damaged-")));
    }
}

#[tokio::test]
async fn damaged_beginning_with_large_ids_costs_only_itself() {
    const FIRST: u64 = 5_000_001;
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, FIRST..=FIRST + 4_999).await;
    file.close().await.unwrap();
    let whole = fs::read(path_in(dir.path())).unwrap();
    let place = |text: &[u8]| whole.windows(text.len()).position(|bytes| bytes == text).unwrap();
    let first = place(format!("payload {FIRST}").as_bytes());
    let (page, byte) = (first / 4096 * 4096, first + 3);
    for damage in [page..page + 4096, byte..byte + 1] {
        let mut damaged = whole.clone();
        damaged[damage.clone()].fill(0xa5);
        let copy = tempfile::tempdir().unwrap();
        fs::write(path_in(copy.path()), &damaged).unwrap();
        salvage::salvage(copy.path(), "acme-bridge", "damaged", 0).await.unwrap();
        let mut after = SpoolFile::open(&path_in(copy.path())).await.unwrap();
        let kept = ids(&mut after).await;
        assert!(kept.len() > 4_980, "{} rows kept with {damage:?} damaged", kept.len());
        assert_eq!(kept[kept.len() - 2], FIRST + 4_999);
    }
}

#[tokio::test]
async fn damage_gap_follows_all_forwarded_rows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path_in(dir.path()), [0x55; 8192]).unwrap();
    salvage::salvage(dir.path(), "acme-bridge", "damaged", 6_000).await.unwrap();
    let mut after = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(ids(&mut after).await, [6_001]);
}

#[tokio::test]
async fn interrupted_salvage_is_finished_or_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let mut half = SpoolFile::open(&dir.path().join("spool.db.salvage")).await.unwrap();
    append(&mut half, 1..=5).await;
    half.close().await.unwrap();
    salvage::finish(dir.path()).unwrap();
    assert!(!path_in(dir.path()).exists(), "half a salvage is no spool");
    let mut complete = SpoolFile::open(&dir.path().join("spool.db.salvaged")).await.unwrap();
    append(&mut complete, 1..=9).await;
    complete.close().await.unwrap();
    fs::write(path_in(dir.path()), b"damaged").unwrap();
    salvage::finish(dir.path()).unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    assert_eq!(ids(&mut file).await, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn salvaged_files_are_scanned_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=5).await;
    append(&mut file, 9..=9).await;
    let (depth, _) = file.depth().await.unwrap();
    file.close_in_order(depth).await.unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    let mut reader = file.reader(&path_in(dir.path())).await.unwrap();
    assert_eq!(ids(&mut reader).await, [1, 2, 3, 4, 5, 9]);
    assert_eq!(file.depth().await.unwrap().0.rows, 6);
}

#[tokio::test]
async fn a_damaged_row_costs_only_itself() {
    const ROWS: u64 = 2_500;
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=ROWS).await;
    let seen = LastSeen { connection: "{}".into(), seen_at: 5 };
    let last_seen = LastSeenChange::Set(seen.clone());
    file.write(&SpoolChanges { last_seen, ..SpoolChanges::default() }).await.unwrap();
    file.close().await.unwrap();
    let mut bytes = fs::read(path_in(dir.path())).unwrap();
    let damaged = bytes.windows(13).position(|b| b == b"payload 1500 ").unwrap();
    bytes[damaged] = b'P';
    fs::write(path_in(dir.path()), &bytes).unwrap();
    let storage = SqliteStorage { dir: dir.path().into(), client_id: "acme-bridge".into() };
    storage.salvage("damaged", 0).await.unwrap();
    let mut after = storage.open().await.unwrap();
    let rows = after.reader.read(0, 10_000, usize::MAX).await.unwrap();
    let (gap, kept) = rows.split_last().unwrap();
    assert!(kept.iter().map(|(id, _)| *id).eq((1..=ROWS).filter(|id| *id != 1500)));
    let text = String::from_utf8_lossy(&gap.1.payload).into_owned();
    assert!(text.contains("2499 rows of it could be read, 1 not"), "{text}");
    assert_eq!(after.writer.last_seen().await.unwrap(), Some(seen));
}

#[tokio::test]
async fn a_file_without_readable_pages_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    append(&mut file, 1..=100).await;
    file.close().await.unwrap();
    let mut bytes = fs::read(path_in(dir.path())).unwrap();
    for page in leaf_pages(&bytes) {
        bytes[page * 4096..][..4096].fill(0xa5);
    }
    fs::write(path_in(dir.path()), &bytes).unwrap();
    salvage::salvage(dir.path(), "acme-bridge", "damaged", 7).await.unwrap();
    let mut after = SpoolFile::open(&path_in(dir.path())).await.unwrap();
    let rows = after.read(0, 10, usize::MAX).await.unwrap();
    assert_eq!(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [8]);
    let text = String::from_utf8_lossy(&rows[0].1.payload).into_owned();
    assert!(text.contains("nothing of it could be read"), "{text}");
}
