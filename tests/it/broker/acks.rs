//! The first promise from the broker's side: an acknowledgement leaves after its commit and in its
//! order, or not at all.

use serde_json::json;
use time::OffsetDateTime;

use crate::support::bridge::Bridge;
use crate::support::event::{ItemEvent, board_protobuf, board_topic};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::{Rig, RowLookup, TableLock};
use crate::support::tap::{MqttTap, Packet};

/// Creates a rig whose tap queries the database at every PUBACK.
async fn looking_rig(builder: crate::support::mosquitto::BrokerBuilder) -> Rig {
    let mut rig = Rig::with(builder, Postgres::shared().await).await;
    let onlooker = RowLookup::of(&rig.database);
    let look = move |publish| onlooker.clone().sees(publish);
    rig.tap = MqttTap::checking(rig.broker.plain_port(), look).await;
    rig
}

/// Returns events of both kinds and undecodable messages, each with a different payload.
fn mixture(count: usize) -> Vec<(String, Vec<u8>)> {
    let now = OffsetDateTime::now_utc();
    let refused = |event: &ItemEvent| {
        let mut event = event.json();
        event["loc_labels"] = json!(["a\0b"]);
        event.to_string().into_bytes()
    };
    ItemEvent::series(TENANT, count)
        .iter()
        .enumerate()
        .map(|(index, event)| match index % 10 {
            0 => (board_topic(TENANT), board_protobuf(&event.uid, now, 0)),
            1 => (event.json_topic(), format!("{{ garbage {index}").into_bytes()),
            2 => (event.protobuf_topic(), format!("garbage {index}").into_bytes()),
            3 if index % 50 == 3 => (event.json_topic(), refused(event)),
            4..=6 => (event.json_topic(), event.json().to_string().into_bytes()),
            _ => (event.protobuf_topic(), event.protobuf()),
        })
        .collect()
}

#[tokio::test]
async fn puback_follows_visible_row() {
    // A larger window makes larger batches.
    let rig = looking_rig(Mosquitto::builder().max_inflight_messages(100)).await;
    let _bridge = Bridge::ready(&rig.config().set("decode.keep_payload", "always")).await;
    let messages = mixture(500);
    assert_eq!(rig.platform().await.publish_all(messages).await, 500);
    rig.until_acked(500).await;
    rig.until_rows("dead_letter", 110).await;
    rig.until_rows("dead_letter where reason = 'refused_by_database'", 10).await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn pubacks_keep_receipt_order_across_batches() {
    // Some batches hold items, which cannot be written for a while. Others hold only board events
    // and dead letters, which can.
    let rig = looking_rig(Mosquitto::builder().max_inflight_messages(60)).await;
    let config = rig.config().set("decode.keep_payload", "always").set("batch.max_events", 3);
    let _bridge = Bridge::ready(&config).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    assert_eq!(rig.platform().await.publish_all(mixture(60)).await, 60);
    rig.until_delivered(60).await;
    lock.until_waited_for().await;
    lock.release().await;
    rig.until_acked(60).await;
    let delivered = rig.tap.publishes().into_iter().map(|publish| publish.packet_id);
    let acked = rig.tap.packets().into_iter().filter_map(|packet| match packet {
        Packet::Puback(_, id) => Some(id),
        _ => None,
    });
    assert!(delivered.eq(acked), "PUBACKs in another order than deliveries");
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_while_its_commit_waits() {
    let rig = looking_rig(Mosquitto::builder()).await;
    let _bridge = Bridge::ready(&rig.config().set("decode.keep_payload", "always")).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    let events = ItemEvent::series(TENANT, 50);
    rig.platform().await.publish_json(&events).await;
    // The number of messages that the broker sends without acknowledgements.
    rig.until_delivered(20).await;
    lock.until_waited_for().await;
    assert_eq!(rig.tap.pubacks(), 0);
    lock.release().await;
    rig.until_acked(50).await;
    rig.assert_promises_kept().await;
}
