//! A possible loss is recorded before anything that follows is acknowledged.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use centiloc_bridge::session::gaps::GapStateFile;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::TcpProxy;
use crate::support::publisher::TestPublisher;
use crate::support::rig::Rig;
use crate::support::subscriber::forget_session;
use crate::support::tap::MqttTap;
use crate::support::wait::{SOON, until, until_eq, until_true};

/// Creates a database link that can be broken, and a bridge that soon treats a held queue as
/// overflowing.
async fn impatient(rig: &Rig, postgres: &Postgres) -> (TcpProxy, Config) {
    let link = TcpProxy::to(postgres.port()).await;
    let config = rig.config().set("database.url", rig.database.url_at(link.port()));
    (link, config.set("mqtt.queue_grace", "200ms"))
}

/// Returns the file of gaps that are not in the database yet.
fn state_file(config: &Config) -> PathBuf {
    config.folder().join(format!("acme-bridge{}", GapStateFile::SUFFIX))
}

#[tokio::test]
async fn acks_wait_for_gap_row() {
    let postgres = Postgres::shared().await;
    let (broker, database) = tokio::join!(Mosquitto::start(), postgres.database());
    let link = TcpProxy::to(postgres.port()).await;
    let events = ItemEvent::series(TENANT, 60);
    let held: Arc<Vec<Vec<u8>>> =
        Arc::new(events[10..].iter().map(|e| e.json().to_string().into_bytes()).collect());
    let onlooker = database.clone();
    let tap = MqttTap::checking(broker.plain_port(), move |publish| {
        let (held, database) = (Arc::clone(&held), onlooker.clone());
        async move {
            if !held.contains(&publish.payload) {
                return Ok(());
            }
            match database.count("centiloc.gap where cause = 'backpressure'").await {
                1 => Ok(()),
                rows => Err(format!("{rows} gaps when a PUBACK left that had been held")),
            }
        }
    })
    .await;
    let config = Config::new(&broker, &database)
        .plain(tap.proxy.port())
        .set("database.url", database.url_at(link.port()))
        .set("mqtt.queue_grace", "3s");
    let bridge = Bridge::ready(&config).await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&events[..10]).await;
    until_eq("the PUBACKs", SOON, 10, || async { tap.pubacks() }).await;
    link.refuse().await;
    platform.publish_json(&events[10..]).await;
    bridge.until_logged(&["WARN", "queue may overflow", "backpressure"]).await;
    link.pass().await;
    until_eq("the PUBACKs", SOON, 60, || async { tap.pubacks() }).await;
    tap.assert_no_violation();
    let row = "select cause || ' ' || (ended_at > started_at + interval '3s')::text || ' ' ||
                      (detail like '%20 messages%false alarm%')::text from centiloc.data_gap";
    until_eq("the closed gap", SOON, vec!["backpressure true true".to_owned()], || {
        database.column::<String>(row)
    })
    .await;
    until_eq("the metric", SOON, Some(1), || {
        bridge.count("centiloc_bridge_gaps_total", "cause=\"backpressure\"")
    })
    .await;
}

#[tokio::test]
async fn window_with_known_room_makes_no_gap() {
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let (link, config) = impatient(&rig, postgres).await;
    let events = ItemEvent::series(TENANT, 60);
    let platform = rig.platform().await;
    let mut bridge = Bridge::ready(&config).await;
    bridge.signal("STOP");
    // Delivered at once, so that the bridge learns the width of the window.
    platform.publish_json(&events[..50]).await;
    bridge.signal("CONT");
    rig.until_acked(50).await;
    let before = rig.database.count("centiloc.gap").await;
    link.refuse().await;
    platform.publish_json(&events[50..53]).await;
    until("them to be held for long", SOON, || async {
        let age = bridge.metric("centiloc_bridge_oldest_unacked_seconds", "").await;
        if age > Some(2.0) { Ok(()) } else { Err(age) }
    })
    .await;
    link.pass().await;
    rig.until_acked(53).await;
    assert_eq!(rig.database.count("centiloc.gap").await, before);
    bridge.assert_running();
}

#[tokio::test]
async fn gap_noticed_during_outage_survives_a_kill() {
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let (link, config) = impatient(&rig, postgres).await;
    let mut bridge = Bridge::ready(&config).await;
    rig.until_rows("connection", 1).await;
    bridge.kill();
    link.refuse().await;
    forget_session(rig.broker.plain_port(), "acme-bridge").await.unwrap();
    // Only this process learns that the session is gone, and that its window is full.
    bridge.start_again();
    bridge.until_logged(&["accepted the connection", "session_present=false"]).await;
    bridge.until_subscribed(2).await;
    let events = ItemEvent::series(TENANT, 30);
    rig.platform().await.publish_json(&events).await;
    bridge.until_logged(&["queue may overflow"]).await;
    // The loss is logged before it is written to disk.
    let record = state_file(&config);
    until_true("the record", SOON, || {
        fs::read_to_string(&record).is_ok_and(|record| record.contains("backpressure"))
    })
    .await;
    bridge.kill();
    link.pass().await;
    bridge.start_again();
    rig.until_acked(30).await;
    rig.until_rows("gap where cause = 'session_lost'", 1).await;
    rig.until_rows("gap where cause = 'backpressure' and ended_at is not null", 1).await;
    rig.until_rows("gap", 2).await;
    bridge.until_ready().await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn next_process_closes_open_gap() {
    let postgres = Postgres::shared().await;
    let rig = Rig::with(Mosquitto::builder().max_queued_messages(0), postgres).await;
    let (link, config) = impatient(&rig, postgres).await;
    let dir = config.folder().join("spool");
    let config = config.set("spool.dir", dir.to_str().unwrap()).set("spool.max_size", "1MiB");
    let mut bridge = Bridge::ready(&config).await;
    rig.until_rows("connection", 1).await;
    link.refuse().await;
    let events = ItemEvent::series(TENANT, 1500);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(1000)));
    assert_eq!(rig.platform().await.publish_all(messages).await, 1500);
    bridge.until_logged(&["queue may overflow"]).await;
    bridge.kill();
    link.pass().await;
    bridge.start_again();
    rig.until_rows("item_event", 1500).await;
    rig.until_rows("gap where ended_at is null", 0).await;
    rig.assert_promises_kept().await;
}

/// Loses the session during an outage of the database, and kills the process between the commit of
/// that loss and the removal of its state file.
async fn kill_before_state_file_is_removed(spool: bool) {
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let link = TcpProxy::to(postgres.port()).await;
    let mut config = rig.config().set("database.url", rig.database.url_at(link.port()));
    if spool {
        let dir = config.folder().join("spool");
        config = config.set("spool.dir", dir.to_str().unwrap());
    }
    let state = state_file(&config);
    let mut bridge = Bridge::ready(&config).await;
    rig.until_rows("connection", 1).await;
    bridge.kill();
    link.refuse().await;
    forget_session(rig.broker.plain_port(), "acme-bridge").await.unwrap();
    // A second name of the file that becomes the state file keeps its content beyond the removal.
    let copy = config.file("copy", "");
    fs::hard_link(&copy, state.with_extension("json.new")).unwrap();
    bridge.start_again();
    bridge.until_subscribed(2).await;
    link.pass().await;
    rig.until_rows("gap where cause = 'session_lost'", 1).await;
    until_true("the end of the state file", SOON, || !state.exists()).await;
    let gaps = "select to_jsonb(g)::text from centiloc.gap g order by id";
    let told = rig.database.column::<String>(gaps).await;
    bridge.kill();
    fs::rename(&copy, &state).unwrap();
    link.refuse().await;
    bridge.start_again();
    bridge.until_subscribed(3).await;
    link.pass().await;
    rig.until_rows("connection", 3).await;
    until_true("the end of the state file", SOON, || !state.exists()).await;
    assert_eq!(rig.database.column::<String>(gaps).await, told);
    bridge.assert_running();
}

#[tokio::test]
async fn kill_after_commit_repeats_no_loss() {
    kill_before_state_file_is_removed(false).await;
}

#[tokio::test]
async fn kill_after_spooled_commit_repeats_no_loss() {
    kill_before_state_file_is_removed(true).await;
}
