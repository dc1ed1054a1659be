//! A spool that was switched off in the configuration is drained first.

use super::Bench;
use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::rig::counter;
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn disabled_spool_is_drained_first() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 300);
    bench.rig.platform().await.publish_json(&events[..250]).await;
    bench.rig.until_acked(250).await;
    assert_eq!(bridge.terminate().await, 0);
    bench.rig.platform().await.publish_json(&events[250..]).await;
    bench.link.pass().await;
    let bridge = Bridge::ready(&bench.rig.config()).await;
    bench.rig.until_rows("item_event", 300).await;
    bridge.until_logged(&["earlier run is drained"]).await;
    assert!(!bench.dir.join("spool.db").exists());
    until_eq("no duplicates", SOON, 0.0, || counter(&bridge, "duplicates_total", "")).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    let ended = "centiloc.connection where disconnected_at is null";
    assert_eq!(bench.rig.database.count(ended).await, 1);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn absence_counts_from_last_seen_on_disk() {
    let bench = Bench::new().await;
    let expiry = |config: Config| config.set("mqtt.session_expiry", "3s");
    let mut bridge = Bridge::ready(&expiry(bench.config())).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    let since = std::time::Instant::now();
    let events = ItemEvent::series(TENANT, 2);
    let platform = bench.rig.platform().await;
    platform.publish_json(&events[..1]).await;
    until_true("the session's expiry to pass", SOON, || since.elapsed().as_secs() > 3).await;
    platform.publish_json(&events[1..]).await;
    bench.rig.until_acked(2).await;
    bridge.kill();
    bench.link.pass().await;
    let bridge = Bridge::ready(&expiry(bench.rig.config())).await;
    bench.rig.until_rows("item_event", 2).await;
    bridge.until_logged(&["earlier run is drained"]).await;
    bench.rig.until_rows("connection", 2).await;
    let gaps = "select cause || ': ' || detail from centiloc.gap";
    assert_eq!(bench.rig.database.column::<String>(gaps).await, [""; 0]);
}
