//! `check` next to a running bridge: the live session is not disturbed, and no message is taken.

use std::cell::Cell;

use super::{CheckFixture, FAILED, check};
use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::expect::until_stored;
use crate::support::mosquitto::TENANT;
use crate::support::publisher::TestPublisher;
use crate::support::rig::until_settled_in;

const RUNS: usize = 4;

async fn connections(fixture: &CheckFixture) -> i64 {
    fixture.database.count("centiloc.connection").await
}

/// Publishes repeatedly for as long as `check` runs. Every event must arrive, on the same
/// connection.
async fn assert_undisturbed(
    fixture: &CheckFixture,
    bridge: &mut Bridge,
    config: &crate::support::config::Config,
) {
    let publisher = TestPublisher::connect(&fixture.broker).await;
    let checked = Cell::new(false);
    let publishing = async {
        let mut sent = 0;
        while !checked.get() {
            let events = ItemEvent::series(TENANT, 50);
            publisher.publish_json(&events).await;
            sent += events.len();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        sent
    };
    let checking = async {
        for _ in 0..RUNS {
            let outcome = check(config).await;
            assert_eq!(outcome.troubles(), [], "{outcome:#?}");
            assert!(outcome.ok("admin_listen").contains("is served by the running bridge"));
            assert!(outcome.ok("database_schema").starts_with("all "));
            assert!(outcome.ok("database_partitions").starts_with("created ahead until"));
        }
        checked.set(true);
    };
    let (sent, ()) = tokio::join!(publishing, checking);
    until_stored(&fixture.database, sent).await;
    bridge.assert_running();
    assert_eq!(connections(fixture).await, 1, "the bridge had to connect again");
    assert_eq!(bridge.count("centiloc_bridge_reconnects_total", "").await.unwrap_or(0), 0);
    assert_eq!(fixture.database.count("centiloc.gap").await, 0);
}

#[tokio::test]
async fn check_does_not_disturb_live_session() {
    let fixture = CheckFixture::new().await;
    let config = fixture.config();
    let mut bridge = Bridge::ready(&config).await;
    until_settled_in(&fixture.database).await;
    assert_undisturbed(&fixture, &mut bridge, &config).await;
    let other = config.set("mqtt.client_id", "acme-other");
    let outcome = check(&other).await;
    assert_eq!(outcome.troubles(), [("admin_listen", FAILED)]);
    assert!(outcome.lines("admin_listen")[0].1.contains("\"acme-bridge\""), "{outcome:#?}");
}

#[tokio::test]
async fn share_group_loses_no_message_to_check() {
    let fixture = CheckFixture::new().await;
    let config = fixture.config().set("mqtt.share_group", "ward");
    let mut bridge = Bridge::ready(&config).await;
    assert_undisturbed(&fixture, &mut bridge, &config).await;
    let outcome = check(&config).await;
    for (_, found) in outcome.lines("subscription") {
        assert!(found.contains("tried without $share/acme-ward"), "{found}");
    }
}

#[tokio::test]
async fn check_leaves_no_session_behind() {
    let fixture = CheckFixture::new().await;
    assert_eq!(check(&fixture.config()).await.troubles(), []);
    let log = fixture.broker.log();
    let joined = log.find(&["New client connected", "acme-check-"]).expect("it connected");
    // Mosquitto logs p2, c1: protocol 3.1.1, clean session.
    assert!(joined.contains("(p2, c1"), "{joined}");
    log.find(&["acme-check-", "disconnected."]).expect("it sent DISCONNECT");
    assert_eq!(log.find(&["acme-bridge"]), None, "the live session's client id was not used");
}
