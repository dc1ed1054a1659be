//! Acknowledged messages are on disk, and reach the database later.

use super::{Bench, files, until_spooled};
use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::expect::until_count;
use crate::support::mosquitto::TENANT;
use crate::support::subscriber::forget_session;
use crate::support::tap::Packet;
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn database_outage_delays_no_acknowledgement() {
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 3000);
    bench.rig.platform().await.publish_protobuf(&events).await;
    bench.rig.until_acked(3000).await;
    until_spooled(&bridge, 3000).await;
    assert_eq!(bench.rig.database.count("centiloc.item_event").await, 0);
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "no dashboard sees what comes: {body}");
    let (_, body) = bridge.get("/api/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["spool"]["events"], 3000, "{body}");
    assert!(status["spool"]["bytes"].as_u64().unwrap() > 100_000, "{body}");
    assert!(status["spool"]["oldest_at"].is_string(), "{body}");
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 3000).await;
    until_spooled(&bridge, 0).await;
    until_count(&bridge, "centiloc_bridge_spool_bytes", "", 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    until_count(&bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn memory_does_not_grow_with_the_spool() {
    const EVENTS: usize = 30_000;
    const PADDING: usize = 4096;
    const MIB: usize = 1024 * 1024;
    /// Memory for the messages read ahead (16 MiB), also as decoded rows, and for groups and
    /// buffers: half of the spooled bytes.
    const ROOM: usize = 64 * MIB;
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let before = bridge.peak_memory().unwrap();
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(PADDING)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, EVENTS);
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
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 4);
    let sizes = [5 * MIB, 1, 15 * MIB, 20 * MIB];
    let messages = events.iter().zip(sizes).map(|(e, size)| (e.json_topic(), e.padded_json(size)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, 4);
    until_spooled(&bridge, 4).await;
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 3).await;
    // Larger than mqtt.max_packet_size, and yet kept whole.
    let whole = format!("dead_letter where length(payload) > {}", 20 * MIB);
    bench.rig.until_rows(&whole, 1).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn kill_during_outage_loses_nothing_acknowledged() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 900);
    let platform = bench.rig.platform().await;
    for (round, events) in events.chunks(300).enumerate() {
        let publish = platform.publish_protobuf(events);
        let kill = async {
            let enough = round * 300 + 100;
            until_true("a third to be acknowledged", SOON, || bench.rig.tap.pubacks() > enough)
                .await;
            bridge.kill();
            bridge.start_again();
        };
        tokio::join!(publish, kill);
        until_eq("nothing unacknowledged", SOON, (Some(0), true), || async {
            let unacked = bridge.count("centiloc_bridge_unacked", "").await;
            (unacked, bench.rig.tap.pubacks() >= (round + 1) * 300)
        })
        .await;
    }
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 900).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    // Three processes that died, each with its connection, and the one that runs.
    let ends = "select coalesce(reason, 'stands') from centiloc.connection order by id";
    let died = "ended without notice";
    assert_eq!(bench.rig.database.column::<String>(ends).await, [died, died, died, "stands"]);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn start_without_database_spools_from_first_message() {
    let bench = Bench::new().await;
    bench.link.refuse().await;
    let bridge = Bridge::start(&bench.config());
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 100)).await;
    bench.rig.until_acked(100).await;
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 100).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0, "a first start is no gap");
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn shutdown_during_outage_leaves_messages_on_disk() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 200)).await;
    bench.rig.until_acked(200).await;
    assert_eq!(bridge.terminate().await, 0, "nothing is lost by it");
    assert!(bench.rig.tap.packets().iter().any(|p| matches!(p, Packet::Disconnect(_))));
    assert!(bridge.log().find(&["left in the spool", "200"]).is_some(), "{}", bridge.log().tail());
    bench.link.pass().await;
    bridge.start_again();
    bench.rig.until_rows("item_event", 200).await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn full_spool_holds_acks_and_is_gap() {
    const EVENTS: usize = 6000;
    let bench = Bench::new().await;
    let config = bench.config().set("spool.max_size", "1MiB").set("mqtt.queue_grace", "2s");
    let bridge = Bridge::ready(&config).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(300)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, EVENTS);
    bridge.until_logged(&["ERROR", "spool.max_size"]).await;
    bridge.until_logged(&["WARN", "queue may overflow", "spool_full"]).await;
    let acked = bench.rig.tap.pubacks();
    assert!((500..3000).contains(&acked), "{acked} messages fit into 1 MiB");
    let size: u64 = files(&bench.dir).iter().map(|f| f.metadata().unwrap().len()).sum();
    // The file itself, and SQLite's write-ahead log of a few MiB next to it.
    assert!(size < 8 << 20, "{size} bytes in the folder");
    let file = bench.dir.join("spool.db").metadata().unwrap().len();
    assert!(file < 1_300_000, "the file has {file} bytes");
    bench.link.pass().await;
    bench.rig.until_rows("item_event", EVENTS).await;
    bench.rig.until_acked(EVENTS).await;
    until_eq("the gap to be closed", SOON, vec!["spool_full closed".to_owned()], || {
        bench.rig.database.column::<String>(
            "select cause || case when ended_at > started_at then ' closed' else ' open' end
               from centiloc.gap where client_id = 'acme-bridge'",
        )
    })
    .await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn session_lost_during_outage_survives_a_kill() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    bridge.kill();
    forget_session(bench.rig.broker.plain_port(), "acme-bridge").await.unwrap();
    bridge.start_again();
    // The broker reports no session, and then this process dies too.
    bridge.until_subscribed(2).await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    bench.rig.until_acked(1).await;
    bridge.kill();
    bench.link.pass().await;
    bridge.start_again();
    bench.rig.until_rows("item_event", 1).await;
    bridge.until_ready().await;
    bench.rig.until_rows("gap where cause = 'session_lost'", 1).await;
    bench.rig.until_rows("gap", 1).await;
}

#[tokio::test]
async fn state_directory_alone_outlasts_database_restart() {
    let bench = Bench::new().await;
    let config = bench.config().without("spool").set("mqtt.queue_grace", "1s");
    let bridge = Bridge::ready(&config).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 50)).await;
    // Without a spool nothing would be acknowledged now.
    bench.rig.until_acked(50).await;
    assert!(config.folder().join("spool/spool.db").exists());
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 50).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    bench.rig.assert_promises_kept().await;
}
