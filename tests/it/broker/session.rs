//! The durable session: resumed over restarts of either side, freed of filters that are no longer
//! configured, and its loss recorded.

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::publisher::TestPublisher;
use crate::support::rig::{Rig, TableLock, counter};
use crate::support::tap::MqttTap;
use crate::support::wait::{SOON, until_eq, until_true};

const FILTERS: &str = "select filters from centiloc.connection order by id desc limit 1";

#[tokio::test]
async fn restarted_broker_resumes_session_without_loss() {
    let mut rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let events = ItemEvent::series(TENANT, 60);
    // Delivered and not yet acknowledged when the broker stops.
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    rig.platform().await.publish_json(&events[..40]).await;
    rig.until_delivered(20).await;
    lock.until_waited_for().await;
    rig.broker.stop().await;
    lock.release().await;
    bridge.until_logged(&["WARN", "broker connection failed"]).await;
    rig.broker.start_again().await;
    rig.platform().await.publish_json(&events[40..]).await;
    rig.until_rows("item_event", 60).await;
    rig.until_acked(60).await;
    until_eq("the session", SOON, Some(1.0), || {
        bridge.metric("centiloc_bridge_session_present", "")
    })
    .await;
    let present: Vec<bool> =
        rig.database.column("select session_present from centiloc.connection order by id").await;
    assert_eq!(present, [false, true]);
    assert_eq!(rig.database.count("centiloc.gap").await, 0);
    assert!(counter(&bridge, "reconnects_total", "").await >= 1.0);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn removed_filters_are_unsubscribed_and_their_queue_stored() {
    let builder = Mosquitto::builder().line("log_type unsubscribe");
    let rig = Rig::with(builder, Postgres::shared().await).await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    rig.until_rows("connection", 1).await;
    let all: Vec<String> = rig.database.value(FILTERS).await;
    let topic = |suffix: &str| format!("centiloc/{TENANT}{suffix}");
    let json = topic("/json/item/v1/update");
    let boards = [topic("/proto/board/v1/update"), topic("/json/board/v1/update")];
    assert_eq!(all.len(), 4);
    assert_eq!(bridge.terminate().await, 0);
    let events = ItemEvent::series(TENANT, 12);
    let platform = rig.platform().await;
    platform.publish_json(&events[..5]).await;
    // The same file, written again.
    let config = config.set("mqtt.items", "protobuf").set("mqtt.boards", "off");
    config.write();
    bridge.start_again();
    bridge.until_ready().await;
    until_eq("the filters left", SOON, vec![topic("")], || async {
        rig.database.value::<Vec<String>>(FILTERS).await
    })
    .await;
    rig.until_rows("item_event", 5).await;
    for filter in [&json, &boards[0], &boards[1]] {
        let log = rig.broker.log();
        until_true("the broker to see an UNSUBSCRIBE", SOON, || {
            log.find(&[&format!("{TENANT}-bridge"), filter]).is_some()
        })
        .await;
    }
    platform.publish_json(&events[5..10]).await;
    platform.publish_protobuf(&events[10..]).await;
    rig.until_acked(7).await;
    assert_eq!(rig.database.count("centiloc.item_event").await, 7, "the dropped topic is silent");
    assert_eq!(rig.tap.publishes().len(), 7);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn every_connection_row_records_its_end() {
    let rig = Rig::new().await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    rig.until_rows("connection where disconnected_at is null", 1).await;
    rig.tap.proxy.cut().await;
    rig.until_rows("connection", 2).await;
    bridge.kill();
    bridge.start_again();
    rig.until_rows("connection", 3).await;
    bridge.until_ready().await;
    assert_eq!(bridge.terminate().await, 0);
    let ended = "connection where client_id = 'acme-bridge' and disconnected_at >= connected_at \
                 and cardinality(filters) = 4 and reason <> ''";
    rig.until_rows(ended, 3).await;
    let instances = "(select distinct instance from centiloc.connection) i";
    assert_eq!(rig.database.count(instances).await, 2, "one a process");
}

#[tokio::test]
async fn lost_session_gap_precedes_next_ack() {
    let mut rig = Rig::new().await;
    let database = rig.database.clone();
    rig.tap = MqttTap::checking(rig.broker.plain_port(), move |publish| {
        let database = database.clone();
        async move {
            match (publish.connection, database.count("centiloc.gap").await) {
                (0, 0) | (1.., 1) => Ok(()),
                (connection, gaps) => Err(format!("{gaps} gaps at a PUBACK of {connection}")),
            }
        }
    })
    .await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    let events = ItemEvent::series(TENANT, 3);
    rig.platform().await.publish_json(&events[..1]).await;
    rig.until_acked(1).await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(rig.database.count("centiloc.gap").await, 0, "a first start is none");
    // Another client with the same id and a clean session deletes it, and messages published then
    // are lost.
    let other = TestPublisher::try_connect(rig.broker.plain_port(), "acme-bridge").await;
    drop(other.expect("the other client could not connect"));
    rig.platform().await.publish_json(&events[1..2]).await;
    bridge.start_again();
    rig.until_rows("gap", 1).await;
    bridge.until_ready().await;
    rig.platform().await.publish_json(&events[2..]).await;
    rig.until_acked(2).await;
    let sql = "centiloc.gap g where cause = 'session_lost' and client_id = 'acme-bridge' \
               and started_at <= ended_at and detail <> '' \
               and started_at >= (select min(disconnected_at) from centiloc.connection)";
    assert_eq!(rig.database.count(sql).await, 1);
    assert_eq!(rig.database.count("centiloc.data_gap").await, 1, "shown to dashboards");
    until_eq("the metric", SOON, 1.0, || counter(&bridge, "gaps_total", "cause=\"session_lost\""))
        .await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn absence_beyond_session_expiry_is_gap() {
    let rig = Rig::new().await;
    let config = rig.config().set("mqtt.session_expiry", "1s");
    let mut bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.terminate().await, 0);
    // Changes the recorded time in place of waiting.
    rig.database
        .execute("update centiloc.connection set last_seen_at = last_seen_at - interval '1 hour'")
        .await;
    bridge.start_again();
    rig.until_rows("gap where cause = 'absence'", 1).await;
    rig.until_rows("gap", 1).await;
}
