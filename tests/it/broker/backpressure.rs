//! The bridge stops reading when commits do not keep up. TCP then holds the broker back, and
//! nothing has to be delivered twice. A scripted broker detects that its socket accepts no more.

use std::time::Duration;

use crate::support::config::Config;
use crate::support::duplex::DuplexConnection;
use crate::support::event::ItemEvent;
use crate::support::expect::{
    assert_accounted_for, assert_never_reconnected, until_count, until_stored,
};
use crate::support::mosquitto::TENANT;
use crate::support::scripted_broker::{BridgePacket, ScriptedPublish};
use crate::support::scripted_rig::{ScriptedRig, let_go};
use crate::support::slow_database;
use crate::support::wait::{SOON, until_eq, until_true};

const KIB: usize = 1024;

/// `mqtt.max_unacked`.
const ROOM: &str = "1MiB";

/// White space before each event. Sixteen events fill [`ROOM`].
const PADDING: usize = 64 * KIB;

/// Many times the capacity of the bridge and the sockets between.
const EVENTS: usize = 400;

/// Maximum of un-acknowledged events: sixteen, and those read together with the last of them.
const HELD: usize = 32;

/// Number of messages that fill the bridge.
const FILL: usize = 40;

/// Queues padded events with packet ids from 1 on, or without ids at QoS 0.
fn queue(broker: &mut DuplexConnection, qos: u8, events: &[ItemEvent]) {
    for (packet_id, event) in (1..).zip(events) {
        let (topic, payload) = (event.json_topic(), event.padded_json(PADDING));
        let payload = payload.as_slice();
        broker.publish(ScriptedPublish { qos, packet_id, dup: false, topic: &topic, payload });
    }
}

#[tokio::test]
async fn full_bridge_stops_reading_and_keeps_pinging() {
    const KEEP_ALIVE: Duration = Duration::from_secs(8);
    let (rig, mut broker) = ScriptedRig::duplex(|config: Config| {
        config.set("mqtt.max_unacked", ROOM).set("mqtt.keep_alive", "8s")
    })
    .await;
    let events = ItemEvent::series(TENANT, EVENTS);
    until_true("the first PINGREQ", 2 * KEEP_ALIVE, || broker.pings() > 0).await;
    // The pause begins half-way to the next PINGREQ and ends with it, so it outlives no keep-alive.
    tokio::time::sleep(KEEP_ALIVE / 2).await;
    let hold = rig.hold_commits().await;
    queue(&mut broker, 1, &events);
    broker.until_blocked().await;
    let pings = broker.pings();
    until_true("the next PINGREQ", KEEP_ALIVE, || broker.pings() > pings).await;
    assert!(broker.has_waiting(), "the bridge reads on though it is full");
    let unacked = rig.bridge.count("centiloc_bridge_unacked", "").await.unwrap();
    assert!((1..=HELD).contains(&unacked), "{unacked} messages of 64 KiB are held in {ROOM}");
    assert_accounted_for(&rig.bridge).await;
    let_go(hold).await;
    for packet_id in 1..=u16::try_from(EVENTS).unwrap() {
        assert_eq!(broker.next().await, BridgePacket::Puback(packet_id));
    }
    until_stored(&rig.database, EVENTS).await;
    rig.until_received(EVENTS).await;
    assert_never_reconnected(&rig.bridge).await;
    assert_accounted_for(&rig.bridge).await;
}

#[tokio::test]
async fn slow_commits_outlast_keep_alive_without_reconnect() {
    // Reading pauses at eight messages. Committing half of them takes longer than the keep-alive.
    const COMMIT_SECONDS: f64 = 1.2;
    const SOME: usize = 20;
    let (rig, mut broker) = ScriptedRig::duplex(|config| {
        let config = config.set("mqtt.max_unacked", ROOM).set("mqtt.keep_alive", "3s");
        config.set("batch.max_events", 1)
    })
    .await;
    slow_database::delay_inserts(&rig.database, COMMIT_SECONDS).await;
    let events = ItemEvent::series(TENANT, SOME);
    queue(&mut broker, 1, &events);
    for packet_id in 1..=u16::try_from(SOME).unwrap() {
        assert_eq!(broker.next().await, BridgePacket::Puback(packet_id));
    }
    assert!(broker.pings() > 0, "PINGREQs leave while reading pauses");
    until_stored(&rig.database, SOME).await;
    rig.until_received(SOME).await;
    assert_never_reconnected(&rig.bridge).await;
    assert_accounted_for(&rig.bridge).await;
}

/// Returns a bridge that is full for longer than its keep-alive, so that it reads on and must drop
/// QoS-0 messages, with its broker.
async fn dropping(
    adapt: impl FnOnce(Config) -> Config,
) -> (ScriptedRig, DuplexConnection, sqlx::PgConnection) {
    let (rig, mut broker) = ScriptedRig::duplex(|config| {
        adapt(config.set("mqtt.max_unacked", ROOM).set("mqtt.keep_alive", "1s"))
    })
    .await;
    let hold = rig.hold_commits().await;
    let events = ItemEvent::series(TENANT, FILL + EVENTS);
    queue(&mut broker, 1, &events[..FILL]);
    queue(&mut broker, 0, &events[FILL..]);
    rig.bridge.until_logged(&["WARN", "QoS-0", "dropped"]).await;
    (rig, broker, hold)
}

async fn until_gap_of_qos0(rig: &ScriptedRig) {
    let gap = "centiloc.gap where cause = 'backpressure' and detail like '%QoS-0%' \
               and ended_at >= started_at";
    until_eq("the gap", SOON, 1, || rig.database.count(gap)).await;
}

#[tokio::test]
async fn dropped_qos0_is_gap_when_room_returns() {
    let (rig, _broker, hold) = dropping(|config| config).await;
    let_go(hold).await;
    let reconnected = async {
        let _broker = rig.peer.subscribed(true).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = until_gap_of_qos0(&rig) => {}
        // Dropped QoS-1 messages must be delivered again.
        () = reconnected => {}
    }
}

#[tokio::test]
async fn dropped_qos0_is_gap_though_link_breaks() {
    let (rig, broker, hold) = dropping(|config| config).await;
    broker.reset();
    let _broker = rig.peer.subscribed(true).await;
    let_go(hold).await;
    until_gap_of_qos0(&rig).await;
    until_count(&rig.bridge, "centiloc_bridge_unacked", "", 0).await;
    assert_accounted_for(&rig.bridge).await;
}

#[tokio::test]
async fn dropped_qos0_is_gap_though_bridge_stops() {
    let (mut rig, _broker, hold) = dropping(|config| config).await;
    rig.bridge.signal("TERM");
    rig.bridge.until_logged(&["stopping", "SIGTERM"]).await;
    let_go(hold).await;
    assert_eq!(rig.bridge.exit_code(SOON).await, 0);
    until_gap_of_qos0(&rig).await;
}

#[tokio::test]
async fn dropped_qos0_is_gap_after_failed_stop() {
    let (mut rig, broker, hold) = dropping(|config| config.set("shutdown.grace", "2s")).await;
    assert_eq!(rig.bridge.terminate().await, 1, "the database stored events in a locked table");
    drop(broker);
    let_go(hold).await;
    rig.bridge.start_again();
    let _broker = rig.peer.subscribed(true).await;
    until_gap_of_qos0(&rig).await;
}
