//! Acknowledged messages are on disk, and reach the database later.

use super::{SpoolFixture, files, until_spooled};
use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::expect::until_count;
use crate::support::mosquitto::TENANT;
use crate::support::subscriber::forget_session;
use crate::support::tap::Packet;
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn database_outage_delays_no_acknowledgement() {
    let fixture = SpoolFixture::new().await;
    let bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, 3000);
    fixture.rig.platform().await.publish_protobuf(&events).await;
    fixture.rig.until_acked(3000).await;
    until_spooled(&bridge, 3000).await;
    assert_eq!(fixture.rig.database.count("centiloc.item_event").await, 0);
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "ready although dashboards see no new events: {body}");
    let (_, body) = bridge.get("/api/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["spool"]["events"], 3000, "{body}");
    assert!(status["spool"]["bytes"].as_u64().unwrap() > 100_000, "{body}");
    assert!(status["spool"]["oldest_at"].is_string(), "{body}");
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 3000).await;
    until_spooled(&bridge, 0).await;
    until_count(&bridge, "centiloc_bridge_spool_bytes", "", 0).await;
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0);
    until_count(&bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn memory_does_not_grow_with_the_spool() {
    const EVENTS: usize = 30_000;
    const PADDING: usize = 4096;
    const MIB: usize = 1024 * 1024;
    /// Memory for the messages read ahead (16 MiB), also as decoded rows, and for groups and
    /// buffers: half of the spooled bytes.
    const ROOM: usize = 64 * MIB;
    let fixture = SpoolFixture::new().await;
    let bridge = fixture.without_database().await;
    let before = bridge.peak_memory().unwrap();
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(PADDING)));
    assert_eq!(fixture.rig.platform().await.publish_all(messages).await, EVENTS);
    until_eq("everything to be spooled", 4 * SOON, Some(EVENTS), || {
        bridge.count("centiloc_bridge_spool_events", "")
    })
    .await;
    let peak = bridge.peak_memory().unwrap();
    let spooled = bridge.count("centiloc_bridge_spool_bytes", "").await.unwrap() / MIB;
    println!("{spooled} MiB spooled: {} MiB before, {} MiB at the peak", before / MIB, peak / MIB);
    assert!(spooled > 2 * ROOM / MIB, "{spooled} MiB");
    assert!(peak < before + ROOM, "{before} bytes before, {peak} at the peak");
}

#[tokio::test]
async fn large_messages_pass_the_spool() {
    const MIB: usize = 1024 * 1024;
    let fixture = SpoolFixture::new().await;
    let bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, 4);
    let sizes = [5 * MIB, 1, 15 * MIB, 20 * MIB];
    let messages = events.iter().zip(sizes).map(|(e, size)| (e.json_topic(), e.padded_json(size)));
    assert_eq!(fixture.rig.platform().await.publish_all(messages).await, 4);
    until_spooled(&bridge, 4).await;
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 3).await;
    // Larger than mqtt.max_packet_size, and yet kept whole.
    let whole = format!("dead_letter where length(payload) > {}", 20 * MIB);
    fixture.rig.until_rows(&whole, 1).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0);
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn kill_during_outage_loses_nothing_acknowledged() {
    let fixture = SpoolFixture::new().await;
    let mut bridge = fixture.without_database().await;
    let events = ItemEvent::series(TENANT, 900);
    let platform = fixture.rig.platform().await;
    for (round, events) in events.chunks(300).enumerate() {
        let publish = platform.publish_protobuf(events);
        let kill = async {
            let enough = round * 300 + 100;
            until_true("a third to be acknowledged", SOON, || fixture.rig.tap.pubacks() > enough)
                .await;
            bridge.kill();
            bridge.start_again();
        };
        tokio::join!(publish, kill);
        until_eq("nothing unacknowledged", SOON, (Some(0), true), || async {
            let unacked = bridge.count("centiloc_bridge_unacked", "").await;
            (unacked, fixture.rig.tap.pubacks() >= (round + 1) * 300)
        })
        .await;
    }
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 900).await;
    until_spooled(&bridge, 0).await;
    // Three processes that died, each with its connection, and the one that runs. It may connect
    // after its spool is drained, because nothing is left for the broker to send.
    let ends = "select coalesce(reason, 'open') from centiloc.connection order by id";
    let died = "ended without notice";
    let expected = [died, died, died, "open"].map(str::to_owned).to_vec();
    let database = &fixture.rig.database;
    until_eq("the connections", SOON, expected, || database.column::<String>(ends)).await;
    assert_eq!(database.count("centiloc.gap").await, 0);
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn start_without_database_spools_from_first_message() {
    let fixture = SpoolFixture::new().await;
    fixture.link.refuse().await;
    let bridge = Bridge::start(&fixture.config());
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 100)).await;
    fixture.rig.until_acked(100).await;
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 100).await;
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0, "a first start is no gap");
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn shutdown_during_outage_leaves_messages_on_disk() {
    let fixture = SpoolFixture::new().await;
    let mut bridge = fixture.without_database().await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 200)).await;
    fixture.rig.until_acked(200).await;
    assert_eq!(bridge.terminate().await, 0, "nothing is lost by it");
    assert!(fixture.rig.tap.packets().iter().any(|p| matches!(p, Packet::Disconnect(_))));
    assert!(bridge.log().find(&["left in the spool", "200"]).is_some(), "{}", bridge.log().tail());
    fixture.link.pass().await;
    bridge.start_again();
    fixture.rig.until_rows("item_event", 200).await;
    until_spooled(&bridge, 0).await;
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn full_spool_holds_acks_and_is_gap() {
    const EVENTS: usize = 6000;
    let fixture = SpoolFixture::new().await;
    let config = fixture.config().set("spool.max_size", "1MiB").set("mqtt.queue_grace", "2s");
    let bridge = Bridge::ready(&config).await;
    fixture.rig.until_rows("connection", 1).await;
    fixture.link.refuse().await;
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(300)));
    assert_eq!(fixture.rig.platform().await.publish_all(messages).await, EVENTS);
    bridge.until_logged(&["ERROR", "spool.max_size"]).await;
    bridge.until_logged(&["WARN", "queue may overflow", "spool_full"]).await;
    let acked = fixture.rig.tap.pubacks();
    assert!((500..3000).contains(&acked), "{acked} messages fit into 1 MiB");
    let size: u64 = files(&fixture.dir).iter().map(|f| f.metadata().unwrap().len()).sum();
    // The file itself, and SQLite's write-ahead log of a few MiB next to it.
    assert!(size < 8 << 20, "{size} bytes in the folder");
    let file = fixture.dir.join("spool.db").metadata().unwrap().len();
    assert!(file < 1_300_000, "the file has {file} bytes");
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", EVENTS).await;
    fixture.rig.until_acked(EVENTS).await;
    until_eq("the gap to be closed", SOON, vec!["spool_full closed".to_owned()], || {
        fixture.rig.database.column::<String>(
            "select cause || case when ended_at > started_at then ' closed' else ' open' end
               from centiloc.gap where client_id = 'acme-bridge'",
        )
    })
    .await;
    until_spooled(&bridge, 0).await;
    fixture.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn session_lost_during_outage_survives_a_kill() {
    let fixture = SpoolFixture::new().await;
    let mut bridge = fixture.without_database().await;
    bridge.kill();
    forget_session(fixture.rig.broker.plain_port(), "acme-bridge").await.unwrap();
    bridge.start_again();
    // The broker reports no session, and then this process dies too.
    bridge.until_subscribed(2).await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    fixture.rig.until_acked(1).await;
    bridge.kill();
    fixture.link.pass().await;
    bridge.start_again();
    fixture.rig.until_rows("item_event", 1).await;
    bridge.until_ready().await;
    fixture.rig.until_rows("gap where cause = 'session_lost'", 1).await;
    fixture.rig.until_rows("gap", 1).await;
}

#[tokio::test]
async fn state_directory_alone_outlasts_database_restart() {
    let fixture = SpoolFixture::new().await;
    let config = fixture.config().without("spool").set("mqtt.queue_grace", "1s");
    let bridge = Bridge::ready(&config).await;
    fixture.rig.until_rows("connection", 1).await;
    fixture.link.refuse().await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 50)).await;
    // Without a spool nothing would be acknowledged now.
    fixture.rig.until_acked(50).await;
    assert!(config.folder().join("spool/spool.db").exists());
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 50).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(fixture.rig.database.count("centiloc.gap").await, 0);
    fixture.rig.assert_promises_kept().await;
}
