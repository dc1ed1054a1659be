//! Links that fail silently, in the middle of a packet, or repeatedly. The bridge detects them,
//! reconnects with backoff, and loses nothing.

use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::expect::{
    pass_through, until_count, until_failing, until_reconnects, until_recovered, until_stored,
};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::publisher::TestPublisher;
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::subscriber::TestSubscriber;
use crate::support::tap::MqttTap;
use crate::support::wait::{SOON, until_true};

async fn database() -> Database {
    Postgres::shared().await.database().await
}

#[tokio::test]
async fn half_open_link_is_detected_by_keepalive() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let tap = MqttTap::to(broker.plain_port()).await;
    let config = Config::new(&broker, &database)
        .plain(tap.proxy.port())
        .set("mqtt.keep_alive", "1s")
        .set("mqtt.connect_timeout", "1s");
    let mut bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 5).await;
    tap.proxy.stall_both().await;
    let publisher = TestPublisher::connect(&broker).await;
    publisher.publish_json(&ItemEvent::series(TENANT, 30)).await;
    until_failing(&mut bridge, "keep_alive_lost", &["WARN", "keep alive"]).await;
    tap.proxy.pass().await;
    bridge.until_ready().await;
    until_stored(&database, 35).await;
    tap.assert_no_violation();
}

#[tokio::test]
async fn packet_cut_midway_is_redelivered_whole() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let tap = MqttTap::to(broker.plain_port()).await;
    let config = Config::new(&broker, &database).plain(tap.proxy.port());
    let mut bridge = Bridge::ready(&config).await;
    let publisher = TestPublisher::connect(&broker).await;
    // Inside the fixed header, the topic, the payload, and one byte before the end of the first.
    let event_length = ItemEvent::series(TENANT, 1)[0].json().to_string().len();
    let cuts = [1, 20, 200, event_length as u64];
    for (round, bytes) in cuts.into_iter().enumerate() {
        let before = tap.proxy.accepted();
        tap.proxy.limit(Direction::Down, bytes);
        publisher.publish_json(&ItemEvent::series(TENANT, 5)).await;
        until_true("the cut", SOON, || tap.proxy.accepted() > before).await;
        tap.proxy.pass().await;
        bridge.until_ready().await;
        until_stored(&database, 5 * (round + 1)).await;
    }
    until_reconnects(&bridge, "closed_by_broker", cuts.len()).await;
    bridge.assert_running();
    tap.assert_no_violation();
}

/// Returns the least duration of `failures` waits in a row: half of each ceiling.
fn least_waits(min: Duration, max: Duration, failures: u32) -> Duration {
    (0..failures).map(|n| (min * 2u32.pow(n)).min(max) / 2).sum()
}

#[tokio::test]
async fn reconnects_back_off_until_broker_returns() {
    const FAILURES: u32 = 7;
    let (min, max) = (Duration::from_millis(50), Duration::from_millis(800));
    let (mut broker, database) = (Mosquitto::start().await, database().await);
    let proxy = TcpProxy::to(broker.port()).await;
    let config = Config::new(&broker, &database)
        .set("mqtt.port", i64::from(proxy.port()))
        .set("mqtt.reconnect.max", "800ms");
    let mut bridge = Bridge::ready(&config).await;
    let accepted = proxy.accepted();
    let started = Instant::now();
    broker.stop().await;
    until_true("attempts", SOON, || proxy.accepted() - accepted >= u64::from(FAILURES)).await;
    let (taken, least) = (started.elapsed(), least_waits(min, max, FAILURES));
    assert!(taken >= least, "{FAILURES} attempts within {taken:?}, not {least:?}");
    broker.start_again().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn flapping_broker_does_not_reset_backoff() {
    /// Fewer cuts than look like a takeover, which would be waited out at once.
    const FLAPS: u32 = 4;
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(10));
    let (broker, database) = (Mosquitto::start().await, database().await);
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database)
        .plain(peer.port())
        .set("mqtt.reconnect.min", "100ms")
        .set("mqtt.reconnect.max", "10s");
    let mut bridge = Bridge::start(&config);
    peer.subscribed(false).await.reset();
    let started = Instant::now();
    for _ in 1..FLAPS {
        peer.subscribed(true).await.reset();
    }
    let _stays = peer.subscribed(true).await;
    let (taken, least) = (started.elapsed(), least_waits(min, max, FLAPS));
    assert!(taken >= least, "{FLAPS} connections within {taken:?}, not {least:?}");
    bridge.until_ready().await;
}

#[tokio::test]
async fn single_takeover_costs_one_connection() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let mut bridge = Bridge::ready(&Config::new(&broker, &database)).await;
    pass_through(&broker, &database, 5).await;
    let other = TestSubscriber::connect(broker.plain_port(), "acme-bridge").await.unwrap();
    assert!(other.session_present());
    until_reconnects(&bridge, "closed_by_broker", 1).await;
    // The other client did not acknowledge the messages delivered to it meanwhile.
    until_recovered(&mut bridge, &broker, &database).await;
    until_count(&bridge, "centiloc_bridge_session_present", "", 1).await;
    drop(other);
}

#[tokio::test]
async fn lasting_client_id_takeover_is_reported() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let peer = ScriptedBroker::listen().await;
    let mut bridge = Bridge::start(&Config::new(&broker, &database).plain(peer.port()));
    let log = bridge.log().clone();
    let recognised = || log.find(&["reason=\"takeover\"", "acme-bridge"]).is_some();
    // Mosquitto closes the connection of the client that lost its id without a packet.
    for _ in 0..20 {
        drop(peer.subscribed(true).await);
        if recognised() {
            break;
        }
    }
    until_true("the takeover to be named", SOON, recognised).await;
    let _stays = peer.subscribed(true).await;
    bridge.until_ready().await;
}

#[tokio::test]
async fn idle_timeout_is_named_and_then_prevented() {
    const IDLE_TIMEOUT: Duration = Duration::from_secs(6);
    const PINGREQ: u64 = 2;
    let (broker, database) = (Mosquitto::start().await, database().await);
    let proxy = TcpProxy::to(broker.plain_port()).await;
    proxy.set_idle_timeout(IDLE_TIMEOUT).await;
    let config = Config::new(&broker, &database).plain(proxy.port()).set("mqtt.keep_alive", "60s");
    let mut bridge = Bridge::ready(&config).await;
    let first = proxy.accepted();
    let cure = "set mqtt.keep_alive to 6s";
    until_failing(&mut bridge, "idle_timeout", &["WARN", "silence in both directions", cure]).await;
    bridge.until_ready().await;
    // Each PINGREQ arrives within the timeout. Without them, four times the timeout would pass.
    let (second, up) = (proxy.accepted(), proxy.forwarded(Direction::Up));
    assert_eq!(second, first + 1);
    until_true("PINGREQs", SOON, || proxy.forwarded(Direction::Up) >= up + 8 * PINGREQ).await;
    assert_eq!(proxy.accepted(), second, "the second connection was closed too");
    pass_through(&broker, &database, 1).await;
    until_reconnects(&bridge, "idle_timeout", 1).await;
    assert_eq!(bridge.log().count("reason=\"takeover\""), 0);
}

#[tokio::test]
async fn reset_after_a_silence_is_an_idle_timeout() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database).plain(peer.port()).set("mqtt.keep_alive", "12s");
    let mut bridge = Bridge::start(&config);
    peer.subscribed(true).await.reset_at_pingreq().await;
    until_failing(&mut bridge, "idle_timeout", &["WARN", "set mqtt.keep_alive to 6s"]).await;
    let _stays = peer.subscribed(true).await;
    bridge.until_ready().await;
}
