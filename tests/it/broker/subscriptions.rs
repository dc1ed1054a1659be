//! The granted subscriptions are compared with the requested ones. Several bridges share one
//! tenant's events.

use serde_json::{Value, json};

use std::collections::HashSet;
use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::{ItemEvent, board_protobuf, board_topic};
use crate::support::expect::{until_count, until_failing, until_recovered, until_stored};
use crate::support::mosquitto::{Mosquitto, PLATFORM, TENANT, USERNAME};
use crate::support::postgres::Postgres;
use crate::support::publisher::TestPublisher;
use crate::support::scripted_broker::{BridgePacket, ScriptedBroker, ScriptedConnection};
use crate::support::wait::{SOON, until, until_eq};

/// Lets the tenant subscribe to these filters alone, and the platform publish everything.
fn may_subscribe_to(filters: &[&str]) -> Value {
    let allow = |kind: &str, topic: &str| json!({"acltype": kind, "topic": topic, "priority": 0, "allow": true});
    let subscribe = filters.iter().map(|filter| allow("subscribePattern", filter));
    let tenant: Vec<_> = subscribe.chain([allow("publishClientReceive", "#")]).collect();
    json!({
        "defaultACLAccess": {
            "publishClientSend": false, "publishClientReceive": false,
            "subscribe": false, "unsubscribe": true,
        },
        "clients": [
            {"username": USERNAME, "roles": [{"rolename": "tenant"}]},
            {"username": PLATFORM, "roles": [{"rolename": "platform"}]},
        ],
        "roles": [
            {"rolename": "tenant", "acls": tenant},
            {"rolename": "platform", "acls": [allow("publishClientSend", "#")]},
        ],
    })
}

/// Waits until `/readyz` reports not ready, with this reason.
async fn until_unready(bridge: &Bridge, said: &str) {
    until("not to be ready", SOON, || async {
        match bridge.get("/readyz").await {
            Ok((503, body)) if body.contains(said) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn refused_subscription_is_an_error_until_granted() {
    let broker = Mosquitto::builder().rights(&may_subscribe_to(&[]));
    let mut broker = broker.start().await;
    let database = Postgres::shared().await.database().await;
    let mut bridge = Bridge::start(&Config::new(&broker, &database));
    let said = ["ERROR", "refuses the subscription to", "centiloc/acme/json/item/v1/update"];
    until_failing(&mut bridge, "not_authorized", &said).await;
    broker.replace_rights(&may_subscribe_to(&["centiloc/acme/#"]));
    broker.stop().await;
    broker.start_again().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn granted_filters_deliver_beside_a_refused_one() {
    let broker = Mosquitto::builder().rights(&may_subscribe_to(&["centiloc/acme/json/item/#"]));
    let broker = broker.start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database).set("mqtt.items", "json");
    let bridge = Bridge::start(&config.set("mqtt.boards", "protobuf"));
    let board = board_topic(TENANT);
    bridge.until_logged(&["ERROR", "did not grant every subscription", &board]).await;
    let events = ItemEvent::series(TENANT, 3);
    let publisher = TestPublisher::connect(&broker).await;
    publisher.publish(&board, board_protobuf("B-1", events[0].momentum, 1)).await;
    publisher.publish_json(&events).await;
    until_stored(&database, 3).await;
    until_unready(&bridge, &board).await;
    assert_eq!(database.count("centiloc.board_event").await, 0);
}

#[tokio::test]
async fn qos0_grant_is_reported_and_still_stores() {
    let broker = Mosquitto::builder().tls_line("max_qos 0").start().await;
    let database = Postgres::shared().await.database().await;
    let bridge = Bridge::start(&Config::new(&broker, &database));
    bridge.until_logged(&["ERROR", "grants only QoS 0", "centiloc/acme/json/item"]).await;
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, 3)).await;
    until_stored(&database, 3).await;
    until_unready(&bridge, "QoS 0").await;
    until_count(&bridge, "centiloc_bridge_received_total", "qos=\"0\"", 3).await;
    until_count(&bridge, "centiloc_bridge_acks_total", "", 0).await;
}

#[tokio::test]
async fn share_group_stores_each_event_once() {
    const EVENTS: usize = 400;
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = |id| {
        Config::new(&broker, &database)
            .set("mqtt.share_group", "loading-dock")
            .set("mqtt.client_id", id)
    };
    let (one, two) = (config("acme-one"), config("acme-two"));
    let (one, two) = (Bridge::ready(&one).await, Bridge::ready(&two).await);
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, EVENTS)).await;
    until_stored(&database, EVENTS).await;
    let by_one = one.count("centiloc_bridge_received_total", "").await.unwrap();
    let by_two = two.count("centiloc_bridge_received_total", "").await.unwrap();
    assert_eq!(by_one + by_two, EVENTS, "{by_one} and {by_two}");
    assert!(by_one > 0 && by_two > 0, "one did all the work: {by_one} and {by_two}");
    for bridge in [&one, &two] {
        until_count(bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    }
    let filters = "select filters[1] from centiloc.connection where disconnected_at is null";
    let expected = vec!["$share/acme-loading-dock/centiloc/acme".to_owned(); 2];
    until_eq("both connections", SOON, expected, || database.column::<String>(filters)).await;
}

#[tokio::test]
async fn unacked_messages_of_leaving_member_are_stored() {
    const EVENTS: usize = 100;
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = |id| {
        Config::new(&broker, &database).set("mqtt.share_group", "dock").set("mqtt.client_id", id)
    };
    let (one, two) = (config("acme-one"), config("acme-two"));
    let (mut one, _two) = (Bridge::ready(&one).await, Bridge::ready(&two).await);
    let publisher = TestPublisher::connect(&broker).await;
    let events = ItemEvent::series(TENANT, EVENTS);
    publisher.publish_json(&events[..EVENTS / 2]).await;
    one.kill();
    publisher.publish_json(&events[EVENTS / 2..]).await;
    // Its durable session keeps the messages that the broker gave to it, and they are stored when
    // it is back.
    one.start_again();
    one.until_ready().await;
    until_stored(&database, EVENTS).await;
}

#[tokio::test]
async fn wrong_or_missing_suback_causes_reconnect() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database).plain(peer.port());
    let mut bridge = Bridge::start(&config.set("mqtt.connect_timeout", "1s"));
    let mut silent = peer.accept().await;
    silent.connack(false, 0).await;
    silent.next().await;
    until_failing(&mut bridge, "protocol", &["did not answer SUBSCRIBE in time"]).await;
    let mut short = peer.accept().await;
    short.connack(false, 0).await;
    let BridgePacket::Subscribe(packet_id, filters) = short.next().await else {
        panic!("expected SUBSCRIBE");
    };
    short.suback(packet_id, &vec![1; filters.len() - 1]).await;
    bridge.until_logged(&["SUBSCRIBE of 4 filters with 3 return codes"]).await;
    let _good = peer.subscribed(false).await;
    bridge.until_ready().await;
}

/// Time that a SUBSCRIBE is left unanswered, so that UNSUBSCRIBEs may join it.
const UNANSWERED: Duration = Duration::from_secs(1);

/// Reads one UNSUBSCRIBE for each of that many filters.
async fn unsubscribes(
    broker: &mut ScriptedConnection,
    mut first: Option<BridgePacket>,
    filters: usize,
) -> Vec<(u16, String)> {
    let mut asked = Vec::new();
    while asked.len() < filters {
        let packet = match first.take() {
            Some(packet) => packet,
            None => broker.next().await,
        };
        let BridgePacket::Unsubscribe(packet_id, filters) = packet else {
            panic!("expected UNSUBSCRIBE, not {packet:?}");
        };
        assert_eq!(filters.len(), 1, "one filter each: {filters:?}");
        asked.extend(filters.into_iter().map(|filter| (packet_id, filter)));
    }
    asked
}

async fn until_filters(database: &Database, mut expected: Vec<String>) {
    expected.sort();
    let filters = "select filter from (select unnest(filters) as filter from centiloc.connection \
                   where id = (select max(id) from centiloc.connection)) f \
                   order by filter collate \"C\"";
    until_eq("the filters left", SOON, expected, || database.column::<String>(filters)).await;
}

#[tokio::test]
async fn unsubacks_out_of_order_match_by_id() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database).plain(peer.port());
    let mut bridge = Bridge::start(&config);
    let first = peer.subscribed(false).await;
    bridge.until_ready().await;
    until_eq("the connection", SOON, 1, || database.count("centiloc.connection")).await;
    assert_eq!(bridge.terminate().await, 0);
    drop(first);
    // The same file, written again.
    config.set("mqtt.items", "protobuf").set("mqtt.boards", "off").write();
    bridge.start_again();
    let mut broker = peer.accept().await;
    broker.connack(true, 0).await;
    let BridgePacket::Subscribe(subscribe_id, filters) = broker.next().await else {
        panic!("expected SUBSCRIBE");
    };
    let early = broker.next_within(UNANSWERED).await;
    let answered = early.is_none();
    if answered {
        broker.suback(subscribe_id, &[1]).await;
    }
    let asked = unsubscribes(&mut broker, early, 3).await;
    let mut ids: HashSet<u16> = asked.iter().map(|(packet_id, _)| *packet_id).collect();
    assert_eq!(ids.len(), asked.len(), "outstanding at once under one id: {asked:?}");
    assert!(!ids.contains(&0), "0 is no packet id: {asked:?}");
    if !answered {
        assert!(ids.insert(subscribe_id), "{subscribe_id} is that of the SUBSCRIBE: {asked:?}");
        broker.suback(subscribe_id, &[1]).await;
    }
    assert_ne!(subscribe_id, 0);
    let mut left: Vec<String> = asked.iter().map(|(_, filter)| filter.clone()).collect();
    for (packet_id, filter) in asked.iter().rev() {
        broker.unsuback(*packet_id).await;
        left.retain(|other| other != filter);
        let subscribed = filters.iter().map(|(filter, _)| filter.clone());
        until_filters(&database, subscribed.chain(left.clone()).collect()).await;
    }
    bridge.until_ready().await;
}
