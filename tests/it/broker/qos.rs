//! Deliveries other than new messages at QoS 1: QoS 0, retained messages, and redeliveries.

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::rig::{Rig, TableLock, counter};
use crate::support::wait::{SOON, until_eq};

#[tokio::test]
async fn qos0_message_is_stored_and_never_acknowledged() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 4);
    for event in &events[..3] {
        platform.publish_qos0(&event.json_topic(), event.json().to_string()).await;
    }
    platform.publish_json(&events[3..]).await;
    rig.until_rows("item_event", 4).await;
    rig.until_acked(1).await;
    until_eq("QoS-0 deliveries", SOON, 3.0, || counter(&bridge, "received_total", "qos=\"0\""))
        .await;
    assert_eq!(bridge.log().count("QoS 0"), 1, "warned once, at WARN");
    assert!(bridge.log().find(&["WARN", "QoS 0"]).is_some());
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(rig.tap.pubacks(), 1);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn retained_message_is_stored_outside_lag_metrics() {
    let rig = Rig::new().await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 2);
    platform.publish_retained(&events[0].json_topic(), events[0].json().to_string()).await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    rig.until_acked(1).await;
    rig.until_rows("item_event", 1).await;
    let lag = "event_to_commit_seconds_count";
    assert!(counter(&bridge, lag, "").await < 0.5, "history is no lag");
    platform.publish_json(&events[1..]).await;
    until_eq("a lag", SOON, 1.0, || counter(&bridge, lag, "")).await;
    // The broker sends it with every SUBSCRIBE.
    assert_eq!(bridge.terminate().await, 0);
    bridge.start_again();
    bridge.until_ready().await;
    rig.until_acked(3).await;
    until_eq("the duplicate", SOON, 1.0, || counter(&bridge, "duplicates_total", "")).await;
    assert_eq!(rig.database.count("centiloc.item_event").await, 2);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn kill_between_commit_and_ack_doubles_nothing() {
    let rig = Rig::new().await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    rig.tap.proxy.stall(crate::support::proxy::Direction::Up).await;
    let events = ItemEvent::series(TENANT, 15);
    rig.platform().await.publish_json(&events).await;
    rig.until_rows("item_event", 15).await;
    assert_eq!(rig.tap.pubacks(), 0, "the PUBACKs are on their way, not there");
    bridge.kill();
    // Cut before the link passes again, or the PUBACKs held back would still arrive.
    rig.tap.proxy.cut().await;
    rig.tap.proxy.pass().await;
    bridge.start_again();
    rig.until_acked(15).await;
    let again: Vec<_> = rig.tap.publishes().into_iter().skip(15).collect();
    assert_eq!(again.len(), 15);
    assert!(again.iter().all(|publish| publish.dup), "the broker sets the DUP flag");
    until_eq("the duplicates", SOON, 15.0, || counter(&bridge, "duplicates_total", "")).await;
    assert_eq!(rig.database.count("centiloc.item_event").await, 15);
    assert_eq!(rig.database.count("centiloc.item_state").await, 15);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn cut_before_commit_discards_late_tokens() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    let events = ItemEvent::series(TENANT, 30);
    platform.publish_json(&events[..10]).await;
    lock.until_waited_for().await;
    rig.until_delivered(10).await;
    rig.tap.proxy.cut().await;
    // On the new connection the same packet ids are in use again. The commits of the first
    // deliveries must not acknowledge the second ones before their turn.
    rig.until_delivered(20).await;
    lock.release().await;
    platform.publish_json(&events[10..]).await;
    rig.until_rows("item_event", 30).await;
    rig.until_acked(30).await;
    until_eq("the duplicates", SOON, 10.0, || counter(&bridge, "duplicates_total", "")).await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn repeated_cuts_lose_and_double_nothing() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config().set("mqtt.reconnect.max", "100ms")).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 600);
    for (round, events) in events.chunks(100).enumerate() {
        let publish = platform.publish_protobuf(events);
        let cut = async {
            // Amid the acknowledgements of this round.
            let acked = rig.tap.pubacks();
            until_eq("some PUBACKs", SOON, true, || async { rig.tap.pubacks() > acked + 5 }).await;
            rig.tap.proxy.cut().await;
        };
        tokio::join!(publish, cut);
        rig.until_rows("item_event", (round + 1) * 100).await;
    }
    bridge.until_ready().await;
    until_eq("nothing unacknowledged", SOON, Some(0.0), || {
        bridge.metric("centiloc_bridge_unacked", "")
    })
    .await;
    until_eq("a connection after each cut", SOON, true, || async { rig.tap.proxy.accepted() >= 7 })
        .await;
    assert_eq!(bridge.terminate().await, 0);
    rig.assert_promises_kept().await;
}
