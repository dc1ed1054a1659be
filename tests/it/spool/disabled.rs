//! A spool that was switched off in the configuration is drained first.

use super::SpoolFixture;
use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::rig::counter;
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn disabled_spool_is_drained_first() {
    let fixture = SpoolFixture::new().await;
    let mut bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, 300);
    fixture.rig.platform().await.publish_json(&events[..250]).await;
    fixture.rig.until_acked(250).await;
    assert_eq!(bridge.terminate().await, 0);
    fixture.rig.platform().await.publish_json(&events[250..]).await;
    fixture.link.pass().await;
    let bridge = Bridge::ready(&fixture.rig.config()).await;
    fixture.rig.until_rows("item_event", 300).await;
    bridge.until_logged(&["drained and removed the spool"]).await;
    assert!(!fixture.dir.join("spool.db").exists());
    until_eq("no duplicates", SOON, 0.0, || counter(&bridge, "duplicates_total", "")).await;
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0);
    let ended = "centiloc.connection where disconnected_at is null";
    assert_eq!(fixture.rig.database.count(ended).await, 1);
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn absence_counts_from_last_seen_on_disk() {
    let fixture = SpoolFixture::new().await;
    let expiry = |config: Config| config.set("mqtt.session_expiry", "3s");
    let mut bridge = Bridge::ready(&expiry(fixture.config())).await;
    fixture.rig.until_rows("connection", 1).await;
    fixture.link.refuse().await;
    let since = std::time::Instant::now();
    let events = ItemEvent::series(TENANT, 2);
    let platform = fixture.rig.platform().await;
    platform.publish_json(&events[..1]).await;
    until_true("the session's expiry to pass", SOON, || since.elapsed().as_secs() > 3).await;
    platform.publish_json(&events[1..]).await;
    fixture.rig.until_acked(2).await;
    bridge.kill();
    fixture.link.pass().await;
    let bridge = Bridge::ready(&expiry(fixture.rig.config())).await;
    fixture.rig.until_rows("item_event", 2).await;
    bridge.until_logged(&["drained and removed the spool"]).await;
    fixture.rig.until_rows("connection", 2).await;
    let gaps = "select cause || ': ' || detail from centiloc.gap";
    assert_eq!(fixture.rig.database.column::<String>(gaps).await, [""; 0]);
}
