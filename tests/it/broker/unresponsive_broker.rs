//! Brokers and links that accept a connection and then do not respond: silent from the first byte,
//! silent in the middle of a packet, or slow. The bridge leaves them in time, and every message
//! arrives once.

use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::expect::assert_never_reconnected;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until};

/// Length of a CONNACK, bytes.
const CONNACK: u64 = 4;
/// Length of a SUBACK for the four filters of the tests' configuration, bytes.
const SUBACK: u64 = 8;

/// Waits until that many connections were started since there were `before`.
async fn until_connections(proxy: &TcpProxy, before: u64, more: u64) {
    until(&format!("{more} further connections"), SOON, || async {
        let now = proxy.accepted();
        if now >= before + more { Ok(()) } else { Err(now) }
    })
    .await;
}

#[tokio::test]
async fn broker_silent_in_handshake_is_left_without_loss() {
    let rig = Rig::new().await;
    let config = rig.config().set("mqtt.keep_alive", "1s").set("mqtt.connect_timeout", "1s");
    let mut bridge = Bridge::ready(&config).await;
    let platform = rig.platform().await;
    // Before and within CONNACK, before and within SUBACK, after it.
    let silences = [0, 2, CONNACK, CONNACK + 3, CONNACK + SUBACK];
    let events = ItemEvent::series(TENANT, 5 * silences.len());
    for (bytes, events) in silences.into_iter().zip(events.chunks(5)) {
        let before = rig.tap.proxy.accepted();
        rig.tap.proxy.silence_after(Direction::Down, bytes);
        rig.tap.proxy.cut().await;
        // The connection that went silent, and the one after it.
        until_connections(&rig.tap.proxy, before, 2).await;
        platform.publish_json(events).await;
        rig.tap.proxy.pass().await;
        bridge.until_ready().await;
    }
    rig.until_kept(&events).await;
    bridge.assert_running();
    assert_eq!(rig.database.count("centiloc.gap").await, 0, "the session was kept");
}

#[tokio::test]
async fn broker_stopping_midpacket_redelivers_it_whole() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config().set("mqtt.keep_alive", "1s")).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 20);
    let whole = events[0].json().to_string().len() as u64;
    // Within the fixed header, the topic, the payload, and one byte before the payload's end.
    let stops = [1, 20, 200, whole + 35];
    for (round, bytes) in stops.into_iter().enumerate() {
        let before = rig.tap.proxy.accepted();
        rig.tap.proxy.silence_after(Direction::Down, bytes);
        platform.publish_json(&events[5 * round..5 * (round + 1)]).await;
        until_connections(&rig.tap.proxy, before, 1).await;
        rig.tap.proxy.pass().await;
        bridge.until_ready().await;
        rig.until_kept(&events[..5 * (round + 1)]).await;
    }
    bridge.assert_running();
}

#[tokio::test]
async fn slow_links_cost_no_connection() {
    let rig = Rig::new().await;
    let database = TcpProxy::to(Postgres::shared().await.port()).await;
    let config = rig.config().set("database.url", rig.database.url_at(database.port()));
    let bridge = Bridge::ready(&config).await;
    let delay = Duration::from_millis(250);
    tokio::join!(rig.tap.proxy.delay(delay), database.delay(delay));
    let events = ItemEvent::series(TENANT, 100);
    rig.platform().await.publish_protobuf(&events).await;
    rig.until_kept(&events).await;
    assert_never_reconnected(&bridge).await;
}
