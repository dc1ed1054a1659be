//! The disk of the spool is full, with and without the database.

use super::{SpoolFixture, until_spooled};
use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::small_disk::SmallDisk;

/// Lets the bridge of this fixture spool to the small disk.
fn on_disk(fixture: &mut SpoolFixture, disk: &SmallDisk) {
    fixture.dir = disk.path().join("spool");
}

#[tokio::test]
async fn full_disk_bypasses_the_spool() {
    let Some(disk) = SmallDisk::mount(8) else { return };
    let mut fixture = SpoolFixture::new().await;
    on_disk(&mut fixture, &disk);
    let mut bridge = Bridge::ready(&fixture.config()).await;
    fixture.rig.until_rows("connection", 1).await;
    let events = ItemEvent::series(TENANT, 900);
    let platform = fixture.rig.platform().await;
    platform.publish_json(&events[..300]).await;
    fixture.rig.until_rows("item_event", 300).await;
    disk.fill();
    let large =
        events[300..600].iter().map(|event| (event.json_topic(), event.padded_json(30_000)));
    assert_eq!(platform.publish_all(large).await, 300);
    fixture.rig.until_acked(600).await;
    fixture.rig.until_rows("item_event", 600).await;
    bridge.until_logged(&["ERROR", "no space is left on the disk of spool.dir"]).await;
    // Now even opening the file fails.
    assert_eq!(bridge.terminate().await, 0);
    bridge.start_again();
    platform.publish_json(&events[600..700]).await;
    fixture.rig.until_acked(700).await;
    fixture.rig.until_rows("item_event", 700).await;
    disk.free();
    platform.publish_json(&events[700..]).await;
    fixture.rig.until_rows("item_event", 900).await;
    bridge.until_logged(&["the spool accepts messages again"]).await;
    fixture.rig.until_acked(900).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0);
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn full_disk_and_lost_database_hold_acks() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut fixture = SpoolFixture::new().await;
    on_disk(&mut fixture, &disk);
    fixture.queue_grace = "500ms";
    let bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, 600);
    let platform = fixture.rig.platform().await;
    platform.publish_json(&events[..300]).await;
    fixture.rig.until_acked(300).await;
    disk.fill();
    // More than fits into the write-ahead log as it is.
    let large = events[300..].iter().map(|event| (event.json_topic(), event.padded_json(30_000)));
    assert_eq!(platform.publish_all(large).await, 300);
    bridge.until_logged(&["ERROR", "no space is left on the disk of spool.dir"]).await;
    bridge.until_logged(&["queue may overflow", "spool_full", "no space"]).await;
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no space is left"), "{body}");
    disk.free();
    fixture.rig.until_acked(600).await;
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 600).await;
    fixture.rig.until_rows("gap where cause = 'spool_full'", 1).await;
    until_spooled(&bridge, 0).await;
    fixture.rig.assert_promises_kept().await;
}
