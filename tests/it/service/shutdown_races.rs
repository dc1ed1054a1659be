//! SIGTERM at bad moments: the bridge ends in time and loses nothing.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::expect::{until_count, until_stored};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::{free_port, loopback};
use crate::support::proxy::TcpProxy;
use crate::support::publisher::TestPublisher;
use crate::support::scripted_broker::ScriptedBroker;

/// Deadline of a shutdown that has nothing to wait for. Far below every wait it could be caught in,
/// far above the time that a loaded machine takes.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn stops_at_once(mut bridge: Bridge) {
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 0);
    let taken = started.elapsed();
    assert!(taken < AT_ONCE, "stopping took {taken:?}; its log:\n{}", bridge.log().tail());
}

#[tokio::test]
async fn shutdown_during_unanswered_connect_is_immediate() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let peer = ScriptedBroker::listen().await;
    let bridge = Bridge::start(&Config::new(&broker, &database).plain(peer.port()));
    let _silent = peer.accept().await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn shutdown_during_unanswered_subscribe_is_immediate() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let peer = ScriptedBroker::listen().await;
    let bridge = Bridge::start(&Config::new(&broker, &database).plain(peer.port()));
    let mut silent = peer.accept().await;
    silent.connack(false, 0).await;
    silent.next().await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn shutdown_during_backoff_is_immediate() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database)
        .plain(free_port())
        .set("mqtt.reconnect.min", "60s")
        .set("mqtt.reconnect.max", "60s");
    let bridge = Bridge::start(&config);
    bridge.until_logged(&["broker connection failed", "tcp_refused"]).await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn shutdown_with_full_memory_ends_at_grace() {
    const EVENTS: usize = 60;
    const PADDING: usize = 64 * 1024;
    let broker = Mosquitto::builder().max_inflight_messages(0).start().await;
    let mut postgres = Postgres::own().await;
    let database = postgres.database().await;
    let config =
        Config::new(&broker, &database).set("mqtt.max_unacked", "1MiB").set("shutdown.grace", "3s");
    let mut bridge = Bridge::ready(&config).await;
    postgres.stop().await;
    let messages = ItemEvent::series(TENANT, EVENTS);
    let messages = messages.iter().map(|event| (event.json_topic(), event.padded_json(PADDING)));
    assert_eq!(TestPublisher::connect(&broker).await.publish_all(messages).await, EVENTS);
    // Reading pauses at half of `mqtt.max_unacked`, where a packet may be larger than that.
    until_count(&bridge, "centiloc_bridge_unacked", "", 8).await;
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 1, "a drain that could not finish is not a success");
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(3) + AT_ONCE, "stopping took {taken:?}");
    bridge.until_logged(&["ERROR", "shutdown.grace"]).await;
    postgres.start().await;
    bridge.start_again();
    until_stored(&database, EVENTS).await;
}

/// Creates a database that accepts connections and never answers, and the configuration that names
/// it.
async fn with_silent_database(broker: &Mosquitto) -> (TcpListener, Config) {
    let silent = TcpListener::bind(loopback(0)).await.unwrap();
    let database = Postgres::shared().await.database().await;
    let url = database.url_at(silent.local_addr().unwrap().port());
    let config = Config::new(broker, &database).set("database.url", url);
    (silent, config)
}

#[tokio::test]
async fn database_silent_from_start_delays_no_shutdown() {
    let broker = Mosquitto::start().await;
    let (_silent, config) = with_silent_database(&broker).await;
    let bridge = Bridge::start(&config);
    bridge.until_subscribed(1).await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn database_gone_silent_delays_no_shutdown() {
    let broker = Mosquitto::start().await;
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let link = TcpProxy::to(postgres.port()).await;
    let config = Config::new(&broker, &database);
    let config = config.set("database.url", database.url_at(link.port()));
    let bridge = Bridge::ready(&config).await;
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, 5)).await;
    until_stored(&database, 5).await;
    until_count(&bridge, "centiloc_bridge_unacked", "", 0).await;
    link.stall_both().await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn unrecorded_possible_loss_is_no_success() {
    let broker = Mosquitto::start().await;
    let (_silent, config) = with_silent_database(&broker).await;
    let config = config.set("shutdown.grace", "5s");
    let no_state_folder = |command: &mut Command| _ = command.env_remove("STATE_DIRECTORY");
    let mut bridge = Bridge::start_in(Arc::new(no_state_folder), &config);
    // The session is new, and only the database knows if there was an earlier one.
    bridge.until_subscribed(1).await;
    assert_eq!(bridge.terminate().await, 1);
    bridge.until_logged(&["ERROR", "shutdown.grace", "gaps_recorded=false"]).await;
}
