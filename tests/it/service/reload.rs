//! SIGHUP applies the keys that can change while the service runs and lists the others. An invalid
//! configuration changes nothing.

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::publisher::TestPublisher;
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn reload_applies_live_keys_and_lists_others() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let mut bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.log().count("DEBUG"), 0);

    let config = config
        .set("log.level", "debug")
        .set("batch.max_events", 7)
        .set("retention.events", "36500d")
        .set("mqtt.keep_alive", "30s")
        .set("database.max_connections", 5);
    config.write();
    bridge.signal("HUP");
    let line = bridge.until_logged(&["some changes take effect only after a restart"]).await;
    for applied in ["batch.max_events", "retention.events", "log.level"] {
        assert!(line.contains(applied), "{line}");
    }
    let (_, restart) = line.split_once("needs_restart=").unwrap();
    assert!(restart.contains("mqtt.keep_alive, database.max_connections"), "{line}");
    assert!(!restart.contains("log.level"), "{line}");
    let status = bridge.get("/api/status").await.unwrap().1;
    assert!(status.contains("\"needs_restart\":[\"mqtt.keep_alive\""), "{status}");

    // The new limit is in force, and so is the new level.
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 300)).await;
    until_eq("the rows", SOON, 300, || database.count("centiloc.item_event")).await;
    // The last batch is counted a moment after its rows are visible.
    until_eq("as many batches as 300 events in sevens make", SOON, true, || async {
        let batches = bridge.metric("centiloc_bridge_batch_events_count", "").await;
        batches.is_some_and(|batches| batches >= 300.0 / 7.0)
    })
    .await;

    // Once the change is reverted, nothing needs a restart any more.
    let config = config.without("mqtt.keep_alive").without("database.max_connections");
    config.write();
    bridge.signal("HUP");
    let log = bridge.log().clone();
    until_true("the second reload", SOON, || log.count("the configuration was reloaded") == 2)
        .await;
    let status = bridge.get("/api/status").await.unwrap().1;
    assert!(!status.contains("needs_restart"), "{status}");
    assert_eq!(bridge.log().count("the broker accepted the connection"), 1, "no reconnect");
}

#[tokio::test]
async fn reload_of_invalid_configuration_changes_nothing() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let mut bridge = Bridge::ready(&config).await;
    let good = std::fs::read_to_string(config.write()).unwrap();
    let bad =
        config.set("log.level", "loud").set("batch.max_events", 0).set("mqtt.tls.cert_fiel", "x");
    bad.write();
    bridge.signal("HUP");
    for key in ["log.level", "batch.max_events", "mqtt.tls.cert_fiel"] {
        bridge.until_logged(&["the new configuration is refused", key]).await;
    }
    let status = bridge.get("/api/status").await.unwrap().1;
    assert!(status.contains("the configuration is refused, 3 problems"), "{status}");
    bridge.until_ready().await;

    std::fs::write(bad.folder().join("config.toml"), good).unwrap();
    bridge.signal("HUP");
    bridge.until_logged(&["the configuration was reloaded"]).await;
    let status = bridge.get("/api/status").await.unwrap().1;
    assert!(!status.contains("is refused"), "{status}");
}
