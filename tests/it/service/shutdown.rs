//! Shutdown: prompt, in order, and without loss, with the documented exit codes.

use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::rig::{Rig, TableLock, counter};
use crate::support::tap::Packet;
use crate::support::wait::{SOON, until_eq, until_true};

/// Far more than a process needs to end, far less than any grace.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Asserts that messages in flight at the signal are drained.
async fn drains(signal: &str) {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 15)).await;
    rig.until_delivered(15).await;
    lock.until_waited_for().await;
    bridge.signal(signal);
    bridge.until_logged(&["stopping", &format!("SIG{signal}")]).await;
    assert_eq!(rig.tap.pubacks(), 0);
    lock.release().await;
    assert_eq!(bridge.exit_code(SOON).await, 0);
    assert_eq!(rig.database.count("centiloc.item_event").await, 15);
    assert_eq!(rig.tap.pubacks(), 15);
    assert_eq!(rig.tap.packets().last(), Some(&Packet::Disconnect(0)));
    let log = rig.broker.log();
    until_true("the broker to see the DISCONNECT", SOON, || {
        log.find(&["Client acme-bridge", "disconnected."]).is_some()
    })
    .await;
    let ended = "connection where disconnected_at is not null";
    rig.until_rows(ended, 1).await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn sigterm_commits_acknowledges_and_disconnects() {
    drains("TERM").await;
}

#[tokio::test]
async fn sigint_commits_acknowledges_and_disconnects() {
    drains("INT").await;
}

#[tokio::test]
async fn idle_bridge_stops_immediately() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 0);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn disconnect_is_recorded_after_database_restart() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    rig.until_rows("connection", 1).await;
    postgres.stop().await;
    postgres.start().await;
    assert_eq!(bridge.terminate().await, 0);
    rig.until_rows("connection where disconnected_at is not null", 1).await;
}

#[tokio::test]
async fn idle_without_database_stops_immediately() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    rig.until_rows("connection", 1).await;
    postgres.stop().await;
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 0);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert_eq!(rig.tap.packets().last(), Some(&Packet::Disconnect(0)));
}

#[tokio::test]
async fn stops_immediately_without_broker() {
    let rig = Rig::new().await;
    rig.tap.proxy.refuse().await;
    let config = rig.config();
    let mut bridge = Bridge::start(&config);
    bridge.until_logged(&["broker connection failed"]).await;
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 0);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn missed_drain_deadline_exits_1_without_loss() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let config = rig.config().set("shutdown.grace", "2s");
    let mut bridge = Bridge::ready(&config).await;
    postgres.stop().await;
    let events = ItemEvent::series(TENANT, 15);
    rig.platform().await.publish_json(&events).await;
    rig.until_delivered(15).await;
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 1);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert_eq!(rig.tap.pubacks(), 0);
    assert!(bridge.log().find(&["ERROR", "shutdown.grace"]).is_some());
    postgres.start().await;
    bridge.start_again();
    rig.until_acked(15).await;
    rig.until_rows("item_event", 15).await;
    until_eq("no duplicates", SOON, 0.0, || counter(&bridge, "duplicates_total", "")).await;
    rig.assert_promises_kept().await;
}

/// Asserts that the second signal ends a drain that still has a minute.
async fn second_signal(signal: &str) -> i32 {
    let rig = Rig::new().await;
    let config = rig.config().set("shutdown.grace", "60s");
    let mut bridge = Bridge::ready(&config).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 5)).await;
    lock.until_waited_for().await;
    bridge.signal("TERM");
    bridge.until_logged(&["stopping", "SIGTERM"]).await;
    bridge.signal(signal);
    let code = bridge.exit_code(AT_ONCE).await;
    assert_eq!(rig.tap.pubacks(), 0);
    lock.release().await;
    bridge.start_again();
    rig.until_acked(5).await;
    rig.until_rows("item_event", 5).await;
    rig.assert_promises_kept().await;
    code
}

#[tokio::test]
async fn second_sigterm_ends_drain_with_143() {
    assert_eq!(second_signal("TERM").await, 143);
}

#[tokio::test]
async fn sigint_after_sigterm_ends_drain_with_130() {
    assert_eq!(second_signal("INT").await, 130);
}
