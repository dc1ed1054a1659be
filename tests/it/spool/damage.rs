//! A damaged spool costs only the rows that cannot be read.

use std::path::Path;

use super::{SpoolFixture, files, until_spooled};
use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::wait::{SOON, until};

/// Leaves a spool of that many messages behind.
async fn leave_spool(fixture: &SpoolFixture, messages: usize) -> (Bridge, Vec<ItemEvent>) {
    let mut bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, messages);
    fixture.rig.platform().await.publish_json(&events).await;
    fixture.rig.until_acked(messages).await;
    assert_eq!(bridge.terminate().await, 0);
    fixture.link.pass().await;
    (bridge, events)
}

async fn until_damage_is_told(fixture: &SpoolFixture, bridge: &mut Bridge) -> String {
    bridge.start_again();
    bridge.until_logged(&["ERROR", "spool was damaged"]).await;
    fixture.rig.until_rows("gap where cause = 'spool_damaged'", 1).await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series("acme", 1)).await;
    assert!(files(&fixture.dir).iter().any(|f| f.to_str().unwrap().contains("spool.db.damaged-")));
    fixture.rig.database.value("select detail from centiloc.gap").await
}

#[tokio::test]
async fn corrupt_page_costs_only_its_rows() {
    let fixture = SpoolFixture::new().await;
    let (mut bridge, events) = leave_spool(&fixture, 2000).await;
    overwrite(&fixture.dir.join("spool.db"), |length| length / 2 / 4096 * 4096, &[0xAA; 4096]);
    let detail = until_damage_is_told(&fixture, &mut bridge).await;
    let stored = format!("{} rows of it could be read", rows_in(&detail));
    assert!(detail.contains(&stored), "{detail}");
    let least = i64::try_from(events.len()).unwrap() - 20;
    until("the readable rows", SOON, || async {
        let rows = fixture.rig.database.count("centiloc.item_event").await;
        if rows > least { Ok(()) } else { Err((rows, detail.clone())) }
    })
    .await;
    until_spooled(&bridge, 0).await;
    fixture.rig.assert_promises_kept().await;
}

fn rows_in(detail: &str) -> u64 {
    let words: Vec<&str> = detail.split(' ').collect();
    let place = words.iter().position(|word| *word == "rows").unwrap();
    words[place - 1].parse().unwrap()
}

#[tokio::test]
async fn flipped_bit_costs_one_message() {
    let fixture = SpoolFixture::new().await;
    let (mut bridge, events) = leave_spool(&fixture, 500).await;
    let path = fixture.dir.join("spool.db");
    let content = std::fs::read(&path).unwrap();
    let uid = events[250].uid.as_bytes();
    let place = content.windows(uid.len()).position(|bytes| bytes == uid).unwrap();
    overwrite(&path, |_| u64::try_from(place).unwrap(), b"F");
    let detail = until_damage_is_told(&fixture, &mut bridge).await;
    assert!(detail.contains("checksum") && detail.contains(", 1 not"), "{detail}");
    fixture.rig.until_rows("item_event", 500).await;
    fixture.rig.until_rows("dead_letter", 0).await;
}

#[tokio::test]
async fn unreadable_spool_file_is_set_aside() {
    let fixture = SpoolFixture::new().await;
    let (mut bridge, _) = leave_spool(&fixture, 100).await;
    overwrite(&fixture.dir.join("spool.db"), |_| 0, &[0x55; 8192]);
    let detail = until_damage_is_told(&fixture, &mut bridge).await;
    assert!(detail.contains("nothing of it could be read"), "{detail}");
    fixture.rig.until_rows("item_event", 1).await;
    bridge.assert_running();
}

fn overwrite(path: &Path, place: impl FnOnce(u64) -> u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(bytes, place(length)).unwrap();
}
